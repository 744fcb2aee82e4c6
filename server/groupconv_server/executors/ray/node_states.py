"""The free resources of a cluster's nodes, and which nodes are leaving."""

import time
from collections.abc import Mapping

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from groupconv_server.executors.placement import WorkerPlace

DRAINING = "DRAINING"
"""Ray's name for the state of a node that was told to stop and finishes what it runs; `ray.nodes()` has none."""
EVERY = 0.5
"""Seconds between two questions, which cost the head more than `ray.nodes()` does."""
TIMEOUT = 10
"""Seconds that the head has to answer."""
ROUNDING = 1e-6
"""Ray counts resources in steps of 0.0001."""


class NodeStates:
    """What was last known of the nodes. One thread uses it.

    Attributes:
        draining: ids of nodes that are leaving.
        free: what each node has free by name, by the node's id.
    """

    def __init__(self) -> None:
        self.draining: set[str] = set()
        self.free: dict[str, dict[str, float]] = {}
        self._due = 0.0

    def look(self) -> None:
        """Ask the head, unless it was asked just now.

        Raises:
            RayError: the head does not answer.
        """
        if time.monotonic() < self._due:
            return
        status = get_cluster_status(ray.get_runtime_context().gcs_address, TIMEOUT)
        nodes = [node for node in (*status.active_nodes, *status.idle_nodes) if node.node_id]
        self.draining = {node.node_id for node in nodes if node.node_status == DRAINING}
        self.free = {node.node_id: node.available_resources() for node in nodes}
        self._due = time.monotonic() + EVERY

    def lacking(self, place: WorkerPlace, resources: Mapping[str, float]) -> str:
        """What a place's node has free of that which a worker needs and does not get there; empty if it gets all.

        Args:
            place: of the worker.
            resources: custom resources that it takes.
        """
        needs = {"GPU": place.gpus, "CPU": place.cpus, **resources}
        free = self.free.get(place.node_id, {})
        lacks = [name for name, amount in needs.items() if free.get(name, 0.0) < amount - ROUNDING]
        return ", ".join(
            f"{free.get(name, 0.0):g} {name}{'s' * (name in ('GPU', 'CPU') and free.get(name, 0.0) != 1)}"
            for name in lacks
        )
