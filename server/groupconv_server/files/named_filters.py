"""The named filters of `--kernel`: each is a sum of outer products of taps along the axes.

In an image the sum is one kernel. In a volume it is one pass along each axis: 3·K multiplications in place of K³.
Sources: scipy.ndimage for the Gaussian and its derivatives; skimage.filters for unsharp masking.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.convolution.kernels import NAMES as FIXED
from groupconv.convolution.kernels import TRUNCATE, Kernel, gaussian, kernel_named
from groupconv.errors import InvalidArgumentError

Term = tuple[Kernel, ...]
"""Taps along each axis of space. The term is their outer product."""
Sum = list[Term]
PARAMETERS = {
    "gaussian": "gaussian:SIGMA[,SIGMA,SIGMA]",
    "dog": "dog:SIGMA,SIGMA",
    "log": "log:SIGMA[,SIGMA,SIGMA]",
    "gradient": "gradient:SIGMA[,SIGMA,SIGMA]",
    "unsharp": "unsharp:SIGMA[,AMOUNT]",
}
"""Filters with parameters. Several values of SIGMA are for the axes y,x or z,y,x."""
NAMES = (*(name for name in FIXED if ":" not in name), *PARAMETERS.values())
LARGEST_SIGMA = 1000.0
ONE = np.ones(1, np.float32)


@dataclass(frozen=True)
class Named:
    """A filter by its name.

    Attributes:
        kind: the name without its parameters.
        values: the parameters.
        truncate: standard deviations at which Gaussians are cut off.
    """

    kind: str
    values: tuple[float, ...] = ()
    truncate: float = TRUNCATE

    @property
    def deep(self) -> bool:
        """Whether it filters a volume along Z, too; other filters work plane by plane."""
        if self.kind in ("dog", "unsharp"):
            return True
        return self.kind in PARAMETERS and len(self.values) != 2 and (len(self.values) == 1 or self.values[0] > 0)

    @property
    def signed(self) -> bool:
        """Whether the sign of its results is kept, as for a band-pass."""
        return self.kind in ("dog", "log")

    def parts(self, rank: int) -> list[Sum]:
        """The filter's kernels over `rank` axes. If there are several, the result is their magnitude."""
        if self.kind not in PARAMETERS:
            plane = kernel_named(self.kind)
            lines = np.eye(len(plane), dtype=np.float32)
            return [[(*(ONE,) * (rank - 2), line, row) for line, row in zip(lines, plane, strict=True) if row.any()]]
        return SUMS[self.kind](self, rank)

    def blur(self, sigmas: Sequence[float], orders: Sequence[int] | None = None, scale: float = 1.0) -> Term:
        """A Gaussian with one sigma for each axis, differentiated `orders` times along each."""
        orders = orders or [0] * len(sigmas)
        taps = [gaussian(s, truncate=self.truncate, order=o) for s, o in zip(sigmas, orders, strict=True)]
        return (taps[0] * np.float32(scale), *taps[1:])

    def sigmas(self, rank: int) -> list[float]:
        """One sigma for each axis, from one value for all axes, two for y and x, or three for z, y and x."""
        values = list(self.values) * rank if len(self.values) == 1 else list(self.values)
        return ([0.0] * rank + values)[-rank:]


def named(text: str, truncate: float = TRUNCATE) -> Named:
    """The filter that a name means.

    Raises:
        InvalidArgumentError: there is no such filter, or a parameter is out of range.

    Example:
        >>> named("gaussian:0.5,2,2").sigmas(3), named("sobel-x").deep
        ([0.5, 2.0, 2.0], False)
    """
    kind, colon, rest = text.partition(":")
    if kind not in PARAMETERS or not colon:
        if text not in FIXED or ":" in text:
            raise InvalidArgumentError("kernel", f"one of {', '.join(NAMES)}, or a .npy file", text)
        return Named(text)
    try:
        values = tuple(float(value) for value in rest.split(","))
    except ValueError:
        values = ()
    least, most = {"dog": (2, 2), "unsharp": (1, 2)}.get(kind, (1, 3))
    sigmas = values[:1] if kind == "unsharp" else values
    allowed = all(0 <= sigma <= LARGEST_SIGMA for sigma in sigmas) and any(sigmas) and all(np.isfinite(values))
    if not least <= len(values) <= most or not allowed or (len(values) == 1 and not values[0]):
        raise InvalidArgumentError("kernel", f"{PARAMETERS[kind]} with 0 < SIGMA <= {LARGEST_SIGMA:g}", text)
    return Named(kind, values, truncate)


def split_names(text: str) -> list[str]:
    """Names separated by commas. A comma before a number separates parameters instead.

    Example:
        >>> split_names("gaussian:1,gaussian:0.5,2,sobel-x")
        ['gaussian:1', 'gaussian:0.5,2', 'sobel-x']
    """
    return re.split(r",(?![-+.0-9])", text)


def dense(total: Sum) -> Kernel:
    """A sum of outer products as one kernel."""
    size = [max(len(term[axis]) for term in total) for axis in range(len(total[0]))]
    kernel = np.zeros(size)
    for term in total:
        product = np.ones(())
        for taps, extent in zip(term, size, strict=True):
            product = np.multiply.outer(product, centered(taps.astype(np.float64), (extent,)))
        kernel += product
    return kernel.astype(np.float32)


def centered(kernel: Kernel, size: Sequence[int]) -> Kernel:
    """`kernel` in the center of zeros of shape `size`."""
    return np.pad(kernel, [((n - k) // 2, n - k - (n - k) // 2) for n, k in zip(size, kernel.shape, strict=True)])


def _gaussian(f: Named, rank: int) -> list[Sum]:
    return [[f.blur(f.sigmas(rank))]]


def _difference(f: Named, rank: int) -> list[Sum]:
    """A Gaussian minus a wider one."""
    narrow, wide = f.values
    return [[f.blur([narrow] * rank), f.blur([wide] * rank, scale=-1)]]


def _laplacian(f: Named, rank: int) -> list[Sum]:
    """The sum of a Gaussian's second derivatives."""
    sigmas = f.sigmas(rank)
    return [[f.blur(sigmas, [2 * (i == axis) for i in range(rank)]) for axis in range(rank) if sigmas[axis]]]


def _gradient(f: Named, rank: int) -> list[Sum]:
    """The derivatives of a Gaussian along each axis."""
    sigmas = f.sigmas(rank)
    return [[f.blur(sigmas, [int(i == axis) for i in range(rank)])] for axis in range(rank) if sigmas[axis]]


def _unsharp(f: Named, rank: int) -> list[Sum]:
    """The image plus `amount` times its difference from a Gaussian blur."""
    sigma, amount = (*f.values, 1.0)[:2]
    return [[(ONE * np.float32(1 + amount), *(ONE,) * (rank - 1)), f.blur([sigma] * rank, scale=-amount)]]


SUMS: dict[str, Callable[[Named, int], list[Sum]]] = {
    "gaussian": _gaussian,
    "dog": _difference,
    "log": _laplacian,
    "gradient": _gradient,
    "unsharp": _unsharp,
}
