"""Padding rules resolved to a (low, high) pair per axis.

Source: the ONNX operators Conv and ConvTranspose for SAME_UPPER and SAME_LOWER.
"""

import math
from collections.abc import Sequence

from groupconv.convolution.spec import ConvSpec, PaddingMode, padding_pairs
from groupconv.errors import InvalidArgumentError

Pair = tuple[int, int]
Shape = tuple[int, ...]


def effective_extent(kernel: int, dilation: int) -> int:
    """Elements from the first to the last tap of a dilated kernel: d·(K-1) + 1.

    Example:
        >>> effective_extent(3, 12)
        25
    """
    return dilation * (kernel - 1) + 1


def same_padding(extent: int, kernel: int, stride: int = 1, dilation: int = 1, *, lower: bool = False) -> Pair:
    """Padding (low, high) after which a convolution has ceil(H / s) outputs.

    Source: ONNX Conv, auto_pad: SAME_UPPER puts the odd element at the end, SAME_LOWER at the beginning.

    Example:
        >>> same_padding(224, 7, stride=2), same_padding(224, 7, stride=2, lower=True)
        ((2, 3), (3, 2))
    """
    outputs = math.ceil(extent / stride)
    total = max(0, (outputs - 1) * stride + effective_extent(kernel, dilation) - extent)
    less, more = total // 2, total - total // 2
    return (more, less) if lower else (less, more)


def resolve_padding(
    spec: ConvSpec, extents: Shape, reach: Sequence[int], stride: Shape, out_pad: Shape
) -> tuple[Pair, ...]:
    """Padding (low, high) of each axis.

    Args:
        spec: its padding may be a rule.
        extents: of the input, per axis.
        reach: effective extent of the kernel, per axis.
        stride: per axis.
        out_pad: output padding, per axis.

    Raises:
        InvalidArgumentError: a transposed convolution cannot satisfy the rule.
    """
    if not isinstance(spec.padding, str):
        return padding_pairs(spec.padding, len(extents))
    if spec.padding == "valid":
        return ((0, 0),) * len(extents)
    lower = spec.padding == "same_lower"
    if not spec.transposed:
        return tuple(same_padding(h, e, s, lower=lower) for h, e, s in zip(extents, reach, stride, strict=True))
    pairs = []
    for e, s, r in zip(reach, stride, out_pad, strict=True):
        total = e + r - s  # leaves H·s outputs
        if total < 0:
            expected = f"a kernel that spans the stride ({s}), or output_padding={s - e}, for padding={spec.padding!r}"
            raise InvalidArgumentError("padding", expected, f"kernel extent {e}")
        less, more = total // 2, total - total // 2
        pairs.append((more, less) if lower else (less, more))
    return tuple(pairs)


def check_padding_mode(mode: PaddingMode, extents: Shape, padding: tuple[Pair, ...]) -> None:
    """Check that a padding mode can fill the padding from the input.

    Raises:
        InvalidArgumentError: an axis has too much padding.
    """
    most = {"reflect": -1, "circular": 0}.get(mode)
    if most is None:
        return
    for axis, (h, pair) in enumerate(zip(extents, padding, strict=True)):
        if max(pair) > h + most:
            raise InvalidArgumentError(f"padding[{axis}]", f"at most {h + most} for padding_mode={mode!r}", pair)
