"""The local executor: workers are engines of this process, shards are views of the request's arrays.

The thread that brings a request runs its first shard itself, as handing it to another thread and back takes longer
than a small shard. The other shards of a split request go to a team of threads. A shard whose thread wakes late is run
by the thread that waits for it.

A process cannot get a lost CUDA context back. Then there are no workers any more: the server is NOT_SERVING and says
why, and its supervisor starts another process.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupconv.convolution.report import ShardReport
from groupconv.errors import UnavailableError
from groupconv_server.executors.base import WorkerInfo
from groupconv_server.executors.local_networks import LocalNetworks
from groupconv_server.executors.task import Task
from groupconv_worker.budget import ThreadBudget
from groupconv_worker.contract import DeviceLostError, device_of
from groupconv_worker.cpu.threads import Team
from groupconv_worker.engines import count_gpus
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job, Jobs
from groupconv_worker.networks.runner import NetworkCall, NetworkRun, NetworkRunner, takeover_of
from groupconv_worker.resident import CAPACITY
from groupconv_worker.runtime import WorkerRuntime

log = logging.getLogger(__name__)

HANGING = 2.0
"""Seconds that a worker has at the end to let go of its threads."""


class LocalExecutor:
    """Workers with an engine each, whose threads go to one shard, or are shared by as many as there are requests.

    Where the engines run on GPUs, each worker has the next one; a task whose arrays are on a GPU runs on that one.

    Args:
        workers: how many; None is one per GPU, or one without.
        threads: CPU threads of each engine; None shares the machine's cores among the workers.
        engine: of each worker.
        capacity: bytes of resident layers' weights each worker keeps prepared.
        first: number of the first worker, in its id.
        budget: makes the budget of a worker's threads.
    """

    name = "local"

    def __init__(
        self,
        *,
        workers: int | None = None,
        threads: int | None = None,
        engine: str = "auto",
        capacity: int = CAPACITY,
        first: int = 0,
        budget: Callable[[int], ThreadBudget] = ThreadBudget,
    ) -> None:
        workers = workers or max(1, count_gpus(engine))
        threads = threads or max(1, len(os.sched_getaffinity(0)) // workers)
        ids = [f"local-{first + i}" for i in range(workers)]
        self._workers = {name: _Worker(name, engine, threads, capacity, budget, i) for i, name in enumerate(ids)}
        self.computes_here = sum(worker.runtime.engine.at_once for worker in self._workers.values())
        engines = {name: worker.runtime.engine for name, worker in self._workers.items()}
        self.gpus: Mapping[str, Any] = {name: engine.gpu for name, engine in engines.items() if engine.gpu is not None}
        self._ids = tuple(self._workers)
        self._team, self._jobs = Team(workers), Jobs()
        self._networks = LocalNetworks(list(self._workers.values()))
        self.network_states = self._networks.states
        self._lost = ""

    def workers(self) -> tuple[str, ...]:
        """All workers; none once their device is lost."""
        return () if self._lost else self._ids

    def wait(self, deadline: float | None) -> tuple[str, ...]:  # noqa: ARG002 - they are there, or never again
        """All workers: they are there from the start.

        Raises:
            UnavailableError: their device is lost.
        """
        if self._lost:
            raise UnavailableError(self._lost)
        return self._ids

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """Do nothing: no worker joins."""

    def trouble(self) -> str:
        """Why the device is lost; empty if it is not."""
        return self._lost

    def describe(self) -> list[WorkerInfo]:
        """All workers, for people."""
        return [] if self._lost else [worker.info() for worker in self._workers.values()]

    def expect(self, shards: int) -> None:
        """Wake threads of the team now, as waking one takes longer than cutting a request."""
        if shards > 1:
            self._team.expect(shards - 1)

    def run(self, tasks: Sequence[Task], *, job: Job | None = None, among: int = 1) -> list[tuple[ShardReport, ...]]:
        """Run every task straight into its slice of the output: the first in this thread, the others in the team's."""
        start, job = time.perf_counter(), job or Job()
        among_each = min(among, self.computes_here) / len(self._workers)
        self._jobs.enter(job)
        try:
            if len(tasks) == 1:
                worker = self._workers[tasks[0].worker]
                # another one that is idle may run it, if its arrays are on the host
                if len(self._workers) > 1 and worker.runtime.budget.inside and not device_of(tasks[0].x, tasks[0].out):
                    worker = next((w for w in self._workers.values() if not w.runtime.budget.inside), worker)
                return [worker.run(tasks[0], job, start, among_each)]
            return self._run(tasks, job, start, among_each)
        except DeviceLostError as error:
            self._lose(error)
            raise
        finally:
            self._jobs.leave(job)

    def _lose(self, error: DeviceLostError) -> None:
        """Remember that the device is lost, as nothing in this process brings it back."""
        if not self._lost:
            self._lost = f"{error}; the server serves nothing until it is started again"
            log.error("%s", self._lost, exc_info=error)

    def _run(self, tasks: Sequence[Task], job: Job, start: float, among: float) -> list[tuple[ShardReport, ...]]:
        reports: list[tuple[ShardReport, ...]] = [()] * len(tasks)

        def work(first: int, last: int) -> None:
            for i in range(first, last):
                reports[i] = self._workers[tasks[i].worker].run(tasks[i], job, start, among)

        self._team.run(work, len(tasks))
        return reports

    def prepare_network(self, network: str, version: int, model: Model) -> None:
        """On the first worker; the others prepare it when they are given a call."""
        self._networks.prepare(network, version, model)

    def run_network(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """In the thread that brings the call; over all workers if the network is cut."""
        self._jobs.enter(job)
        try:
            return self._networks.run(call, model, job)
        except DeviceLostError as error:
            self._lose(error)
            raise
        finally:
            self._jobs.leave(job)

    def forget(self, layer: str, version: int) -> None:
        """Drop it at once: a running shard holds what it uses."""
        for worker in self._workers.values():
            worker.runtime.resident.forget(layer, version)
        self._networks.forget(layer, version)

    def interrupt(self) -> None:
        """Running shards end within `job.PROMPT`."""
        self._jobs.end(UnavailableError("the server is stopping"))

    def close(self) -> None:
        """End running shards and the threads."""
        self.interrupt()
        self._team.close()
        self._networks.close()
        for worker in self._workers.values():
            worker.close()


class _Worker:
    """A worker of this process."""

    def __init__(
        self,
        worker_id: str,
        engine: str,
        threads: int,
        capacity: int,
        budget: Callable[[int], ThreadBudget],
        device: int,
    ) -> None:
        self.id = worker_id
        self.runtime = WorkerRuntime(engine, threads, capacity, budget, device)
        self.networks = NetworkRunner(self.runtime.budget, threads, takeover_of(self.runtime))
        self.shards, self._count = 0, threading.Lock()

    def info(self) -> WorkerInfo:
        e = self.runtime.engine
        return WorkerInfo(self.id, socket.gethostname(), e.name, self.runtime.device, e.threads, self.shards)

    def close(self) -> None:
        if not self.runtime.budget.acquire(HANGING, alone=True):
            log.warning("worker %s still computes; its threads are left behind", self.id)
            return
        self.runtime.engine.close()

    def run(self, task: Task, job: Job, submitted: float, among: float) -> tuple[ShardReport, ...]:
        ran = self.runtime.run(task.stages, task.x, task.out, job, among=among)
        with self._count:
            self.shards += 1
        return task.reports(self.id, ran, time.perf_counter() - submitted)
