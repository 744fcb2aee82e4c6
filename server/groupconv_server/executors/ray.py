"""The Ray executor: workers are actors that Ray places, restarts and watches.

One actor per GPU of the cluster; without GPUs one per node, or as many as asked for. Arrays travel through Ray's
object store. A shard whose worker is lost runs again on another one.
"""

import contextlib
import itertools
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from groupconv.errors import AbortedError, DeadlineExceededError, GroupconvError, InternalError, UnavailableError
from groupconv.plan import ShardReport
from groupconv_server.executors.base import Task, WorkerInfo
from groupconv_worker.actor import Worker
from groupconv_worker.engines import create_engine
from groupconv_worker.resident import CAPACITY
from groupconv_worker.shard import Stage

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Workers a shard may lose before it is given up as the cause."""
TICK = 0.25
"""Seconds between looks at the cluster."""
START_TIMEOUT = 120.0
"""Seconds the actors of this machine may take to start."""


@dataclass(eq=False)
class _Slot:
    """One worker: its actor, and whether it answers."""

    id: str
    actor: Any
    node_id: str | None
    ping: Any
    ready: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    shards: int = 0
    restarts: int = 0

    def info(self) -> WorkerInfo:
        """What it said of itself, and what it did."""
        node, engine, device, threads = (self.facts[key] for key in ("node", "engine", "device", "threads"))
        return WorkerInfo(self.id, node, engine, device, threads, self.shards, self.restarts)


class RayExecutor:
    """Workers as Ray actors.

    Args:
        workers: how many; None means one per GPU, else one per node that has CPUs, kept so as nodes come and go.
        threads: CPU threads of each; None gives each its share of its node.
        engine: of each worker.
        address: of a running cluster; None starts one on this machine, bound to loopback.
        wait: seconds to wait for the first worker; None waits START_TIMEOUT on this machine, and for ever in a
            cluster, whose workers join when they please.
        capacity: bytes of resident layers' weights each worker keeps prepared.

    Raises:
        FailedPreconditionError: an engine that cannot run on this machine, where the cluster is this machine.
        UnavailableError: no worker within the time.
    """

    name = "ray"

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        engine: str = "auto",
        address: str | None = None,
        wait: float | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._wanted, self._threads, self._engine, self._capacity = workers, threads, engine, capacity
        self._slots: list[_Slot] = []
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        if address is None:
            create_engine(engine).close()  # refuse here and now what every actor would refuse
            self._wanted = workers or 1
            with _own_sigterm():
                _start_ray(self._wanted * (threads or 1))
        else:
            with _own_sigterm():
                ray.init(address=address, namespace="groupconv", log_to_driver=False, logging_level=logging.WARNING)
        self._reconcile()
        if wait is None:
            wait = math.inf if address else START_TIMEOUT
        if not self._slots:
            log.info("waiting for the first worker to join the cluster at %s", address)
        self._await_workers(self._wanted or 1, time.monotonic() + wait)
        self._watcher = threading.Thread(target=self._watch, name="ray-membership", daemon=True)
        self._watcher.start()

    def workers(self) -> tuple[str, ...]:
        """Ids of the actors that answer."""
        with self._lock:
            return tuple(slot.id for slot in self._slots if slot.ready)

    def describe(self) -> list[WorkerInfo]:
        """Those actors, for people."""
        with self._lock:
            return [slot.info() for slot in self._slots if slot.ready]

    def run(self, tasks: Sequence[Task], *, deadline: float | None) -> list[tuple[ShardReport, ...]]:
        """Every task on its worker's actor; each result is copied once, from the object store into its slice."""
        # A shard on its way is never cancelled: to Ray that is a gap in the actor's sequence of calls, for which it
        # waits 30 s once the actor was restarted. One that comes too late the worker drops by itself.
        flights = {f.done: f for f in (self._launch(task, task.worker, 1, deadline) for task in tasks)}
        reports: dict[int, tuple[ShardReport, ...]] = {}
        while flights:
            done, _ = ray.wait(list(flights), num_returns=1, timeout=_left(deadline))
            if not done:
                raise DeadlineExceededError("the deadline passed before every shard was done")
            flight = flights.pop(done[0])
            try:
                reports[flight.task.index] = self._land(flight, deadline)
            except _WeightsMissingError:
                again = self._launch(flight.task, flight.slot.id, flight.attempt, deadline, weights=True)
                flights[again.done] = again
            except _WorkerLostError as lost:
                again = self._relaunch(flight, lost, deadline)
                flights[again.done] = again
        return [reports[task.index] for task in tasks]

    def forget(self, layer: str, version: int) -> None:
        """Told to every actor that answers; one that restarts has nothing to forget."""
        with self._lock:
            for slot in self._slots:
                if slot.ready:
                    slot.actor.forget.remote(layer, version)

    def close(self) -> None:
        """End the actors, and Ray where this process started it."""
        self._stopping.set()
        self._watcher.join()
        with self._lock:
            for slot in self._slots:
                ray.kill(slot.actor)
            self._slots.clear()
        ray.shutdown()

    def _launch(
        self, task: Task, worker: str, attempt: int, deadline: float | None, *, weights: bool = False
    ) -> "_Flight":
        """Send a shard; without `weights` those of resident layers stay here unless the actor asks for them."""
        with self._lock:
            slot = next((s for s in self._slots if s.id == worker), None)
        slot = slot or self._any_slot(deadline)  # may wait, so not under the lock: the watcher brings the worker
        left = _left(deadline)
        expires = None if left is None else time.time() + left
        stages = task.stages if weights else tuple(map(_without_weights, task.stages))
        out, done = slot.actor.run.options(num_returns=2).remote(stages, task.x, expires)
        return _Flight(task, slot, attempt, time.perf_counter(), out, done)

    def _land(self, flight: "_Flight", deadline: float | None) -> tuple[ShardReport, ...]:
        """Copy a finished shard's result into its slice."""
        try:
            ran = ray.get(flight.done)
            if ran is None:
                raise _WeightsMissingError
            # First brought here, then got: a `get` that waits for another node's object holds Ray's store client, and
            # the puts and gets of all other requests stall behind it in steps of a second.
            if not ray.wait([flight.out], timeout=_left(deadline))[0]:
                raise DeadlineExceededError("the deadline passed before every shard's result was here")
            flight.task.out[...] = ray.get(flight.out)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if isinstance(cause, RayError) and not isinstance(cause, RayTaskError):
                raise _WorkerLostError(str(cause)) from None
            if isinstance(cause, GroupconvError):
                raise cause from None
            log.error("worker %s failed", flight.slot.id, exc_info=error)  # noqa: TRY400 - the worker's traceback
            raise InternalError(f"worker {flight.slot.id} failed: {type(cause).__name__}; see the log") from None
        except (RayError, GetTimeoutError) as error:
            raise _WorkerLostError(str(error).splitlines()[0]) from None
        with self._lock:
            flight.slot.shards += 1
        seconds = time.perf_counter() - flight.start
        return flight.task.reports(flight.slot.id, ran, seconds, flight.attempt)

    def _relaunch(self, flight: "_Flight", lost: "_WorkerLostError", deadline: float | None) -> "_Flight":
        """The shard again, on another worker if there is one."""
        log.warning("worker %s was lost (%s); shard %d runs again", flight.slot.id, lost, flight.task.index)
        with self._lock:
            if flight.slot.ready:
                flight.slot.ready = False
                flight.slot.restarts += 1
                flight.slot.ping = flight.slot.actor.describe.remote()
        if flight.attempt >= MAX_ATTEMPTS:
            raise AbortedError(
                f"shard {flight.task.index} was given up after it lost {flight.attempt} workers: {lost}"
            ) from None
        return self._launch(flight.task, self._any_slot(deadline).id, flight.attempt + 1, deadline)

    def _any_slot(self, deadline: float | None) -> _Slot:
        """The ready worker with the fewest shards; waits for one to return if all are away."""
        limit = time.monotonic() + 30 if deadline is None else min(deadline, time.monotonic() + 30)
        while time.monotonic() < limit and not self._stopping.is_set():
            with self._lock:
                ready = [s for s in self._slots if s.ready]
                if ready:
                    return min(ready, key=lambda s: s.shards)
                self._admit()
            self._stopping.wait(TICK / 5)
        raise UnavailableError("every worker is away; try again when one has returned")

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
            while len(self._slots) < self._wanted:
                self._slots.append(self._start_actor(None, self._threads or 1, gpu=self._has_gpus()))
            return
        nodes = {n["NodeID"]: n for n in ray.nodes() if n["Alive"]}
        for slot in [s for s in self._slots if s.node_id not in nodes]:
            log.warning("node of worker %s is gone", slot.id)
            self._slots.remove(slot)
        for node_id, node in nodes.items():
            gpus, cpus = int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("CPU", 0))
            here = sum(s.node_id == node_id for s in self._slots)
            places = gpus or min(cpus, 1)
            for _ in range(here, places):
                threads = self._threads or max(1, cpus // places)
                self._slots.append(self._start_actor(node_id, min(threads, cpus), gpu=gpus > 0))

    def _start_actor(self, node_id: str | None, threads: int, *, gpu: bool) -> _Slot:
        strategy = "SPREAD" if node_id is None else NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=threads,
                num_gpus=1 if gpu else 0,
                max_restarts=-1,
                max_task_retries=0,  # this executor runs a lost shard again itself, elsewhere
                scheduling_strategy=strategy,
            )
            .remote(self._engine, threads, self._capacity)
        )
        return _Slot(f"ray-{next(self._numbers)}", actor, node_id, actor.describe.remote())

    def _admit(self) -> None:
        """Take back every worker whose ping came home."""
        waiting = {s.ping: s for s in self._slots if not s.ready}
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

    def _await_workers(self, count: int, limit: float) -> None:
        while len(self.workers()) < count:
            if time.monotonic() > limit:
                raise UnavailableError(f"{len(self.workers())} of {count} workers came up in time")
            with self._lock:
                self._reconcile()
                self._admit()
            self._stopping.wait(TICK / 5)

    @staticmethod
    def _has_gpus() -> bool:
        return bool(ray.cluster_resources().get("GPU", 0) > 0)


@dataclass(frozen=True, slots=True)
class _Flight:
    """A shard on its way: the actor's two answers to come, the output and what came of it."""

    task: Task
    slot: _Slot
    attempt: int
    start: float
    out: Any
    done: Any


class _WorkerLostError(Exception):
    """The worker went away with the shard."""


class _WeightsMissingError(Exception):
    """The worker does not have the resident weights that the shard left out."""


_NO_WEIGHTS = np.empty(0)


def _without_weights(stage: Stage) -> Stage:
    return stage if stage.key is None else replace(stage, weight=_NO_WEIGHTS, bias=None)


def _start_ray(cpus: int) -> None:
    """A cluster of this machine alone, on loopback."""
    ray.init(
        address="local",
        num_cpus=max(cpus, len(os.sched_getaffinity(0))),
        namespace="groupconv",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address="127.0.0.1",
    )


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Put back the caller's handler of SIGTERM: `ray.init` sets one that ends the process with exit code 15."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
