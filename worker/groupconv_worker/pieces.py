"""Work on large arrays in pieces, with a check between them whether the job (job.py) is over."""

import math
from collections.abc import Iterator

import numpy as np

from groupconv.convolution.spec import Activation
from groupconv_worker.contract import Array
from groupconv_worker.epilogue import activate
from groupconv_worker.job import current

PIECE = 2**20
"""Elements of a piece: a copy takes a millisecond, an error function some ten."""


def blocks(shape: tuple[int, ...], most: int = PIECE) -> Iterator[tuple[slice, ...]]:
    """Indices that cut an array of this shape into pieces of at most `most` elements, in the order of memory.

    Raises:
        GroupconvError: before a piece, if the job of this thread is over.

    Example:
        >>> list(blocks((2, 3), 2))
        [(slice(0, 1, None), slice(0, 2, None)), (slice(0, 1, None), slice(2, 3, None)),
         (slice(1, 2, None), slice(0, 2, None)), (slice(1, 2, None), slice(2, 3, None))]
    """
    current().check()
    if math.prod(shape) <= most:
        yield ()
        return
    inner = math.prod(shape[1:])
    for start in range(0, shape[0], step := max(1, most // max(1, inner))):
        some = slice(start, min(start + step, shape[0]))
        if inner <= most:
            current().check()
            yield (some,)
        else:
            yield from ((some, *rest) for rest in blocks(shape[1:], most))


@np.errstate(all="ignore")  # NaN and infinity are data
def copy(source: Array, target: Array) -> Array:
    """`target`, filled with `source` of the same shape, in its own dtype."""
    for at in blocks(target.shape):
        target[at] = source[at]
    return target


def pad(x: Array, padding: tuple[tuple[int, int], ...], mode: str) -> Array:
    """x (N, C, *input) with padding around each channel, as `numpy.pad` makes it."""
    padded = tuple(h + low + high for h, (low, high) in zip(x.shape[2:], padding, strict=True))
    padded_x = np.empty((*x.shape[:2], *padded), x.dtype)
    each = max(1, PIECE // math.prod(padded))
    for n in range(len(x)):
        for start in range(0, x.shape[1], each):
            current().check()
            some = slice(start, start + each)
            padded_x[n, some] = np.pad(x[n, some], ((0, 0), *padding), mode=mode)  # type: ignore[call-overload]
    return padded_x


def erf(x: Array) -> Array:
    """The error function of each element. The first call loads SciPy, which takes a third of a second.

    Example:
        >>> erf(np.zeros(2)).tolist()
        [0.0, 0.0]
    """
    from scipy import special

    values: Array = special.erf(x)
    return values


def apply(y: Array, activation: Activation | None) -> None:
    """Apply an activation to y (N, M, *output) in place."""
    if activation is None:
        return
    for at in blocks(y.shape):
        channels = at[1] if len(at) > 1 else slice(0, y.shape[1])
        activate(y[at], activation.channels(channels.start, channels.stop), np, erf)
