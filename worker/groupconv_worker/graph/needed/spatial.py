"""Operators that read a neighborhood: convolutions, pools, padding, slices, and what changes the resolution."""

# ruff: noqa: ARG001 - all rules are called alike

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.needed.reads import Axes, Read, Reads, argument, only, same, shape_of

FINEST = 64
"""Largest numerator and denominator of the scale of a resize that is a ratio rather than a measured size."""


def convolution(node: Node, graph: Graph, weight: int = 1) -> Reads:
    """Conv, ConvInteger and, with `weight` 3, QLinearConv. Input 3 of a fused Conv is added to the output."""
    rank = len(shape_of(graph, node.inputs[0]))
    kernel = node.attributes.get("kernel_shape") or shape_of(graph, node.inputs[weight])[2:]
    x = (Read(0), None, *_windows(node, kernel))
    residual = same(rank) if node.op == "Conv" and len(node.inputs) > 3 and node.inputs[3] else None
    return tuple(x if i == 0 else residual if i == 3 else None for i in range(len(node.inputs)))


def pool(node: Node, graph: Graph) -> Reads:
    """MaxPool, AveragePool, LpPool. Positions, MaxPool's second output, count through the whole map."""
    x, y = shape_of(graph, node.inputs[0]), shape_of(graph, node.outputs[0])
    if len(node.outputs) > 1 and node.outputs[1]:
        return only(node, (None,) * len(x))
    axes = list(_windows(node, node.attributes["kernel_shape"]))
    for i, read in enumerate(axes):  # runtimes and shape inference do not agree whether a window in the padding counts
        if read is not None and node.attributes.get("ceil_mode") and read(y[2 + i] - 1, y[2 + i]).start >= x[2 + i]:
            axes[i] = None
    return only(node, (Read(0), Read(1), *axes))


def transposed_convolution(node: Node, graph: Graph) -> Reads:
    """ConvTranspose: output i gets input j through tap t where i = j · stride + t · dilation - padding."""
    axes: list[Read | None] = [Read(0), None]
    for i, taps in enumerate(node.attributes["kernel_shape"]):
        stride, dilation = _at(node, "strides", i), _at(node, "dilations", i)
        reach = (taps - 1) * dilation
        before = int(node.attributes["pads"][i])
        axes.append(Read(2 + i, 1, stride, before - reach + stride - 1, before))
    return only(node, tuple(axes))


def pad(node: Node, graph: Graph) -> Reads:
    """Pad. Values that are copied from the edge come from as far inside as the padding is wide."""
    rank = len(shape_of(graph, node.inputs[0]))
    pads, chosen_axes = argument(node, graph, "pads", 1), argument(node, graph, "axes", 3)
    mode = node.attributes.get("mode", "constant")
    if pads is None or mode == "wrap":
        return only(node, (None,) * rank)
    axes = list(range(rank)) if chosen_axes is None else [axis % rank for axis in chosen_axes]
    reads = list(same(rank))
    for i, axis in enumerate(axes):
        before, after = int(pads[i]), int(pads[len(axes) + i])
        far = {"constant": 0, "edge": 1, "reflect": 2}[mode]
        if before or after:
            inside = before if mode == "reflect" else 0
            last = -before if mode == "constant" or before < 0 else inside
            reads[axis] = Read(axis, first=-before - far * max(after, 0), last=last)
    return only(node, tuple(reads))


def cut(node: Node, graph: Graph) -> Reads:
    """Slice, forwards."""
    shape = shape_of(graph, node.inputs[0])
    starts, chosen_axes = argument(node, graph, "starts", 1), argument(node, graph, "axes", 3)
    steps = argument(node, graph, "steps", 4)
    if starts is None:
        return only(node, (None,) * len(shape))
    axes = list(range(len(starts))) if chosen_axes is None else [axis % len(shape) for axis in chosen_axes]
    reads = list(same(len(shape)))
    for axis, start, step in zip(axes, starts, steps or (1,) * len(starts), strict=True):
        first = min(max(start + shape[axis] if start < 0 else start, 0), shape[axis])
        reads[axis] = Read(axis, step, first=first, last=first) if step > 0 else None
    return only(node, tuple(reads))


