"""The cuts of a node's outputs that are considered."""

from collections.abc import Mapping, Sequence

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.partition.cut import Cut, even

BLOCK = 16
"""Channels that belong together in memory, where there are enough."""
Candidate = Mapping[str, Cut]
"""One way to cut the outputs of a node."""


def candidates(node: Node, graph: Graph, per_node: Sequence[int]) -> list[Candidate]:
    """On the first worker, on every worker, and along each axis that is long enough for two.

    Along an axis over all workers, or over those of the first node, so that nothing crosses between nodes.

    Args:
        node: whose outputs are cut.
        graph: that has it.
        per_node: how many workers each node of the cluster has.
    """
    workers = sum(per_node)
    shapes = {name: graph.tensors[name].shape for name in node.outputs if name}
    options: list[Candidate] = [{name: Cut.on(shape, workers) for name, shape in shapes.items()}]
    if workers == 1:
        return options
    options.append({name: Cut.replicated(shape, workers) for name, shape in shapes.items()})
    first = next(iter(shapes.values()))
    if len({len(shape) for shape in shapes.values()}) > 1:
        return options
    for axis in range(min(len(first), 4)):
        if min(shape[axis] for shape in shapes.values()) < 2:
            continue
        for sharing in sorted({workers, per_node[0]} - {1}, reverse=True):
            cuts = {}
            for name, shape in shapes.items():
                step = _step(node, shape[1], sharing) if axis == 1 else 1
                cuts[name] = Cut.along(shape, axis, even(shape[axis], sharing, step)).over(workers)
            options.append(cuts)
    return options


def _step(node: Node, channels: int, workers: int) -> int:
    """Channels are cut between groups, if there are enough of them, or between blocks."""
    groups = node.attributes.get("group", 1) if node.op in ("Conv", "ConvTranspose") else 1
    if groups >= workers:
        return channels // int(groups)
    return BLOCK if groups == 1 and channels >= BLOCK * workers else 1
