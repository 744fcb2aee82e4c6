"""How much a node computes, and about how long it takes."""

import math
from collections.abc import Sequence

from groupconv_worker.graph.graph import Graph, Node


def multiply_adds(op: str, x: Sequence[int], w: Sequence[int], y: Sequence[int], *, transposed: bool = False) -> int:
    """Of a convolution (each weight once per output position) or matrix product; 0 of other operators.

    Args:
        op: the operator.
        x: extents of the first input.
        w: extents of the second input.
        y: extents of the output.
        transposed: whether a Gemm transposes its first input.

    Example:
        >>> multiply_adds("Conv", (1, 96, 27, 27), (256, 48, 5, 5), (1, 256, 27, 27))
        223948800
    """
    match op:
        case "Conv":
            return math.prod(y) * math.prod(w[1:])
        case "ConvTranspose":
            return math.prod(x) * math.prod(w[1:])
        case "Gemm" | "MatMul":
            return math.prod(y) * x[0 if transposed else -1]
        case _:
            return 0


def seconds(graph: Graph, node: Node) -> float:
    """About how long a node takes on one thread: for decisions that need no more than its order of magnitude."""
    shapes = [graph.tensors[name].shape for name in node.inputs[:2] if name]
    out = [graph.tensors[name] for name in node.outputs if name]
    work = 0
    if len(shapes) == 2:
        x, w = shapes
        work = multiply_adds(node.op, x, w, out[0].shape, transposed=bool(node.attributes.get("transA")))
    return work / 2e10 + sum(tensor.nbytes for tensor in out) / 5e9
