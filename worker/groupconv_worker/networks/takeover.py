"""Our own programs of networks: compiled beside the calls, measured, and taken where they are faster.

At first a session of onnxruntime answers calls. Meanwhile another process binds the graph to the shapes of a call, and
compiles kernels for it unless the program is for a GPU. Then the session and the program run in turns on a copy of the
call's inputs. A program that is faster and agrees with the session answers the calls of these shapes from then on. The
session stays if there can be other shapes.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from groupconv.networks.state import NetworkState, Phase
from groupconv.text import human_bytes
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.cpu.compiler import COMPILER, Compiler
from groupconv_worker.cpu.compiler_tasks import NetworkTask, TaskResult
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.profiling import NodeTimes
from groupconv_worker.job import Job
from groupconv_worker.networks.background import Background
from groupconv_worker.networks.by_shapes import ByShapes, shapes_of
from groupconv_worker.networks.candidate import Candidate
from groupconv_worker.networks.judgement import computed_by_onnxruntime, differing, rounds, times_of_model
from groupconv_worker.networks.programs import NoProgramError, Programs
from groupconv_worker.networks.session import NetworkSession
from groupconv_worker.tuning.autotune import enabled
from groupconv_worker.tuning.stopwatch import Contention

if TYPE_CHECKING:
    from groupconv_worker.networks.candidate import OurNetwork

log = logging.getLogger(__name__)

Array = NDArray[Any]
T = TypeVar("T")
LARGEST = 2**30
"""Bytes of a model, and of a call's inputs and outputs, up to which a program is made."""
AGAIN = (60.0, 300.0, 1800.0)
"""Seconds after which a disturbed measurement is made again: the first time, the second, the third."""


