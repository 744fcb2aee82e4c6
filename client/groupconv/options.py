"""Keyword arguments that several functions of the SDK share."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

from groupconv.convolution.spec import (
    SPEC_ARGUMENTS,
    Activation,
    ActivationKind,
    ConvSpec,
    Math,
    PaddingMode,
    PaddingRule,
)
from groupconv.errors import InvalidArgumentError, UnknownArgumentError
from groupconv.layouts import Layout
from groupconv.streaming.progress import ProgressCallback


class CallOptions(TypedDict, total=False):
    """Options of a call.

    Attributes:
        out: array to fill with the output.
        timeout: seconds; None takes the client's.
        allow_reordering: whether sums over input channels may be split between workers, see `Client.run`.
        cut: what to cut along, see `Client.run`.
        layout: where the channels of input and output are: "NCHW" or None, or "NHWC", the last axis.
    """

    out: Any
    timeout: float | None
    allow_reordering: bool
    cut: str | None
    layout: Layout | None


class Streaming(TypedDict, total=False):
    """Options of a stream, see `Client.stream_convolve`."""

    shape: Sequence[int] | None
    dtype: Any
    out: Any
    progress: ProgressCallback | bool | None
    allow_reordering: bool
    band_rows: int
    wire_dtype: Any
    compression: Literal["lz4"] | None


class _Spec(TypedDict, total=False):
    stride: int | Sequence[int]
    padding: PaddingRule | int | Sequence[int | Sequence[int]]
    dilation: int | Sequence[int]
    groups: int
    activation: ActivationKind | Activation | None
    flip_kernel: bool
    exact: bool
    math: Math | None


class Conv(_Spec, CallOptions, total=False):
    """Options of a convolution, see `ConvSpec`."""

    padding_mode: PaddingMode


class ConvTranspose(_Spec, CallOptions, total=False):
    """Options of a transposed convolution, see `ConvSpec`."""

    output_padding: int | Sequence[int]


class StreamConv(_Spec, Streaming, total=False):
    """Options of a streamed convolution, which may be transposed."""

    padding_mode: PaddingMode
    transposed: bool
    output_padding: int | Sequence[int]


def split(
    options: Mapping[str, Any], *, without: Sequence[str] = (), transposed: bool = False
) -> tuple[ConvSpec, CallOptions]:
    """Separate the options of a convolution function into its spec and the options of the call.

    Args:
        options: keyword arguments by name.
        without: arguments of `ConvSpec` that the function sets itself, beside `transposed`.
        transposed: of the spec.

    Raises:
        UnknownArgumentError: the function has no such argument.
        InvalidArgumentError: a value is invalid.
    """
    check_names(options, {*SPEC_ARGUMENTS, *CallOptions.__annotations__} - {"transposed", *without})
    call = CallOptions(
        out=options.get("out"),
        timeout=options.get("timeout"),
        allow_reordering=options.get("allow_reordering", False),
        cut=options.get("cut"),
        layout=options.get("layout"),
    )
    spec = {key: value for key, value in options.items() if key not in CallOptions.__annotations__}
    return ConvSpec(**spec, transposed=transposed), call


def split_streaming(options: Mapping[str, Any]) -> tuple[ConvSpec, Streaming]:
    """Separate the options of a streamed convolution into its spec and the options of the stream.

    Raises:
        UnknownArgumentError: there is no such argument.
        InvalidArgumentError: a value is invalid.
    """
    check_names(options, {*SPEC_ARGUMENTS, *Streaming.__annotations__})
    stream = {key: value for key, value in options.items() if key in Streaming.__annotations__}
    spec = ConvSpec(**{key: value for key, value in options.items() if key not in stream})
    return spec, cast("Streaming", stream)


def check_names(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Check the names of keyword arguments.

    Raises:
        UnknownArgumentError: a name is not among the known ones.
    """
    for name, value in options.items():
        if name not in known:
            raise UnknownArgumentError.of(name, value, known)


def spec_or_default(spec: ConvSpec | None) -> ConvSpec:
    """`spec`, or the default spec for None.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if spec is None:
        return ConvSpec()
    if not isinstance(spec, ConvSpec):
        raise InvalidArgumentError("spec", "a groupconv.ConvSpec or None", spec)
    return spec
