"""The rule of each operator. An operator without a rule reads everything."""

from functools import partial

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed import elementwise, spatial
from groupconv_worker.graph.needed.reads import Reads, Rule

POINTWISE = (
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike "
    "Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Expand Floor Gelu Greater GreaterOrEqual HardSigmoid "
    "HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu "
    "Reciprocal Relu Round Selu Shrink Sigmoid Sign Silu Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
    "ThresholdedRelu Where Xor"
)
"""Operators that compute each element from elements at its place."""
REDUCTIONS = "ArgMax ArgMin " + " ".join(
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(POINTWISE.split(), elementwise.broadcast),
    **dict.fromkeys(REDUCTIONS.split(), elementwise.reduction),
    **dict.fromkeys(("AffineChannel", "QuantizeLinear", "DequantizeLinear"), elementwise.first_alone),
    **dict.fromkeys(("LRN", "ChannelShuffle"), elementwise.channels),
    **dict.fromkeys(
        ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization"), elementwise.over_space
    ),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), elementwise.over_tail),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "TopK", "CumSum"), elementwise.over_axis),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), elementwise.reshape),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), spatial.pool),
    **dict.fromkeys(("Conv", "ConvInteger"), spatial.convolution),
    **dict.fromkeys(("Resize", "Upsample"), spatial.resize),
    "BatchNormalization": elementwise.batch_normalization,
    "Concat": elementwise.concatenation,
    "ConvTranspose": spatial.transposed_convolution,
    "DepthToSpace": spatial.depth_to_space,
    "Gather": elementwise.gather,
    "Gemm": elementwise.gemm,
    "GroupNormalization": elementwise.over_groups,
    "MatMul": elementwise.product,
    "MeanVarianceNormalization": elementwise.over_listed,
    "Pad": spatial.pad,
    "QLinearConv": partial(spatial.convolution, weight=3),
    "Slice": spatial.cut,
    "SpaceToDepth": spatial.space_to_depth,
    "Split": elementwise.split,
    "Tile": elementwise.tile,
    "Transpose": elementwise.transpose,
}


def reads(node: Node, graph: Graph) -> Reads:
    """What a node reads of each of its inputs.

    Example:
        >>> import numpy as np
        >>> from groupconv_worker.graph.graph import Tensor
        >>> f32, shape = np.dtype("float32"), (1, 4, 9, 9)
        >>> tensors = {"x": Tensor("x", f32, shape), "y": Tensor("y", f32, (1, 4, 5, 5))}
        >>> node = Node("MaxPool", ("x",), ("y",), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)})
        >>> reads(node, Graph(("x",), ("y",), (node,), tensors, {}))[0][2](2, 4)
        Range(start=3, stop=8)
    """
    rule = RULES.get(node.op)
    return (None,) * len(node.inputs) if rule is None else rule(node, graph)
