"""MatMul: with a constant matrix a convolution of one pixel, else a batched product of cuBLAS."""

import math

from groupconv_worker.cuda.cublas import Product
from groupconv_worker.cuda.network.convolutions import F32, multiply
from groupconv_worker.cuda.network.lowering import CudaLowering, Views
from groupconv_worker.graph.graph import Node, UnsupportedNodeError


def lower_matmul(low: CudaLowering, node: Node) -> None:
    """MatMul of stacks of matrices; a stack of one meets all matrices of the other."""
    a, b = node.inputs
    low.floats(a, b)
    left, right = low.shape(a), low.shape(b)
    matrix = low.constant(b)
    if len(left) < 2 or len(right) < 2 or node.attribute("activation"):
        raise UnsupportedNodeError(f"{list(left)} by {list(right)}")
    if matrix is not None and math.prod(right[:-2]) == 1:
        multiply(low, node, math.prod(left[:-1]), matrix.reshape(right[-2:]).T, None)
        return
    alone = [math.prod(shape[:-2]) == 1 for shape in (left, right)]
    if not any(alone) and left[:-2] != right[:-2]:
        raise UnsupportedNodeError(f"{list(left)} by {list(right)}")
    rows, inner, columns = left[-2], left[-1], right[-1]
    batch = math.prod(low.shape(node.outputs[0])[:-2])
    steps = [0 if one else product for one, product in zip(alone, (rows * inner, inner * columns), strict=True)]
    a, b, y, device = low.needed(a), low.needed(b), low.made(node.outputs[0]), low.device

    def run(views: Views) -> None:
        assert device is not None, "a plan alone cannot be launched"
        Product(device.cupy, device.options.workspace)(
            F32,
            "float32",
            (columns, rows, inner),
            (views[b].data.ptr, columns, steps[1]),
            (views[a].data.ptr, inner, steps[0]),
            (views[y].data.ptr, columns, rows * columns),
            batch,
        )

    low.add([a, b], [y], run)
