"""Attributes of operators: inputs that are constants become some, and windows have all of theirs.

Source: the ONNX operators, versions 7 to 24.
"""

from collections.abc import Sequence
from typing import Any

from groupconv_worker.graph.graph import Node

REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
CONSTANT_INPUTS: dict[str, dict[int, str]] = {
    "Clip": {1: "min", 2: "max"},
    "CumSum": {1: "axis"},
    "Dropout": {1: "ratio", 2: "training_mode"},
    "Expand": {1: "shape"},
    "Pad": {1: "pads", 2: "value", 3: "axes"},
    "Resize": {1: "roi", 2: "scales", 3: "sizes"},
    "Reshape": {1: "shape"},
    "Slice": {1: "starts", 2: "ends", 3: "axes", 4: "steps"},
    "Split": {1: "split"},
    "Squeeze": {1: "axes"},
    "Tile": {1: "repeats"},
    "TopK": {1: "k"},
    "Unsqueeze": {1: "axes"},
    "Upsample": {1: "scales"},
    **{name: {1: "axes"} for name in REDUCTIONS},
}
"""Inputs, by operator and position, that are attributes of that name where they are constant."""


def resolve_window(node: Node, shapes: Sequence[Sequence[int]], output: Sequence[int]) -> dict[str, Any]:
    """The attributes of a convolution or pool, none left out: kernel_shape, strides, dilations and pads, group.

    Args:
        node: Conv, ConvTranspose, MaxPool, AveragePool or LpPool.
        shapes: of its inputs.
        output: the output's shape.

    Raises:
        ValueError: they do not fit one another.

    Example:
        >>> node = Node("MaxPool", ("x",), ("y",), {"kernel_shape": (3,), "strides": (2,), "auto_pad": "SAME_UPPER"})
        >>> resolve_window(node, [(1, 1, 8)], (1, 1, 4))
        {'kernel_shape': (3,), 'strides': (2,), 'dilations': (1,), 'pads': (0, 1)}
    """
    attributes = dict(node.attributes)
    convolution = node.op in ("Conv", "ConvTranspose")
    rank = len(shapes[0]) - 2
    kernel = tuple(shapes[1][2:]) if convolution else tuple(attributes["kernel_shape"])
    strides, dilations = (tuple(attributes.get(name) or (1,) * rank) for name in ("strides", "dilations"))
    pads = tuple(attributes.get("pads") or (0,) * 2 * rank)
    if (len(kernel), len(strides), len(dilations), len(pads)) != (rank, rank, rank, 2 * rank):
        raise ValueError(f"kernel_shape, strides, dilations or pads do not fit {rank} axes")
    auto = attributes.pop("auto_pad", "NOTSET")
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op == "ConvTranspose":
        extra = tuple(attributes.get("output_padding") or (0,) * rank)
        wanted = attributes.pop("output_shape", ())
        full = [s * (n - 1) + e + o for s, n, e, o in zip(strides, shapes[0][2:], extents, extra, strict=True)]
        if auto in ("SAME_UPPER", "SAME_LOWER") or wanted:
            total = [f - n for f, n in zip(full, output[2:], strict=True)]
            extra = tuple(e + max(0, -t) for e, t in zip(extra, total, strict=True))
            pads = _halves([max(0, t) for t in total], lower=auto != "SAME_UPPER")
        elif auto == "VALID":
            pads = (0,) * 2 * rank
        attributes["output_padding"] = extra
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        sizes = zip(output[2:], shapes[0][2:], strides, extents, strict=True)
        pads = _halves([max(0, (m - 1) * s + e - n) for m, n, s, e in sizes], lower=auto == "SAME_LOWER")
    elif auto == "VALID":
        pads = (0,) * 2 * rank
    attributes |= {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
    return attributes


def _halves(totals: Sequence[int], *, lower: bool) -> tuple[int, ...]:
    """Split padding in two; where it is odd, the beginning gets more if `lower`, else the end."""
    starts = [(total + 1) // 2 if lower else total // 2 for total in totals]
    return (*starts, *(total - start for total, start in zip(totals, starts, strict=True)))
