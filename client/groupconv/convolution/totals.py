"""What one output of a stack of convolutions depends on: its receptive field and its stride.

Going back from the last layer, n neighboring outputs of a convolution read (n-1)·s + d·(K-1) + 1 inputs in a row, and
those of a transposed one at most ⌊(n-1 + d·(K-1)) / s⌋ + 1. For convolutions alone this is 1 + Σ dᵢ·(Kᵢ-1)·Π_{j<i} sⱼ.

Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill (2019).
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, overload

from groupconv.errors import InvalidArgumentError, Words

Shape = tuple[int, ...]
ITEMS = (
    "groupconv.Step, Geometry, Layer or Plan, the plan of a network whose output sees a window of its input, "
    "a pair (ConvSpec, weight shape), or (kernel, stride, dilation)"
)


class Window(NamedTuple):
    """The window of one convolution, with one value per axis.

    Attributes:
        kernel, stride, dilation: K, s, d. The stride is a fraction for a network that is denser than its input.
        transposed: whether it is a transposed convolution.
    """

    kernel: Shape
    stride: tuple[int | Fraction, ...]
    dilation: Shape
    transposed: bool = False


def field_of(windows: Sequence[Window]) -> Shape:
    """Input elements per axis, from the first to the last that one output depends on; () without windows.

    Raises:
        InvalidArgumentError: the windows have different numbers of axes.

    Example:
        >>> field_of([Window((3, 3), (2, 2), (1, 1)), Window((3, 1), (1, 1), (1, 1))])
        (7, 3)
    """
    axes = [list(zip(w.kernel, w.stride, w.dilation, strict=True)) for w in windows]
    if len({len(axis) for axis in axes}) > 1:
        raise InvalidArgumentError("layers", "convolutions of one rank", Words(f"ranks {[len(a) for a in axes]}"))
    field = [1] * len(axes[-1]) if axes else []
    for window, each in zip(reversed(windows), reversed(axes), strict=True):
        for i, (k, s, d) in enumerate(each):
            reach = d * (k - 1)
            field[i] = (
                int((field[i] - 1 + reach) // s if window.transposed else math.ceil((field[i] - 1) * s) + reach) + 1
            )
    return tuple(field)


def stride_of(windows: Sequence[Window]) -> tuple[int | Fraction, ...]:
    """Input elements per axis between two neighboring outputs; a fraction where outputs are denser than inputs.

    Example:
        >>> stride_of([Window((3,), (2,), (1,)), Window((3,), (2,), (1,))])
        (4,)
        >>> stride_of([Window((4,), (2,), (1,), transposed=True)])
        (Fraction(1, 2),)
    """
    steps = [[1 / Fraction(s) if w.transposed else Fraction(s) for s in w.stride] for w in windows]
    products = [math.prod(axis) for axis in zip(*steps, strict=True)]
    return tuple(p.numerator if p.denominator == 1 else p for p in products)


@overload
def receptive_field(layers: Iterable[tuple[int, int, int]]) -> int: ...
@overload
def receptive_field(layers: Any) -> Shape: ...
def receptive_field(layers: Any) -> int | Shape:
    """Input elements per axis that one output of a stack of layers depends on, from the first to the last.

    Args:
        layers: in order: steps, geometries, layers, plans (also of networks), pairs (ConvSpec, weight shape), or
            triples (kernel extent, stride, dilation) of one axis; or a single layer or plan.

    Returns:
        One number per axis; a single number for triples.

    Raises:
        InvalidArgumentError: an item is none of these, or their ranks differ.

    Example:
        >>> receptive_field([(3, 1, 1), (3, 1, 2), (3, 1, 4)])
        15
        >>> from groupconv import ConvSpec
        >>> receptive_field([(ConvSpec(stride=2), (64, 3, 7, 7)), (ConvSpec(), (64, 64, 3, 3))])
        (11, 11)
    """
    items = layers if isinstance(layers, Iterable) and not hasattr(layers, "windows") else [layers]
    windows: list[Window] = []
    plain = True
    for i, item in enumerate(items):
        triple = isinstance(item, Sequence) and len(item) == 3 and all(isinstance(n, int) for n in item)
        plain = plain and triple
        windows += [Window((item[0],), (item[1],), (item[2],))] if triple else _windows(item, i)
    field = field_of(windows)
    return (field[0] if field else 1) if plain else field


def _windows(item: Any, i: int) -> Sequence[Window]:
    """The windows of an item of `receptive_field`.

    Raises:
        InvalidArgumentError: it has none.
    """
    pair = isinstance(item, Sequence) and len(item) == 2 and hasattr(item[0], "window")
    windows_of_item = (item[0].window(item[1]),) if pair else getattr(item, "windows", None)
    if windows_of_item is None:
        raise InvalidArgumentError(f"layers[{i}]", ITEMS, item)
    windows: Sequence[Window] = windows_of_item
    return windows


def words(windows: Sequence[Window]) -> str:
    """Receptive field and stride, for people.

    Example:
        >>> words([Window((5, 5), (2, 2), (1, 1))])
        'receptive field 5 × 5, stride 2 × 2'
    """
    field, stride = (" × ".join(map(str, values)) for values in (field_of(windows), stride_of(windows)))
    return f"receptive field {field}, stride {stride}"
