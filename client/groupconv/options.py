"""The keywords that every convolution function of the SDK takes."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from groupconv.requests import Array
from groupconv.spec import Activation, ActivationKind, ConvSpec, PaddingMode, PaddingRule


class Call(TypedDict, total=False):
    """What concerns the call: `out`, an array to fill; `timeout`, seconds; `allow_reordering`, see `Client.run`."""

    out: Array | None
    timeout: float | None
    allow_reordering: bool


class Conv(Call, total=False):
    """Keywords of a convolution, as in `ConvSpec`."""

    stride: int | Sequence[int]
    padding: PaddingRule | int | Sequence[int | Sequence[int]]
    dilation: int | Sequence[int]
    groups: int
    padding_mode: PaddingMode
    activation: ActivationKind | Activation | None
    flip_kernel: bool


class ConvTranspose(Call, total=False):
    """Keywords of a transposed convolution, as in `ConvSpec`."""

    stride: int | Sequence[int]
    padding: PaddingRule | int | Sequence[int | Sequence[int]]
    dilation: int | Sequence[int]
    groups: int
    activation: ActivationKind | Activation | None
    flip_kernel: bool
    output_padding: int | Sequence[int]


def split(options: Mapping[str, Any]) -> tuple[ConvSpec, Call]:
    """Keywords of a convolution function as the spec and what concerns the call."""
    call = Call(
        out=options.get("out"),
        timeout=options.get("timeout"),
        allow_reordering=options.get("allow_reordering", False),
    )
    spec = ConvSpec(**{key: value for key, value in options.items() if key not in Call.__annotations__})
    return spec, call
