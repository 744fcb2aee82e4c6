"""Image filters by name, as 2-D kernels for cross-correlation.

Sources: Sobel and Feldman (1968) for the gradients; the 4-neighbour Laplacian; the Gaussian sampled at integers and
normalized, truncated at four standard deviations as in SciPy and scikit-image.
"""

import numpy as np
from numpy.typing import NDArray

from groupconv.errors import InvalidArgumentError

Kernel = NDArray[np.float32]

_FIXED = {
    "sobel-x": [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
    "sobel-y": [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
    "laplacian": [[0, 1, 0], [1, -4, 1], [0, 1, 0]],
    "sharpen": [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
    "emboss": [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
}
TRUNCATE = 4.0
"""Standard deviations at which a Gaussian is truncated."""
NAMES = (*_FIXED, "gaussian:SIGMA")


def kernel_named(name: str) -> Kernel:
    """The kernel called `name`, (K, K) float32.

    Args:
        name: one of `NAMES`; `gaussian:2.5` has a standard deviation of 2.5 pixels.

    Raises:
        InvalidArgumentError: the name is unknown; the error lists all names.

    Example:
        >>> kernel_named("sobel-x")[1].tolist(), kernel_named("gaussian:1").shape
        ([-2.0, 0.0, 2.0], (9, 9))
    """
    if name in _FIXED:
        return np.array(_FIXED[name], dtype=np.float32)
    taps = gaussian_of(name)
    if taps is not None:
        return np.outer(taps, taps)
    raise InvalidArgumentError("kernel", f"one of {', '.join(NAMES)}, or a .npy file", name)


def gaussian_of(name: str) -> Kernel | None:
    """The 1-D factor of the separable kernel `gaussian:SIGMA`; None for any other name."""
    kind, _, parameter = name.partition(":")
    return gaussian(_sigma(parameter)) if kind == "gaussian" else None


def gaussian(sigma: float, *, truncate: float = TRUNCATE, order: int = 0) -> Kernel:
    """One factor of the separable Gaussian, summing to 1, or of a derivative: (2·int(truncate·σ + 0.5) + 1,) float32.

    Source: `scipy.ndimage.gaussian_filter1d`, whose kernels these are, for cross-correlation.

    Args:
        sigma: standard deviation in pixels; 0 is the identity.
        truncate: radius in standard deviations.
        order: 0 is the Gaussian, 1 and 2 are its derivatives.

    Example:
        >>> [round(float(tap), 3) for tap in gaussian(0.5)]
        [0.0, 0.106, 0.787, 0.106, 0.0]
        >>> [round(float(tap), 3) for tap in gaussian(0.5, truncate=2, order=1)]
        [-0.426, 0.0, 0.426]
    """
    radius = int(truncate * sigma + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    taps = np.exp(-0.5 * (x / sigma) ** 2) if radius else np.ones(1)
    taps /= taps.sum()
    if order == 1:
        taps *= x / sigma**2
    if order == 2:
        taps *= (x**2 / sigma**2 - 1) / sigma**2
    rounded: Kernel = taps.astype(np.float32)
    return rounded


def _sigma(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = -1.0
    if not 0 < sigma <= 1000:
        raise InvalidArgumentError("kernel", "gaussian:SIGMA with 0 < SIGMA <= 1000", f"gaussian:{text}")
    return sigma