class Takeover:
    """The programs of one worker's networks.

    Args:
        budget: of the worker's threads.
        programs: makes them.
        compiler: what compiles in another process.
    """

    def __init__(self, budget: ThreadBudget, programs: Programs, compiler: Compiler = COMPILER) -> None:
        self._budget, self._programs, self._compiler = budget, programs, compiler
        self._candidates = ByShapes[Candidate](Candidate.evict)
        self._background = Background("takeover")
        self._lock = threading.Lock()

    def candidate(self, network: str, version: int, inputs: Mapping[str, Array]) -> Candidate:
        """The candidate for calls with inputs of these shapes; made on their first call."""
        shapes = shapes_of(inputs)
        candidate = self._candidates.find(network, version, shapes, lambda: Candidate(network, shapes))
        with self._lock:
            candidate.calls += 1
        return candidate

    def session_answered(
        self,
        network: str,
        version: int,
        candidate: Candidate,
        session: NetworkSession,
        inputs: Mapping[str, Array],
        *,
        spare: int,
    ) -> None:
        """The session has answered a call: have a program made, if these shapes are the version's first, or come again.

        Args:
            network: that was called.
            version: of the network.
            candidate: of the version and the shapes.
            session: of the version.
            inputs: of the call; they are copied.
            spare: bytes that a program may take.
        """
        only = len(self._candidates.of(network, version)) == 1
        if time.monotonic() >= candidate.again:
            candidate.started, candidate.again = False, math.inf
        if candidate.started or not (only or candidate.calls > 1) or not enabled():
            return
        candidate.started, candidate.spare = True, spare
        model = session.model
        if len(model.data) + sum(array.nbytes for array in inputs.values()) > LARGEST:
            candidate.reason = f"models over {human_bytes(LARGEST)} have no program"
            candidate.enter(Phase.SESSION)
            return
        copies = {name: array.copy() for name, array in inputs.items()}
        outputs = [info.name for info in model.outputs]
        task = NetworkTask(candidate.name, model.data, dict(candidate.shapes), compiled=self._programs.compiled)

        def compiled(result: TaskResult) -> None:
            candidate.task = None
            candidate.enter(candidate.phase if result.graph is None else Phase.MEASURING)
            self._background.do(lambda: self._try(candidate, result, session, copies, outputs))

        candidate.reason, candidate.task = "a program is being compiled", task
        candidate.enter(Phase.COMPILING)
        improvement = self._compiler.submit(task, compiled, now=True)
        if improvement is None:
            candidate.reason, candidate.task = "no program: there is no process that compiles", None
            candidate.enter(Phase.SESSION)
        else:
            improvement.then(lambda: self._background.do(lambda: self._settle(candidate)))

    def program_answered(
        self, candidate: Candidate, session: Callable[[], NetworkSession], inputs: Mapping[str, Array]
    ) -> None:
        """The program has answered a call: have it measured again, if that is due after a disturbed measurement."""
        if time.monotonic() < candidate.again:
            return
        candidate.again, beside = math.inf, session()
        copies = {name: array.copy() for name, array in inputs.items()}
        outputs = [info.name for info in beside.model.outputs]

        def judge() -> None:
            if candidate.program is not None and candidate.graph is not None:
                self._judge(candidate, candidate.program, candidate.graph, beside, copies, outputs)
                self._settle(candidate)

        self._background.do(judge)

    def states(self) -> dict[tuple[str, int], tuple[NetworkState, ...]]:
        """How far the programs of all versions are, for each set of shapes."""
        compiled = self._compiler.compiled
        return {
            version: tuple(candidate.state(compiled) for candidate in candidates)
            for version, candidates in self._candidates.versions().items()
        }

    def bytes_of(self, network: str, version: int) -> int:
        """Bytes of the programs of a version."""
        programs = [candidate.program for candidate in self._candidates.of(network, version)]
        return sum(program.nbytes for program in programs if program is not None)

    def wait(self) -> None:
        """Block until all candidates so far were tried (for tests)."""
        self._background.wait()

    def forget(self, network: str, version: int) -> None:
        """Drop the programs of a version. A call that runs on one goes on to its end."""
        for candidate in self._candidates.pop(network, version):
            candidate.gone, candidate.program = True, None

    def _settle(self, candidate: Candidate) -> None:
        """A program was tried, or the compiler has dropped its task: then the next call submits it again."""
        if candidate.task is not None:
            candidate.started, candidate.reason, candidate.task = False, "", None
            candidate.enter(Phase.WAITING)
            return
        candidate.settled = True
        candidate.enter(Phase.SESSION if candidate.program is None else Phase.PROGRAM)

    def _try(
        self,
        candidate: Candidate,
        result: TaskResult,
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
    ) -> None:
        """Make the program of a bound graph, and let it answer if it is faster than the session."""
        if result.graph is None:
            candidate.reason = f"no program: {result.reason or result.error}"
            return
        if candidate.gone:
            return
        try:
            program = self._programs.make(result.graph, candidate.spare)
        except NoProgramError as error:
            candidate.reason = f"no program: {error}"
            return
        self._judge(candidate, program, result.graph, session, inputs, outputs)

    def _judge(
        self,
        candidate: Candidate,
        program: "OurNetwork",
        graph: Graph,
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
    ) -> None:
        """Measure a program beside the session, and let the faster one answer from now on."""
        from groupconv_worker.cpu.network.fragments import FragmentedNetwork

        contention = Contention()
        theirs, ours = self._measure(program, session, inputs, outputs, candidate, contention)
        if candidate.gone or not theirs:
            candidate.program = None
            return
        if contention.disturbed and candidate.disturbed < len(AGAIN):
            candidate.again = time.monotonic() + AGAIN[candidate.disturbed]
            candidate.disturbed += 1
        ratio = min(ours) / min(theirs)
        if ratio < 1:
            if isinstance(program, FragmentedNetwork):
                candidate.theirs = computed_by_onnxruntime(program, session.model, graph)
            candidate.graph = replace(graph, constants={})  # the program has its own weights
            candidate.reason, candidate.program = _taken(ratio, program), program
        else:
            candidate.reason, candidate.graph, candidate.program = f"a program takes {ratio:.2f} × its time", None, None
        if candidate.again != math.inf:
            candidate.reason += ", while other programs had the processor"
        log.info("network %s %s: %s", candidate.name, dict(candidate.shapes), candidate.reason)
        if candidate.program is not None:
            with contextlib.suppress(NotCompiledError, OSError), deferred():
                times, _ = self._timed(lambda _: _node_times(program, inputs, graph))
                candidate.times = times_of_model(times, session.model, graph)
                candidate.node_times = candidate.times

    def _measure(
        self,
        program: "OurNetwork",
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
        candidate: Candidate,
        contention: Contention,
    ) -> tuple[list[float], list[float]]:
        """Seconds of the session and the program, in turns, while nothing else runs; none if their outputs differ."""
        theirs: list[float] = []
        ours: list[float] = []
        for _ in rounds(lambda: candidate.gone):
            wanted, seconds = self._timed(lambda job: session.run(inputs, outputs, job), contention)
            theirs.append(seconds)
            got, seconds = self._timed(lambda _: program.run(inputs), contention)
            ours.append(seconds)
            name = differing(got, wanted)
            if name is not None:
                candidate.reason = f"the program's {name!r} differs from onnxruntime's"
                apart = np.abs(got[name].astype(np.float64) - wanted[name]).max(initial=0)
                log.error("network %s: the program's %r is %g from onnxruntime's", candidate.name, name, apart)
                return [], []
        return theirs, ours

    def _timed(self, run: Callable[[Job], T], contention: Contention | None = None) -> tuple[T, float]:
        """Run on all threads of the worker, and time it."""
        job = Job()
        threads = self._budget.acquire(whole=True)
        token = granted.set(threads)
        try:
            with job:
                start = time.perf_counter()
                with contention or contextlib.nullcontext():
                    outputs = run(job)
                return outputs, time.perf_counter() - start
        finally:
            granted.reset(token)
            self._budget.release(threads)


def _node_times(program: "OurNetwork", inputs: Mapping[str, Array], graph: Graph) -> NodeTimes:
    """Run a program for the time of each node of its graph."""
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork

    if isinstance(program, FragmentedNetwork):
        return program.node_seconds(inputs, graph)
    return NodeTimes(program.node_seconds(inputs), {})


def _taken(ratio: float, program: "OurNetwork") -> str:
    """Why a program answers."""
    return f"measured at {ratio:.2f} × onnxruntime's time, weights and arena in {human_bytes(program.nbytes)}"
