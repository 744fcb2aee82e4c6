"""Lowering of operators on arrays in C order: matrix products, softmax, and what moves elements."""

import math
from collections.abc import Sequence

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.lowered import TASKS
from groupconv_worker.cpu.network.assembly import aligned_copy
from groupconv_worker.cpu.network.kernels import movement, rows
from groupconv_worker.cpu.network.kernels.matrices import PANEL, ROWS, multiply
from groupconv_worker.cpu.network.lowering import CpuLowering, Map, from_element
from groupconv_worker.cpu.network.maps import concatenate_maps, cut_map, pick
from groupconv_worker.cpu.network.movement import lower_slice_of_array, move, moved_last
from groupconv_worker.cpu.network.planning import slice_box
from groupconv_worker.cpu.network.pointwise import Given, coded, on_given
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.needed.box import Box
from groupconv_worker.graph.strides import dense


def panels(w: Array) -> Array:
    """A matrix (depth, columns) in panels of columns, each (depth, PANEL), zeros behind the last column."""
    depth, columns = w.shape
    count = -(-columns // PANEL)
    padded = np.zeros((depth, count * PANEL), np.float32)
    padded[:, :columns] = w
    return aligned_copy(padded.reshape(depth, count, PANEL).swapaxes(0, 1))


def lower_gemm(low: CpuLowering, node: Node) -> None:
    """Gemm with constant weights."""
    if low.graph.tensors[node.inputs[0]].dtype != np.float32:
        raise UnsupportedNodeError("elements that are not float32")
    w = low.constant(node.inputs[1])
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if w is None or (bias is None and len(node.inputs) > 2 and node.inputs[2]):
        raise UnsupportedNodeError("weights that are no constants")
    w = (w.T if node.attribute("transB", 0) else w) * np.float32(node.attribute("alpha", 1.0))
    M, N = low.shape(node.outputs[0])
    K = w.shape[0]
    row, depth = (1, M) if node.attribute("transA", 0) else (K, 1)
    start: Array | int = 0
    bias_row = 0
    if bias is not None:
        wide = np.broadcast_to(
            bias * np.float32(node.attribute("beta", 1.0)), (M if bias.ndim == 2 and len(bias) > 1 else 1, N)
        )
        start, bias_row = aligned_copy(wide), N if len(wide) > 1 else 0
    x = low.array(node.inputs[0])
    y = low.new_array(node.outputs[0])
    code, parameters = coded(node.attribute("activation", ()))
    packed = panels(w)
    shape = (M, K, N, 1, row, depth, PANEL, K * PANEL, N, 0, 0, 0, bias_row)
    _multiply(low, (x, packed, start, y, parameters, code, *shape), M, N)


def lower_matmul(low: CpuLowering, node: Node) -> None:
    """MatMul: of a constant matrix, or of as many pairs of matrices."""
    a, b = (low.shape(name) for name in node.inputs)
    out = low.shape(node.outputs[0])
    if len(a) < 2 or len(b) < 2 or low.graph.tensors[node.inputs[0]].dtype != np.float32:
        raise UnsupportedNodeError(f"{list(a)} by {list(b)}")
    K, N = b[-2:]
    code, parameters = coded(node.attribute("activation", ()))
    w = low.constant(node.inputs[1])
    x = low.array(node.inputs[0])
    if w is not None and math.prod(b[:-2]) == 1:
        M = math.prod(a[:-1])
        shape = (M, K, N, 1, K, 1, PANEL, K * PANEL, N, 0, 0, 0, 0)
        y = low.new_array(node.outputs[0])
        packed = panels(w.reshape(K, N))
        _multiply(low, (x, packed, 0, y, parameters, code, *shape), M, N)
        return
    alone = [math.prod(shape[:-2]) == 1 for shape in (a, b)]  # one matrix meets all of the other side
    if a[:-2] != b[:-2] and not any(alone):
        raise UnsupportedNodeError(f"{list(a)} by {list(b)}")
    weights, pairs, M = low.in_arena(node.inputs[1]), math.prod(out[:-2]), a[-2]
    y = low.new_array(node.outputs[0])
    x_pair, w_pair = 0 if alone[0] else M * K, 0 if alone[1] else K * N
    shape = (M, K, N, pairs, K, 1, N, PANEL, N, x_pair, w_pair, math.prod(out[-2:]), 0)
    _multiply(low, (x, weights, 0, y, parameters, code, *shape), M, N, pairs)


def _multiply(
    low: CpuLowering, words: Sequence[int | Address | Array], height: int, width: int, pairs: int = 1
) -> None:
    """A stage of matrix products, in enough bands of rows for all threads."""
    count = pairs * -(-width // PANEL)
    bands = max(1, min(-(-TASKS // max(1, count)), height // (2 * ROWS)))
    low.assembly.add(low.assembly.kernel(multiply), (*words, bands), count * bands)


def lower_softmax(low: CpuLowering, node: Node) -> None:
    """Softmax and LogSoftmax over any axis, which is brought behind the others if it is not the last."""
    name, shape = node.inputs[0], low.shape(node.inputs[0])
    axis = node.attribute("axis", -1) % max(1, len(shape))
    if not shape or low.graph.tensors[name].dtype != np.float32:
        raise UnsupportedNodeError(f"over axis {axis} of {low.graph.tensors[name].dtype} {list(shape)}")
    last = math.prod(shape[axis + 1 :]) == 1
    x = low.array(name) if last else moved_last(low, name, [axis])
    y = low.new_array(node.outputs[0]) if last else low.assembly.block(low.graph.tensors[name].nbytes)
    kind = rows.LOG_SOFTMAX if node.op == "LogSoftmax" else rows.SOFTMAX
    words = (x, y, kind, shape[axis], np.zeros(1, np.float32))
    low.assembly.add(low.assembly.kernel(rows.rows), words, math.prod(shape) // max(1, shape[axis]))
    if not last:
        order = [a for a in range(len(shape)) if a != axis] + [axis]
        extents, own = [shape[a] for a in order], dense(shape)
        move(low, extents, (y, dense(extents)), (low.new_array(node.outputs[0]), [own[a] for a in order]))


def lower_where_largest(low: CpuLowering, node: Node) -> None:
    """ArgMax and ArgMin of float32: the first of the largest."""
    name, shape = node.inputs[0], low.shape(node.inputs[0])
    axis = node.attribute("axis", 0) % max(1, len(shape))
    if not shape or low.graph.tensors[name].dtype != np.float32 or node.attribute("select_last_index", 0):
        raise UnsupportedNodeError("elements that are not float32, no axis, or the last of the largest")
    x = moved_last(low, name, [axis])
    if node.op == "ArgMin":
        turned = low.assembly.block(low.graph.tensors[name].nbytes)
        on_given(low, "First", [Given(x, shape)], Given(turned, shape), ("Neg",))
        x = turned
    words = (x, low.any_array(node.outputs[0]), rows.WHERE_MAX, shape[axis], np.zeros(1, np.float32))
    low.assembly.add(low.assembly.kernel(rows.rows), words, math.prod(shape) // max(1, shape[axis]))


def lower_reshape(low: CpuLowering, node: Node) -> None:
    """Reshape, Identity and their like: another name for the same elements."""
    x, y = node.inputs[0], node.outputs[0]
    if low.has_map(x) and low.shape(x) == low.shape(y) and y in low.plan.maps:
        low.maps[y] = low.maps[x]
    else:
        low.arrays[y] = low.array(x)


def lower_transpose(low: CpuLowering, node: Node) -> None:
    """Transpose: between a map and an array with the channels last, or of an array."""
    x, y = node.inputs[0], node.outputs[0]
    shape = low.shape(x)
    order = tuple(node.attribute("perm") or reversed(range(len(shape))))
    if order == (0, 2, 3, 1) and low.has_map(x):
        _change_channels(low, low.new_array(y), low.map(x), shape, to_blocks=False)
        return
    if y in low.plan.maps:
        _change_channels(low, low.array(x), low.new_map(y), low.shape(y), to_blocks=True)
        return
    out, own = low.shape(node.outputs[0]), dense(shape)
    source = (low.array(node.inputs[0]), [own[axis] for axis in order])
    move(low, out, source, (low.new_array(node.outputs[0]), dense(out)))


def _change_channels(
    low: CpuLowering, last: Address | Array, blocked: Map, shape: Sequence[int], *, to_blocks: bool
) -> None:
    """Copy an array with the channels last into a map of this shape, or the map into it."""
    _, C, H, W = shape
    kernel = low.assembly.kernel(movement.change_channels, to_blocks)
    for n in range(blocked.samples):
        words = (from_element(last, n * C * H * W), blocked.cell(n), C, W, blocked.plane, blocked.row)
        low.assembly.add(kernel, words, H)


def lower_concat(low: CpuLowering, node: Node) -> None:
    """Concat: of maps along channels, of arrays along any axis."""
    out = low.shape(node.outputs[0])
    axis = node.attribute("axis") % len(out)
    if node.outputs[0] in low.plan.maps and axis == 1 and any(low.has_map(name) for name in node.inputs):
        concatenate_maps(low, node)
        return
    sources = [low.array(name) for name in node.inputs]
    y = low.new_array(node.outputs[0])
    outer, after = math.prod(out[:axis]), math.prod(out[axis + 1 :])
    first = 0
    for name, source in zip(node.inputs, sources, strict=True):
        run = low.shape(name)[axis] * after
        words = (outer, 1, 1, run, run, 0, 0, 1, out[axis] * after, 0, 0, 1)
        low.assembly.add(low.assembly.kernel(movement.move), (source, y.plus(4 * first), *words), outer)
        first += run


def lower_split(low: CpuLowering, node: Node) -> None:
    """Split: of a map along channels, of an array along any axis."""
    shape = low.shape(node.inputs[0])
    axis = node.attribute("axis", 0) % len(shape)
    first = 0
    for name in filter(None, node.outputs):
        count = low.shape(name)[axis]
        if low.has_map(node.inputs[0]) and axis == 1:
            pick(low, low.map(node.inputs[0]), low.new_map(name), range(first, first + count))
        else:
            _cut(low, node, name, axis, first)
        first += count


def _cut(low: CpuLowering, node: Node, name: str, axis: int, first: int) -> None:
    """Elements of the first input from `first` on along an axis, as an array."""
    shape, out = low.shape(node.inputs[0]), low.shape(name)
    source = low.array(node.inputs[0])
    outer, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    y = low.new_array(name)
    if not isinstance(source, Address):
        raise UnsupportedNodeError("a constant")
    run = out[axis] * after
    words = (outer, 1, 1, run, shape[axis] * after, 0, 0, 1, run, 0, 0, 1)
    low.assembly.add(low.assembly.kernel(movement.move), (source.plus(4 * first * after), y, *words), outer)


def lower_slice(low: CpuLowering, node: Node) -> None:
    """Slice, of a map as a map if all steps are 1."""
    box = slice_box(low.graph, node)
    x, y = node.inputs[0], node.outputs[0]
    if box is None:
        lower_slice_of_array(low, node)
    elif low.shape(x) == low.shape(y):
        lower_reshape(low, node)
    elif low.has_map(x) and y in low.plan.maps and len(low.shape(x)) == 4:
        cut_map(low, node, box)
    else:
        copy_box(low, low.array(x), low.shape(x), box, low.new_array(y), low.shape(y), Box.whole(box.shape))


def copy_box(
    low: CpuLowering,
    source: Address | Array,
    source_shape: Sequence[int],
    source_box: Box,
    target: Address,
    target_shape: Sequence[int],
    target_box: Box,
) -> None:
    """Copy a box of an array in C order to a box of another one, elements of 4 bytes."""
    ends = []
    for array, shape, box in ((source, source_shape, source_box), (target, target_shape, target_box)):
        steps = dense(shape)
        first = sum(step * r.start for step, r in zip(steps, box.ranges, strict=True))
        ends.append((from_element(array, first), steps))
    move(low, source_box.shape, *ends)
