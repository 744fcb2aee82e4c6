"""Pools, and LRN, whose windows lie across channels."""

import math
from collections.abc import Sequence

import numpy as np

from groupconv_worker.cuda.arguments import three
from groupconv_worker.cuda.network.arguments import POOL
from groupconv_worker.cuda.network.instances import NEIGHBORS
from groupconv_worker.cuda.network.instances import POOL as KERNEL
from groupconv_worker.cuda.network.lowering import CudaLowering
from groupconv_worker.graph.graph import Node, UnsupportedNodeError


def lower_pool(low: CudaLowering, node: Node) -> None:
    """MaxPool and AveragePool over one to three axes."""
    x, y = node.inputs[0], node.outputs[0]
    low.floats(x)
    rank = len(low.shape(x)) - 2
    if any(node.outputs[1:]) or not 1 <= rank <= 3:
        raise UnsupportedNodeError(f"indices, or {rank} axes")
    struct, pads = np.zeros((), POOL), node.attributes["pads"]
    struct["size"] = math.prod(low.shape(y))
    fields: dict[str, tuple[Sequence[int], int]] = {
        "in": (low.shape(x)[2:], 1),
        "out": (low.shape(y)[2:], 1),
        "kernel": (node.attributes["kernel_shape"], 1),
        "stride": (node.attributes["strides"], 1),
        "dilation": (node.attributes["dilations"], 1),
        "low": (pads[:rank], 0),
        "stop": ([extent + pad for extent, pad in zip(low.shape(x)[2:], pads[rank:], strict=True)], 1),
    }
    for name, (values, fill) in fields.items():
        struct[name] = three(tuple(values), fill)
    struct["average"] = node.op == "AveragePool"
    struct["count_padding"] = bool(node.attribute("count_include_pad", 0))
    x, y = low.needed(x), low.made(y)
    low.kernel(KERNEL, [x], y, lambda views: (views[x], views[y], struct))


def lower_neighbors(low: CudaLowering, node: Node) -> None:
    """LRN."""
    x, y = low.needed(node.inputs[0]), low.made(node.outputs[0])
    low.floats(x)
    shape, size = low.shape(x), node.attribute("size")
    before = (size - 1) // 2
    alpha, beta, bias = (node.attribute(n, d) for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    extents = (np.int64(math.prod(shape)), np.int64(math.prod(shape[2:])), np.int32(shape[1]))
    window = (np.int32(before), np.int32(size - 1 - before))
    numbers = (np.float32(alpha / size), np.float32(beta), np.float32(bias))
    low.kernel(NEIGHBORS, [x], y, lambda views: (views[x], views[y], *extents, *window, *numbers))
