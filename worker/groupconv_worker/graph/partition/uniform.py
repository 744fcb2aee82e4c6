"""One cut for a whole network: all tensors along samples, channels, rows or columns, as far as they have enough."""

from collections.abc import Mapping
from dataclasses import replace

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.reads import bytes_of
from groupconv_worker.graph.partition.cut import AXES, Cut, even
from groupconv_worker.graph.partition.partition import Partition, partition

TWICE = 0.05
"""Share of the inputs' bytes that may be brought to two workers. Beyond it workers send each other what they need."""
ROWS, RANK = 2, 4


def uniform(graph: Graph, cut: str, workers: int, block: int = 1) -> Partition:
    """Cut a network.

    Args:
        graph: in canonical form.
        cut: one of `AXES`.
        workers: over how many; each has a part of every tensor that is long enough, and all of the others.
        block: channels are cut at its multiples where there are enough.

    Raises:
        ValueError: no tensor can be cut so.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> tensors = {name: Tensor(name, np.dtype("float32"), (1, 8, 4, 4)) for name in "xy"}
        >>> graph = Graph(("x",), ("y",), (Node("Relu", ("x",), ("y",)),), tensors, {})
        >>> [part.inputs["x"].shape for part in uniform(graph, "rows", 2).parts]
        [(1, 8, 2, 4), (1, 8, 2, 4)]
    """
    cuts = _cuts(graph, AXES.index(cut), workers, block)
    if all(not made.axes for made in cuts.values()):
        raise ValueError(f"no tensor has {cut} for {workers} workers")
    return brought_once(graph, cuts, workers)


def brought_once(graph: Graph, cuts: Mapping[str, Cut], workers: int) -> Partition:
    """A partition in which the coordinator brings nearly each element of an input to one worker.

    Where several workers read the same elements, each gets a part of the input, and they send each other the rest.

    Raises:
        ValueError: as of `partition`.
    """
    divided = partition(graph, cuts, workers)
    total = sum(graph.tensors[name].nbytes for name in graph.inputs)
    brought = sum(bytes_of(graph, name, box) for part in divided.parts for name, box in part.inputs.items())
    if brought <= (1 + TWICE) * total:
        return divided
    shared = _with_shared_inputs(graph)
    entered = {}
    for name in graph.inputs:
        shape = graph.tensors[name].shape
        axis = ROWS if len(shape) == RANK and shape[ROWS] >= workers else 0
        entered[_shared(name)] = Cut.along(shape, axis, even(shape[axis], workers)) if shape else Cut.on(shape, workers)
    return partition(shared, {**cuts, **entered}, workers)


def _cuts(graph: Graph, axis: int, workers: int, block: int) -> dict[str, Cut]:
    samples = max((graph.tensors[name].shape[:1] for name in graph.inputs), default=())
    cuts = {}
    for name in graph.makers:
        shape = graph.tensors[name].shape
        spatial = len(shape) == RANK or (axis == 1 and len(shape) == 2)
        fits = shape[:1] == samples if axis == 0 else spatial
        if not fits or shape[axis] < workers:
            cuts[name] = Cut.replicated(shape, workers)
            continue
        step = block if axis == 1 and shape[axis] >= workers * block else 1
        cuts[name] = Cut.along(shape, axis, even(shape[axis], workers, step))
    return cuts


def _with_shared_inputs(graph: Graph) -> Graph:
    """The graph with a node for each input, so that workers send each other parts of it as of any other tensor."""
    names = {name: _shared(name) for name in graph.inputs}
    copies = tuple(Node("Identity", (name,), (copy,), {}, copy) for name, copy in names.items())
    nodes = tuple(replace(n, inputs=tuple(names.get(name, name) for name in n.inputs)) for n in graph.nodes)
    tensors = {copy: replace(graph.tensors[name], name=copy) for name, copy in names.items()}
    return Graph(graph.inputs, graph.outputs, copies + nodes, {**graph.tensors, **tensors}, graph.constants)


def _shared(name: str) -> str:
    return f"{name} (shared)"
