"""Keeps a lane open to every worker: opens it when the worker answers, and again when it broke."""

import logging
import threading
import time
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from groupconv.text import human_bytes
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.worker_slots import WorkerSlot
from groupconv_server.executors.ray import lane_benchmark
from groupconv_worker.lanes.handshake import new_key

if TYPE_CHECKING:
    from groupconv_server.executors.ray.cluster_membership import ClusterMembership

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks at the lanes."""
TIMEOUT = 5.0
"""Seconds that a worker has to send the address of its lane."""
PAUSES = (0.1, 30.0)
"""Seconds until a lane that cannot be opened is tried again: the first pause, and the longest."""


class LaneManager:
    """Opens and checks the lanes of a cluster's workers.

    Attributes:
        key: of this coordinator, which the endpoints of its workers know.
    """

    def __init__(self) -> None:
        self.key = new_key()
        self._node = ray.get_runtime_context().get_node_id()
        self._members: ClusterMembership | None = None
        self._limits: dict[str, int] = {}  # by node: it is measured once, as that takes a quarter of a second
        self._next: dict[WorkerSlot, tuple[float, float]] = {}  # time of the next try, and the pause after it
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lanes", daemon=True)

    def open(self, slot: WorkerSlot) -> None:
        """Open the lane of a worker. If that fails, shards go through Ray until the next try."""
        actor = slot.actor
        try:
            lane = Lane(ray.get(actor.lane.remote(self.key, self._node), timeout=TIMEOUT), self.key)
            try:
                lane.limit = self._limit(slot, lane)
            except BaseException:
                lane.close()
                raise
        except (OSError, RayError) as error:
            _, pause = self._next.get(slot, (0.0, PAUSES[0]))
            self._next[slot] = time.monotonic() + pause, min(2 * pause, PAUSES[1])
            log.warning("no lane to worker %s (%s): its shards go through Ray", slot.id, str(error).splitlines()[0])
            return
        self._next.pop(slot, None)
        log.info("worker %s: shards up to %s go by its lane (%s)", slot.id, human_bytes(lane.limit), lane.kind)
        slot.reached(lane, actor)

    def _limit(self, slot: WorkerSlot, lane: Lane) -> int:
        node = slot.place.node_id
        if node not in self._limits:
            self._limits[node] = lane_benchmark.measure_limit(lane, slot.actor)
            lane.answers()  # leaves an idle connection, which shows when the worker ends
        return self._limits[node]

    def watch(self, members: "ClusterMembership") -> None:
        """From now on, open the missing lanes of ready workers, and report workers that left their lane as lost."""
        self._members = members
        self._thread.start()

    def close(self) -> None:
        """Stop, and close all lanes."""
        self._stopping.set()
        if self._members is None:
            return
        self._thread.join(TIMEOUT)
        for slot in self._members.ready():
            if slot.lane is not None:
                slot.lane.close()

    def _watch(self) -> None:
        while not self._stopping.wait(TICK):
            try:
                self._check()
            except Exception:  # a transient error of one lane: the watch goes on
                log.exception("the lanes could not be checked")

    def _check(self) -> None:
        assert self._members is not None
        slots = self._members.ready()
        self._next = {slot: when for slot, when in self._next.items() if slot in slots}
        for slot in slots:
            lane, actor = slot.lane, slot.actor
            if lane is not None and lane.open and not lane.check():
                log.warning("worker %s has closed its lane", slot.id)
                self._members.lost(slot, actor)
            elif (lane is None or not lane.open) and self._next.get(slot, (0.0,))[0] <= time.monotonic():
                self.open(slot)
