"""How a depthwise or thin grouped convolution is cut into blocks: the launch of kernels/grouped.cu."""

import math
from functools import lru_cache

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cuda.arguments import Launch, three

GROUPING = np.dtype(
    [
        ("kernel", np.int32, 3),
        ("dilation", np.int32, 3),
        ("padding", np.int32, 3),
        ("lanes", np.int32),
        ("strips", np.int32),
        ("groups", np.int32),
        ("tiles_x", np.int32),
        ("tiles_y", np.int32),
        ("filter_chunks", np.int32),
        ("group_blocks", np.int32),
        ("rows", np.int32),
        ("cols", np.int32),
        ("parity", np.int32),
        ("pitch", np.int32),
        ("plane", np.int32),
    ],
    align=True,
)
"""`Grouping` of kernels/grouped.cu."""

BANKS = 32
THREADS = 256
SHARED_BYTES = 48 * 1024
"""Shared memory of a block without opting in to more. Source: CUDA C++ Programming Guide, technical specifications."""


def template_of(g: Geometry, itemsize: int) -> tuple[int, int, int, int]:
    """Which instantiation suits `g`: (kernel, stride, filters, outputs).

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> template_of(resolve(ConvSpec(groups=8, padding=1), (1, 8, 9, 9), (8, 1, 3, 3)), 4)
        (3, 1, 1, 4)
    """
    filters = 4 if g.out_channels // g.groups > 1 else 1
    extent, step = g.kernel[-1], g.stride[-1]
    square = g.rank > 1 and g.kernel[-2] == extent and g.stride[-2] == step and set(g.dilation[-2:]) == {1}
    known = extent in (3, 5, 7) and step in (1, 2) and extent * filters < 28 and itemsize < 8
    if square and known:
        return extent, step, filters, 4
    return 0, 0, filters, 4 if three(g.output, 1)[1] > 1 else 1


@lru_cache(maxsize=1024)
def plan_launch(g: Geometry, batch: int, groups: int, itemsize: int) -> Launch | None:
    """The launch for `groups` groups of `batch` samples, or None where no tile fits in shared memory.

    Its shape is kernel, stride (0 for any), filters and outputs of a thread; its argument a `GROUPING`.

    Args:
        g: a convolution that is not transposed.
        batch: samples.
        groups: groups.
        itemsize: bytes of an accumulator, which shared memory holds.
    """
    shape = template_of(g, itemsize)
    filters, outputs = shape[2:]
    out, kernel, dilation = three(g.output, 1), three(g.kernel, 1), three(g.dilation, 1)
    stride = three(g.stride, 1)
    # Lanes are no wider than the map, so that small maps leave none idle. Strips of rows, then groups, fill the block.
    lanes = next((n for n in (8, 16) if out[2] <= n), BANKS)
    strips = min(THREADS // lanes, -(-out[1] // outputs))
    some_groups = max(1, min(groups, THREADS // (lanes * strips)))
    while True:
        rows = (strips * outputs - 1) * stride[1] + dilation[1] * (kernel[1] - 1) + 1
        cols = (lanes - 1) * stride[2] + dilation[2] * (kernel[2] - 1) + 1
        parity = _pad(-(-cols // stride[2]), BANKS // 2 if stride[2] == 2 else 0, BANKS if stride[2] == 2 else 1)
        pitch = _strip_pitch(parity * stride[2], outputs * stride[1], lanes)
        plane = _pad(rows * pitch, lanes * strips % BANKS, BANKS)
        planes = g.in_channels // g.groups * kernel[0]
        per_group = plane + kernel[1] * kernel[2] * filters
        shared = (2 if planes > 1 else 1) * some_groups * per_group * itemsize
        if shared <= SHARED_BYTES:
            break
        if some_groups > 1:
            some_groups //= 2
        elif strips > 1:
            strips //= 2
        elif lanes > 8:
            lanes //= 2
        else:
            return None
    tiles_x, tiles_y = -(-out[2] // lanes), -(-out[1] // (strips * outputs))
    chunks, group_blocks = -(-(g.out_channels // g.groups) // filters), -(-groups // some_groups)
    argument = np.zeros((), dtype=GROUPING)
    argument["kernel"], argument["dilation"] = kernel, dilation
    argument["padding"] = [lo for lo, _ in three(g.padding, (0, 0))]
    values = (lanes, strips, some_groups, tiles_x, tiles_y, chunks, group_blocks, rows, cols, parity, pitch, plane)
    names = [name for name in GROUPING.names or () if name not in ("kernel", "dilation", "padding")]
    for name, value in zip(names, values, strict=True):
        argument[name] = value
    blocks = tiles_x * tiles_y * out[0] * chunks * group_blocks * batch
    threads = math.ceil(lanes * strips * some_groups / 32) * 32
    return Launch(shape, blocks, threads, shared, argument)


def pack_grouped(weight: Array, g: Geometry, filters: int) -> Array:
    """The filters as (g, chunks, C/g, *kernel, filters), so that a block's share of a plane is contiguous.

    Args:
        weight: (M, C/g, *kernel).
        g: the geometry; its kernel is flipped here if it asks for that.
        filters: of a chunk; zeros fill the last one up.
    """
    per_group = g.out_channels // g.groups
    w = np.flip(weight, tuple(range(2, weight.ndim))) if g.flip_kernel else weight
    chunks = -(-per_group // filters)
    padded = np.zeros((g.groups, chunks * filters, *w.shape[1:]), dtype=w.dtype)
    padded[:, :per_group] = w.reshape(g.groups, per_group, *w.shape[1:])
    return np.ascontiguousarray(np.moveaxis(padded.reshape(g.groups, chunks, filters, *w.shape[1:]), 2, -1))


def _pad(value: int, remainder: int, modulus: int) -> int:
    """The least number from `value` on that leaves `remainder`.

    Example:
        >>> _pad(33, 16, 32), _pad(32, 0, 32)
        (48, 32)
    """
    return value + (remainder - value) % modulus


def _strip_pitch(least: int, rows: int, lanes: int) -> int:
    """A row length from `least` on at which strips of `rows` rows begin `lanes` banks apart, if there is one."""
    fitting = (p for p in range(least, least + BANKS) if rows * p % BANKS == lanes % BANKS)
    return next(fitting, least)
