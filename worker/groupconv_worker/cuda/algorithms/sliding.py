"""How a convolution is cut into threads that slide down rows: the launches of kernels/depthwise.cu and stencil.cu."""

from functools import lru_cache
from typing import Any

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cuda.arguments import Launch

DIVISOR = np.dtype([("divisor", np.uint32), ("multiplier", np.uint32), ("shift", np.int32)], align=True)
SLIDING = np.dtype(
    [
        ("columns", DIVISOR),
        ("strips", DIVISOR),
        ("chunks", DIVISOR),
        ("per_group", DIVISOR),
        ("threads", np.uint32),
        ("c", np.int32),
        ("m", np.int32),
        ("splits", np.int32),
        ("in", np.int32, 2),
        ("out", np.int32, 2),
        ("padding", np.int32, 2),
    ],
    align=True,
)
"""`Divisor` and `Sliding` of kernels/sliding.cuh."""

VECTOR = 4
"""Taps of one load."""

FILTERS = 4
"""Filters that a thread of the stencil kernel sums at once."""

ALIGNMENT = 16
"""Bytes of the widest load."""

SQUARES = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2))
DEPTHWISE = {4: SQUARES[:5], 1: SQUARES}
STENCIL = {4: SQUARES[:2], 2: SQUARES[:1], 1: SQUARES[:2]}
"""(kernel, stride) that each kernel is compiled for, by outputs side by side. More than one are stored as a vector.

Other combinations spill registers or were not faster (a depthwise 14 × 14 in vectors of two).
"""

BLOCKS_EACH = 4
"""Blocks of one warp for each multiprocessor, before blocks grow: so a small map is spread over all of them."""

THREADS, RESIDENT = 128, 512
"""Threads of a block at most, and of a multiprocessor that has as many as the stencil kernel's registers allow."""

SPLITS = 16
"""Threads that share the channels of an output, at most."""

LARGEST = 2**31
"""Threads are counted, and the map's coordinates kept, in 31 bits; offsets in tensors have 64."""


def is_aligned(x: Any, y: Any) -> bool:
    """Whether two device arrays begin at multiples of `ALIGNMENT`, so that vectors may be loaded and stored."""
    return not (x.data.ptr % ALIGNMENT or y.data.ptr % ALIGNMENT)


def depthwise_takes(g: Geometry, accumulate: np.dtype) -> bool:
    """Whether the depthwise kernel takes `g`, with sums of this dtype."""
    return g.in_channels == g.groups and _takes(g, accumulate, DEPTHWISE[1], 1)


def stencil_takes(g: Geometry, accumulate: np.dtype) -> bool:
    """Whether the stencil kernel takes `g`, with sums of this dtype."""
    return g.out_channels > g.groups and _takes(g, accumulate, STENCIL[1], FILTERS)


def _takes(g: Geometry, accumulate: np.dtype, squares: tuple[tuple[int, int], ...], filters: int) -> bool:
    if g.transposed or g.rank != 2 or g.padding_mode != "zeros" or set(g.dilation) != {1}:
        return False
    if accumulate.kind != "f" or accumulate.itemsize > 4 or square_of(g) not in squares:
        return False
    return max(*g.padded, thread_count(g, g.batch, g.groups, 1, filters)) < LARGEST


def square_of(g: Geometry) -> tuple[int, int] | None:
    """Kernel and stride, where they are the same along both axes; an axis with one output has any stride.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> square_of(resolve(ConvSpec(stride=2, padding=1), (1, 1, 1, 8), (1, 1, 3, 3)))
        (3, 2)
    """
    kernel, stride = g.kernel[0], max(g.stride)
    equal = all(s == stride or o == 1 for s, o in zip(g.stride, g.output, strict=True))
    return (kernel, stride) if equal and g.kernel[1] == kernel else None


