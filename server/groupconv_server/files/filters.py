"""The steps of a filter, from the command line's `--kernel` and `--depthwise-separable`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.kernels import TRUNCATE
from groupconv.convolution.spec import ConvSpec, per_axis
from groupconv.convolution.steps import Array, Step
from groupconv.errors import InvalidArgumentError
from groupconv.separable import pointwise
from groupconv_server.files import npy
from groupconv_server.files.named_filters import ONE, Sum, centered, dense, named, split_names

WIDEST = 255
"""Most taps along an axis of an image's dense filter. Wider filters run as passes, one along each axis, as in a
volume: the cost of a dense one grows with the square of its width."""
LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)
"""Weights of red, green and blue in the luma of ITU-R BT.601."""


@dataclass(frozen=True)
class Filtering:
    """A filter of an image or a volume.

    Attributes:
        steps: convolutions that keep the size of the image.
        parts: outputs for each channel. If there are several, the result is their magnitude.
        edges: whether flat areas become 0, so that results have either sign.
        signed: whether the sign of the results is kept.
    """

    steps: list[Step]
    parts: int = 1
    edges: bool = False
    signed: bool = False


def filtering(
    kernel: str,
    mix: str | None,
    channels: int,
    spatial: str,
    *,
    alpha: bool,
    truncate: float = TRUNCATE,
    stride: int = 1,
    **options: Any,
) -> Filtering:
    """The filter of an image or volume.

    Args:
        kernel: one name for all channels, one name for each (separated by commas), or a .npy file of shape (K, K),
            (C, K, K) or (M, C/g, K, K).
        mix: the pointwise step of a depthwise separable convolution: a .npy file (M, C), or "luma"; None for no step.
        channels: of the input, with alpha.
        spatial: the axes of space, in the order of the feature map.
        alpha: whether the last channel is alpha, which is copied and not convolved.
        truncate: standard deviations at which Gaussians are cut off.
        stride: along each axis.
        options: of `ConvSpec`.

    Raises:
        InvalidArgumentError: the kernel does not fit the channels or the axes.

    Example:
        >>> [s.kernel.shape for s in filtering("sobel-x", "luma", 3, "YX", alpha=False).steps]
        [(3, 1, 3, 3), (1, 3, 1, 1)]
        >>> [s.kernel.shape for s in filtering("gaussian:1", None, 1, "ZYX", alpha=False).steps]
        [(1, 1, 9, 1, 1), (1, 1, 1, 9, 1), (1, 1, 1, 1, 9)]
    """
    rank, colors = len(spatial), channels - alpha
    if kernel.endswith(".npy"):
        weight, groups = _weight(_array(kernel), colors, rank)
        if alpha:
            weight, groups = _with_alpha(weight, groups, colors)
        spec = ConvSpec(padding="same", groups=groups, stride=stride, **options)
        named = Filtering([Step(weight, spec=spec)], edges=bool(abs(weight[0].sum()) < 1e-6))
    else:
        named = _by_name(kernel, colors, rank, alpha=alpha, truncate=truncate, stride=stride, options=options)
    steps = named.steps
    if mix is not None:
        if named.parts != 1 or steps[0].spec.groups != channels or len(steps[-1].kernel) != channels:
            expected = "one kernel for each channel, to be depthwise separable"
            raise InvalidArgumentError("kernel", expected, kernel)
        steps = [*steps, _mixing(mix, colors, rank, alpha=alpha, options=options)]
    order = ["ZYX"[-rank:].index(axis) for axis in spatial]
    return replace(named, steps=[_permuted(step, order) for step in steps])


def foldable(kernel: str, mix: str | None) -> str:
    """Which of the axes C and Z can become samples, because the kernel treats all channels or all planes alike.

    Args:
        kernel: as in `filtering`.
        mix: as in `filtering`.

    Example:
        >>> foldable("sobel-x", None), foldable("gaussian:2", None), foldable("sobel-x,sharpen", None)
        ('CZ', 'C', 'Z')
    """
    if kernel.endswith(".npy"):
        same = flat = _array(kernel).ndim == 2
    else:
        names = split_names(kernel)
        same, flat = len(names) == 1, not any(named(name).deep for name in names)
    return "C" * (same and mix is None) + "Z" * flat


def input_extents(steps: Sequence[Step]) -> tuple[int, ...]:
    """Input cells that one output of a chain of steps needs along each axis of space. Strides are ignored.

    Example:
        >>> input_extents(filtering("gaussian:1", None, 1, "ZYX", alpha=False).steps)
        (9, 9, 9)
    """
    kernels = [np.asarray(step.kernel).shape[2:] for step in steps]
    dilations = [per_axis("dilation", step.spec.dilation, len(kernels[0])) for step in steps]
    spans = [[(k - 1) * d for k, d in zip(ks, ds, strict=True)] for ks, ds in zip(kernels, dilations, strict=True)]
    return tuple(1 + sum(span[axis] for span in spans) for axis in range(len(kernels[0])))


def _by_name(
    text: str, colors: int, rank: int, *, alpha: bool, truncate: float, stride: int, options: dict[str, Any]
) -> Filtering:
    """Named filters as steps: one step for an image, one pass along each axis for a volume."""
    filters = [named(name, truncate) for name in split_names(text)]
    if len(filters) not in (1, colors):
        raise InvalidArgumentError("kernel", f"one name, or one for each of {colors} channels", text)
    by_color = [f.parts(rank) for f in filters] * (colors if len(filters) == 1 else 1)
    parts = len(by_color[0])
    if any(len(sums) != parts for sums in by_color):
        raise InvalidArgumentError("kernel", "gradients alone, or no gradient", text)
    if alpha:
        by_color.append([[(ONE,) * rank], *[[(ONE * 0, *(ONE,) * (rank - 1))]] * (parts - 1)])
    sums = [total for channel in by_color for total in channel]
    gains = [float(np.prod([taps.sum(dtype=np.float64) for taps in term])) for term in sums[0]]
    edges = abs(sum(gains)) < 1e-3  # the sum of truncated derivatives is not exactly 0
    signed = all(f.signed for f in filters)
    if rank == 2 and max(len(taps) for total in sums for term in total for taps in term) <= WIDEST:
        kernels = [dense(total) for total in sums]
        size = [max(kernel.shape[axis] for kernel in kernels) for axis in range(rank)]
        weight = np.stack([centered(kernel, size) for kernel in kernels])[:, None]
        spec = ConvSpec(padding="same", groups=len(by_color), stride=stride, **options)
        return Filtering([Step(weight, spec=spec)], parts, edges, signed)
    return Filtering(_passes(sums, len(by_color), rank, stride, options), parts, edges, signed)


def _passes(sums: list[Sum], channels: int, rank: int, stride: int, options: dict[str, Any]) -> list[Step]:
    """One pass along each axis. The first makes the terms of each channel, the last adds them up."""
    count = max(len(total) for total in sums)
    nothing = (ONE * 0, *(ONE,) * (rank - 1))
    terms = [term for total in sums for term in (*total, *[nothing] * (count - len(total)))]
    steps = []
    for axis in range(rank):
        extent = max(len(term[axis]) for term in terms)
        weight = np.stack([centered(term[axis], (extent,)) for term in terms])
        if axis == rank - 1:
            weight, groups = weight.reshape(len(sums), count, extent), len(sums)
        else:
            weight, groups = weight[:, None], channels if axis == 0 else len(terms)
        shape = (*weight.shape[:2], *(extent if i == axis else 1 for i in range(rank)))
        along = tuple(stride if i == axis else 1 for i in range(rank))
        steps.append(Step(weight.reshape(shape), spec=ConvSpec(padding="same", groups=groups, stride=along, **options)))
    return steps


def _array(path: str) -> Array:
    """The array of a .npy file."""
    return npy.whole(Path(path), "kernel").astype(np.float32)


def _weight(array: Array, channels: int, rank: int) -> tuple[Array, int]:
    """A .npy file's kernel as a weight, and the number of groups."""
    if array.ndim == rank + 2 and array.shape[1] and channels % array.shape[1] == 0:
        groups = channels // array.shape[1]
        if len(array) % groups:
            expected = f"a number of filters that its {groups} groups of channels divide, in shape (M, C/g, …)"
            raise InvalidArgumentError("kernel", expected, array.shape)
        return array, groups
    array = array[None] if (array.ndim, rank) == (2, 3) else array  # plane by plane
    if array.ndim == rank + 1 and len(array) == channels:
        return array[:, None], channels
    if array.ndim != rank:
        one = ", ".join("K" * rank)
        kinds = f"({one}), (C, {one}) or (M, C/g, {one}) for {channels} channels" + ", or (K, K)" * (rank == 3)
        raise InvalidArgumentError("kernel", f"shape {kinds}", array.shape)
    return np.broadcast_to(array, (channels, 1, *array.shape)), channels


