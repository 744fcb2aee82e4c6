"""What `--kernel` and `--depthwise-separable` of the command line say, as steps."""

from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.kernels import gaussian_of, kernel_named
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.separable import depthwise_separable_steps
from groupconv.wire.requests import Array, Step

LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)
"""Brightness of red, green and blue. Source: ITU-R BT.601."""


def steps_of(kernel: str, mix: str | None, channels: int, rank: int, *, alpha: bool, **options: Any) -> list[Step]:
    """Steps that keep the size of an image or volume.

    Args:
        kernel: a name for every channel, names for each with commas between, or a .npy file of (K, K), (C, K, K) or
            (M, C/g, K, K).
        mix: of a depthwise separable convolution: a .npy file of (M, C), or "luma"; None is no second step.
        channels: of the input, alpha included.
        rank: 2 or 3.
        alpha: whether the last channel is one; it is carried along, not convolved.
        options: of `ConvSpec`.

    Raises:
        InvalidArgumentError: a kernel that does not fit.

    Example:
        >>> [s.kernel.shape for s in steps_of("sobel-x", "luma", 3, 2, alpha=False)]
        [(3, 1, 3, 3), (1, 3, 1, 1)]
    """
    colours = channels - alpha
    weight, groups = _weight(kernel, colours, rank)
    if alpha:
        weight, groups = _with_alpha(weight, groups, colours)
    spec = ConvSpec(padding="same", groups=groups, **options)
    if mix is None:
        return [Step(weight, spec=spec)]
    if groups != channels:
        raise InvalidArgumentError("kernel", "one kernel for each channel, to be depthwise separable", weight.shape)
    matrix = LUMA if mix == "luma" else np.load(Path(mix), allow_pickle=False).astype(np.float32)
    if matrix.ndim != 2 or matrix.shape[1] * colours != colours * len(weight[: len(weight) - alpha]):
        raise InvalidArgumentError("depthwise-separable", f"shape (M, {len(weight) - alpha})", matrix.shape)
    if alpha:
        matrix = np.pad(matrix, ((0, 1), (0, 1)))
        matrix[-1, -1] = 1
    return depthwise_separable_steps(weight, matrix, None, spec)


def untouched(kernel: str, mix: str | None) -> str:
    """The kinds of axes, of C and Z, that a kernel does not touch: each channel, or each plane, is a sample.

    Args:
        kernel: as in `steps_of`.
        mix: as in `steps_of`.

    Example:
        >>> untouched("sobel-x", None), untouched("gaussian:2", None), untouched("sobel-x,sharpen", None)
        ('CZ', 'C', 'Z')
    """
    if kernel.endswith(".npy"):
        planar = deep = np.load(kernel, mmap_mode="r", allow_pickle=False).ndim == 2
    else:
        names = kernel.split(",")
        planar, deep = len(names) == 1, all(gaussian_of(name) is None for name in names)
    return "C" * bool(planar and mix is None) + "Z" * bool(deep)


def finds_edges(steps: list[Step]) -> bool:
    """Whether the first kernel answers flat areas with 0, so that results are of either sign."""
    kernel = steps[0].kernel
    sums = np.abs(kernel.reshape(len(kernel), -1).sum(axis=1))
    return bool(sums[0] < 1e-6)


def _weight(text: str, channels: int, rank: int) -> tuple[Array, int]:
    """The weight and its groups."""
    if text.endswith(".npy"):
        array = np.load(text, allow_pickle=False).astype(np.float32)
        if array.ndim == rank + 2 and channels % array.shape[1] == 0:
            return array, channels // array.shape[1]
        array = array[None] if (array.ndim, rank) == (2, 3) else array  # plane by plane
        if array.ndim == rank + 1 and len(array) == channels:
            return array[:, None], channels
        if array.ndim != rank:
            kinds = f"(K, K), (C, K, K) or (M, C/g, K, K) for {channels} channels" + " and 3 axes" * (rank == 3)
            raise InvalidArgumentError("kernel", f"shape {kinds}", array.shape)
        named = [array]
    else:
        named = [_named(name, rank) for name in text.split(",")]
    if len(named) not in (1, channels):
        raise InvalidArgumentError("kernel", f"one name, or one for each of {channels} channels", text)
    size = tuple(max(kernel.shape[axis] for kernel in named) for axis in range(rank))
    weight = np.stack([_centred(kernel, size) for kernel in named])[:, None]
    return np.broadcast_to(weight, (channels, *weight.shape[1:])), channels


def _named(name: str, rank: int) -> Array:
    """In a volume a Gaussian has three axes; every other filter works plane by plane."""
    kernel = kernel_named(name)
    if rank == 2:
        return kernel
    taps = gaussian_of(name)
    return kernel[None] if taps is None else np.einsum("i,j,k->ijk", taps, taps, taps)


def _centred(kernel: Array, size: tuple[int, ...]) -> Array:
    """`kernel`, with zeros around it."""
    return np.pad(kernel, [((n - k) // 2, n - k - (n - k) // 2) for n, k in zip(size, kernel.shape, strict=True)])


def _with_alpha(weight: Array, groups: int, colours: int) -> tuple[Array, int]:
    """The weight with one more channel that is carried along: 1 at the centre of its kernel."""
    centre = tuple((k - 1) // 2 for k in weight.shape[2:])
    if groups == colours == len(weight):  # depthwise
        last = np.zeros((1, 1, *weight.shape[2:]), weight.dtype)
        last[0, 0, *centre] = 1
        return np.concatenate([weight, last]), groups + 1
    if groups == 1:
        wide = np.zeros((len(weight) + 1, colours + 1, *weight.shape[2:]), weight.dtype)
        wide[:-1, :-1] = weight
        wide[-1, -1, *centre] = 1
        return wide, 1
    raise InvalidArgumentError("kernel", "one output for each channel, in an image with alpha", weight.shape)
