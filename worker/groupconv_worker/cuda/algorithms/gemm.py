"""Matrix products on the device by cuBLAS, on tensor cores where the options allow.

    pointwise   y (g, M/g, P) = w (g, M/g, C/g) @ x (g, C/g, P)          the input is the matrix, no copy
    otherwise   y (g, M/g, P) = w (g, M/g, D) @ patches (g, D, P)        D = C/g·ΠK rows, kernels/patches.cu

The patches of the whole map are ΠK times the input, so they are made for as many samples and groups at a time
as fit the workspace, and where even one does not, for a range of output cells: cuBLAS writes with a row length
of its own, so a range lands in its place without a copy.
"""

import math
from typing import Any

import numpy as np

from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.algorithms import instances
from groupconv_worker.cuda.arguments import gather_of, is_near
from groupconv_worker.cuda.cublas import Product
from groupconv_worker.cuda.device import Device, Epilogue, device_types, storage
from groupconv_worker.cuda.kernel import DeviceKernel

LEAST_CELLS = 256
"""Output cells of the smallest range: one block of the patches kernel."""

COMPUTE = {
    "float32": "CUBLAS_COMPUTE_32F",
    "tf32": "CUBLAS_COMPUTE_32F_FAST_TF32",
    "float16": "CUBLAS_COMPUTE_32F_FAST_16F",
    "bfloat16": "CUBLAS_COMPUTE_32F_FAST_16BF",
}
"""cuBLAS's names for `CudaOptions.math`."""

RUNTIME_TYPE = {"float16": "CUDA_R_16F", "bfloat16": "CUDA_R_16BF", "float32": "CUDA_R_32F", "float64": "CUDA_R_64F"}


class CudaGemm:
    """Dense and fat-group convolutions of floats.

    Args:
        device: where.
    """

    name = "gemm"

    def __init__(self, device: Device) -> None:
        self._device = device

    def supports(self, problem: Problem) -> bool:
        """Floats; a transposed one only with stride 1, where its taps form one matrix; extents cuBLAS can count."""
        g = problem.geometry
        if str(problem.types.accumulate) not in ("float32", "float64"):
            return False
        if g.transposed and any(s > 1 for s in g.stride):
            return False
        return max(*g.padded, *g.output, math.prod(g.output), math.prod(g.weight_shape[1:])) < 2**31

    def prepare(self, problem: Problem, weight: Array, bias: Array | None) -> DeviceKernel:
        """The filters as (g, M/g, D)."""
        return _Gemm(self._device, problem, weight, bias)


