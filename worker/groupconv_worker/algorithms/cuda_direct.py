"""Direct convolution on the device: kernels/direct.cu. Takes every problem, needs no workspace."""

import math
from typing import Any

import numpy as np

from groupconv_worker.cuda import instances
from groupconv_worker.cuda.device import Device, Epilogue, device_types
from groupconv_worker.cuda.instances import DirectTile
from groupconv_worker.cuda.kernel import DeviceKernel
from groupconv_worker.cuda.records import gather_of, pack_filters
from groupconv_worker.engines.base import Array, Problem

VECTOR_BYTES = 16
"""One load of filters."""

LARGEST = 2**31
"""Coordinates of a padded input and of an output are int32; offsets in tensors are 64 bits wide."""


class Direct:
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

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - none, whatever the size
        return 0

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:  # noqa: ARG002
        g = self._geometry
        filters = g.out_channels // g.groups
        groups = x.shape[1] // (g.in_channels // g.groups)
        phases = len(self._phases.starts) - 1
        cells = x.shape[0] * math.prod(
            -(-out // step) for out, step in zip(g.output, g.stride if g.transposed else (1,) * g.rank, strict=True)
        )  # of the first phase, which has the most
        tile = pick_tile(
            instances.direct_tiles(self._types.input), filters, cells, groups * phases, self._device.multiprocessors
        )
        blocks = -(-filters // tile.bm) * -(-cells // tile.bn) * groups * phases
        packed = self._filters[first_group : first_group + groups]
        self._device.kernels.launch(
            "direct.cu",
            instances.direct(self._types, tile, zeros=g.padding_mode == "zeros"),
            blocks,
            tile.threads,
            (
                x,
                packed,
                self._taps,
                self._starts,
                self._epilogue.record(first_group * filters),
                y,
                gather_of(g, self._phases, x.shape[0], groups, packed.shape[2]),
            ),
        )


def pick_tile(
    tiles: tuple[DirectTile, ...], filters: int, cells: int, repeats: int, multiprocessors: int
) -> DirectTile:
    """The tile that wastes least: filters padded to whole tiles, and multiprocessors left without a block.

    Args:
        tiles: those compiled, widest first.
        filters: of a group.
        cells: outputs per filter, over the batch.
        repeats: groups × phases.
        multiprocessors: of the device.

    Example:
        >>> pick_tile(instances.DIRECT_TILES, 256, 50_000, 1, 108).bm
        128
        >>> pick_tile(instances.DIRECT_TILES, 8, 50_000, 32, 108).bm
        16
    """

    def cost(tile: DirectTile) -> float:
        rows, cols = -(-filters // tile.bm), -(-cells // tile.bn)
        waves = np.ceil(rows * cols * repeats / multiprocessors)
        # each step of a tile gathers bn inputs and makes bm x bn products; a gather costs about 16 products
        return float(waves * tile.bn * (tile.bm + 16))

    return min(tiles, key=cost)
