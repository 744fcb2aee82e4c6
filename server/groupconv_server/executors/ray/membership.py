"""Who the workers are: an actor for every place that should have one, placed, watched, lost and taken back."""

import itertools
import logging
import threading
import time

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from groupconv.errors import GroupconvError, UnavailableError
from groupconv_server.executors.ray.slots import Slot
from groupconv_worker.actor import Worker

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between looks at the cluster."""
PATIENCE = 30.0
"""Seconds a shard waits for a worker when all are away."""


class Membership:
    """The workers of a cluster, kept as many as they should be.

    Args:
        workers: how many; None means one per GPU, else one per node that has CPUs, kept so as nodes come and go.
        threads: CPU threads of each; None gives each its share of its node.
        engine: of each worker.
        capacity: bytes of resident layers' weights each keeps prepared.
    """

    def __init__(self, workers: int | None, threads: int | None, engine: str, capacity: int) -> None:
        self._wanted, self._threads, self._engine, self._capacity = workers, threads, engine, capacity
        self.slots: list[Slot] = []
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="ray-membership", daemon=True)

    def start(self, seconds: float) -> None:
        """Place the workers, wait up to `seconds` for those asked for (or the first), and watch from then on.

        Raises:
            UnavailableError: they did not come up in time.
        """
        self._reconcile()
        if not self.slots:
            log.info("waiting for the first worker to join the cluster")
        self._await(self._wanted or 1, time.monotonic() + seconds)
        self._watcher.start()

    def ready(self) -> list[Slot]:
        """Those that take shards, in a stable order."""
        with self._lock:
            return [slot for slot in self.slots if slot.ready]

    def get(self, worker: str, deadline: float | None) -> Slot:
        """The worker called so; any one if it is gone."""
        with self._lock:
            slot = next((s for s in self.slots if s.id == worker), None)
        return slot or self.any(deadline)  # may wait, so not under the lock: the watcher brings the worker

    def any(self, deadline: float | None) -> Slot:
        """The ready worker with the fewest shards; waits for one to return if all are away.

        Raises:
            UnavailableError: none returned in time.
        """
        limit = time.monotonic() + PATIENCE
        limit = limit if deadline is None else min(deadline, limit)
        while time.monotonic() < limit and not self._stopping.is_set():
            with self._lock:
                if ready := self.ready():
                    return min(ready, key=lambda s: s.shards)
                self._admit()
            self._stopping.wait(TICK / 5)
        raise UnavailableError("every worker is away; try again when one has returned")

    def lost(self, slot: Slot) -> None:
        """A worker went away with a shard: it gets no more until it answers again."""
        with self._lock:
            if slot.ready:
                slot.ready = False
                slot.restarts += 1
                slot.ping = slot.actor.describe.remote()

    def ran(self, slot: Slot) -> None:
        """Count a shard."""
        with self._lock:
            slot.shards += 1

    def close(self) -> None:
        """End the watch and the actors."""
        self._stopping.set()
        self._watcher.join()
        with self._lock:
            for slot in self.slots:
                ray.kill(slot.actor)
            self.slots.clear()

    def _watch(self) -> None:
        while not self._stopping.wait(TICK):
            try:
                with self._lock:
                    self._reconcile()
                    self._admit()
            except (RayError, GroupconvError) as error:  # of one node or one moment: the watch goes on
                log.warning("the cluster does not answer: %s", error)

    def _reconcile(self) -> None:
        """An actor for every place that should have one; places that are gone lose theirs."""
        if self._wanted is not None:
            while len(self.slots) < self._wanted:
                self.slots.append(self._start_actor(None, self._threads or 1, gpu=_has_gpus()))
            return
        nodes = {n["NodeID"]: n for n in ray.nodes() if n["Alive"]}
        for slot in [s for s in self.slots if s.node_id not in nodes]:
            log.warning("node of worker %s is gone", slot.id)
            self.slots.remove(slot)
        for node_id, node in nodes.items():
            gpus, cpus = int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0))
            here = sum(s.node_id == node_id for s in self.slots)
            places = gpus or min(cpus, 1)
            for _ in range(here, places):
                threads = self._threads or max(1, cpus // places)
                self.slots.append(self._start_actor(node_id, min(threads, cpus), gpu=gpus > 0))

    def _start_actor(self, node_id: str | None, threads: int, *, gpu: bool) -> Slot:
        strategy = "SPREAD" if node_id is None else NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=threads,
                num_gpus=1 if gpu else 0,
                max_restarts=-1,
                max_task_retries=0,  # the executor runs a lost shard again itself, elsewhere
                scheduling_strategy=strategy,
            )
            .remote(self._engine, threads, self._capacity)
        )
        return Slot(f"ray-{next(self._numbers)}", actor, node_id, actor.describe.remote())

    def _admit(self) -> None:
        """Take back every worker whose ping came home."""
        waiting = {s.ping: s for s in self.slots if not s.ready}
        if not waiting:
            return
        for ref in ray.wait(list(waiting), num_returns=len(waiting), timeout=0)[0]:
            slot = waiting[ref]
            try:
                slot.facts, slot.ready = ray.get(ref), True
                log.info("worker %s is ready on %s: %s", slot.id, slot.facts["node"], slot.facts["device"])
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, GroupconvError) else error from None
            except RayActorError as error:
                if isinstance(getattr(error, "cause", None), GroupconvError):
                    raise
                slot.ping = slot.actor.describe.remote()

    def _await(self, count: int, limit: float) -> None:
        while (there := len(self.ready())) < count:
            if time.monotonic() > limit:
                raise UnavailableError(f"{there} of {count} workers came up in time")
            with self._lock:
                self._reconcile()
                self._admit()
            self._stopping.wait(TICK / 5)


def _has_gpus() -> bool:
    return bool(ray.cluster_resources().get("GPU", 0) > 0)