class _Gemm:
    algorithm = "gemm"

    def __init__(self, device: Device, problem: Problem, weight: Array, bias: Array | None) -> None:
        g = problem.geometry
        self._device, self._geometry = device, g
        self._types = device_types(problem.types)
        self._phases, self._taps, _ = device.phases(g)
        channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
        if g.transposed:  # (C, M/g, *K) -> (g, M/g, C/g, ΠK)
            by_tap = weight.reshape(g.groups, channels, filters, -1).swapaxes(1, 2)
        else:
            by_tap = weight.reshape(g.groups, filters, channels, -1)
        if g.transposed or g.flip_kernel:
            rows = by_tap[:, :, self._phases.taps["c"], self._phases.kernel_index]  # in the order of the patches
        else:
            rows = by_tap.reshape(g.groups, filters, -1)  # they are: to gather millions of weights takes long
        self._filters = device.upload(rows.astype(self._types.weight, copy=False))
        self._epilogue = Epilogue(device, g, bias, self._types.accumulate)
        self._depth, self._cells = rows.shape[2], math.prod(g.output)

    @property
    def nbytes(self) -> int:
        """As of `DeviceKernel`."""
        return int(self._filters.nbytes + self._taps.nbytes) + self._phases.nbytes + self._epilogue.nbytes

    def workspace(self, batch: int, groups: int) -> int:  # noqa: ARG002 - one sample and group at a time will do
        if self._geometry.is_pointwise:
            return 0
        return int(self._depth) * min(LEAST_CELLS, self._cells) * self._types.input.itemsize

    def launch(self, x: Any, y: Any, first_group: int, budget: int) -> None:
        g = self._geometry
        n, groups, filters = x.shape[0], x.shape[1] // (g.in_channels // g.groups), g.out_channels // g.groups
        x = x.reshape(n, groups, -1)  # (N, g, C/g·ΠH)
        y = y.reshape(n, groups, filters * self._cells)
        product = Product(self._device.cupy, budget)
        if g.is_pointwise:
            self._multiply(product, x, y, first_group, 0, self._cells)
        else:
            self._by_patches(product, x, y, first_group, budget)
        if not self._epilogue.is_identity:
            self._finish(y, first_group * filters, filters * groups)

    def _by_patches(self, product: Product, x: Any, y: Any, first_group: int, budget: int) -> None:
        n, groups = x.shape[:2]
        cell_bytes = self._depth * self._types.input.itemsize
        cells = min(self._cells, max(LEAST_CELLS, budget // cell_bytes))
        some_groups = max(1, min(groups, budget // (cell_bytes * cells)))
        samples = max(1, min(n, budget // (cell_bytes * cells * some_groups))) if some_groups == groups else 1
        cols = self._device.cupy.empty(samples * some_groups * self._depth * cells, x.dtype)
        for n0 in range(0, n, samples):
            for first in range(0, groups, some_groups):
                part = (slice(n0, n0 + samples), slice(first, first + some_groups))
                for cell in range(0, self._cells, cells):
                    count = min(cells, self._cells - cell)
                    made = self._patches(x[part], cols, cell, count, x.shape[1])
                    self._multiply(product, made, y[part], first_group + first, cell, count)

    def _patches(self, x: Any, cols: Any, cell: int, count: int, all_groups: int) -> Any:
        """cols (n, g, D, count) of x (n, g, …), a view of an array of `all_groups`."""
        g = self._geometry
        n, groups = x.shape[:2]
        gather = gather_of(g, self._phases, n, groups, 0)
        gather["x_batch"] = gather["x_batch"] // groups * all_groups
        view = cols[: n * groups * self._depth * count].reshape(n, groups, self._depth * count)
        blocks = -(-count // 256) * -(-self._depth // 8) * groups * n
        self._device.kernels.launch(
            "patches.cu",
            instances.patches(self._types.input.itemsize, near=is_near(g)),
            blocks,
            256,
            (x, self._taps, view, gather, np.int64(cell), np.int64(count)),
        )
        return view

    def _multiply(self, product: Product, matrix: Any, y: Any, first_group: int, cell: int, count: int) -> None:
        """y[..., cell : cell + count] = filters @ matrix (n, g, D·count).

        cuBLAS reads columns first, so a row-major product w @ x is its x @ w. It counts one batch dimension:
        groups where there are more of them than samples, else samples, over which w does not advance.
        """
        n, groups = matrix.shape[:2]
        filters = y.shape[2] // self._cells
        size = self._types.input.itemsize
        # elements from one sample and one group to the next, in each operand
        x_steps, y_steps = ([s // size for s in a.strides[:2]] for a in (matrix, y))
        w_steps = (0, filters * self._depth)
        w = self._filters.data.ptr + first_group * w_steps[1] * size
        batched, looped = (1, 0) if groups >= n else (0, 1)
        for i in range((n, groups)[looped]):
            self._gemm(
                product,
                (count, filters, self._depth),
                (matrix.data.ptr + i * x_steps[looped] * size, count, x_steps[batched]),
                (w + i * w_steps[looped] * size, self._depth, w_steps[batched]),
                (y.data.ptr + (i * y_steps[looped] + cell) * size, self._cells, y_steps[batched]),
                (n, groups)[batched],
            )

    def _gemm(
        self,
        product: Product,
        extents: tuple[int, int, int],
        a: tuple[int, int, int],
        b: tuple[int, int, int],
        c: tuple[int, int, int],
        batch: int,
    ) -> None:
        """c = a @ b in cuBLAS's terms; each matrix is (address, leading dimension, step of the batch)."""
        cuda = self._device.cupy.cuda
        kind = getattr(cuda.runtime, RUNTIME_TYPE[str(self._types.input)])
        wide = self._types.accumulate
        name = COMPUTE[self._device.options.math] if self._types.input == np.float32 else COMPUTE["float32"]
        compute = getattr(cuda.cublas, "CUBLAS_COMPUTE_64F" if wide == np.float64 else name)
        one, zero = np.array(1, wide), np.array(0, wide)
        none = cuda.cublas.CUBLAS_OP_N
        product(
            none,
            none,
            *extents,
            one.ctypes.data,
            a[0],
            kind,
            a[1],
            a[2],
            b[0],
            kind,
            b[1],
            b[2],
            zero.ctypes.data,
            c[0],
            kind,
            c[1],
            c[2],
            batch,
            compute,
            cuda.cublas.CUBLAS_GEMM_DEFAULT,
        )

    def _finish(self, y: Any, first_channel: int, channels: int) -> None:
        finish_in_place(self._device, self._epilogue, y, self._types.output, first_channel, channels, self._cells)


def finish_in_place(
    device: Device, epilogue: Epilogue, y: Any, dtype: np.dtype, first_channel: int, channels: int, plane: int
) -> None:
    """Bias and activation on y (n, channels, plane), a contiguous device array of `dtype`."""
    assert y.dtype == storage(dtype)
    vector = 4 if plane % 4 == 0 else 1
    blocks = y.size // plane * -(-plane // vector // 256)
    device.kernels.launch(
        "finish.cu",
        instances.finish_in_place(dtype, vector),
        blocks,
        256,
        (y, epilogue.record(first_channel), np.int64(plane), np.int32(channels)),
    )
