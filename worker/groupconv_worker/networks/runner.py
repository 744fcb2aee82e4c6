"""The networks of one worker: a session for each version that it was asked to run, and programs that took over."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from groupconv.errors import DeadlineExceededError, ResourceExhaustedError
from groupconv.networks.plan import ExchangeReport, PartReport
from groupconv.networks.state import NetworkState, Phase
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.graph.model import ALGORITHM, Model
from groupconv_worker.graph.partition.choice import Cuts
from groupconv_worker.graph.profiling import NodeTimes
from groupconv_worker.job import Job
from groupconv_worker.networks.session import NetworkSession

if TYPE_CHECKING:
    from groupconv_worker.networks.candidate import OurNetwork
    from groupconv_worker.networks.takeover import Takeover
    from groupconv_worker.runtime import WorkerRuntime

Array = NDArray[Any]


WHOLE = "nothing"
"""The cut of a network that one worker runs."""
CutPlanner = Callable[[Cuts, Sequence[int]], Cuts]
"""Plans the cut of each tensor, from the cuts to keep and the number of workers on each node; empty for one worker."""


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """One call of a network.

    Attributes:
        network, version: which network to run.
        inputs: by name, of the network's dtypes.
        outputs: names of the outputs to return.
        into: contiguous arrays to be filled, by the names of outputs whose shapes are known.
        peak_bytes: most bytes of tensors that the run is expected to hold at a time.
        spare: bytes that a new program of the network may take; below 0 the session runs, whatever programs there are.
        cut: the axis along which to cut the network over the workers; empty leaves it to the executor.
        given: cuts of some tensors that a planned cut keeps.
        planner: plans the cuts of all tensors; None where calls cannot be cut as planned.
        times: whether the network runs once more after this call, to take the time of each node.
    """

    network: str
    version: int
    inputs: Mapping[str, Array]
    outputs: tuple[str, ...]
    into: Mapping[str, Array] = field(default_factory=dict)
    peak_bytes: int = 0
    spare: int = 0
    cut: str = ""
    given: Cuts = field(default_factory=dict)
    planner: CutPlanner | None = None
    times: bool = False


class NetworkRun(NamedTuple):
    """How a call was answered.

    Attributes:
        outputs: by name.
        seconds: in the session or program.
        algorithm: what ran it: `graph.model.ALGORITHM` or `OURS`.
        reason: why that one did.
        program_bytes: of all programs of the version on this worker.
        parts: all parts in order, if the program leaves some to onnxruntime; else none.
        theirs: outputs of the model's nodes that onnxruntime computed for the program.
        settled: whether it is decided what runs calls of these shapes.
        cut: the axis along which the network was cut over the workers.
        exchanges: what the workers sent each other.
        coordinator_bytes: of inputs and outputs that were sent to the workers and back; None means once each.
        node_times: of the model's nodes, in the first answer after they were measured, or if the call asks for them.
    """

    outputs: dict[str, Array]
    seconds: float
    algorithm: str = ALGORITHM
    reason: str = ""
    program_bytes: int = 0
    parts: tuple[PartReport, ...] = ()
    theirs: tuple[str, ...] = ()
    settled: bool = True
    cut: str = WHOLE
    exchanges: tuple[ExchangeReport, ...] = ()
    coordinator_bytes: int | None = None
    node_times: NodeTimes | None = None


OURS = "groupconv"
"""The name of our own programs in plans and reports."""
SESSION = "the whole network as one session"
NO_PROGRAMS = "the engine has neither threads for programs nor a GPU"
States = Mapping[tuple[str, int], tuple[NetworkState, ...]]
"""Of versions by name and number: for each set of input shapes, who answers calls."""


class ModelMissingError(LookupError):
    """A worker has no session of a network's version; it has to be sent the model."""


