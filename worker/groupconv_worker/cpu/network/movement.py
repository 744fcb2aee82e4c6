"""Lowering of operators that move elements of arrays in C order: any strides, and tables along an axis."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.network.kernels import elements, movement
from groupconv_worker.cpu.network.lowering import CpuLowering, from_element
from groupconv_worker.cpu.network.pointwise import on_arrays
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.operators.movement import rearrangement
from groupconv_worker.graph.strides import broadcast, collapsed, dense

PARTS = 64
"""Stages that a movement of more than four axes may take."""


def move(
    low: CpuLowering,
    extents: Sequence[int],
    source: tuple[Address | Array, Sequence[int]],
    target: tuple[Address | Array, Sequence[int]],
) -> None:
    """Copy elements of 4 bytes between arrays, each given with its steps along the axes, in elements."""
    if not isinstance(source[0], Address) and source[0].itemsize != 4:
        raise UnsupportedNodeError(f"elements of {source[0].dtype}")
    shape, (x_steps, y_steps) = collapsed(extents, [list(source[1]), list(target[1])])
    parts = [(0, 0)]
    while len(shape) > 4:
        axis = min(range(len(shape)), key=shape.__getitem__)
        extent, x, y = shape.pop(axis), x_steps.pop(axis), y_steps.pop(axis)
        parts = [(a + i * x, b + i * y) for a, b in parts for i in range(extent)]
    if len(parts) > PARTS:
        raise UnsupportedNodeError(f"{len(parts)} parts to be moved")
    more = 4 - len(shape)
    shape = [*shape[:-1], *[1] * more, shape[-1]]  # tasks are along the first axis
    x_steps, y_steps = ([*steps[:-1], *[0] * more, steps[-1]] for steps in (x_steps, y_steps))
    for a, b in parts:
        words = (from_element(source[0], a), from_element(target[0], b), *shape, *x_steps, *y_steps)
        low.assembly.add(low.assembly.kernel(movement.move), words, shape[0])


def moved_last(low: CpuLowering, name: str, axes: Sequence[int]) -> Address | Array:
    """A tensor in C order with some axes behind the others."""
    shape = low.shape(name)
    order = [axis for axis in range(len(shape)) if axis not in axes] + list(axes)
    source = low.array(name)
    if order == list(range(len(shape))):
        return source
    moved = low.assembly.block(low.graph.tensors[name].nbytes)
    own, extents = dense(shape), [shape[axis] for axis in order]
    move(low, extents, (source, [own[axis] for axis in order]), (moved, dense(extents)))
    return moved


def take_along(
    low: CpuLowering, x: Address | Array, shape: Sequence[int], axis: int, table: Sequence[int], y: Any
) -> None:
    """y = x with other indices along an axis; elements of 4 bytes, if `axis` is the last one."""
    size = low.graph.tensors[y].dtype.itemsize if isinstance(y, str) else 4
    target = low.any_array(y) if isinstance(y, str) else y
    run = size * math.prod(shape[axis + 1 :])
    words = (x, target, np.array(table, np.int64), shape[axis], len(table), run)
    low.assembly.add(low.assembly.kernel(elements.take), words, math.prod(shape[:axis]) * len(table))


def lower_slice_of_array(low: CpuLowering, node: Node) -> None:
    """Slice with constant bounds, along any axes in any steps."""
    shape, out = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    starts, ends = node.attribute("starts"), node.attribute("ends")
    if starts is None or ends is None or any(node.inputs[1:]):
        raise UnsupportedNodeError("bounds that are no constants")
    axes = node.attribute("axes") or range(len(starts))
    steps = node.attribute("steps") or (1,) * len(starts)
    own, offset = dense(shape), 0
    x_steps = list(own)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        a = axis % len(shape)
        first, _, stride = slice(start, end, step).indices(shape[a])
        offset += first * own[a]
        x_steps[a] = stride * own[a]
    y = low.new_array(node.outputs[0])
    move(low, out, (from_element(low.array(node.inputs[0]), offset), x_steps), (y, dense(out)))


def lower_pad_of_array(low: CpuLowering, node: Node) -> None:
    """Pad of any mode, along any axes; negative pads cut."""
    x, shape, out = node.inputs[0], low.shape(node.inputs[0]), low.shape(node.outputs[0])
    pads, mode = node.attribute("pads"), node.attribute("mode", "constant")
    if pads is None or any(node.inputs[1:]):
        raise UnsupportedNodeError("pads that are no constants")
    axes = [axis % len(shape) for axis in node.attribute("axes") or range(len(shape))]
    around = {axis: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    source, y = low.array(x), low.new_array(node.outputs[0])
    if mode == "constant":
        if low.graph.tensors[x].dtype != np.float32:
            raise UnsupportedNodeError("elements that are not float32")
        value = np.full(16, node.attribute("value") or 0, np.float32)
        on_arrays(low, "First", [(value, ())], node.outputs[0], ())
        own, out_strides = dense(shape), dense(out)
        lows = [around.get(axis, (0, 0)) for axis in range(len(shape))]
        inner = [n + min(0, a) + min(0, b) for n, (a, b) in zip(shape, lows, strict=True)]
        x_offset = sum(max(0, -a) * step for (a, _), step in zip(lows, own, strict=True))
        y_offset = sum(max(0, a) * step for (a, _), step in zip(lows, out_strides, strict=True))
        target = low.array(node.outputs[0])
        move(low, inner, (from_element(source, x_offset), own), (from_element(target, y_offset), out_strides))
        return
    padded = [axis for axis, pad in around.items() if pad != (0, 0)]
    current = list(shape)
    for axis in padded:
        before, after = around[axis]
        indices = np.arange(current[axis])[max(0, -before) : current[axis] - max(0, -after)]
        table = np.pad(indices, (max(0, before), max(0, after)), mode)
        last = axis == padded[-1]
        size = 4 * math.prod(current) // current[axis] * len(table)
        made = y if last else low.assembly.block(size)
        take_along(low, source, current, axis, table.tolist(), made)
        source, current[axis] = made, len(table)
    if not padded:
        move(low, out, (source, dense(out)), (y, dense(out)))


def lower_gather(low: CpuLowering, node: Node) -> None:
    """Gather with constant indices."""
    shape, indices = low.shape(node.inputs[0]), low.constant(node.inputs[1])
    axis = node.attribute("axis", 0) % len(shape)
    if indices is None:
        raise UnsupportedNodeError("indices that are no constants")
    table = (indices.reshape(-1) % shape[axis]).tolist()
    take_along(low, low.array(node.inputs[0]), shape, axis, table, node.outputs[0])


def lower_expand(low: CpuLowering, node: Node) -> None:
    """Expand."""
    shape, out = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    move(low, out, (low.array(node.inputs[0]), broadcast(shape, out)), (low.new_array(node.outputs[0]), dense(out)))


def lower_tile(low: CpuLowering, node: Node) -> None:
    """Tile."""
    shape, out = low.shape(node.inputs[0]), low.shape(node.outputs[0])
    extents = [n for extent, own in zip(out, shape, strict=True) for n in (extent // own if own else 1, own)]
    steps = [n for step in dense(shape) for n in (0, step)]
    move(low, extents, (low.array(node.inputs[0]), steps), (low.new_array(node.outputs[0]), dense(extents)))


def lower_rearrangement(low: CpuLowering, node: Node) -> None:
    """DepthToSpace and SpaceToDepth."""
    split, order = rearrangement(node, low.shape(node.inputs[0]))
    own, extents = dense(split), [split[axis] for axis in order]
    source = (low.array(node.inputs[0]), [own[axis] for axis in order])
    move(low, extents, source, (low.new_array(node.outputs[0]), dense(extents)))
