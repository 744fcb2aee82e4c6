"""Every instantiation of every kernel that the engine can launch; the test suite compiles them all.

Algorithms name kernels through the functions here, so the list is complete.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import BFLOAT16, Types, is_float
from groupconv_worker.cuda.algorithms.sliding import DEPTHWISE, FILTERS, STENCIL, outputs_below

CTYPES = {
    "float16": "groupconv::half",
    "bfloat16": "groupconv::bfloat16",
    "float32": "float",
    "float64": "double",
    "int8": "signed char",
    "uint8": "unsigned char",
    "int32": "int",
}
BITS = {2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}


@dataclass(frozen=True, slots=True)
class DirectTile:
    """Tile of the direct kernel: a block computes bm filters × bn cells, bk rows at a time, a thread tm × tn."""

    bm: int
    bn: int
    bk: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.bm // self.tm * (self.bn // self.tn)

    def shared_bytes(self, accumulate: int) -> int:
        """Static shared memory: two buffers of both tiles."""
        return 2 * self.bk * (self.bm + self.bn) * accumulate


DIRECT_TILES = (
    DirectTile(128, 64, 8, 8, 4),
    DirectTile(64, 64, 16, 4, 4),
    DirectTile(32, 128, 8, 4, 4),
    DirectTile(16, 128, 8, 4, 4),
)
"""From many filters to few. A wider tile reuses an input more often; a low one wastes less where m is small."""

GROUPED_SQUARES = ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2))
"""(kernel, stride) with unrolled loops."""

FLOATS = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16, np.dtype(np.float64))


@cache
def ctype(dtype: np.dtype) -> str:
    """The C++ name of a dtype."""
    return CTYPES[str(dtype)]


def direct_tiles(dtype: np.dtype) -> tuple[DirectTile, ...]:
    """The tiles compiled for an input dtype: all for float32 and below, two where speed is not the point."""
    return DIRECT_TILES if is_float(dtype) and dtype.itemsize <= 4 else (DIRECT_TILES[1], DIRECT_TILES[3])


def direct(types: Types, tile: DirectTile, *, near: bool) -> str:
    """The direct kernel; `near` is `arguments.is_near` of the geometry."""
    shape = f"{tile.bm}, {tile.bn}, {tile.bk}, {tile.tm}, {tile.tn}, {str(near).lower()}"
    return f"groupconv::direct<{ctype(types.input)}, {ctype(types.weight)}, {ctype(types.output)}, {shape}>"


def grouped(dtype: np.dtype, kernel: int, stride: int, filters: int, outputs: int) -> str:
    """The grouped kernel: extent and stride (0 for any), filters and outputs of a thread."""
    return f"groupconv::grouped<{ctype(dtype)}, {kernel}, {stride}, {filters}, {outputs}>"


def grouped_shapes(dtype: np.dtype) -> list[tuple[int, int, int, int]]:
    """The (kernel, stride, filters, outputs) compiled for a dtype; 7×7 with 4 filters would spill registers."""
    general = [(0, 0, filters, outputs) for filters in (1, 4) for outputs in (1, 4)]
    if dtype.itemsize == 8:
        return general
    return general + [(k, s, filters, 4) for k, s in GROUPED_SQUARES for filters in (1, 4) if k * filters < 28]


def depthwise(dtype: np.dtype, kernel: int, stride: int, side_by_side: int, below: int) -> str:
    """The depthwise kernel: extent and stride, outputs of a thread side by side and below each other."""
    return f"groupconv::depthwise<{ctype(dtype)}, {kernel}, {stride}, {side_by_side}, {below}>"


def depthwise_shapes() -> list[tuple[int, int, int, int]]:
    """The (kernel, stride, side by side, below) compiled for each dtype."""
    return [(k, s, n, outputs_below(s, n)) for n, squares in DEPTHWISE.items() for k, s in squares]


def stencil(dtype: np.dtype, kernel: int, stride: int, side_by_side: int, below: int, filters: int) -> str:
    """The stencil kernel: extent and stride, outputs of a thread side by side and below each other, filters."""
    return f"groupconv::stencil<{ctype(dtype)}, {kernel}, {stride}, {side_by_side}, {below}, {filters}>"


def stencil_shapes() -> list[tuple[int, int, int, int, int]]:
    """The (kernel, stride, side by side, below, filters) compiled for each dtype."""
    return [(k, s, n, outputs_below(s, n, FILTERS), FILTERS) for n, squares in STENCIL.items() for k, s in squares]


def patches(itemsize: int, *, near: bool) -> str:
    """The patches kernel for elements of a size."""
    return f"groupconv::patches<{BITS[itemsize]}, {str(near).lower()}>"


def finish_in_place(dtype: np.dtype, vector: int) -> str:
    """Bias and activation in place."""
    return f"groupconv::finish_in_place<{ctype(dtype)}, {vector}>"


def finish_channels_last(dtype: np.dtype, vector: int) -> str:
    """Bias and activation in place, where channels are the last axis."""
    return f"groupconv::finish_channels_last<{ctype(dtype)}, {vector}>"


def crop(dtype: np.dtype) -> str:
    """Bias and activation on the way out of a padded array."""
    return f"groupconv::crop<{ctype(dtype)}, {ctype(dtype)}>"


def combine(types: Types) -> str:
    """Parts of sums added up, bias and activation."""
    wide = ctype(types.accumulate) if is_float(types.accumulate) else "unsigned int"  # integers wrap
    return f"groupconv::combine<{wide}, {ctype(types.output)}>"


def spectral(dtype: np.dtype, filters: int) -> str:
    """The product of spectra."""
    return f"groupconv::spectral<{ctype(dtype)}, {filters}>"


def every_instance() -> list[tuple[str, str]]:
    """All (file, expression) the engine can launch."""
    int32 = np.dtype(np.int32)
    wide = {t: np.dtype(np.float64 if t.itemsize == 8 else np.float32) for t in FLOATS}
    inputs: list[Any] = [Types(t, t, wide[t], t) for t in FLOATS]
    inputs += [Types(np.dtype(t), int32, int32, int32) for t in (np.int8, np.uint8, np.int32)]
    instances = [
        ("direct.cu", direct(types, tile, near=near))
        for types in inputs
        for tile in direct_tiles(types.input)
        for near in (True, False)
    ]
    instances += [("grouped.cu", grouped(t, *shape)) for t in FLOATS for shape in grouped_shapes(t)]
    instances += [("depthwise.cu", depthwise(t, *shape)) for t in FLOATS[:-1] for shape in depthwise_shapes()]
    instances += [("stencil.cu", stencil(t, *shape)) for t in FLOATS[:-1] for shape in stencil_shapes()]
    instances += [("patches.cu", patches(size, near=near)) for size, near in product(BITS, (True, False))]
    instances += [("finish.cu", finish_in_place(t, vector)) for t in FLOATS for vector in (1, 4)]
    instances += [("finish.cu", finish_channels_last(t, vector)) for t in FLOATS[:-1] for vector in (1, 4)]
    instances += [("finish.cu", crop(t)) for t in wide.values()]
    instances += [("finish.cu", combine(types)) for types in inputs]
    instances += [("spectral.cu", spectral(t, filters)) for t in wide.values() for filters in (1, 4)]
    return list(dict.fromkeys(instances))
