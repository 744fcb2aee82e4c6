"""A candidate: the program that may take over a network's calls with inputs of certain shapes."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from groupconv_worker.graph.graph import Graph

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork
    from groupconv_worker.cpu.network.network import CompiledNetwork
    from groupconv_worker.cuda.network.network import DeviceNetwork

    OurNetwork = CompiledNetwork | FragmentedNetwork | DeviceNetwork

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(eq=False)
class Candidate:
    """A network's version with inputs of certain shapes, and whether a session or a program answers its calls.

    Attributes:
        name: of the network, for people.
        shapes: of the inputs.
        spare: bytes that the program may take.
        program: answers the calls; None while the session does.
        theirs: outputs of the model's nodes that onnxruntime computes for the program.
        node_seconds: of the model's nodes by their first outputs, until a report has them.
        graph: of the program.
        again: when to measure again, on the clock of time.monotonic(); infinite unless the last measurement was
            disturbed.
        disturbed: how many measurements were disturbed.
        reason: why the program or the session answers.
        calls: how many there were.
        settled: whether the program was tried, or cannot be.
        gone: whether the version was unloaded, or these shapes were dropped.
        started: whether a program is being made, or was.
    """

    name: str
    shapes: Shapes
    spare: int = 0
    program: "OurNetwork | None" = None
    theirs: tuple[str, ...] = ()
    node_seconds: dict[str, float] | None = None
    graph: Graph | None = None
    again: float = math.inf
    disturbed: int = 0
    reason: str = ""
    calls: int = 0
    settled: bool = False
    gone: bool = False
    started: bool = field(default=False, repr=False)
