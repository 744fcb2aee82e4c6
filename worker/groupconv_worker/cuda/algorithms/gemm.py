"""Matrix products on the device by cuBLAS, on tensor cores where the options allow.

    pointwise   y (g, M/g, P) = w (g, M/g, C/g) @ x (g, C/g, P)          the input is the matrix, no copy
    otherwise   y (g, M/g, P) = w (g, M/g, D) @ patches (g, D, P)        D = C/g·ΠK rows, kernels/patches.cu

The patches of the whole map are ΠK times the input. So they are made for as many samples and groups at a time as fit
in the workspace, and where even one does not fit, for a range of output cells. cuBLAS writes rows of any pitch, so a
range is written where it belongs without a copy.
"""

import math
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.algorithms.base import DeviceKernel
from groupconv_worker.cuda.arguments import gather_of, is_near
from groupconv_worker.cuda.chunks import chunk_size, chunks
from groupconv_worker.cuda.cublas import Product
from groupconv_worker.cuda.device import Device

LEAST_CELLS = 256
"""Output cells of the smallest range: one block of the patches kernel."""


class Gemm(DeviceKernel):
    """Dense convolutions, and those of few groups, of floats."""

    algorithm, by_library = "gemm", True

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        super().__init__(device, problem, weight, bias)
        g = self.geometry
        self._table = device.tap_table(g)
        if g.transposed:  # (C, M/g, *K) -> (g, M/g, C/g, ΠK)
            by_tap = weight.reshape(g.groups, self.channels, self.outputs, -1).swapaxes(1, 2)
        else:
            by_tap = weight.reshape(g.groups, self.outputs, self.channels, -1)
        if g.transposed or g.flip_kernel:
            order = self._table.order
            rows = by_tap[:, :, order.taps["c"], order.kernel_index]  # in the order of the patches
        else:
            rows = by_tap.reshape(g.groups, self.outputs, -1)  # in that order already, and gathering takes long
        self.filters = self.upload(rows)
        self._depth, self._cells = rows.shape[2], math.prod(g.output)

    @classmethod
    def supports(cls, problem: Problem) -> bool:
        """Floats; a transposed one only with stride 1, where its taps form one matrix; extents cuBLAS can count."""
        g = problem.geometry
        if str(problem.types.accumulate) not in ("float32", "float64"):
            return False
        if g.transposed and any(s > 1 for s in g.stride):
            return False
        return max(*g.padded, *g.output, math.prod(g.output), math.prod(g.weight_shape[1:])) < 2**31

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._table.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # one sample and group at a time will do
        if self.geometry.is_pointwise:
            return 0
        return int(self._depth) * min(LEAST_CELLS, self._cells) * self.types.input.itemsize

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        n, groups = x.shape[0], self.groups_in(x)
        matrix, results = x.reshape(n, groups, -1), y.reshape(n, groups, -1)  # (N, g, C/g·ΠH), (N, g, M/g·cells)
        product = Product(self.device.cupy, budget)
        if self.geometry.is_pointwise:
            self._multiply(product, matrix, results, first_group, 0, self._cells)
        else:
            self._by_patches(product, matrix, results, first_group, budget)
        self.finish(y, first_group)

    def _by_patches(self, product: Product, x: Any, y: Any, first_group: int, budget: int) -> None:
        n, groups = x.shape[:2]
        cell_bytes = self._depth * self.types.input.itemsize
        cells = min(self._cells, max(LEAST_CELLS, budget // cell_bytes))
        samples, some_groups = chunk_size(n, groups, cell_bytes * cells, budget)
        cols = self.device.cupy.empty(samples * some_groups * self._depth * cells, x.dtype)
        for chunk in chunks(n, groups, samples, some_groups):
            part, first = (chunk.samples, chunk.groups), first_group + chunk.groups.start
            for cell in range(0, self._cells, cells):
                count = min(cells, self._cells - cell)
                patches = self._patches(x[part], cols, cell, count, groups)
                self._multiply(product, patches, y[part], first, cell, count)

    def _patches(self, x: Any, cols: Any, cell: int, count: int, all_groups: int) -> Any:
        """cols (n, g, D, count) of x (n, g, …), a view of an array of `all_groups`."""
        g = self.geometry
        n, groups = x.shape[:2]
        gather = gather_of(g, self._table.order, n, groups, 0)
        gather["x_batch"] = gather["x_batch"] // groups * all_groups
        view = cols[: n * groups * self._depth * count].reshape(n, groups, self._depth * count)
        blocks = -(-count // 256) * -(-self._depth // 8) * groups * n
        self.device.kernels.launch(
            "patches.cu",
            instances.patches(self.types.input.itemsize, near=is_near(g)),
            blocks,
            256,
            (x, self._table.taps, view, gather, np.int64(cell), np.int64(count)),
        )
        return view

    def _multiply(self, product: Product, matrix: Any, y: Any, first_group: int, cell: int, count: int) -> None:
        """y[..., cell : cell + count] = filters @ matrix (n, g, D·count).

        cuBLAS counts one batch dimension: groups where there are more of them than samples, else samples, over which
        w does not advance.
        """
        n, groups = matrix.shape[:2]
        size = self.types.input.itemsize
        # elements from one sample and one group to the next, in each operand
        x_steps, y_steps = ([s // size for s in a.strides[:2]] for a in (matrix, y))
        w_steps = (0, self.outputs * self._depth)
        w = self.filters.data.ptr + first_group * w_steps[1] * size
        batched, looped = (1, 0) if groups >= n else (0, 1)
        for i in range((n, groups)[looped]):
            product(
                self.types.input,
                self.geometry.math or "float32",
                (count, self.outputs, self._depth),
                (matrix.data.ptr + i * x_steps[looped] * size, count, x_steps[batched]),
                (w + i * w_steps[looped] * size, self._depth, w_steps[batched]),
                (y.data.ptr + (i * y_steps[looped] + cell) * size, self._cells, y_steps[batched]),
                (n, groups)[batched],
            )
