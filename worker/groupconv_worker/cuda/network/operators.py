"""Which function lowers which operator."""

from collections.abc import Callable

from groupconv_worker.cuda.network import convolutions, elements, exchange, matrices, movement, rows, windows
from groupconv_worker.cuda.network.lowering import CudaLowering
from groupconv_worker.graph.graph import Node
from groupconv_worker.graph.partition.part import RECEIVE, SEND

LOWER: dict[str, Callable[[CudaLowering, Node], None]] = {
    **dict.fromkeys(elements.UNARY, elements.lower_unary),
    **dict.fromkeys(elements.BINARY, elements.lower_binary),
    **dict.fromkeys(elements.FOLDED, elements.lower_folded),
    "Where": elements.lower_where,
    "Cast": elements.lower_cast,
    **dict.fromkeys(("Conv", "ConvTranspose"), convolutions.lower_convolution),
    "Gemm": convolutions.lower_gemm,
    "MatMul": matrices.lower_matmul,
    **dict.fromkeys(("MaxPool", "AveragePool"), windows.lower_pool),
    "LRN": windows.lower_neighbors,
    **dict.fromkeys((*rows.REDUCTIONS, *rows.GLOBAL), rows.lower_reduction),
    **dict.fromkeys(("Softmax", "LogSoftmax"), rows.lower_softmax),
    **dict.fromkeys(("ArgMax", "ArgMin"), rows.lower_where_largest),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization", "LayerNormalization"), rows.lower_normalization),
    "AffineChannel": rows.lower_affine,
    "BatchNormalization": rows.lower_batch_normalization,
    **dict.fromkeys(("Reshape", "Identity"), movement.lower_reshape),
    "Transpose": movement.lower_transpose,
    **dict.fromkeys(("ChannelShuffle", "DepthToSpace", "SpaceToDepth"), movement.lower_rearrangement),
    "Concat": movement.lower_concat,
    "Split": movement.lower_split,
    "Slice": movement.lower_slice,
    "Expand": movement.lower_expand,
    "Tile": movement.lower_tile,
    "Gather": movement.lower_gather,
    "Pad": movement.lower_pad,
    "Resize": movement.lower_resize,
    SEND: exchange.lower_send,
    RECEIVE: exchange.lower_receive,
}
"""By operator, what lowers a node of it."""