def _mixing(mix: str, colors: int, rank: int, *, alpha: bool, options: dict[str, Any]) -> Step:
    """The pointwise step of a depthwise separable convolution."""
    matrix = LUMA if mix == "luma" else _array(str(Path(mix)))
    if matrix.ndim != 2 or matrix.shape[1] != colors:
        raise InvalidArgumentError("depthwise-separable", f"shape (M, {colors})", matrix.shape)
    if alpha:
        matrix = np.pad(matrix, ((0, 1), (0, 1)))
        matrix[-1, -1] = 1
    of_both = {name: options[name] for name in ("exact", "math") if name in options}
    return Step(pointwise(matrix, rank), spec=ConvSpec(**of_both))


def _with_alpha(weight: Array, groups: int, colors: int) -> tuple[Array, int]:
    """The weight with one more channel that is copied: its kernel is 1 at the center."""
    centre = tuple((k - 1) // 2 for k in weight.shape[2:])
    if groups == colors == len(weight):  # depthwise
        last = np.zeros((1, 1, *weight.shape[2:]), weight.dtype)
        last[0, 0, *centre] = 1
        return np.concatenate([weight, last]), groups + 1
    if groups == 1:
        wide = np.zeros((len(weight) + 1, colors + 1, *weight.shape[2:]), weight.dtype)
        wide[:-1, :-1] = weight
        wide[-1, -1, *centre] = 1
        return wide, 1
    raise InvalidArgumentError("kernel", "one output for each channel of an image with alpha", weight.shape)


def _permuted(step: Step, order: Sequence[int]) -> Step:
    """A step with its axes of space in another order."""
    stride = step.spec.stride
    along = stride if isinstance(stride, int) else tuple(stride[i] for i in order)
    kernel = np.ascontiguousarray(np.asarray(step.kernel).transpose(0, 1, *(2 + i for i in order)))
    return replace(step, kernel=kernel, spec=replace(step.spec, stride=along))
