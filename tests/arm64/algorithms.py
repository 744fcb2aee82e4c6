"""A program for the emulator: every algorithm of the CPU against the reference, between guard bytes."""

import sys

import numpy as np

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker.contract import Problem
from groupconv_worker.cpu.engine import CpuEngine
from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.processor import processor
from groupconv_worker.reference import convolve
from guards import check_in_bounds

CASES = [
    ("grouped", "float32", {"padding": 1, "groups": 8}, (2, 8, 30, 37), (8, 1, 3, 3)),
    ("grouped", "int8", {"padding": 1, "groups": 8}, (2, 8, 30, 37), (8, 1, 3, 3)),
    ("grouped", "float64", {"padding": 1, "groups": 2, "stride": 2}, (2, 8, 31, 37), (8, 4, 3, 3)),
    ("direct", "float32", {"padding": 1, "groups": 2}, (2, 32, 20, 23), (32, 16, 3, 3)),
    ("direct", "float32", {"stride": 2, "transposed": True}, (1, 4, 12), (4, 4, 2)),
    ("cells", "float32", {"stride": 2, "transposed": True}, (2, 12, 2, 3), (12, 20, 4, 4)),
    ("winograd", "float32", {"padding": 1}, (2, 32, 24, 27), (32, 32, 3, 3)),
    ("separable", "float32", {"padding": 3, "groups": 8}, (2, 8, 40, 40), (8, 1, 7, 7)),
    ("fft", "float32", {"padding": 6, "groups": 3}, (2, 3, 50, 61), (3, 1, 13, 13)),
    ("gemm", "float32", {"padding": 1, "groups": 2}, (2, 8, 20, 20), (8, 4, 3, 3)),
    ("onnx", "float32", {"padding": 1, "groups": 2}, (2, 8, 20, 20), (8, 4, 3, 3)),
]


def main(threads: int) -> None:
    assert simd.WIDTH == 16, f"NEON's vectors have 16 bytes, these have {simd.WIDTH}"
    assert processor() == "ARM (implementer 0x41, part 0xd0c, variant 0x3, revision 1)", processor()
    rng = np.random.default_rng(0)
    engine = CpuEngine(threads=threads)
    for name, dtype, options, x_shape, w_shape in CASES:
        x, w = ((rng.standard_normal(shape) * 8).astype(dtype) for shape in (x_shape, w_shape))
        if name == "separable":
            u, v = rng.standard_normal((2, w_shape[0], 7)).astype(dtype)
            w = (u[:, :, None] * v[:, None, :])[:, None]
        problem = Problem(resolve(ConvSpec(**options, activation="relu"), x_shape, w_shape), types_of(x.dtype, w.dtype))
        algorithm = getattr(engine, name)
        assert algorithm.supports(problem), name
        layouts = (
            ("whole", "columns") if name in ("grouped", "direct", "cells", "winograd", "separable") else ("whole",)
        )
        got = check_in_bounds(algorithm, problem, x, w, layouts=layouts)
        want = convolve(x, w, None, problem.geometry)
        error = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
        assert error < 1e-4, f"{name} {dtype}: error {error:.1e}"
        print(name, dtype, "threads", threads, f"error {error:.1e}", flush=True)
    engine.close()
    print(len(CASES), "of", len(CASES), "agree")


if __name__ == "__main__":
    main(int(sys.argv[1]))
