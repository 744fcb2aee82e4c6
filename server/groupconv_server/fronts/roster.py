"""The workers that all fronts share, as one front knows them: it has a lane of its own to each."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from typing import Any

from groupconv_server.executors.lanes.dispatch import GLANCE
from groupconv_server.executors.lanes.lane import KEPT, Lane
from groupconv_server.executors.lanes.membership import Membership
from groupconv_server.executors.lanes.worker_slots import Sent, WorkerSlot, WorkerState, by_node
from groupconv_server.executors.placement import WorkerPlace
from groupconv_server.fronts.link import Link
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.partition.choice import PLANNED, Cuts
from groupconv_worker.job import Job
from groupconv_worker.lanes.sockets import Address
from groupconv_worker.networks.known_cuts import KnownCuts
from groupconv_worker.networks.runner import NetworkCall, NetworkRun

log = logging.getLogger(__name__)

PLANS = 64
"""Sets of shapes, of all networks, for which a front keeps the cuts that it planned."""


@dataclass(frozen=True, slots=True)
class WorkerAbout:
    """A worker as the supervisor tells it to fronts.

    Attributes:
        id, place, facts, restarts, state: of its slot.
        start: counts how often it was started; a lane leads to the process of one start.
        address: of its endpoint.
        key: that the endpoint knows.
    """

    id: str
    place: WorkerPlace
    facts: dict[str, Any]
    restarts: int
    state: WorkerState
    start: int
    address: Address
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Roster:
    """All workers at one moment.

    Attributes:
        number: of the roster; a later one has a higher number.
        workers: that are there.
        trouble: see `Executor.trouble`.
    """

    number: int = 0
    workers: tuple[WorkerAbout, ...] = ()
    trouble: str = ""


class FrontSlot(WorkerSlot):
    """A worker of a front, which reports to the supervisor that it ran a shard: it is of use, and restarts at once."""

    report: Callable[[WorkerSlot], None]

    def landed(self, flight: Sent) -> None:
        """As of `WorkerSlot`."""
        first = not self.ran
        super().landed(flight)
        if first:
            self.report(self)


class FrontWorkers(Membership):
    """The workers as the supervisor reports them, which is their owner (`executors.lanes.executor.Owner`).

    Args:
        supervisor: the link to it.
        processes: how many fronts there are. Each keeps its part of the memory that lanes may keep.
    """

    def __init__(self, supervisor: Link, processes: int) -> None:
        super().__init__()
        self._supervisor, self._kept = supervisor, KEPT // processes
        self._roster, self._updating = Roster(), threading.Lock()
        self._prepare: Callable[[str], None] = lambda _: None
        self._planned: dict[tuple[Any, ...], KnownCuts] = {}
        self._planning = threading.Lock()
        supervisor.handlers |= {"workers": self.update, "prepare_worker": self._prepares, "shards_of": self._shards_of}
        self.update(supervisor.call("follow_workers"))

    def update(self, roster: Roster) -> bool:
        """Follow a roster; False if a worker could not be reached, so that it should be sent again."""
        with self._updating:
            if roster.number < self._roster.number or self._stopping.is_set():
                return True
            self._roster, reached = roster, True
            slots = {slot.id: slot for slot in self.slots}
            for about in roster.workers:
                slot = slots.pop(about.id, None) or self._new(about)
                slot.facts, slot.place = about.facts, about.place
                reached = self._follow(slot, about) and reached
                slot.restarts = about.restarts  # not what this front has counted
            for slot in slots.values():
                slot.lost(slot.actor)
            with self._changed:
                self.slots = [slot for slot in self.slots if slot.id not in slots]
                self._changed.notify_all()
            return reached

    def _new(self, about: WorkerAbout) -> WorkerSlot:
        slot = FrontSlot(about.id, about.place)
        slot.report = self._report
        with self._changed:
            self.slots.append(slot)
        return slot

    def _report(self, slot: WorkerSlot) -> None:
        self._supervisor.start("worker_ran", slot.id, slot.actor)

    def _follow(self, slot: WorkerSlot, about: WorkerAbout) -> bool:
        if slot.actor == about.start and slot.state is not WorkerState.AWAY:
            slot.state = about.state
            return True
        try:
            lane = Lane(about.address, about.key, limit=float("inf"), kept=self._kept)
        except OSError as error:
            log.warning("no lane to worker %s: %s", slot.id, error)
            return False
        slot.lost(slot.actor)
        slot.started(about.start)
        slot.reached(lane, about.start)
        slot.state = about.state
        return True

    def lost(self, slot: WorkerSlot, actor: Any) -> None:
        """Its worker gets no more shards of this front, and the supervisor starts it again."""
        super().lost(slot, actor)
        self._supervisor.start("worker_lost", slot.id, actor)

    def welcome(self, prepare: Callable[[str], None]) -> None:
        """The supervisor asks one front to prepare a worker."""
        self._prepare = prepare

    def trouble(self) -> str:
        """As the supervisor sees it."""
        return self._roster.trouble

    def forget(self, layer: str, version: int) -> None:
        """Every front does so once it uses a version no more, so the last one has the worker drop it for good."""
        with self._planning:
            for key in [key for key in self._planned if key[:2] == (layer, version)]:
                del self._planned[key]
        self._supervisor.start("forget_version", layer, version)

    def run_cut(self, call: NetworkCall, model: Model, job: Job) -> tuple[str, NetworkRun]:
        """Have the supervisor run it: workers take part in one run of a cut at a time, whoever asks for it.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            GroupconvError: as of `Executor.run_network`.
        """
        if call.cut == PLANNED and call.planner is not None:
            call = replace(call, given=self._cuts_for(call, job.deadline))
        call = replace(call, into={}, planner=None)
        for data in (None, model.data):  # sent only if the supervisor does not have it
            answer = self._supervisor.start("run_cut", call, data, job.deadline)
            while not wait([answer], GLANCE).done:
                if job.poll():
                    job.check()
            found: tuple[str, NetworkRun] | None = answer.result()
            if found is not None:
                return found
        raise AssertionError  # it has the model by then

    def _cuts_for(self, call: NetworkCall, deadline: float | None) -> Cuts:
        """The cuts as planned with what this front has measured, for the nodes of the workers; none for one worker.

        The first plan is kept, as the workers compile programs for it.
        """
        nodes = tuple(len(slots) for slots in by_node(self.wait(deadline)))
        shapes = sorted((name, array.shape) for name, array in call.inputs.items())
        key = call.network, call.version, *shapes
        with self._planning:
            known = self._planned.pop(key, None) or KnownCuts()
            self._planned[key] = known  # as the newest
            for oldest in list(self._planned)[:-PLANS]:
                del self._planned[oldest]
        choice = known.requested(call, nodes)
        return {} if choice is None else choice.tensors

    def _prepares(self, worker: str) -> None:
        self._prepare(worker)

    def _shards_of(self, worker: str) -> int:
        return sum(len(slot.flights) for slot in self.slots if slot.id == worker)
