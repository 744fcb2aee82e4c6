"""Receptive fields: how much of a network's input an element depends on, and how far apart neighbors look.

A window of extent e over elements that lie j apart adds (e - 1) · j, and a stride s makes the distance s · j.

Source: Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill, 2019.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from onnx import NodeProto, helper

Shape = tuple[int, ...]
WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
WHOLE = (
    "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "InstanceNormalization", "GroupNormalization", "Gemm",
    "LSTM", "GRU", "RNN",
)  # fmt: skip
"""Operators each of whose outputs depends on all of the map."""
TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
"""Elements of an axis that an interpolation reads."""


@dataclass(frozen=True, slots=True)
class Field:
    """What one element of a tensor sees of the network's input, along each of the input's last axes.

    Attributes:
        extent: elements of the input.
        stride: between neighbors; None where each element sees the whole.
        whole: extents of the input.
    """

    extent: tuple[Fraction, ...]
    stride: tuple[Fraction, ...] | None
    whole: Shape

    def everything(self) -> "Field":
        """The field of an element that depends on all elements of this tensor."""
        return Field(tuple(map(Fraction, self.whole)), None, self.whole)

    def window(self, extents: Sequence[Fraction | int], strides: Sequence[Fraction | int]) -> "Field":
        """The field behind a window of these extents, in elements of this tensor, that advances by these strides."""
        if self.stride is None:
            return self
        grown = [f + (e - 1) * j for f, e, j in zip(self.extent, extents, self.stride, strict=True)]
        return Field(tuple(grown), tuple(s * j for s, j in zip(strides, self.stride, strict=True)), self.whole)

    def joined(self, other: "Field") -> "Field":
        """The field of an element that depends on both."""
        if self.whole != other.whole:
            return self if len(self.whole) >= len(other.whole) else other
        stride = self.stride or other.stride
        if self.stride and other.stride:
            stride = tuple(map(max, self.stride, other.stride))
        return Field(tuple(map(max, self.extent, other.extent)), stride, self.whole)


def input_field(shape: Shape | None) -> Field | None:
    """The field of an input of the network: each element sees itself. None without axes behind the channels."""
    if shape is None or len(shape) < 3:
        return None
    axes = len(shape) - 2
    return Field((Fraction(1),) * axes, (Fraction(1),) * axes, shape[2:])


def follow(node: NodeProto, fields: Mapping[str, Field], shapes: Mapping[str, Shape | None]) -> Field | None:
    """The field of a node's first output.

    Args:
        node: the operator.
        fields: of the tensors that depend on the input.
        shapes: of all tensors, as far as they are known.
    """
    known_fields = [fields[name] for name in node.input if name in fields]
    if not known_fields:
        return None
    field = known_fields[0]
    for other in known_fields[1:]:
        field = field.joined(other)
    inner = shapes.get(next(name for name in node.input if name in fields))
    out_shape = shapes.get(node.output[0])
    if inner is None or out_shape is None:
        return None
    axes = len(field.whole)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in WINDOWS and len(inner) == axes + 2:
        return _behind_window(node, field, attributes, shapes)
    if node.op_type in ("Resize", "Upsample") and len(inner) == axes + 2:
        mode = attributes.get("mode", b"nearest").decode()
        ratios = [Fraction(a, max(1, b)) for a, b in zip(inner[-axes:], out_shape[-axes:], strict=True)]
        return field.window([TAPS.get(mode, 1)] * axes, ratios)
    if node.op_type in ("SpaceToDepth", "DepthToSpace"):
        block = Fraction(attributes["blocksize"])
        apart = node.op_type == "SpaceToDepth"
        return field.window([block if apart else 1] * axes, [block if apart else 1 / block] * axes)
    if node.op_type in WHOLE or _mixes(node, attributes, inner, out_shape, axes):
        return field.everything()
    return field


def window(node: NodeProto, shapes: Mapping[str, Shape | None]) -> str:
    """The window of a convolution or pool, for people; "" of other operators.

    Example:
        >>> window(helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], group=3), {"w": (6, 1, 5, 5)})
        '5×5, stride 2, 3 groups'
    """
    if node.op_type not in WINDOWS:
        return ""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kernel, strides, dilations = _geometry(node, attributes, shapes)
    parts = ["×".join(map(str, kernel))]
    for name, values in (("stride", strides), ("dilation", dilations)):
        if set(values) - {1}:
            parts.append(f"{name} {'×'.join(map(str, values if len(set(values)) > 1 else values[:1]))}")
    if (groups := attributes.get("group", 1)) > 1:
        parts.append(f"{groups} groups")
    return ", ".join(parts)


def _geometry(
    node: NodeProto, attributes: Mapping[str, Any], shapes: Mapping[str, Shape | None]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Kernel, strides and dilations."""
    weight = shapes.get(node.input[1]) if len(node.input) > 1 else None
    kernel = attributes.get("kernel_shape") or (weight[2:] if weight else ())
    strides, dilations = (attributes.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    return kernel, strides, dilations


def _behind_window(
    node: NodeProto, field: Field, attributes: Mapping[str, Any], shapes: Mapping[str, Shape | None]
) -> Field | None:
    kernel, strides, dilations = _geometry(node, attributes, shapes)
    if not len(kernel) == len(strides) == len(dilations) == len(field.whole):
        return None
    extents = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type == "ConvTranspose":  # an output meets the inputs whose windows reach it
        met = [math.ceil(Fraction(e, s)) for e, s in zip(extents, strides, strict=True)]
        return field.window(met, [Fraction(1, s) for s in strides])
    return field.window(extents, strides)


def _mixes(node: NodeProto, attributes: Mapping[str, Any], inner: Shape, out_shape: Shape, axes: int) -> bool:
    """Whether an operator mixes elements of the input's last axes, as far as its output's shape tells."""
    rank = len(inner)
    if node.op_type in ("Softmax", "LogSoftmax", "LayerNormalization", "CumSum", "LpNormalization"):
        return int(attributes.get("axis", -1)) % rank >= rank - axes
    if node.op_type == "Transpose":
        perm = attributes.get("perm") or list(range(rank))[::-1]
        return list(perm[-axes:]) != list(range(rank - axes, rank))
    if node.op_type in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "MatMul", "Gather") or node.op_type.startswith(
        ("Reduce", "Arg")
    ):
        return out_shape[-axes:] != inner[-axes:]
    return False
