"""Runs kernels under a sanitizer: `python -m emulation.sanitized address|thread`, with its runtime preloaded.

Arrays of the stand-in are allocated to the byte (with PYTHONMALLOC=malloc), so a read past any end is seen by
AddressSanitizer, and a missing barrier by ThreadSanitizer, which knows std::thread and std::barrier.
"""

import sys

import numpy as np

from emulation import emulated_engine, kernels
from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_worker import reference
from groupconv_worker.contract import Problem
from groupconv_worker.cuda.chain import Link
from groupconv_worker.cuda.prepared import CudaPrepared

CASES = [
    ((2, 6, 5, 7), (6, 3, 3, 3), {"groups": 2, "padding": 1}, "float32"),
    ((1, 5, 9, 8), (7, 5, 3, 2), {"stride": 2, "padding": ((1, 2), (0, 1))}, "float16"),
    ((1, 4, 6, 6), (4, 4, 3, 3), {"padding": 2, "padding_mode": "reflect", "dilation": 2}, "float32"),
    ((1, 3, 8, 8), (3, 1, 3, 3), {"groups": 3, "padding": 1, "stride": 2}, "float32"),
    ((1, 3, 8, 9), (3, 1, 7, 7), {"groups": 3, "padding": 3, "stride": 2}, "float16"),
    ((1, 3, 8, 9), (6, 1, 5, 5), {"groups": 3, "padding": 2, "padding_mode": "circular"}, "bfloat16"),
    ((1, 2, 3, 5, 5), (4, 1, 2, 3, 3), {"groups": 2, "padding": 1}, "float64"),
    ((1, 4, 5, 4), (4, 3, 4, 3), {"transposed": True, "stride": (2, 3), "output_padding": 1}, "float32"),
    ((2, 4, 9), (5, 4, 3), {"padding": 1}, "int8"),
    ((1, 8, 4, 4), (9, 8, 1, 1), {}, "float32"),
    ((1, 20, 3, 3), (70, 20, 3, 3), {"padding": 1}, "float32"),
    ((1, 8, 3, 3), (130, 8, 3, 3), {"padding": 1}, "float32"),
]


def main(sanitizer: str) -> None:
    rng = np.random.default_rng(0)
    with emulated_engine(sanitizer=sanitizer, workspace=0, chunk=0) as engine:
        for x_shape, w_shape, options, dtype in CASES:
            x, w = (rng.integers(-2, 3, shape).astype(DTYPES[dtype]) for shape in (x_shape, w_shape))
            spec = ConvSpec(**options, activation="relu")
            problem = Problem(resolve(spec, x_shape, w_shape), types_of(x.dtype, w.dtype))
            bias = np.ones(problem.geometry.out_channels, problem.types.output)
            want = reference.convolve(x, w, bias, problem.geometry)
            for algorithm in engine._algorithms.values():
                if algorithm.algorithm == "separable" or not algorithm.supports(problem):
                    continue
                with engine._device.streams():
                    kernel = algorithm(engine._device, problem, w, bias)
                out = np.empty(problem.geometry.output_shape, problem.types.output)
                CudaPrepared(engine._device, Link.of(kernel, problem)).run(x, out)
                np.testing.assert_allclose(out.astype(float), want, atol=1e-3)
    print(f"{len(kernels.LAUNCHED)} kernels are clean")


if __name__ == "__main__":
    main(sys.argv[1])
