"""Rules that put sums and products with constants into weights."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.canonical.arithmetic import constant_of, is_float
from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Node

WEIGHTED = ("Conv", "ConvTranspose", "Gemm")
"""Operators that end in a sum over constant weights."""


def by_channel(draft: Draft, name: str, constant: str) -> bool:
    """Whether a constant has one number for each channel (axis 1) of a tensor, or one for all."""
    shape, constant_shape = draft.shape(name), draft.shape(constant)
    if len(shape) < 2 or len(constant_shape) > len(shape):
        return False
    padded = (*(1,) * (len(shape) - len(constant_shape)), *constant_shape)
    return padded[1] in (1, shape[1]) and math.prod(constant_shape) == padded[1]


def _spread(array: Array, channels: int) -> Array:
    """One number for each channel, in float64."""
    return np.broadcast_to(array.reshape(-1).astype(np.float64), (channels,))


def _fold(draft: Draft, node: Node) -> bool:
    """Mul, Add or AffineChannel behind a convolution or Gemm with constant weights."""
    affine = _affine(draft, node)
    if affine is None:
        return False
    x, scale, shift = affine
    before = draft.made_by(x, *WEIGHTED)
    if before is None or "activation" in before.attributes or len(before.inputs) > 3 or not _simple(draft, before):
        return False
    weights = draft.value(before.inputs[1])
    bias = draft.value(_bias(draft, before))
    if weights is None or bias is None or not is_float(draft, x):
        return False
    channels, inputs = draft.shape(x)[1], [before.inputs[0], before.inputs[1]]
    if scale is not None:
        axis = _filter_axis(before)
        groups = before.attributes.get("group", 1) if before.op == "ConvTranspose" else 1
        key = (axis, groups, channels)
        inputs[1] = draft.constant(before.inputs[1], _scaled_by(axis, groups, channels), weights, scale, key=key)
    parts = [part for part in (scale, shift) if part is not None]
    place = draft.constant(
        f"{before.inputs[1]}/bias", _moved_by(scale is not None, shift is not None, channels), bias, *parts,
        key=(scale is not None, shift is not None, channels),
    )  # fmt: skip
    draft.replace([before, node], replace(before, inputs=(*inputs, place), outputs=node.outputs))
    return True


def _fold_ahead(draft: Draft, node: Node) -> bool:
    """Mul, Add or AffineChannel before convolutions: a sum only where they see no padding, which is 0 without it."""
    affine, name = _affine(draft, node), node.outputs[0]
    readers = draft.readers(name)
    if affine is None or not readers or name in draft.outputs or not is_float(draft, name):
        return False
    x, scale, shift = affine
    for conv in readers:
        constant = all(parameter in draft.constants for parameter in conv.inputs[1:3] if parameter)
        plain = conv.op == "Conv" and conv.inputs[0] == name and name not in conv.inputs[1:] and constant
        if not plain or (shift is not None and any(conv.attributes["pads"])):
            return False
    channels = draft.shape(x)[1]
    for conv in readers:
        weights = draft.constants[conv.inputs[1]]
        inputs, key = [x, *conv.inputs[1:]], (conv.attributes["group"], channels)
        if scale is not None:
            inputs[1] = draft.constant(conv.inputs[1], _ahead(*key), weights, scale, key=key)
        if shift is not None:
            parts = weights, draft.constants[_bias(draft, conv)], shift
            moved = draft.constant(f"{conv.inputs[1]}/bias", _bias_ahead(*key), *parts, key=key)
            inputs[2:3] = [moved]
        draft.replace([conv], replace(conv, inputs=tuple(inputs)))
    draft.replace([node])
    return True


def _bias(draft: Draft, node: Node) -> str:
    """The bias of a convolution or Gemm, by name; zeros if it has none.

    The memo keeps the zeros: constants computed from other zeros would be computed again for each graph of a model.
    """
    if any(node.inputs[2:3]):
        return node.inputs[2]
    channels, dtype = draft.shape(node.outputs[0])[1], draft.tensors[node.outputs[0]].dtype
    return draft.constant(f"{node.outputs[0]}/zeros", _zeros(channels, dtype), key=(channels, dtype))


def _zeros(channels: int, dtype: np.dtype) -> Any:
    def no_bias() -> Array:
        return np.zeros(channels, dtype)

    return no_bias


def _ahead(groups: int, channels: int) -> Any:
    """Scales weights by numbers of the channels that they read, of which each group has a part."""

    def weights_of_scaled(weights: Array, scale: Array) -> Any:
        factors = _spread(scale, channels).reshape(groups, 1, -1, *(1,) * (weights.ndim - 2))
        grouped = weights.reshape(groups, -1, *weights.shape[1:])
        return np.asarray((grouped * factors).reshape(weights.shape), weights.dtype)

    return weights_of_scaled


def _bias_ahead(groups: int, channels: int) -> Any:
    def bias_of_shifted(weights: Array, bias: Array, shift: Array) -> Any:
        wide = _ahead(groups, channels)(weights.astype(np.float64), shift)
        return (bias + wide.reshape(len(weights), -1).sum(1)).astype(bias.dtype)

    return bias_of_shifted


def _affine(draft: Draft, node: Node) -> tuple[str, Array | None, Array | None] | None:
    """(x, scale, shift) where a node is x · scale + shift with numbers, or one for each channel."""
    if node.op == "AffineChannel":
        scale, shift = (draft.value(name) for name in node.inputs[1:])
        return None if scale is None or shift is None else (node.inputs[0], scale, shift)
    operands = constant_of(draft, node)
    if operands is None or draft.shape(operands[0]) != draft.shape(node.outputs[0]) or not by_channel(draft, *operands):
        return None
    array = draft.constants[operands[1]]
    return (operands[0], array, None) if node.op == "Mul" else (operands[0], None, array)


def _simple(draft: Draft, node: Node) -> bool:
    """Whether weights and bias of a Gemm are as they are, and its bias is a vector."""
    if node.op != "Gemm":
        return True
    plain = node.attributes.get("alpha", 1.0) == node.attributes.get("beta", 1.0) == 1
    return plain and (len(node.inputs) < 3 or len(draft.shape(node.inputs[2])) == 1)


def _filter_axis(node: Node) -> int:
    if node.op == "Conv":
        return 0
    return 1 if node.op == "ConvTranspose" else 1 - node.attributes.get("transB", 0)


def _scaled_by(axis: int, groups: int, channels: int) -> Any:
    """Scales weights along the axis of filters, of which a transposed convolution has a part in each group."""

    def scaled_weights(weights: Array, scale: Array) -> Any:
        factors = _spread(scale, channels)
        if groups > 1:
            grouped = weights.reshape(groups, -1, *weights.shape[1:])
            factors = factors.reshape(groups, 1, -1, *(1,) * (weights.ndim - 2))
            return np.asarray((grouped * factors).reshape(weights.shape), weights.dtype)
        shape = [1] * weights.ndim
        shape[axis] = channels
        return np.asarray(weights * factors.reshape(shape), weights.dtype)

    return scaled_weights


def _moved_by(scaled: bool, shifted: bool, channels: int) -> Any:
    def moved_bias(bias: Array, *parts: Array) -> Any:
        moved = _spread(bias, channels)
        if scaled:
            moved = moved * _spread(parts[0], channels)
        if shifted:
            moved = moved + _spread(parts[-1], channels)
        return moved.astype(bias.dtype)

    return moved_bias


def _batch_normalization(draft: Draft, node: Node) -> bool:
    """As x · scale + shift."""
    values = [draft.value(name) for name in node.inputs[1:5]]
    if any(value is None for value in values) or not is_float(draft, node.outputs[0]) or any(node.outputs[1:]):
        return False
    arrays: list[Any] = values
    epsilon = node.attributes.get("epsilon", 1e-5)
    dtype = draft.tensors[node.outputs[0]].dtype

    def normalizing_scale(scale: Array, variance: Array) -> Any:
        return (scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)).astype(dtype)

    def normalizing_shift(scale: Array, shift: Array, mean: Array, variance: Array) -> Any:
        factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        return (shift - mean * factor).astype(dtype)

    scale = draft.constant(node.inputs[1], normalizing_scale, arrays[0], arrays[3], key=(epsilon,))
    shift = draft.constant(node.inputs[2], normalizing_shift, *arrays, key=(epsilon,))
    draft.replace([node], Node("AffineChannel", (node.inputs[0], scale, shift), node.outputs[:1], {}, node.name))
    return True


def _merge_affine(draft: Draft, node: Node) -> bool:
    """Merge two AffineChannel, or a product and the sum behind it, into one AffineChannel."""
    affine = _affine(draft, node)
    if affine is None or not is_float(draft, affine[0]):
        return False
    before = draft.made_by(affine[0], "AffineChannel", "Mul", "Add")
    inner = None if before is None else _affine(draft, before)
    if before is None or inner is None or (before.op, node.op) == ("Add", "Add"):
        return False
    channels, dtype = draft.shape(affine[0])[1], draft.tensors[affine[0]].dtype
    parts = [part for part in (*inner[1:], *affine[1:]) if part is not None]
    present = tuple(part is not None for part in (*inner[1:], *affine[1:]))

    def both(arrays: tuple[Array, ...]) -> tuple[Any, Any]:
        left = iter(arrays)
        first, moved, second, after = (
            _spread(next(left), channels) if exists else np.full(channels, default)
            for exists, default in zip(present, (1.0, 0.0, 1.0, 0.0), strict=True)
        )
        return first * second, moved * second + after

    def merged_scale(*arrays: Array) -> Any:
        return both(arrays)[0].astype(dtype)

    def merged_shift(*arrays: Array) -> Any:
        return both(arrays)[1].astype(dtype)

    key = (channels, present)
    names = [
        draft.constant(f"{node.outputs[0]}/{f.__name__}", f, *parts, key=key) for f in (merged_scale, merged_shift)
    ]
    draft.replace([before, node], Node("AffineChannel", (inner[0], *names), node.outputs, {}, node.name))
    return True


def _gemm(draft: Draft, node: Node) -> bool:
    """A product with a constant matrix, and the vector that is added to it."""
    weights = draft.value(node.inputs[1])
    if weights is None or weights.ndim != 2 or not is_float(draft, node.outputs[0]):
        return False
    shape = draft.shape(node.inputs[0])
    if len(shape) < 2:
        return False
    after, name = draft.reader(node, "Add"), node.outputs[0]
    operands = None if after is None else constant_of(draft, after)
    bias, nodes, out = "", [node], name
    if after is not None and operands is not None and draft.shape(operands[1]) == weights.shape[1:]:
        bias, out, nodes = operands[1], after.outputs[0], [node, after]
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    inputs = (node.inputs[1], *filter(None, (bias,)))
    if len(shape) == 2:
        draft.replace(nodes, Node("Gemm", (node.inputs[0], *inputs), (out,), attributes, node.name))
        return True
    rows, dtype = math.prod(shape[:-1]), draft.tensors[out].dtype
    flat = draft.fresh(f"{name}/rows", (rows, shape[-1]), dtype)
    product = draft.fresh(f"{name}/product", (rows, weights.shape[1]), dtype)
    draft.replace(
        nodes,
        Node("Reshape", (node.inputs[0],), (flat,), {}, node.name),
        Node("Gemm", (flat, *inputs), (product,), attributes, node.name),
        Node("Reshape", (product,), (out,), {}, node.name),
    )
    return True


FOLDING = {
    "Add": (_fold, _merge_affine, _fold_ahead),
    "AffineChannel": (_fold, _merge_affine, _fold_ahead),
    "BatchNormalization": (_batch_normalization,),
    "MatMul": (_gemm,),
    "Mul": (_fold, _merge_affine, _fold_ahead),
}
