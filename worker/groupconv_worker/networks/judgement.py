"""Two ways to run a network side by side: measured in turns, whether they agree, and which nodes took how long."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from groupconv_worker.cpu.network.simplified import TWIN
from groupconv_worker.graph.fragments import origins
from groupconv_worker.graph.graph import Graph
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.profiling import NodeTimes

if TYPE_CHECKING:
    from groupconv_worker.cpu.network.fragments import FragmentedNetwork

Array = NDArray[Any]
TOLERANCE = 1e-4
"""Largest difference between a program's output and the session's, as a share of the output's largest element."""
ROUNDING = 2.0**-21
"""A difference that is always allowed: sigmoid and softmax round small results as numbers near 1."""
ROUNDS, SECONDS = 7, 2.0
"""Runs of each way that are measured, at most; and for how long, from the third on."""


def rounds(over: Callable[[], bool]) -> Iterator[None]:
    """The rounds of a measurement, in each of which both ways run once; none once it is over.

    Example:
        >>> len(list(rounds(lambda: False))), len(list(rounds(lambda: True)))
        (7, 0)
    """
    start = time.perf_counter()
    for done in range(ROUNDS):
        if over() or (done >= 3 and time.perf_counter() - start > SECONDS):
            return
        yield


def times_of_model(times: NodeTimes, model: Model, graph: Graph) -> NodeTimes:
    """The times of a graph's nodes as those of its model's."""
    nodes = {node.outputs[0]: node.op for node in graph.nodes}
    heirs: dict[str, str] = {}
    came = origins(model.proto.graph.node, graph)
    for node in model.proto.graph.node:
        origin = came.get(node.output[0], "") if node.output else ""
        if origin and (origin not in heirs or node.op_type == nodes[origin]):
            heirs[origin] = node.output[0]
    seconds: dict[str, float] = {}
    for name, spent in times.seconds.items():
        heir = heirs.get(name.removesuffix(TWIN), name)
        seconds[heir] = seconds.get(heir, 0.0) + spent
    fused = {}
    for node in model.proto.graph.node:
        origin = came.get(node.output[0], "") if node.output else ""
        origin = times.fused.get(origin, origin)
        if origin in heirs and heirs[origin] in seconds and node.output[0] not in seconds:
            fused[node.output[0]] = heirs[origin]
    return NodeTimes(seconds, fused)


def computed_by_onnxruntime(program: "FragmentedNetwork", model: Model, graph: Graph) -> tuple[str, ...]:
    """The outputs of a model's nodes that a program leaves to onnxruntime."""
    foreign = {node.outputs[0].removesuffix(TWIN) for part in program.parts if not part.ours for node in part.nodes}
    return tuple(name for name, origin in origins(model.proto.graph.node, graph).items() if origin in foreign)


def differing(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> str | None:
    """The first output by which two ways do not agree; None if they do."""
    return next((name for name, want in wanted.items() if not agrees(got[name], want)), None)


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
