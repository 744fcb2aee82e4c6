"""Image filters by name, as 2-D kernels for cross-correlation.

Sources: Sobel and Feldman (1968) for the gradients; the 4-neighbour Laplacian; the Gaussian sampled at integers and
normalised, cut at three standard deviations.
"""

import math

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
NAMES = (*_FIXED, "gaussian:SIGMA")


def kernel_named(name: str) -> Kernel:
    """The kernel called `name`, (K, K) float32.

    Args:
        name: one of `NAMES`; `gaussian:2.5` has a standard deviation of 2.5 pixels.

    Raises:
        InvalidArgumentError: listing the names there are.

    Example:
        >>> kernel_named("sobel-x")[1].tolist(), kernel_named("gaussian:1").shape
        ([-2.0, 0.0, 2.0], (7, 7))
    """
    if name in _FIXED:
        return np.array(_FIXED[name], dtype=np.float32)
    taps = gaussian_of(name)
    if taps is not None:
        return np.outer(taps, taps)
    raise InvalidArgumentError("kernel", f"one of {', '.join(NAMES)}, or a .npy file", name)


def gaussian_of(name: str) -> Kernel | None:
    """The factor of the kernel `gaussian:SIGMA`, which has as many axes as one likes; None for any other name."""
    kind, _, parameter = name.partition(":")
    return gaussian(_sigma(parameter)) if kind == "gaussian" else None


def gaussian(sigma: float) -> Kernel:
    """One factor of the separable Gaussian, (2·ceil(3σ)+1,) float32, summing to 1.

    Example:
        >>> [round(float(tap), 3) for tap in gaussian(0.5)]
        [0.0, 0.106, 0.787, 0.106, 0.0]
    """
    radius = max(1, math.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    normalised: Kernel = (taps / taps.sum()).astype(np.float32)
    return normalised


def _sigma(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = -1.0
    if not 0 < sigma <= 1000:
        raise InvalidArgumentError("kernel", "gaussian:SIGMA with 0 < SIGMA <= 1000", f"gaussian:{text}")
    return sigma
