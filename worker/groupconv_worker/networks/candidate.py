"""A candidate: the program that may take over a network's calls with inputs of certain shapes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from groupconv.networks.state import NetworkState, Phase
from groupconv_worker.cpu.compiler_tasks import NetworkTask
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.profiling import NodeTimes
from groupconv_worker.networks.by_shapes import Shapes
from groupconv_worker.tuning.autotune import enabled

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork
    from groupconv_worker.cpu.network.network import CompiledNetwork
    from groupconv_worker.cuda.network.network import DeviceNetwork

    OurNetwork = CompiledNetwork | FragmentedNetwork | DeviceNetwork

AGAIN = "a program is made once inputs of these shapes come again"
OFF = "no program is made, as GROUPCONV_TUNE is off"


@dataclass(eq=False)
class Candidate:
    """A network's version with inputs of certain shapes, and whether a session or a program answers its calls.

    Attributes:
        name: of the network, for people.
        shapes: of the inputs.
        spare: bytes that the program may take.
        program: answers the calls; None while the session does.
        theirs: outputs of the model's nodes that onnxruntime computes for the program.
        times: of the model's nodes, when the program took over.
        node_times: the same, until a report has them.
        graph: of the program.
        again: when to measure again, on the clock of time.monotonic(); infinite unless the last measurement was
            disturbed.
        disturbed: how many measurements were disturbed.
        reason: why the program or the session answers.
        calls: how many there were.
        settled: whether the program was tried, or cannot be.
        phase: how far the program is.
        since: when the phase began, in seconds since 1970.
        task: that compiles the program, until it is done.
        gone: whether the version was unloaded, or these shapes were dropped.
        started: whether a program is being made, or was.
    """

    name: str
    shapes: Shapes
    spare: int = 0
    program: "OurNetwork | None" = None
    theirs: tuple[str, ...] = ()
    times: NodeTimes | None = None
    node_times: NodeTimes | None = None
    graph: Graph | None = None
    again: float = math.inf
    disturbed: int = 0
    reason: str = ""
    calls: int = 0
    settled: bool = False
    gone: bool = False
    phase: Phase = Phase.WAITING
    since: float = field(default_factory=time.time)
    task: NetworkTask | None = None
    started: bool = field(default=False, repr=False)

    def evict(self) -> None:
        """These shapes were dropped: no measurement goes on."""
        self.gone = True

    def enter(self, phase: Phase) -> None:
        """A phase begins, if it is another one."""
        if phase is not self.phase:
            self.phase, self.since = phase, time.time()

    def state(self, compiled: Callable[[NetworkTask], tuple[int, int]]) -> NetworkState:
        """How far it is, for people.

        Args:
            compiled: as of `Compiler.compiled`.
        """
        task, reason = self.task, self.reason
        if self.phase is Phase.WAITING and not reason:
            reason = AGAIN if enabled() else OFF
        done, kernels = (0, 0) if task is None else compiled(task)
        return NetworkState(self.phase, "", dict(self.shapes), done, kernels, reason, self.since)
