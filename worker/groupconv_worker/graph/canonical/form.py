"""The canonical form: what compilers of graphs may expect, and the rules that make it.

Beside ONNX's operators there are `Silu` (x·σ(x)), `AffineChannel` (x, scale, shift: a number for each channel, axis 1;
Caffe2's name) and `ChannelShuffle` (attribute `groups`). In this form

- Identity, Dropout, Sum of two, and a Cast, Reshape, Transpose, Slice or Pad that changes nothing are gone; a Transpose
  that only moves axes of extent 1 is a Reshape; a mean over all of a map is a GlobalAveragePool;
- x / constant is a product, x - constant a sum, Min and Max with constants are Clip, Clip from 0 is Relu;
- HardSigmoid, HardSwish, Silu, Mish, Gelu (exact) and LayerNormalization are one node, whatever they were written as;
- MatMul with a constant matrix and the addition of a vector are a Gemm, between Reshapes if there are more axes;
- products and sums with a number, or one for each channel, are in the weights of the convolution or Gemm before, or of
  the convolutions behind (sums only where these have no padding); others that follow one another are an AffineChannel,
  as is BatchNormalization;
- an addition is the residual of a convolution (input 3) before it;
- an activation of `PARAMETERS` that follows a convolution, Gemm or AffineChannel is its attribute `activation`: the
  operator's name, then its parameters in the order given there.
"""

from collections.abc import Callable, Mapping

from groupconv_worker.graph.canonical.activations import ACTIVATIONS
from groupconv_worker.graph.canonical.arithmetic import ARITHMETIC
from groupconv_worker.graph.canonical.draft import Draft, Memo
from groupconv_worker.graph.canonical.folding import FOLDING
from groupconv_worker.graph.canonical.fusion import FUSION
from groupconv_worker.graph.canonical.movement import MOVEMENT
from groupconv_worker.graph.graph import Graph, Node

Rule = Callable[[Draft, Node], bool]
"""Looks at a node, and rewrites it with its neighbors if it fits."""
STAGES: tuple[Mapping[str, tuple[Rule, ...]], ...] = (
    MOVEMENT,
    ARITHMETIC,
    ACTIVATIONS,
    FOLDING,
    FUSION,
)
"""Rules by operator. A stage is repeated until nothing fits, then comes the next."""
PASSES = 100
"""Most repetitions of a stage: more than the longest chain of nodes that become one."""


def canonical(graph: Graph, memo: Memo | None = None) -> Graph:
    """The canonical form of a graph: it computes the same, up to rounding.

    Args:
        graph: bound.
        memo: keeps constants that are computed, for the next graph of the same model.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> x, s, y = (Tensor(name, np.dtype("float32"), (2,)) for name in "xsy")
        >>> nodes = (Node("Sigmoid", ("x",), ("s",)), Node("Mul", ("x", "s"), ("y",)))
        >>> [node.op for node in canonical(Graph(("x",), ("y",), nodes, {"x": x, "s": s, "y": y}, {})).nodes]
        ['Silu']
    """
    draft = Draft(graph, memo)
    for rules in STAGES:
        for _ in range(PASSES):
            if not apply(draft, rules):
                break
    return draft.graph()


def apply(draft: Draft, rules: Mapping[str, tuple[Rule, ...]]) -> bool:
    """Try rules on every node once, until one fits the node; whether any did."""
    changed = False
    for node in draft:
        if any(rule(draft, node) for rule in rules.get(node.op, ())):
            changed = True
    return changed
