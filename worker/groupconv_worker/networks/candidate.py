"""What is known of calls of a network's version with inputs of certain shapes."""

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
    """A network's version with inputs of certain shapes.

    Attributes:
        name: of the network, for people.
        shapes: of the inputs.
        spare: bytes that its program may take.
        program: that answers; None as long as the session does.
        theirs: outputs of the model's nodes that onnxruntime computes for the program.
        node_seconds: of the model's nodes by their first outputs, until a report has them.
        graph: of the program.
        again: the time (monotonic) from which on it is measured again, as something disturbed the measurement.
        disturbed: how often something did.
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
    node_seconds: dict[str, float] | None = None
    graph: Graph | None = None
    again: float = math.inf
    disturbed: int = 0
    reason: str = ""
    calls: int = 0
    settled: bool = False
    gone: bool = False
    started: bool = field(default=False, repr=False)
