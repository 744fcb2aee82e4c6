"""Local workers in processes of their own, which all fronts reach by lanes: one for each GPU, or a few CPU workers."""

import functools
import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from typing import Any

from groupconv.errors import GroupconvError, InvalidArgumentError
from groupconv_server.config import Config, gpu_count
from groupconv_server.executors.lanes.lane import Lane
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import WorkerSlot, WorkerState
from groupconv_server.executors.placement import WorkerPlace
from groupconv_server.fronts.child import Child, LogSettings, Watchdog, set_up
from groupconv_server.fronts.owner import Workers
from groupconv_server.parts import Parts
from groupconv_worker.actor import Worker
from groupconv_worker.engines import count_gpus
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.lanes.handshake import new_key
from groupconv_worker.lanes.sockets import Address
from groupconv_worker.networks.runner import WHOLE, NetworkCall, NetworkRun

log = logging.getLogger(__name__)

START, END = 120.0, 2.0
"""Seconds that workers have to start, and to end."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker's process is started with.

    Attributes:
        engine, threads, capacity: as of `Worker`.
        key: that fronts know.
        logs: format and level of its log; None leaves logging as it is.
    """

    engine: str
    threads: int
    capacity: int
    key: bytes
    logs: LogSettings | None = None


class WorkerProcesses(Membership):
    """Starts the workers, and starts a lost one again. Where there are GPUs, worker i computes on GPU i.

    Args:
        workers: how many. If there are more than GPUs, several share one.
        start: of each.
        context: makes processes.

    Raises:
        GroupconvError: a worker cannot start, as where there is no GPU for its engine.
        TimeoutError: it did not in time.
    """

    name = "local"

    def __init__(self, workers: int, start: WorkerStart, context: ForkServerContext) -> None:
        super().__init__()
        self._start_with, self._context = start, context
        self.membership: Membership = self
        self._welcome: Callable[[str], None] = lambda _: None
        self._failed: GroupconvError | None = None
        place = WorkerPlace("", start.threads, 0, start.engine, start.threads)
        self.slots = [WorkerSlot(f"local-{i}", place) for i in range(workers)]
        for slot in self.slots:
            self._start(slot)
        self._watchdog = Watchdog(lambda: [slot.actor for slot in list(self.slots)])
        until = time.monotonic() + START
        with self._changed:
            while len(self.ready()) < workers and self._failed is None and time.monotonic() < until:
                self._changed.wait(1.0)
        if len(self.ready()) < workers:
            self.close()
            raise self._failed or TimeoutError(f"{workers} workers did not start within {START:.0f} s")

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """As of `Executor`."""
        self._welcome = prepare

    def trouble(self) -> str:
        """Which workers are away."""
        away = [slot.id for slot in self.slots if not slot.ready]
        return f"not there: {', '.join(away)}" if away else ""

    def forget(self, layer: str, version: int) -> None:
        """Have every worker drop a version."""
        for slot in self.ready():
            slot.actor.link.start("forget", layer, version)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:  # noqa: ARG002
        """Refuse a cut: these workers do not exchange anything.

        Raises:
            InvalidArgumentError: always.
        """
        raise InvalidArgumentError("cut", f"{WHOLE}, as local workers of several processes do not share", call.cut)

    def lost(self, slot: WorkerSlot, actor: Any) -> None:
        """A front cannot reach a worker: its process ends, and is replaced."""
        actor.kill()
        super().lost(slot, actor)

    def close(self) -> None:
        """End the processes."""
        with self._changed:
            self._stopping.set()  # no process is started from now on
            children = [slot.actor for slot in self.slots]
        self._watchdog.close()
        for child in children:
            child.link.start("stop")
        super().close()
        until = time.monotonic() + END
        for child in children:
            child.end(until)

    def _start(self, slot: WorkerSlot) -> None:
        child = Child()
        child.link.handlers |= {"ready": functools.partial(self._reached, slot, child), "failed": self._cannot}
        child.link.lost = functools.partial(self._gone, slot, child)
        with self._changed:
            if self._stopping.is_set():
                child.link.close()
                return
            slot.started(child)
            child.start(self._context, slot.id, run, self._start_with, self.slots.index(slot))

    def _reached(self, slot: WorkerSlot, child: Child, address: Address, facts: dict[str, Any]) -> None:
        """A worker answers: fronts get lanes to it, then one of them prepares it."""
        slot.facts = facts
        slot.reached(Lane(address, self._start_with.key), child)
        self._set(slot, child, WorkerState.PREPARING)
        try:
            self._welcome(slot.id)
        except GroupconvError as error:  # it takes shards nevertheless, and asks for weights that it lacks
            log.warning("worker %s was not prepared: %s", slot.id, error)
        self._set(slot, child, WorkerState.READY)

    def _set(self, slot: WorkerSlot, child: Child, state: WorkerState) -> None:
        with self._changed:
            if slot.actor is child and slot.state is not WorkerState.AWAY:
                slot.state = state
            self._changed.notify_all()

    def _cannot(self, error: GroupconvError) -> None:
        with self._changed:
            self._failed = error
            self._changed.notify_all()

    def _gone(self, slot: WorkerSlot, child: Child) -> None:
        if self._stopping.is_set():
            return
        self.lost(slot, child)
        assert child.process is not None
        child.process.join()
        log.error("worker %s (pid %s) is lost; it is replaced", slot.id, child.pid)
        if not self._stopping.wait(slot.pause):
            self._start(slot)


def run(end: socket.socket, start: WorkerStart, device: int) -> None:
    """The main function of a worker's process: it serves until the supervisor ends it, or has gone.

    Args:
        end: of the link to the supervisor.
        start: engine and settings.
        device: the number of its GPU among those that `CUDA_VISIBLE_DEVICES` shows, if its engine has one.
    """
    link, over = set_up(end, start.logs)
    try:
        worker = Worker(start.engine, start.threads, start.capacity, device=device)
    except GroupconvError as error:
        link.call("failed", error)
        return
    endpoint = worker.listen(start.key)
    link.handlers["forget"] = worker.forget
    engine = worker.engine
    facts = {"node": socket.gethostname(), "pid": os.getpid(), "engine": engine.name}
    link.start("ready", endpoint.address, facts | {"device": worker.device, "threads": engine.threads})
    over.wait()
    endpoint.close()
    link.close()


def shared_workers(config: Config, context: ForkServerContext, logs: LogSettings | None) -> Workers | None:
    """The workers that all fronts share; None if each front computes.

    Ray's workers are shared, and a number of local workers that the operator gives, and one on each GPU.

    Raises:
        GroupconvError: they cannot start.
    """
    if config.executor_name() == "ray":
        executor = Parts(config).executor()
        assert isinstance(executor, Workers)
        return executor
    number = config.workers
    if number is None:
        number = _visible_gpus(config.engine, context)
        if not number and config.engine != "cuda":
            return None
        number = max(1, number)  # without a GPU that worker says what is missing
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // number)
    return WorkerProcesses(number, WorkerStart(config.engine, threads, config.layer_bytes, new_key(), logs), context)


def _visible_gpus(engine: str, context: ForkServerContext) -> int:
    """GPUs that CUDA shows to this user's processes; 0 for an engine of the CPU.

    A process of its own counts them, as the supervisor never loads CUDA. With `auto`, a machine without a driver starts
    no such process.
    """
    if engine == "cuda" or (engine == "auto" and gpu_count() > 0):
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(count_gpus, engine).result()
    return 0
