"""Specs to messages and back."""

from collections.abc import Iterable
from typing import Any

from groupconv.convolution.spec import ACTIVATIONS, MATHS, PADDING_MODES, Activation, ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.v1 import spec_pb2

_MODES: dict[str, Any] = {m: spec_pb2.PaddingMode.Value(f"PADDING_MODE_{m.upper()}") for m in PADDING_MODES}
_KINDS: dict[str, Any] = {k: spec_pb2.Activation.Kind.Value(f"KIND_{k.upper()}") for k in ACTIVATIONS}
_MATHS: dict[str, Any] = {m: spec_pb2.Math.Value(f"MATH_{m.upper()}") for m in MATHS}
_RULES: dict[str, spec_pb2.PaddingRule.ValueType] = {
    "same": spec_pb2.PADDING_RULE_SAME_UPPER,
    "same_lower": spec_pb2.PADDING_RULE_SAME_LOWER,
    "valid": spec_pb2.PADDING_RULE_VALID,
}
_MODES_BACK = {v: k for k, v in _MODES.items()} | {spec_pb2.PADDING_MODE_UNSPECIFIED: "zeros"}
_KINDS_BACK = {v: k for k, v in _KINDS.items()}
_MATHS_BACK = {v: k for k, v in _MATHS.items()}
_RULES_BACK = {v: k for k, v in _RULES.items()}
_EXPLICIT = (spec_pb2.PADDING_RULE_UNSPECIFIED, spec_pb2.PADDING_RULE_EXPLICIT)


def spec_to_wire(spec: ConvSpec) -> spec_pb2.ConvSpec:
    """A spec as a message.

    Example:
        >>> spec_from_wire(spec_to_wire(ConvSpec(padding=((0, 1), 2)))).padding
        ((0, 1), (2, 2))
    """
    message = spec_pb2.ConvSpec(
        stride=_listed(spec.stride),
        dilation=_listed(spec.dilation),
        groups=spec.groups,
        padding_mode=_MODES[spec.padding_mode],
        transposed=spec.transposed,
        output_padding=_listed(spec.output_padding),
        flip_kernel=spec.flip_kernel,
        exact=spec.exact,
        math=spec_pb2.MATH_UNSPECIFIED if spec.math is None else _MATHS[spec.math],
    )
    if isinstance(spec.padding, str):
        message.padding_rule = _RULES[spec.padding]
    else:
        pairs = [p if isinstance(p, tuple) else (p, p) for p in _listed(spec.padding)]
        message.padding_low.extend(low for low, _ in pairs)
        message.padding_high.extend(high for _, high in pairs)
    if spec.activation is not None:
        message.activation.kind = _KINDS[spec.activation.kind]
        message.activation.slope.extend(spec.activation.slope)
    return message


def spec_from_wire(message: spec_pb2.ConvSpec) -> ConvSpec:
    """A message as a spec.

    Raises:
        InvalidArgumentError: a field of the message is invalid.
    """
    return ConvSpec(
        stride=_axes(message.stride, 1),
        padding=_padding(message),
        dilation=_axes(message.dilation, 1),
        groups=message.groups if message.HasField("groups") else 1,
        padding_mode=_known("padding_mode", message.padding_mode, _MODES_BACK),
        activation=_activation(message) if message.HasField("activation") else None,
        transposed=message.transposed,
        output_padding=_axes(message.output_padding, 0),
        flip_kernel=message.flip_kernel,
        exact=message.exact,
        math=None if message.math == spec_pb2.MATH_UNSPECIFIED else _known("math", message.math, _MATHS_BACK),
    )


def _listed(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _axes(values: Iterable[int], default: int) -> int | tuple[int, ...]:
    return tuple(values) or default


def _known(field: str, value: int, names: dict[Any, str]) -> Any:
    if value not in names:
        raise InvalidArgumentError(field, f"one of {', '.join(dict.fromkeys(names.values()))}", value)
    return names[value]


def _padding(message: spec_pb2.ConvSpec) -> Any:
    low, high = tuple(message.padding_low), tuple(message.padding_high)
    if message.padding_rule not in _EXPLICIT:
        rule = _known("padding_rule", message.padding_rule, _RULES_BACK)
        if low or high:
            raise InvalidArgumentError("padding_low", "no explicit padding together with a padding_rule", low or high)
        return rule
    if not high:
        return low or 0
    if len(low) != len(high):
        raise InvalidArgumentError("padding_high", f"{len(low)} values, as padding_low has", len(high))
    return tuple(zip(low, high, strict=True))


def _activation(message: spec_pb2.ConvSpec) -> Activation | None:
    if message.activation.kind == spec_pb2.Activation.KIND_UNSPECIFIED and not message.activation.slope:
        return None
    kind = _known("activation.kind", message.activation.kind, _KINDS_BACK)
    return Activation(kind, tuple(message.activation.slope))