def depth_to_space(node: Node, graph: Graph) -> Reads:
    """DepthToSpace."""
    size = int(node.attributes["blocksize"])
    return only(node, (Read(0), None, Read(2, divide=size), Read(3, divide=size)))


def space_to_depth(node: Node, graph: Graph) -> Reads:
    """SpaceToDepth."""
    size = int(node.attributes["blocksize"])
    return only(node, (Read(0), None, *(Read(axis, size, last=size - 1) for axis in (2, 3))))


def resize(node: Node, graph: Graph) -> Reads:
    """Resize and Upsample by a ratio of small integers; other sizes move each element in its own way."""
    x, y = shape_of(graph, node.inputs[0]), shape_of(graph, node.outputs[0])
    scales = argument(node, graph, "scales", 1 if node.op == "Upsample" else 2)
    chosen = argument(node, graph, "axes", 9)
    axes = list(range(len(x))) if chosen is None else [axis % len(x) for axis in chosen]
    reads = list(same(len(x)))
    for i, axis in enumerate(axes):
        if scales:
            reads[axis] = _resized(node, axis, _ratio(float(scales[i])), x[axis], y[axis])
        elif node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            reads[axis] = None
        else:
            reads[axis] = _resized(node, axis, Fraction(y[axis], max(x[axis], 1)), x[axis], y[axis])
    return only(node, tuple(reads))


def _resized(node: Node, axis: int, scale: Fraction | None, before: int, after: int) -> Read | None:
    """The rule of an axis: ONNX's coordinates, in parts of 1 / (2 · numerator)."""
    if scale == 1:
        return Read(axis)
    if scale is None or not 0 < scale.numerator <= FINEST or scale.denominator > FINEST:
        return None
    up, down = scale.numerator, scale.denominator
    mode = node.attributes.get("mode", "nearest")
    coordinates = node.attributes.get("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample":
        coordinates = "asymmetric"
    known = ("half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
    exact = not down & (down - 1)  # float32 has the scale's inverse steps without rounding
    if (
        coordinates not in known
        or (node.attributes.get("antialias") and scale < 1)
        or (mode == "nearest" and not exact)
    ):
        return None
    if (coordinates == "half_pixel_symmetric" and before * scale != after) or (coordinates == known[2] and after < 2):
        return None
    base = 0 if coordinates == "asymmetric" else down - up
    if mode == "nearest":
        rounding = node.attributes.get("nearest_mode", "round_prefer_floor")
        rounding = "floor" if node.op == "Upsample" else rounding
        shift = {"round_prefer_floor": up - 1, "round_prefer_ceil": up, "floor": 0, "ceil": 2 * up - 1}[rounding]
        read = Read(axis, 2 * down, 2 * up, base + shift, base + shift)
        below, above = -read(0, 1).start, read(after - 1, after).stop - before  # there the edge is read instead
        return replace(read, first=read.first - 2 * up * max(above, 0), last=read.last + 2 * up * max(below, 0))
    low, high = (-1, 2) if mode == "cubic" else (0, 1)
    unsure = 0 if exact else 1  # the coordinate's integer part may be one off
    return Read(axis, 2 * down, 2 * up, base + 2 * up * (low - unsure), base + 2 * up * (high + unsure))


def _ratio(scale: float) -> Fraction | None:
    """A scale as a ratio of small integers, if float32 holds it as such."""
    ratio = Fraction(scale).limit_denominator(FINEST)
    return ratio if np.float32(ratio.numerator / ratio.denominator) == np.float32(scale) else None


def _windows(node: Node, kernel: Sequence[int]) -> Axes:
    """The rules of the axes of space of a convolution or pool."""
    if node.attributes.get("auto_pad", "NOTSET") != "NOTSET":  # of integers: graphs resolve the others
        return (None,) * len(kernel)
    reads = []
    for i, taps in enumerate(kernel):
        before, reach = _at(node, "pads", i, 0), (taps - 1) * _at(node, "dilations", i)
        reads.append(Read(2 + i, _at(node, "strides", i), first=-before, last=reach - before))
    return tuple(reads)


def _at(node: Node, name: str, i: int, default: int = 1) -> int:
    values = node.attributes.get(name)
    return int(values[i]) if values else default
