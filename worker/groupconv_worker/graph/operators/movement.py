"""Operators that move elements, and compute none.

Source: the ONNX operators. `ChannelShuffle` is this project's: a Reshape, Transpose and Reshape of ShuffleNet's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv_worker.graph.graph import Node
from groupconv_worker.graph.operators.call import Call, Definition


def _slices(call: Call) -> tuple[slice, ...]:
    """Where a Slice reads, for each axis: NumPy's rules of negative and too large bounds are ONNX's."""
    starts, ends = np.atleast_1d(call.option("starts", 1)), np.atleast_1d(call.option("ends", 2))
    axes, steps = call.option("axes", 3), call.option("steps", 4)
    axes = range(len(starts)) if axes is None else np.atleast_1d(axes)
    steps = [1] * len(starts) if steps is None else np.atleast_1d(steps)
    slices = [slice(None)] * call.x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        slices[axis] = slice(int(start), int(end), int(step))
    return tuple(slices)


def _pad(call: Call) -> Any:
    pads = [int(p) for p in call.option("pads", 1)]
    axes = call.option("axes", 3)
    axes = range(call.x.ndim) if axes is None else [int(axis) % call.x.ndim for axis in np.atleast_1d(axes)]
    around, remaining = [(0, 0)] * call.x.ndim, [slice(None)] * call.x.ndim
    for i, axis in enumerate(axes):
        start, end = pads[i], pads[i + len(pads) // 2]
        around[axis] = max(0, start), max(0, end)
        remaining[axis] = slice(max(0, -start), call.x.shape[axis] - max(0, -end))  # negative pads cut
    mode, value = call.attribute("mode", "constant"), call.option("value", 2)
    settings: dict[str, Any] = (
        {"constant_values": 0 if value is None else np.squeeze(value)} if mode == "constant" else {}
    )
    return np.pad(call.x[tuple(remaining)], around, mode, **settings)


def _split(call: Call) -> Any:
    axis = call.attribute("axis", 0)
    lengths = [tensor.shape[axis] for tensor in call.outputs if tensor is not None]
    return tuple(np.split(call.x, np.cumsum(lengths)[:-1], axis))


def _tile(call: Call) -> Any:
    return np.tile(call.x, [int(r) for r in call.option("repeats", 1)])


def rearrangement(node: Node, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """ChannelShuffle, DepthToSpace and SpaceToDepth as a Reshape, a Transpose and a Reshape to the output's shape.

    Args:
        node: one of them.
        shape: of its input.

    Returns:
        The shape of the first Reshape, and the order of the axes behind the Transpose.

    Example:
        >>> rearrangement(Node("ChannelShuffle", ("x",), ("y",), {"groups": 2}), (1, 6, 4, 4))
        ((1, 2, 3, 4, 4), (0, 2, 1, 3, 4))
    """
    n, c, *space = shape
    if node.op == "ChannelShuffle":
        groups = node.attributes["groups"]
        return (n, groups, c // groups, *space), (0, 2, 1, *range(3, 3 + len(space)))
    (h, w), b = space, node.attributes["blocksize"]
    block_first = node.attributes.get("mode", "DCR") == "DCR"
    if node.op == "SpaceToDepth":
        return (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4) if block_first else (0, 1, 3, 5, 2, 4)
    if block_first:
        return (n, b, b, c // b**2, h, w), (0, 3, 4, 1, 5, 2)
    return (n, c // b**2, b, b, h, w), (0, 1, 4, 2, 5, 3)


def _rearranged(call: Call) -> Any:
    split, order = rearrangement(call.node, call.x.shape)
    return call.x.reshape(split).transpose(order).reshape(call.shape)


def _gather_elements(call: Call) -> Any:
    axis = call.attribute("axis", 0)
    return np.take_along_axis(call.x, call.inputs[1] % call.x.shape[axis], axis)


def _scatter_elements(call: Call) -> Any:
    axis = call.attribute("axis", 0) % call.x.ndim
    scattered, places, updates = call.x.copy(), call.inputs[1], call.inputs[2]
    index: list[Any] = list(np.indices(places.shape))
    index[axis] = places % call.x.shape[axis]
    reduction = call.attribute("reduction", "none")
    if reduction == "none":
        scattered[tuple(index)] = updates
    else:
        ufunc: Any = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction]
        ufunc.at(scattered, tuple(index), updates)
    return scattered


def _gather(call: Call) -> Any:
    axis = call.attribute("axis", 0)
    return np.take(call.x, call.inputs[1] % call.x.shape[axis], axis)


def _gather_nd(call: Call) -> Any:
    batch, places = call.attribute("batch_dims", 0), call.inputs[1]
    depth, outer = places.shape[-1], call.x.shape[:batch]
    rows = call.x.reshape(-1, *call.x.shape[batch:])
    wanted = places.reshape(len(rows), -1, depth)
    gathered = np.stack([row[tuple(np.moveaxis(index, -1, 0))] for row, index in zip(rows, wanted, strict=True)])
    return gathered.reshape(*outer, *places.shape[batch:-1], *call.x.shape[batch + depth :])


MOVEMENT: dict[str, Definition] = {
    **dict.fromkeys(("ChannelShuffle", "DepthToSpace", "SpaceToDepth"), _rearranged),
    "Concat": lambda call: np.concatenate(list(call.inputs), call.attribute("axis")),
    "Expand": lambda call: np.broadcast_to(call.x, call.shape),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Reshape": lambda call: call.x.reshape(call.shape),
    "ScatterElements": _scatter_elements,
    "Slice": lambda call: call.x[_slices(call)],
    "Split": _split,
    "Tile": _tile,
    "Transpose": lambda call: call.x.transpose(call.attribute("perm", tuple(range(call.x.ndim))[::-1])),
}