def outputs_below(stride: int, side_by_side: int, filters: int = 1) -> int:
    """Outputs a thread has below each other: as many as spare loads of rows, where there are registers for them.

    At stride 2, strips of 4 share one row of 9; at stride 1, strips of 8 share two of 10.
    """
    return min((16 if filters == 1 else 8) // side_by_side, 8 if stride == 1 else 4)


def thread_count(g: Geometry, batch: int, groups: int, side_by_side: int, filters: int) -> int:
    """Threads for `groups` groups of `batch` samples."""
    below = outputs_below(max(g.stride), side_by_side, filters)
    chunks = -(-(g.out_channels // g.groups) // filters)
    return batch * groups * chunks * -(-g.output[0] // below) * -(-g.output[1] // side_by_side)


@lru_cache(maxsize=1024)
def plan_launch(
    g: Geometry, batch: int, groups: int, filters: int, multiprocessors: int, *, aligned: bool, split: bool = False
) -> Launch:
    """The launch for `groups` groups of `batch` samples.

    Its shape is kernel, stride, outputs of a thread side by side and below each other, and for the stencil kernel
    filters; its argument a `SLIDING`.

    Args:
        g: a convolution that the kernel takes.
        batch: samples.
        groups: groups.
        filters: that a thread sums at once: 1 for the depthwise kernel, `FILTERS` for the stencil kernel.
        multiprocessors: of the device.
        aligned: whether x and y begin at multiples of `ALIGNMENT`.
        split: whether threads may share the channels of an output, where there are too few for the device. The
            order of the sums then depends on the size of a piece.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> g = resolve(ConvSpec(groups=32, padding=1), (1, 32, 112, 112), (32, 1, 3, 3))
        >>> launch = plan_launch(g, 1, 32, 1, 132, aligned=True)
        >>> launch.shape, launch.blocks, launch.threads  # 32 planes of 28 × 28 threads
        ((3, 1, 4, 4), 784, 32)
    """
    square = square_of(g)
    assert square is not None, "supports() checks that it is one"
    kinds = (DEPTHWISE if filters == 1 else STENCIL).items()
    side_by_side = next(
        n
        for n, kinds_of_vectors in kinds
        if n == 1 or (aligned and square in kinds_of_vectors and _whole_vectors(g, n))
    )
    below = outputs_below(square[1], side_by_side, filters)
    per_group = -(-(g.out_channels // g.groups) // filters)
    count = thread_count(g, batch, groups, side_by_side, filters)
    channels = g.in_channels // g.groups
    splits = split_count(count, channels, multiprocessors) if split else 1
    enough = (n for n in (THREADS, 64) if splits > 1 or count >= n * BLOCKS_EACH * multiprocessors)
    threads = next(enough, 32)
    shared = threads * side_by_side * below * filters * 4 if splits > 1 else 0  # sums of four bytes
    argument = np.zeros((), dtype=SLIDING)
    argument["columns"] = divisor(-(-g.output[1] // side_by_side))
    argument["strips"] = divisor(-(-g.output[0] // below))
    argument["chunks"], argument["per_group"] = divisor(groups * per_group), divisor(per_group)
    argument["splits"], argument["threads"] = splits, count
    argument["c"], argument["m"] = channels, g.out_channels // g.groups
    argument["in"], argument["out"], argument["padding"] = g.input, g.output, [lo for lo, _ in g.padding]
    shape = (*square, side_by_side, below) if filters == 1 else (*square, side_by_side, below, filters)
    return Launch(shape, -(-count // (threads // splits)), threads, shared, argument)


def split_count(count: int, channels: int, multiprocessors: int) -> int:
    """How many threads share the channels of an output: as many as the device holds at once, a power of two.

    Example:
        >>> split_count(3584, 16, 132), split_count(100_000, 16, 132), split_count(3584, 3, 132)
        (16, 1, 2)
    """
    splits = 1
    while splits < SPLITS and 2 * splits <= channels and 2 * splits * count <= RESIDENT * multiprocessors:
        splits *= 2
    return splits


def _whole_vectors(g: Geometry, side_by_side: int) -> bool:
    """Whether rows are whole vectors, and `stride` columns of x belong to one of y, the middle tap to their first."""
    same = g.padding[1][0] == g.kernel[1] // 2 and g.input[1] == g.stride[1] * g.output[1]
    return same and g.output[1] % side_by_side == 0


def divisor(d: int) -> tuple[int, int, int]:
    """d, with m and s so that n // d == n * m >> s for all n below 2^31.

    m is 2^s / d rounded up, off by less than 2^-31 of its value: s is the least that makes it so.

    Example:
        >>> d, m, s = divisor(7)
        >>> (2**31 - 1) * m >> s == (2**31 - 1) // 7
        True
    """
    shift = 31 + (d - 1).bit_length()
    return d, -(-(2**shift) // d), shift


def pack_taps(weight: Array, g: Geometry) -> Array:
    """The filters of a depthwise convolution as (M, ΠK filled up to whole vectors), in float32.

    Args:
        weight: (M, 1, K, K).
        g: the geometry; its kernel is flipped here if it asks for that.
    """
    w = np.flip(weight, (2, 3)) if g.flip_kernel else weight
    taps = w.shape[2] * w.shape[3]
    packed = np.zeros((w.shape[0], -(-taps // VECTOR) * VECTOR), dtype=np.float32)
    packed[:, :taps] = w.reshape(w.shape[0], taps)
    return packed
