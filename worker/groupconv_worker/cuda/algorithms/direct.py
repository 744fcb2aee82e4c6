"""Direct convolution on the device: kernels/direct.cu. Takes every problem, and can do without workspace."""

import math
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.instances import DirectTile
from groupconv_worker.cuda.arguments import gather_of, is_near, pack_filters
from groupconv_worker.cuda.device import Device, Epilogue, device_types, storage
from groupconv_worker.cuda.kernel import DeviceKernel

VECTOR_BYTES = 16
"""One load of filters."""

SPLITS = (1, 2, 4, 8, 16, 32)
"""Parts that a reduction may be cut into, where there are too few outputs to fill the device."""

GATHER_COST, PART_COST, LAUNCH_COST = 16, 100, 500_000
"""Of an input gathered, of a part of a sum written and read, of one more launch: in products of a multiprocessor."""

LARGEST = 2**31
"""Coordinates of a padded input and of an output are int32; offsets in tensors are 64 bits wide."""


class CudaDirect:
    """Plain and transposed convolutions as an implicit GEMM.

    Args:
        device: where.
    """

    name = "direct"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """All whose axes, padding included, fit an int32."""
        g = problem.geometry
        return max(*g.padded, *g.output, 0) < LARGEST

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """Pack the filters last, tap by tap in the order of the phases."""
        return _Direct(self._device, problem, weight, bias)


class _Direct:
    algorithm = "direct"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._device, self._geometry = device, g
        self._types = device_types(problem.types)
        self._phases, self._taps, self._starts = device.phases(g)
        vector = VECTOR_BYTES // self._types.weight.itemsize
        packed = pack_filters(weight, g, self._phases, vector).astype(self._types.weight, copy=False)
        self._filters = device.upload(packed)  # (g, rows, m_pitch)
        self._epilogue = Epilogue(device, g, bias, self._types.accumulate)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes + self._taps.nbytes) + self._phases.nbytes + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - a reduction in one part needs none
        return 0

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        g, device, wide = self._geometry, self._device, self._types.accumulate
        filters = g.out_channels // g.groups
        groups = x.shape[1] // (g.in_channels // g.groups)
        phases = len(self._phases.starts) - 1
        cells = x.shape[0] * math.prod(
            -(-out // step) for out, step in zip(g.output, g.stride if g.transposed else (1,) * g.rank, strict=True)
        )  # of the first phase, which has the most
        tile, splits = plan_direct(
            instances.direct_tiles(self._types.input),
            filters,
            cells,
            groups * phases,
            len(self._phases.taps) // phases,
            device.multiprocessors,
            # in a number of parts that depends on the batch, sums would round in ways that do
            1 if device.options.deterministic else budget // (y.size * wide.itemsize),
        )
        blocks = -(-filters // tile.bm) * -(-cells // tile.bn) * groups * phases * splits
        packed = self._filters[first_group : first_group + groups]
        epilogue = self._epilogue.record(first_group * filters)
        partial = y if splits == 1 else device.cupy.empty(splits * y.size, storage(wide))
        device.kernels.launch(
            "direct.cu",
            instances.direct(self._types, tile, near=is_near(g)),
            blocks,
            tile.threads,
            (
                x,
                packed,
                self._taps,
                self._starts,
                epilogue,
                y,
                partial,
                np.int32(splits),
                gather_of(g, self._phases, x.shape[0], groups, packed.shape[2]),
            ),
        )
        if splits > 1:
            plane = math.prod(g.output)
            device.kernels.launch(
                "finish.cu",
                instances.combine(self._types),
                -(-y.size // 256),
                256,
                (partial, epilogue, y, np.int64(y.size), np.int64(plane), np.int32(groups * filters), np.int32(splits)),
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

    Wasted are filters padded to whole tiles, and multiprocessors left without a block; parts cost the way of their
    sums through memory and a second launch.

    Args:
        tiles: those compiled, widest first.
        filters: of a group.
        cells: outputs per filter, over the batch.
        repeats: groups × phases.
        rows: of a reduction.
        multiprocessors: of the device.
        most_splits: that the workspace has room for.

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
