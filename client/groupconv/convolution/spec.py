"""ConvSpec: the parameters of a convolution, without its arrays. It validates itself.

An int applies to every axis, a tuple has one value per axis. The rank comes from the kernel
(`groupconv.convolution.geometry.resolve`). Names and defaults follow torch.nn.functional.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Never, Self, get_args

from groupconv.convolution.totals import Window, field_of
from groupconv.errors import InvalidArgumentError, UnknownArgumentError

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PaddingRule = Literal["same", "same_lower", "valid"]
Math = Literal["float32", "tf32", "float16", "bfloat16"]
ActivationKind = Literal["relu", "leaky_relu", "prelu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]

PADDING_MODES: tuple[str, ...] = get_args(PaddingMode)
PADDING_RULES: tuple[str, ...] = get_args(PaddingRule)
ACTIVATIONS: tuple[str, ...] = get_args(ActivationKind)
MATHS: tuple[str, ...] = get_args(Math)
DEFAULT_SLOPE = {"leaky_relu": (0.01,), "prelu": (0.25,)}  # torch's defaults

MAX_RANK = 3
MAX_PARAMETER = 2**31 - 1
"""Limit of strides, dilations and paddings: no axis of a tensor is longer."""

PerAxis = int | tuple[int, ...]
Padding = PaddingRule | int | tuple[int | tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of each element, applied after the bias.

    Attributes:
        kind: one of `ACTIVATIONS`; `gelu` is exact (erf), `gelu_tanh` is its tanh approximation.
        slope: factor of negative elements: one value for leaky_relu; one, or one per output channel, for prelu.

    Raises:
        InvalidArgumentError: the kind is unknown, or takes no such slopes.

    Example:
        >>> Activation("leaky_relu")
        Activation(kind='leaky_relu', slope=(0.01,))
    """

    kind: ActivationKind
    slope: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise InvalidArgumentError("activation", f"one of {', '.join(ACTIVATIONS)}", self.kind)
        try:
            slope = tuple(float(s) for s in self.slope)
        except (TypeError, ValueError):
            raise InvalidArgumentError("activation.slope", "a sequence of numbers", self.slope) from None
        slope = slope or DEFAULT_SLOPE.get(self.kind, ())
        if slope and self.kind not in DEFAULT_SLOPE:
            raise InvalidArgumentError("activation.slope", f"none for {self.kind}", slope)
        if self.kind == "leaky_relu" and len(slope) != 1:
            raise InvalidArgumentError("activation.slope", "one value for leaky_relu", slope)
        object.__setattr__(self, "slope", slope)

    def channels(self, start: int, stop: int) -> Self:
        """The activation of output channels `start` to `stop`, with their slopes."""
        return self if len(self.slope) <= 1 else type(self)(self.kind, self.slope[start:stop])


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """The parameters of one convolution: immutable and hashable.

    Attributes:
        stride: step of the kernel over the input, in elements per axis (transposed: over the output), >= 1.
        padding: elements added around the input: an int; one int or `(low, high)` pair per axis; or "same" (ONNX
            SAME_UPPER), "same_lower", "valid".
        dilation: distance between kernel taps, in elements per axis, >= 1.
        groups: number of channel groups; divides input and output channels.
        padding_mode: how the padding is filled; transposed convolutions take only "zeros".
        activation: a name of `ACTIVATIONS` or an `Activation`, applied after the bias.
        transposed: whether it is a transposed convolution (learned upsampling).
        output_padding: elements added at the end of a transposed output, < max(stride, dilation).
        flip_kernel: whether to flip the kernel (convolution); the default is cross-correlation, as in deep learning.
        exact: whether each output must be the direct sum of its products, without Winograd, Fourier transforms or
            kernel factorization (docs/convolution.md).
        math: what a GPU may round float32 factors to before it multiplies them, one of `MATHS`; sums are float32. None
            takes the worker's default, `GROUPCONV_CUDA_MATH`. Other dtypes, and CPUs, never round factors.

    Raises:
        InvalidArgumentError: a value is invalid for every shape; it names the field, what was expected and what came.

    Example:
        >>> ConvSpec(stride=2, padding=(1, (0, 1)), groups=2, activation="relu")
        ConvSpec(stride=2, padding=(1, (0, 1)), groups=2, activation='relu')
        >>> ConvSpec(stride=0)
        Traceback (most recent call last):
        ...
        groupconv.errors.InvalidArgumentError: stride: expected an integer from 1 to 2147483647, got 0
    """

    stride: PerAxis = 1
    padding: Padding = 0
    dilation: PerAxis = 1
    groups: int = 1
    padding_mode: PaddingMode = "zeros"
    activation: Activation | None = None
    transposed: bool = False
    output_padding: PerAxis = 0
    flip_kernel: bool = False
    exact: bool = False
    math: Math | None = None

    def __init__(
        self,
        *,
        stride: int | Sequence[int] = 1,
        padding: PaddingRule | int | Sequence[int | Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        padding_mode: PaddingMode = "zeros",
        activation: ActivationKind | Activation | None = None,
        transposed: bool = False,
        output_padding: int | Sequence[int] = 0,
        flip_kernel: bool = False,
        exact: bool = False,
        math: Math | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise UnknownArgumentError.of(*next(iter(unknown.items())), SPEC_ARGUMENTS)
        put = object.__setattr__  # the dataclass is frozen; lists become tuples here
        put(self, "stride", _per_axis("stride", stride, 1))
        put(self, "padding", _padding(padding))
        put(self, "dilation", _per_axis("dilation", dilation, 1))
        put(self, "groups", _integer("groups", groups, 1))
        put(self, "padding_mode", padding_mode)
        put(self, "activation", as_activation(activation))
        put(self, "transposed", bool(transposed))
        put(self, "output_padding", _per_axis("output_padding", output_padding, 0))
        put(self, "flip_kernel", bool(flip_kernel))
        put(self, "exact", bool(exact))
        put(self, "math", math)
        if not isinstance(padding_mode, str) or padding_mode not in PADDING_MODES:
            raise InvalidArgumentError("padding_mode", f"one of {', '.join(PADDING_MODES)}", padding_mode)
        if self.activation is not None and not isinstance(self.activation, Activation):
            raise InvalidArgumentError("activation", f"one of {', '.join(ACTIVATIONS)}", activation)
        if math is not None and (not isinstance(math, str) or math not in MATHS):
            raise InvalidArgumentError("math", f"one of {', '.join(MATHS)}", math)
        if exact and math not in (None, "float32"):
            raise InvalidArgumentError("math", "float32 together with exact", math)
        if transposed and padding_mode != "zeros":
            raise InvalidArgumentError("padding_mode", "zeros for a transposed convolution", padding_mode)
        if not transposed and self.output_padding not in (0, (0,) * len(_as_tuple(self.output_padding))):
            raise InvalidArgumentError("output_padding", "0 for a convolution that is not transposed", output_padding)

    def __repr__(self) -> str:
        values = ((f, _shortest(getattr(self, f.name))) for f in fields(self))
        shown = {f.name: value for f, value in values if value != f.default}
        if self.activation is not None and self.activation == Activation(self.activation.kind):
            shown["activation"] = self.activation.kind
        return f"ConvSpec({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def window(self, weight_shape: Sequence[int]) -> Window:
        """Kernel, stride and dilation per axis, with a weight (M, C/g, *kernel) or, transposed, (C, M/g, *kernel).

        Raises:
            InvalidArgumentError: it is no such shape, or a parameter is for another number of axes.
        """
        if not isinstance(weight_shape, Sequence) or len(weight_shape) < 3:
            raise InvalidArgumentError("weight_shape", "(M, C/g, *kernel)", weight_shape)
        kernel = tuple(weight_shape[2:])
        stride, dilation = (per_axis(name, getattr(self, name), len(kernel)) for name in ("stride", "dilation"))
        return Window(kernel, stride, dilation, self.transposed)

    def receptive_field(self, weight_shape: Sequence[int]) -> tuple[int, ...]:
        """Input elements per axis that one output depends on, from the first to the last.

        Example:
            >>> ConvSpec(dilation=2).receptive_field((8, 8, 3, 5))
            (5, 9)
        """
        return field_of([self.window(weight_shape)])


SPEC_ARGUMENTS = tuple(f.name for f in fields(ConvSpec))
"""The names of the arguments of `ConvSpec`."""


def as_activation(value: ActivationKind | Activation | None) -> Activation | None:
    """The `Activation` of a name, with its default slope; anything else unchanged."""
    return Activation(value) if isinstance(value, str) else value


def per_axis(field: str, value: PerAxis, rank: int) -> tuple[int, ...]:
    """One value for each of `rank` axes.

    Raises:
        InvalidArgumentError: the tuple's length is neither 1 nor `rank`.

    Example:
        >>> per_axis("stride", 2, 3), per_axis("stride", (1, 2), 2)
        ((2, 2, 2), (1, 2))
    """
    values = _as_tuple(value)
    if len(values) not in (1, rank):
        raise InvalidArgumentError(field, f"one value or one per axis ({rank})", value)
    return values * rank if len(values) == 1 else values


def padding_pairs(value: int | tuple[int | tuple[int, int], ...], rank: int) -> tuple[tuple[int, int], ...]:
    """One `(low, high)` pair of explicit padding for each of `rank` axes.

    Raises:
        InvalidArgumentError: the tuple's length is neither 1 nor `rank`.

    Example:
        >>> padding_pairs((1, (0, 2)), 2)
        ((1, 1), (0, 2))
    """
    values = value if isinstance(value, tuple) else (value,)
    if len(values) not in (1, rank):
        raise InvalidArgumentError("padding", f"one value or one per axis ({rank})", value)
    pairs = tuple(v if isinstance(v, tuple) else (v, v) for v in values)
    return pairs * rank if len(pairs) == 1 else pairs


def _shortest(value: object) -> object:
    """A parameter as one would write it: `((2, 2),)` is 2, `((0, 1), (1, 1))` is `((0, 1), 1)`."""
    if not isinstance(value, tuple):
        return value
    axes = [v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in value]
    return axes[0] if len(axes) == 1 and not isinstance(axes[0], tuple) else tuple(axes)


def _as_tuple(value: PerAxis) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _integer(field: str, value: object, least: int) -> int:
    try:
        number = value.__index__()  # type: ignore[attr-defined]  # accepts NumPy integers, not floats
    except AttributeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= MAX_PARAMETER:
        raise InvalidArgumentError(field, f"an integer from {least} to {MAX_PARAMETER}", value)
    return int(number)


def _per_axis(field: str, value: object, least: int) -> PerAxis:
    if isinstance(value, Sequence) and not isinstance(value, str):
        if not 1 <= len(value) <= MAX_RANK:
            raise InvalidArgumentError(field, f"1 to {MAX_RANK} values, one per axis", value)
        return tuple(_integer(f"{field}[{i}]", v, least) for i, v in enumerate(value))
    return _integer(field, value, least)


def _padding(value: object) -> Padding:
    if isinstance(value, str):
        if value not in PADDING_RULES:
            raise InvalidArgumentError("padding", f"integers or one of {', '.join(PADDING_RULES)}", value)
        return value  # type: ignore[return-value]  # narrowed by PADDING_RULES
    if not isinstance(value, Sequence):
        return _integer("padding", value, 0)
    if not 1 <= len(value) <= MAX_RANK:
        raise InvalidArgumentError("padding", f"1 to {MAX_RANK} values, one per axis", value)
    return tuple(_side_or_pair(f"padding[{i}]", v) for i, v in enumerate(value))


def _side_or_pair(field: str, value: object) -> int | tuple[int, int]:
    if not isinstance(value, Sequence):
        return _integer(field, value, 0)
    if len(value) != 2:
        raise InvalidArgumentError(field, "a (low, high) pair", value)
    return (_integer(f"{field}.low", value[0], 0), _integer(f"{field}.high", value[1], 0))
