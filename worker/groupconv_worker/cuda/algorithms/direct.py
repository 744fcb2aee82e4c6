"""Direct convolution on the device: kernels/direct.cu. It takes every problem and needs no workspace."""

import math
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.algorithms.instances import DirectTile
from groupconv_worker.cuda.arguments import gather_of, is_near, pack_filters
from groupconv_worker.cuda.device import Device, storage

VECTOR_BYTES = 16
"""One load of filters."""

SPLITS = (1, 2, 4, 8, 16, 32)
"""Parts that a reduction may be cut into where too few outputs would fill the device."""

GATHER_COST, PART_COST, LAUNCH_COST = 16, 100, 500_000
"""Cost of gathering an input, of writing and reading a part of a sum, of one more launch, in products of a
multiprocessor."""

LARGEST = 2**31
"""Coordinates of a padded input and of an output are int32; offsets in tensors are 64 bits wide."""


class Direct(DeviceKernel):
    """Plain and transposed convolutions as an implicit GEMM."""

    algorithm = "direct"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        self._table = device.tap_table(self.geometry)
        vector = VECTOR_BYTES // self.types.weight.itemsize
        self.filters = self.upload(pack_filters(weight, self.geometry, self._table.order, vector))  # (g, rows, m_pitch)

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """Every problem whose axes, padding included, fit in an int32."""
        g = problem.geometry
        return max(*g.padded, *g.output, 0) < LARGEST

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._table.nbytes

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        g, device, wide = self.geometry, self.device, self.types.accumulate
        order, groups = self._table.order, self.groups_in(x)
        cells = x.shape[0] * math.prod(
            -(-out // step) for out, step in zip(g.output, g.stride if g.transposed else (1,) * g.rank, strict=True)
        )  # of the first phase, which has the most
        tile, splits = plan_direct(
            instances.direct_tiles(self.types.input),
            self.outputs,
            cells,
            groups * order.phases,
            len(order.taps) // order.phases,
            device.multiprocessors,
            # the number of parts depends on the batch, and rounding on the number of parts
            1 if device.options.deterministic else budget // (y.size * wide.itemsize),
        )
        packed = self.filters[first_group : first_group + groups]
        epilogue = self.epilogue_of(first_group)
        partial = y if splits == 1 else device.cupy.empty(splits * y.size, storage(wide))
        gather = gather_of(g, order, x.shape[0], groups, packed.shape[2])
        device.kernels.launch(
            "direct.cu",
            instances.direct(self.types, tile, near=is_near(g)),
            -(-self.outputs // tile.bm) * -(-cells // tile.bn) * groups * order.phases * splits,
            tile.threads,
            (x, packed, self._table.taps, self._table.starts, epilogue, y, partial, np.int32(splits), gather),
        )
        if splits > 1:
            sizes = np.int64(y.size), np.int64(math.prod(g.output)), np.int32(groups * self.outputs), np.int32(splits)
            device.kernels.launch(
                "finish.cu", instances.combine(self.types), -(-y.size // 256), 256, (partial, epilogue, y, *sizes)
            )


def plan_direct(
    tiles: tuple[DirectTile, ...],
    filters: int,
    cells: int,
    repeats: int,
    rows: int,
    multiprocessors: int,
    most_splits: int = 1,
) -> tuple[DirectTile, int]:
    """The tile and the number of parts of the reduction that waste least.

    Padding filters to whole tiles wastes products, and a multiprocessor without a block wastes its time. Parts cost
    a second launch, and their sums travel through memory.

    Args:
        tiles: those that are compiled, widest first.
        filters: of a group.
        cells: outputs per filter, over the batch.
        repeats: groups × phases.
        rows: of a reduction.
        multiprocessors: of the device.
        most_splits: parts that the workspace has room for.

    Example:
        >>> tile, splits = plan_direct(instances.DIRECT_TILES, 256, 50_000, 1, 576, 108, 32)
        >>> tile.bm, splits
        (128, 1)
        >>> plan_direct(instances.DIRECT_TILES, 8, 50_000, 32, 72, 108)[0].bm
        16
        >>> plan_direct(instances.DIRECT_TILES, 384, 169, 1, 2304, 108, 32)[1]  # 13 × 13: a few blocks of long sums
        8
    """

    def cost(plan: tuple[DirectTile, int]) -> float:
        """Products that a multiprocessor could have made in the time."""
        tile, splits = plan
        blocks = -(-filters // tile.bm) * -(-cells // tile.bn) * repeats * splits
        waves = -(-blocks // multiprocessors)
        # each row of a tile gathers bn inputs and makes bm x bn products; a gather costs about 16 products
        steps = -(-rows // (splits * tile.bk)) * tile.bk
        products = float(waves * steps * tile.bn * (tile.bm + GATHER_COST))
        if splits > 1:
            products += LAUNCH_COST + splits * filters * cells * repeats * PART_COST / multiprocessors
        return products

    return min(((tile, splits) for splits in SPLITS if splits <= max(1, most_splits) for tile in tiles), key=cost)
