"""The shapes of one convolution, and its numbers.

Letters: N batch, C input channels, M output channels, g groups; per axis H input, K kernel, s stride,
p padding (low, high), d dilation, r output padding, H' output.

    convolution:  H' = floor((H + p_lo + p_hi - d·(K-1) - 1) / s) + 1
    transposed:   H' = (H-1)·s - (p_lo + p_hi) + d·(K-1) + r + 1,   0 <= r < max(s, d)

Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning" (2016).
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from groupconv.convolution.padding import Pair, Shape, check_padding_mode, effective_extent, resolve_padding
from groupconv.convolution.spec import MAX_PARAMETER, MAX_RANK, Activation, ConvSpec, Math, PaddingMode, per_axis
from groupconv.convolution.totals import Window, field_of
from groupconv.errors import InvalidArgumentError
from groupconv.moved import moved_names


@dataclass(frozen=True, slots=True)
class Geometry:
    """A `ConvSpec` applied to shapes, with one value per axis for each parameter. Hashable.

    Attributes:
        batch, in_channels, out_channels, groups: N, C, M, g.
        input, kernel, output: spatial extents H, K, H', one per axis (1 to 3 axes).
        stride, dilation, output_padding: one per axis.
        padding: (low, high) per axis.
        padding_mode, activation, transposed, flip_kernel, exact, math: as in ConvSpec.

    Example:
        >>> g = resolve(ConvSpec(padding=2, groups=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> g.output_shape, g.weight_shape
        ((1, 256, 27, 27), (256, 48, 5, 5))
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input: Shape
    kernel: Shape
    output: Shape
    stride: Shape
    padding: tuple[Pair, ...]
    dilation: Shape
    output_padding: Shape
    padding_mode: PaddingMode = "zeros"
    activation: Activation | None = None
    transposed: bool = False
    flip_kernel: bool = False
    exact: bool = False
    math: Math | None = None

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def input_shape(self) -> Shape:
        """(N, C, H, …)."""
        return (self.batch, self.in_channels, *self.input)

    @property
    def output_shape(self) -> Shape:
        """(N, M, H', …)."""
        return (self.batch, self.out_channels, *self.output)

    @property
    def weight_shape(self) -> Shape:
        """(M, C/g, K, …), transposed (C, M/g, K, …)."""
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def effective_kernel(self) -> Shape:
        """d·(K-1) + 1 per axis."""
        return tuple(effective_extent(k, d) for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def weights(self) -> int:
        """Number of kernel weights without the bias: M·(C/g)·ΠK.

        Example:
            >>> resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5)).weights
            307200
        """
        return math.prod(self.weight_shape)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the whole batch, including taps on padding.

        N·M·(C/g)·ΠK·ΠH' for a convolution, N·C·(M/g)·ΠK·ΠH for a transposed one.

        Example:
            >>> resolve(ConvSpec(padding=1), (1, 2, 4, 4), (3, 2, 3, 3)).multiply_adds
            864
        """
        return self.batch * self.weights * math.prod(self.input if self.transposed else self.output)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its window, for `groupconv.receptive_field`."""
        return (Window(self.kernel, self.stride, self.dilation, self.transposed),)

    @property
    def receptive_field(self) -> Shape:
        """Input elements per axis that one output depends on, from the first to the last."""
        return field_of(self.windows)

    @property
    def padded(self) -> Shape:
        """H + p_lo + p_hi per axis."""
        return tuple(h + lo + hi for h, (lo, hi) in zip(self.input, self.padding, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1×1 convolution without stride and padding: a matrix product over channels."""
        return self.input == self.output and all(
            k == 1 and s == 1 and p == (0, 0) for k, s, p in zip(self.kernel, self.stride, self.padding, strict=True)
        )

    @property
    def is_depthwise(self) -> bool:
        """Whether each group has one input channel."""
        return self.groups == self.in_channels and self.groups > 1

    def variant(self) -> str:
        """The usual name of this kind of convolution.

        Example:
            >>> resolve(ConvSpec(padding=1, groups=8), (1, 8, 9, 9), (8, 1, 3, 3)).variant()
            'depthwise'
        """
        words = [
            "dilated" if any(d > 1 and k > 1 for d, k in zip(self.dilation, self.kernel, strict=True)) else "",
            "transposed" if self.transposed else "",
            "depthwise" if self.is_depthwise else "grouped" if self.groups > 1 else "",
            "pointwise" if all(k == 1 for k in self.kernel) else "",
        ]
        return " ".join(w for w in words if w) or "standard"

    def with_batch(self, batch: int) -> Self:
        """The same convolution on another number of samples."""
        return replace(self, batch=batch)


def resolve(spec: ConvSpec, input_shape: Sequence[int], weight_shape: Sequence[int]) -> Geometry:
    """The geometry of `spec` on an input (N, C, *spatial) and a weight (M, C/g, *kernel).

    A transposed weight is (C, M/g, *kernel). Parameters without effect are normalized (the stride of an axis with one
    output, the dilation of one tap), so that index arithmetic never exceeds the padded input.

    The batch may be 0; every other extent is at least 1.

    Raises:
        InvalidArgumentError: the shapes do not fit the spec; it names the field, what was expected and what came.

    Example:
        >>> resolve(ConvSpec(transposed=True, stride=2), (1, 8, 5), (8, 4, 3)).output
        (11,)
    """
    x, w = _shape("input.shape", input_shape, batch=True), _shape("kernel.shape", weight_shape)
    rank = len(w) - 2
    if not 1 <= rank <= MAX_RANK:
        raise InvalidArgumentError("kernel.shape", f"3 to {MAX_RANK + 2} dimensions (channels and 1-D to 3-D)", w)
    if len(x) != len(w):
        raise InvalidArgumentError("input.shape", f"{len(w)} dimensions, as many as the kernel {w}", x)
    channels, g = x[1], spec.groups
    if channels % g:
        raise InvalidArgumentError("groups", f"a divisor of the {channels} input channels", g)
    out_channels = _out_channels(spec, channels, w)
    _check_slopes(spec.activation, out_channels)

    extents, kernel = x[2:], w[2:]
    stride = per_axis("stride", spec.stride, rank)
    dilation = tuple(d if k > 1 else 1 for d, k in zip(per_axis("dilation", spec.dilation, rank), kernel, strict=True))
    reach = [effective_extent(k, d) for k, d in zip(kernel, dilation, strict=True)]
    out_pad = per_axis("output_padding", spec.output_padding, rank)
    padding = resolve_padding(spec, extents, reach, stride, out_pad)
    if spec.transposed:
        _check_output_padding(out_pad, stride, per_axis("dilation", spec.dilation, rank))
        output = tuple(
            (h - 1) * s - lo - hi + e + r
            for h, s, (lo, hi), e, r in zip(extents, stride, padding, reach, out_pad, strict=True)
        )
    else:
        check_padding_mode(spec.padding_mode, extents, padding)
        output = tuple(
            (h + lo + hi - e) // s + 1 for h, s, (lo, hi), e in zip(extents, stride, padding, reach, strict=True)
        )
        # with one output, the smallest stride that still gives one output is the same convolution
        stride = tuple(
            min(s, max(1, h + lo + hi - e + 1))
            for s, h, (lo, hi), e in zip(stride, extents, padding, reach, strict=True)
        )
    _check_output(spec.transposed, output, extents, padding, reach)
    return Geometry(
        batch=x[0],
        in_channels=channels,
        out_channels=out_channels,
        groups=g,
        input=extents,
        kernel=kernel,
        output=output,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=out_pad,
        padding_mode=spec.padding_mode,
        activation=spec.activation,
        transposed=spec.transposed,
        flip_kernel=spec.flip_kernel,
        exact=spec.exact,
        math=spec.math,
    )


def _shape(field: str, shape: Sequence[int], *, batch: bool = False) -> Shape:
    """A shape as a tuple of integers. If `batch`, its first extent may be 0."""
    try:
        shape = tuple(operator.index(extent) for extent in shape)
    except TypeError:
        raise InvalidArgumentError(field, "a shape, one integer per dimension", shape) from None
    for i, extent in enumerate(shape):
        least = 0 if batch and i == 0 else 1
        if not least <= extent <= MAX_PARAMETER:
            raise InvalidArgumentError(f"{field}[{i}]", f"an extent from {least} to {MAX_PARAMETER}", extent)
    return shape


def _out_channels(spec: ConvSpec, channels: int, w: Shape) -> int:
    g = spec.groups
    if spec.transposed:
        if w[0] != channels:
            raise InvalidArgumentError("kernel.shape[0]", f"the {channels} input channels (transposed)", w[0])
        return w[1] * g
    if w[1] != channels // g:
        expected = f"{channels // g} ({channels} input channels / {g} groups)"
        raise InvalidArgumentError("kernel.shape[1]", expected, w[1])
    if w[0] % g:
        raise InvalidArgumentError("groups", f"a divisor of the {w[0]} output channels", g)
    return w[0]


def _check_slopes(activation: Activation | None, out_channels: int) -> None:
    if activation is not None and len(activation.slope) not in (0, 1, out_channels):
        expected = f"1 or {out_channels} values (output channels)"
        raise InvalidArgumentError("activation.slope", expected, len(activation.slope))


def _check_output_padding(out_pad: Shape, stride: Shape, dilation: Shape) -> None:
    for axis, (r, s, d) in enumerate(zip(out_pad, stride, dilation, strict=True)):
        if r >= max(s, d):
            expected = f"less than max(stride {s}, dilation {d})"
            raise InvalidArgumentError(f"output_padding[{axis}]", expected, r)


def _check_output(
    transposed: bool, output: Shape, extents: Shape, padding: tuple[Pair, ...], reach: Sequence[int]
) -> None:
    for axis, (o, h, pair, e) in enumerate(zip(output, extents, padding, reach, strict=True)):
        if o >= 1:
            continue
        if transposed:
            raise InvalidArgumentError(f"padding[{axis}]", "padding that leaves at least one output", pair)
        expected = f"an effective extent of at most {h + sum(pair)}, the padded input"
        raise InvalidArgumentError(f"kernel.shape[{axis + 2}]", expected, e)


__getattr__ = moved_names(__name__, {"receptive_field": "groupconv.convolution.totals"})
