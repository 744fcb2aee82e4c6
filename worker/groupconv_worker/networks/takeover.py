"""Our own programs of networks: compiled beside the calls, measured, and taken where they are faster.

A call is answered by the session of onnxruntime at first. Another process binds the graph to the call's shapes
meanwhile, and compiles its kernels if the program is one for threads. Then the session and the program, on threads or
on the worker's GPU, run in turns on a copy of the call's inputs. A program that is faster and agrees with the session
answers the calls of these shapes from then on. The session stays if there can be other shapes.
"""

import contextlib
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from groupconv.text import human_bytes
from groupconv_worker.autotune import enabled
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.cpu.compiler import COMPILER, Compiler, Done, NetworkJob
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.graph.graph import Graph
from groupconv_worker.job import Job
from groupconv_worker.networks.background import Background
from groupconv_worker.networks.candidate import Candidate, Shapes
from groupconv_worker.networks.judgement import computed_by_onnxruntime, differing, of_model, rounds
from groupconv_worker.networks.programs import NoProgramError, Programs
from groupconv_worker.networks.session import NetworkSession
from groupconv_worker.stopwatch import Contention

if TYPE_CHECKING:
    from groupconv_worker.networks.candidate import OurNetwork

log = logging.getLogger(__name__)

Array = NDArray[Any]
T = TypeVar("T")
KEPT = 8
"""Sets of shapes of which a version keeps programs, those that were called last."""
LARGEST = 2**30
"""Bytes of a model, and of a call's inputs and outputs, up to which a program is made."""
AGAIN = (60.0, 300.0, 1800.0)
"""Seconds after which a measurement that something disturbed is made again."""


