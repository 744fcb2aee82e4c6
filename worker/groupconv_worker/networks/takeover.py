"""Our own programs of networks: compiled beside the calls, measured, and taken where they are faster.

A call is answered by the session of onnxruntime at first. Another process binds the graph to the call's shapes and
compiles its kernels meanwhile. Then the session and the program run in turns on a copy of the call's inputs. A program
that is faster and agrees with the session answers the calls of these shapes from then on. The session stays: it
answers other shapes.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groupconv.text import human_bytes
from groupconv_worker.autotune import enabled
from groupconv_worker.budget import ThreadBudget, granted
from groupconv_worker.cpu.compiler import COMPILER, Compiler, Done, NetworkJob
from groupconv_worker.cpu.kernels.forms import NotCompiledError, deferred
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.fragments import origins
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.model import Model
from groupconv_worker.job import Job
from groupconv_worker.networks.session import NetworkSession

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork
    from groupconv_worker.cpu.network.network import CompiledNetwork

    OurNetwork = CompiledNetwork | FragmentedNetwork

log = logging.getLogger(__name__)

Array = NDArray[Any]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
TOLERANCE = 1e-4
"""Of the largest element of an output: how far a program's answer may be from the session's."""
ROUNDING = 2.0**-21
"""How far it may be in any case: sigmoid and softmax round small results as numbers near 1."""
KEPT = 8
"""Sets of shapes of which a version keeps programs, those that were called last."""
LARGEST = 2**30
"""Bytes of a model, and of a call's inputs and outputs, up to which a program is made."""
ROUNDS, SECONDS = 7, 2.0
"""Runs of each that are measured, at most; and for how long, from the third on."""


@dataclass(eq=False)
class Candidate:
    """A network's version with inputs of certain shapes.

    Attributes:
        name: of the network, for people.
        shapes: of the inputs.
        spare: bytes that its program may take.
        program: that answers; None as long as the session does.
        theirs: outputs of the model's nodes that onnxruntime computes for the program.
        reason: why it is the one or the other.
        calls: how often it was called.
        settled: whether it was tried.
        gone: whether the version was unloaded.
    """

    name: str
    shapes: Shapes
    spare: int = 0
    program: "OurNetwork | None" = None
    theirs: tuple[str, ...] = ()
    reason: str = ""
    calls: int = 0
    settled: bool = False
    gone: bool = False
    started: bool = field(default=False, repr=False)


