"""Who computes what: a graph as parts that run one after another, our own and a runtime's in turns.

A part is closed: nothing that one of its nodes makes comes back to it through another part. The parts are found by
running the graph as far as one side can, then as far as the other can, which gives the fewest turns.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.work import seconds

MOST = 3
"""Parts of the runtime's; a network of more is left to it as a whole."""
ISLAND = 50e-6
"""Seconds below which a part of ours between two of the runtime's is not worth the two turns."""


class Fragment(NamedTuple):
    """Nodes that run together.

    Attributes:
        ours: whether we compute them.
        nodes: in order.
    """

    ours: bool
    nodes: tuple[Node, ...]


def split(graph: Graph, foreign: Collection[str], island: float = ISLAND) -> list[Fragment]:
    """The parts of a graph, in the order in which they run.

    Args:
        graph: to be split.
        foreign: first outputs of the nodes that we cannot compute.
        island: seconds below which a part of ours is left to the runtime, if it has what is before and behind.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> nodes = [Node(op, (x,), (y,)) for op, x, y in (("Relu", "x", "a"), ("Sin", "a", "b"), ("Relu", "b", "y"))]
        >>> tensors = {name: Tensor(name, np.dtype("float32"), (2,)) for name in "xaby"}
        >>> parts = split(Graph(("x",), ("y",), tuple(nodes), tensors, {}), {"b"})
        >>> [(part.ours, [node.op for node in part.nodes]) for part in parts]
        [(True, ['Relu']), (False, ['Sin']), (True, ['Relu'])]
    """
    candidates = [
        _turns(graph, lambda node: node.outputs[0] not in foreign, ours_first=first) for first in (True, False)
    ]
    parts = min(candidates, key=len)
    i = 1
    while i < len(parts) - 1:
        if parts[i].ours and sum(seconds(graph, node) for node in parts[i].nodes) < island:
            parts[i - 1 : i + 2] = [Fragment(False, tuple(n for part in parts[i - 1 : i + 2] for n in part.nodes))]
        else:
            i += 1
    return parts


def _turns(graph: Graph, ours: Callable[[Node], bool], *, ours_first: bool) -> list[Fragment]:
    """Each side in turn runs whatever it can."""
    makers = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs if name}
    waits = [{makers[name] for name in node.inputs if name in makers} for node in graph.nodes]
    readers: list[list[int]] = [[] for _ in graph.nodes]
    for i, needed in enumerate(waits):
        for j in needed:
            readers[j].append(i)
    missing = [len(needed) for needed in waits]
    sides = [ours(node) for node in graph.nodes]
    ready: dict[bool, list[int]] = {True: [], False: []}
    for i, count in enumerate(missing):
        if not count:
            ready[sides[i]].append(i)
    parts: list[Fragment] = []
    side = ours_first
    while ready[True] or ready[False]:
        chosen: list[int] = []
        while ready[side]:
            i = ready[side].pop()
            chosen.append(i)
            for j in readers[i]:
                missing[j] -= 1
                if not missing[j]:
                    ready[sides[j]].append(j)
        if chosen:
            parts.append(Fragment(side, tuple(graph.nodes[i] for i in sorted(chosen))))
        side = not side
    return parts


def origins(nodes: Sequence[Any], graph: Graph) -> dict[str, str]:
    """Which node of a graph computes what a node of its model did, as nodes are fused and renamed.

    Args:
        nodes: of the model, in an order in which they can run.
        graph: of it, in its canonical form.

    Returns:
        The first output of the graph's node, by each output of the model's.
    """
    producers = {name: node.outputs[0] for node in graph.nodes for name in node.outputs if name}
    read: dict[str, str] = {}
    by_output: dict[str, str] = {}
    for node in reversed(nodes):
        own = [producers[name] for name in node.output if name in producers] or [
            read[n] for n in node.output if n in read
        ]
        if own:
            by_output.update(dict.fromkeys(filter(None, node.output), own[0]))
            read.update(dict.fromkeys(node.input, own[0]))
    return by_output


def whose(parts: Sequence[Fragment]) -> str:
    """The parts for people.

    Example:
        >>> relu, sin = Node("Relu", ("x",), ("y",)), Node("Sin", ("y",), ("z",), {}, "s")
        >>> whose([Fragment(True, (relu,)), Fragment(False, (sin,))])
        '1 of ours, 1 of onnxruntime'
    """
    return ", ".join(f"{len(part.nodes)} of {'ours' if part.ours else 'onnxruntime'}" for part in parts)