class Takeover:
    """The programs of one worker's networks.

    Args:
        budget: of the worker's threads.
        programs: makes them.
        compiler: what compiles in another process.
    """

    def __init__(self, budget: ThreadBudget, programs: Programs, compiler: Compiler = COMPILER) -> None:
        self._budget, self._programs, self._compiler = budget, programs, compiler
        self._known: dict[tuple[str, int], OrderedDict[Shapes, Candidate]] = {}
        self._background = Background("takeover")
        self._lock = threading.Lock()

    def candidate(self, network: str, version: int, inputs: Mapping[str, Array]) -> Candidate:
        """What is known of calls with inputs of these shapes."""
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        with self._lock:
            several = self._known.setdefault((network, version), OrderedDict())
            found = several.pop(shapes, None) or Candidate(network, shapes)
            several[shapes] = found
            found.calls += 1
            while len(several) > KEPT:
                several.popitem(last=False)[1].gone = True
        return found

    def answered(
        self,
        network: str,
        version: int,
        found: Candidate,
        session: NetworkSession,
        inputs: Mapping[str, Array],
        *,
        spare: int,
    ) -> None:
        """The session has answered a call: have a program made for a version's first shapes, or those that come again.

        Args:
            network: that was called.
            version: of it.
            found: as of `candidate`.
            session: of the version.
            inputs: of the call; they are copied.
            spare: bytes that a program may take.
        """
        only = len(self._known.get((network, version), ())) == 1
        if time.monotonic() >= found.again:
            found.started, found.again = False, math.inf
        if found.started or not (only or found.calls > 1) or not enabled():
            return
        found.started, found.spare = True, spare
        model = session.model
        if len(model.data) + sum(array.nbytes for array in inputs.values()) > LARGEST:
            found.reason = f"models over {human_bytes(LARGEST)} have no program"
            return
        copies = {name: array.copy() for name, array in inputs.items()}
        outputs = [info.name for info in model.outputs]
        job = NetworkJob(found.name, model.data, dict(found.shapes), compiled=self._programs.compiled)

        def done(came: Done) -> None:
            self._background.do(lambda: self._try(found, came, session, copies, outputs))
            self._background.do(lambda: setattr(found, "settled", True))

        found.reason = "a program is being compiled"
        if self._compiler.ask(job, done, now=True) is None:
            found.reason = "no program: there is no process that compiles"

    def answered_ours(
        self, found: Candidate, session: Callable[[], NetworkSession], inputs: Mapping[str, Array]
    ) -> None:
        """The program has answered a call: have it measured again if the last time something had the processor."""
        if time.monotonic() < found.again:
            return
        found.again, beside = math.inf, session()
        copies = {name: array.copy() for name, array in inputs.items()}
        outputs = [info.name for info in beside.model.outputs]

        def judge() -> None:
            if found.program is not None and found.graph is not None:
                self._judge(found, found.program, found.graph, beside, copies, outputs)

        self._background.do(judge)

    def bytes_of(self, network: str, version: int) -> int:
        """Bytes of the programs of a version."""
        with self._lock:
            programs = [found.program for found in self._known.get((network, version), {}).values()]
        return sum(program.nbytes for program in programs if program is not None)

    def wait(self) -> None:
        """Until what came so far was tried (for tests)."""
        self._background.wait()

    def forget(self, network: str, version: int) -> None:
        """Drop the programs of a version. A call that runs on one goes on to its end."""
        with self._lock:
            for found in self._known.pop((network, version), {}).values():
                found.gone, found.program = True, None

    def _try(
        self, found: Candidate, came: Done, session: NetworkSession, inputs: dict[str, Array], outputs: list[str]
    ) -> None:
        """Make the program and let it answer if it is better."""
        if came.graph is None:
            found.reason = f"no program: {came.reason or came.error}"
            return
        if found.gone:
            return
        try:
            program = self._programs.make(came.graph, found.spare)
        except NoProgramError as error:
            found.reason = f"no program: {error}"
            return
        self._judge(found, program, came.graph, session, inputs, outputs)

    def _judge(
        self,
        found: Candidate,
        program: "OurNetwork",
        graph: Graph,
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
    ) -> None:
        """Measure a program beside the session, and let the faster one answer from now on."""
        from groupconv_worker.cpu.network.fragments import FragmentedNetwork

        contention = Contention()
        theirs, ours = self._measure(program, session, inputs, outputs, found, contention)
        if found.gone or not theirs:
            found.program = None
            return
        if contention.disturbed and found.disturbed < len(AGAIN):
            found.again = time.monotonic() + AGAIN[found.disturbed]
            found.disturbed += 1
        ratio = min(ours) / min(theirs)
        if ratio < 1:
            if isinstance(program, FragmentedNetwork):
                found.theirs = computed_by_onnxruntime(program, session.model, graph)
            with contextlib.suppress(NotCompiledError), deferred():
                taken, _ = self._timed(lambda _: program.node_seconds(inputs))
                found.node_seconds = of_model(taken, session.model, graph)
            found.graph = replace(graph, constants={})  # the program has its own weights
            found.reason, found.program = _taken(ratio, program), program
        else:
            found.reason, found.graph, found.program = f"a program takes {ratio:.2f} × its time", None, None
        if found.again != math.inf:
            found.reason += ", while other programs had the processor"
        log.info("network %s %s: %s", found.name, dict(found.shapes), found.reason)

    def _measure(
        self,
        program: "OurNetwork",
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
        found: Candidate,
        contention: Contention,
    ) -> tuple[list[float], list[float]]:
        """Seconds of the session and of the program, in turns, each beside no other run; none if they disagree."""
        theirs: list[float] = []
        ours: list[float] = []
        for _ in rounds(lambda: found.gone):
            wanted, seconds = self._timed(lambda job: session.run(inputs, outputs, job), contention)
            theirs.append(seconds)
            got, seconds = self._timed(lambda _: program.run(inputs), contention)
            ours.append(seconds)
            name = differing(got, wanted)
            if name is not None:
                found.reason = f"the program's {name!r} differs from onnxruntime's"
                apart = np.abs(got[name].astype(np.float64) - wanted[name]).max(initial=0)
                log.error("network %s: the program's %r is %g from onnxruntime's", found.name, name, apart)
                return [], []
        return theirs, ours

    def _timed(self, run: Callable[[Job], T], contention: Contention | None = None) -> tuple[T, float]:
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


def _taken(ratio: float, program: "OurNetwork") -> str:
    """Why a program answers."""
    return f"measured at {ratio:.2f} × onnxruntime's time, weights and arena in {human_bytes(program.nbytes)}"