class Takeover:
    """The programs of one worker's networks.

    Args:
        budget: of the worker's threads.
        team: the threads that programs run on.
        compiler: what compiles in another process.
    """

    def __init__(self, budget: ThreadBudget, team: Team, compiler: Compiler = COMPILER) -> None:
        self._budget, self._team, self._compiler = budget, team, compiler
        self._known: dict[tuple[str, int], OrderedDict[Shapes, Candidate]] = {}
        self._work = queue.SimpleQueue[Callable[[], None]]()
        self._thread: threading.Thread | None = None
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
        if found.started or not (only or found.calls > 1) or not enabled():
            return
        found.started, found.spare = True, spare
        model = session.model
        if len(model.data) + sum(array.nbytes for array in inputs.values()) > LARGEST:
            found.reason = f"models over {human_bytes(LARGEST)} have no program"
            return
        copies = {name: array.copy() for name, array in inputs.items()}
        outputs = [info.name for info in model.outputs]
        job = NetworkJob(found.name, model.data, dict(found.shapes))

        def done(came: Done) -> None:
            self._do(lambda: self._try(found, came, session, copies, outputs))
            self._do(lambda: setattr(found, "settled", True))

        found.reason = "a program is being compiled"
        if self._compiler.ask(job, done, now=True) is None:
            found.reason = "no program: there is no process that compiles"

    def bytes_of(self, network: str, version: int) -> int:
        """Bytes of the programs of a version."""
        with self._lock:
            programs = [found.program for found in self._known.get((network, version), {}).values()]
        return sum(program.nbytes for program in programs if program is not None)

    def wait(self) -> None:
        """Until what came so far was tried (for tests)."""
        tried = threading.Event()
        self._do(tried.set)
        tried.wait()

    def forget(self, network: str, version: int) -> None:
        """Drop the programs of a version. A call that runs on one goes on to its end."""
        with self._lock:
            for found in self._known.pop((network, version), {}).values():
                found.gone, found.program = True, None

    def _do(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="takeover", daemon=True)
                self._thread.start()

    def _loop(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except Exception:
                log.exception("a network's program could not be tried")
            del work  # it holds arrays

    def _try(
        self, found: Candidate, came: Done, session: NetworkSession, inputs: dict[str, Array], outputs: list[str]
    ) -> None:
        """Make the program and let it answer if it is better."""
        if came.graph is None:
            found.reason = f"no program: {came.reason or came.error}"
            return
        if found.gone:
            return
        # kept out of a server's start
        from groupconv_worker.cpu.network.fragments import FragmentedNetwork, compiled_network
        from groupconv_worker.cpu.network.lowering import UnsupportedNodeError
        from groupconv_worker.cpu.network.network import KernelsMissingError

        try:
            with deferred():
                program = compiled_network(came.graph, self._team)
        except (UnsupportedNodeError, KernelsMissingError, NotCompiledError) as error:
            found.reason = f"no program: {error}"
            return
        if program.nbytes > found.spare:
            found.reason = f"no program: {human_bytes(program.nbytes)} of it do not fit"
            return
        theirs, ours = self._measure(program, session, inputs, outputs, found)
        if found.gone or not theirs:
            return
        ratio = min(ours) / min(theirs)
        if ratio < 1:
            if isinstance(program, FragmentedNetwork):
                found.theirs = computed_by_onnxruntime(program, session.model, came.graph)
            found.reason, found.program = f"measured at {ratio:.2f} × onnxruntime's time", program
        else:
            found.reason = f"a program takes {ratio:.2f} × its time"
        log.info("network %s %s: %s", found.name, dict(found.shapes), found.reason)

    def _measure(
        self,
        program: "OurNetwork",
        session: NetworkSession,
        inputs: dict[str, Array],
        outputs: list[str],
        found: Candidate,
    ) -> tuple[list[float], list[float]]:
        """Seconds of the session and of the program, in turns, each beside no other run; none if they disagree."""
        theirs: list[float] = []
        ours: list[float] = []
        start = time.perf_counter()
        while len(theirs) < ROUNDS and not found.gone:
            if len(theirs) >= 3 and time.perf_counter() - start > SECONDS:
                break
            wanted, seconds = self._timed(lambda job: session.run(inputs, outputs, job))
            theirs.append(seconds)
            got, seconds = self._timed(lambda _: program.run(inputs))
            ours.append(seconds)
            for name, want in wanted.items():
                if not agrees(got[name], want):
                    found.reason = f"the program's {name!r} differs from onnxruntime's"
                    apart = np.abs(got[name].astype(np.float64) - want).max(initial=0)
                    log.error("network %s: the program's %r is %g from onnxruntime's", found.name, name, apart)
                    return [], []
        return theirs, ours

    def _timed(self, run: Callable[[Job], dict[str, Array]]) -> tuple[dict[str, Array], float]:
        job = Job()
        threads = self._budget.acquire(whole=True)
        token = granted.set(threads)
        try:
            with job:
                start = time.perf_counter()
                outputs = run(job)
                return outputs, time.perf_counter() - start
        finally:
            granted.reset(token)
            self._budget.release(threads)


def computed_by_onnxruntime(program: "FragmentedNetwork", model: Model, graph: Graph) -> tuple[str, ...]:
    """The outputs of a model's nodes that a program leaves to onnxruntime."""
    from groupconv_worker.cpu.network.simplified import TWIN

    foreign = {node.outputs[0].removesuffix(TWIN) for part in program.parts if not part.ours for node in part.nodes}
    return tuple(name for name, origin in origins(model.proto.graph.node, graph).items() if origin in foreign)


def agrees(got: Array, want: Array) -> bool:
    """Whether a program's output is the session's, up to rounding.

    Example:
        >>> agrees(np.array([1.0, 2.00001]), np.array([1.0, 2.0])), agrees(np.array([1.0]), np.array([np.nan]))
        (True, False)
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    finite = np.isfinite(want)
    scale = float(np.abs(want[finite]).max(initial=0))
    return bool(np.allclose(got, want, rtol=0, atol=max(TOLERANCE * scale, ROUNDING), equal_nan=True))