class NetworkRunner:
    """Runs networks on the threads of a worker.

    Args:
        budget: of the worker's threads, which shards of convolutions share.
        threads: of a session.
        takeover: makes our own programs; None makes none.
    """

    def __init__(self, budget: ThreadBudget, threads: int, takeover: "Takeover | None" = None) -> None:
        self._budget, self._threads, self.takeover = budget, threads, takeover
        self._sessions: dict[tuple[str, int], NetworkSession] = {}
        self._making: dict[tuple[str, int], threading.Lock] = {}

    def prepare(self, network: str, version: int, model: Callable[[], Model]) -> NetworkSession:
        """The session of a version, made if there is none.

        Args:
            network: its name.
            version: of it.
            model: gives the model; called only if there is no session.

        Raises:
            InvalidArgumentError: the runtime refuses the model.
        """
        key = network, version
        session = self._sessions.get(key)
        if session is not None:
            return session
        try:
            with self._making.setdefault(key, threading.Lock()):  # calls of other networks go on meanwhile
                session = self._sessions.get(key)
                if session is None:
                    session = self._sessions[key] = NetworkSession(model(), self._threads)
                return session
        finally:
            self._making.pop(key, None)

    def run(self, call: NetworkCall, model: Callable[[], Model], job: Job) -> NetworkRun:
        """Wait for threads and run a call: on all of the worker's if it comes alone, else on a share of them.

        Two calls on one thread each take less time than one after the other on two, as no thread waits for another.

        Args:
            call: what to run.
            model: as of `prepare`.
            job: the call's deadline and cancellation.

        Raises:
            DeadlineExceededError, CancelledError: the job was over first.
            InvalidArgumentError, ResourceExhaustedError: as of `NetworkSession.run`.
        """
        got = acquire(self._budget, job, among=self._budget.inside + 1)
        token = granted.set(got)
        try:
            return self._run(call, model, job)
        finally:
            granted.reset(token)
            self._budget.release(got)

    def _run(self, call: NetworkCall, model: Callable[[], Model], job: Job) -> NetworkRun:
        """Run a call on the program that took over from the session, else on the session; keep both informed."""
        version = call.network, call.version
        takeover = self.takeover
        candidate = None if takeover is None or call.spare < 0 else takeover.candidate(*version, call.inputs)
        program = None if candidate is None else candidate.program
        parts: tuple[PartReport, ...] = ()
        start = time.perf_counter()
        answer: dict[str, Array] | None = None
        if program is not None and candidate is not None:
            try:
                with job:
                    job.check()
                    answer, parts = _answer(program, call)
            except ResourceExhaustedError as error:  # the GPU's memory is taken by now
                candidate.program, candidate.reason, program = None, f"no program: {error}", None
                candidate.enter(Phase.SESSION)
        if answer is not None:
            outputs = {name: answer[name] for name in call.outputs}
        else:
            session = self.prepare(*version, model)
            start = time.perf_counter()
            outputs = session.run(call.inputs, call.outputs, job, call.into, peak_bytes=call.peak_bytes)
        seconds = time.perf_counter() - start
        reason = SESSION
        if takeover is not None and candidate is not None:
            if program is None:
                takeover.session_answered(
                    *version, candidate, self.prepare(*version, model), call.inputs, spare=call.spare
                )
                reason = f"{SESSION} ({candidate.reason})" if candidate.reason else SESSION
            else:
                takeover.program_answered(candidate, lambda: self.prepare(*version, model), call.inputs)
                if candidate.settled and candidate.again == math.inf:
                    self._release(version)
                reason = f"{program.what}, {candidate.reason}"
        held = 0 if takeover is None else takeover.bytes_of(*version)
        settled = candidate is not None and candidate.settled
        if program is None or candidate is None:
            times = self.prepare(*version, model).node_times(call.inputs, call.outputs, job) if call.times else None
            return NetworkRun(outputs, seconds, ALGORITHM, reason, held, settled=settled, node_times=times)
        times = candidate.times if call.times else candidate.node_times
        candidate.node_times = None
        return NetworkRun(outputs, seconds, OURS, reason, held, parts, candidate.theirs, settled, node_times=times)

    def _release(self, version: tuple[str, int]) -> None:
        """Drop the session of a version whose program answers, if its inputs have one shape alone.

        Its memory is about what the program takes. Windows of a stream, and a GPU's memory that is gone, make it anew.
        """
        session = self._sessions.get(version)
        if session is not None and all(
            isinstance(extent, int) for info in session.model.inputs for extent in info.shape
        ):
            self._sessions.pop(version, None)

    def states(self) -> States:
        """Who answers the calls of all versions that this worker has."""
        if self.takeover is None:
            return {version: (NetworkState(Phase.SESSION, reason=NO_PROGRAMS),) for version in list(self._sessions)}
        return self.takeover.states()

    def forget(self, network: str, version: int) -> None:
        """Drop the session and the programs of a version. A call that runs on one goes on to its end."""
        self._sessions.pop((network, version), None)
        if self.takeover is not None:
            self.takeover.forget(network, version)


def acquire(budget: ThreadBudget, job: Job, *, among: int = 1, alone: bool = False) -> int:
    """Wait for threads of a budget.

    Args:
        budget: of a worker.
        job: its end ends the wait.
        among: how many calls share the budget; 1 waits for all threads.
        alone: whether no other run may hold a thread.

    Raises:
        DeadlineExceededError, CancelledError: the job was over first.
    """
    timeout = -1.0 if job.left is None else min(job.left, threading.TIMEOUT_MAX)
    got = (
        0
        if job.poll()
        else budget.acquire(timeout, among=among, whole=among == 1, alone=alone, stubborn=True, over=job.poll)
    )
    if not got:
        job.poll()
        job.check()
        raise DeadlineExceededError("the deadline passed before the network was started")
    return got


def _answer(program: "OurNetwork", call: NetworkCall) -> tuple[dict[str, Array], tuple[PartReport, ...]]:
    """The outputs of a program, and its parts if it leaves some to onnxruntime."""
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork  # with Numba, which is there by now

    if not isinstance(program, FragmentedNetwork):
        return program.run(call.inputs, call.into), ()
    outputs, seconds = program.timed(call.inputs, call.into)
    reports = []
    for part, took in zip(program.parts, seconds, strict=True):
        why = [program.reasons[node.outputs[0]] for node in part.nodes if node.outputs[0] in program.reasons]
        more = f", and {len(why) - 1} more like it" if len(why) > 1 else ""
        reason = "a program" if part.ours else f"a session ({why[0]}{more})"
        reports.append(PartReport(OURS if part.ours else ALGORITHM, len(part.nodes), took, reason))
    return outputs, tuple(reports)


def takeover_of(runtime: "WorkerRuntime") -> "Takeover | None":
    """The takeover of a worker; None where its engine has neither threads for programs nor a GPU."""
    from groupconv_worker.networks.programs import programs_of  # with Numba, which the engine has loaded by now
    from groupconv_worker.networks.takeover import Takeover

    programs = programs_of(runtime.engine)
    return None if programs is None else Takeover(runtime.budget, programs)
