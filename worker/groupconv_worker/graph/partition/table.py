"""The local rule of each operator. An operator without one is made whole."""

from collections.abc import Mapping
from functools import reduce

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.needed.table import POINTWISE, REDUCTIONS
from groupconv_worker.graph.partition import channels, spatial
from groupconv_worker.graph.partition.local import LocalNode, LocalRule, separable_node, whole_node

SEPARABLE = (
    f"{POINTWISE} {REDUCTIONS} ChannelShuffle CumSum Gather GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "GroupNormalization Hardmax LayerNormalization LogSoftmax LpNormalization MatMul MeanVarianceNormalization "
    "RMSNormalization Reshape Softmax SpaceToDepth Split Tile TopK Transpose"
)
"""Operators whose attributes are the same for each part."""
RULES: Mapping[str, LocalRule] = {
    **dict.fromkeys(SEPARABLE.split(), separable_node),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), spatial.local_pool),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization", "AffineChannel"), channels.local_scaled),
    "Concat": channels.local_concat,
    "Conv": spatial.local_convolution,
    "ConvTranspose": spatial.local_transposed,
    "DepthToSpace": channels.local_depth_to_space,
    "Expand": channels.local_expand,
    "Gemm": channels.local_gemm,
    "LRN": channels.local_response,
    "Pad": spatial.local_pad,
    "Resize": spatial.local_resize,
    "Slice": spatial.local_slice,
}


def local_node(node: Node, graph: Graph, wanted: Mapping[str, Box]) -> LocalNode:
    """The node that makes parts of a node's outputs.

    Args:
        node: of the graph.
        graph: a bound one.
        wanted: a box, not empty, of at least one output.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> f32 = np.dtype("float32")
        >>> tensors = {name: Tensor(name, f32, (1, 1, 8)) for name in "xy"}
        >>> attributes = {"kernel_shape": (3,), "strides": (1,), "dilations": (1,), "pads": (1, 1)}
        >>> node = Node("MaxPool", ("x",), ("y",), attributes)
        >>> graph = Graph(("x",), ("y",), (node,), tensors, {})
        >>> found = local_node(node, graph, {"y": Box.of((0, 1), (0, 1), (0, 4))})
        >>> found.node.attributes["pads"], found.reads[0].ranges[2]
        ((1, 0), Range(start=0, stop=5))
    """
    rule = RULES.get(node.op)
    ranks = {len(graph.tensors[name].shape) for name in node.outputs if name}
    if rule is None or len(ranks) > 1:
        return whole_node(node, graph)
    joined = reduce(Box.joined, wanted.values())
    return rule(node, graph, joined.clipped(graph.tensors[node.outputs[0]].shape))
