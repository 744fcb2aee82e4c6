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
from groupconv_worker.cuda.chain import ChainedKernel
from groupconv_worker.cuda.engine import CudaEngine
from groupconv_worker.cuda.network.network import DeviceNetwork
from groupconv_worker.cuda.prepared import CudaPrepared
from groupconv_worker.graph.graph import Graph, Node, Tensor
from groupconv_worker.graph.operators.table import run_reference

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
OPERATORS = [
    Node("Exp", ("x",), ("y",)),
    Node(
        "MaxPool",
        ("x",),
        ("y",),
        {"kernel_shape": (3, 2), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 0, 1, 1)},
    ),
    Node("LRN", ("x",), ("y",), {"size": 3}),
    Node("Softmax", ("x",), ("y",), {"axis": 1}),
    Node("InstanceNormalization", ("x", "w", "w"), ("y",)),
    Node("ReduceMax", ("x",), ("y",), {"axes": (1, 3)}),
    Node("ArgMax", ("x",), ("y",), {"axis": 2}),
    Node("Transpose", ("x",), ("y",), {"perm": (2, 0, 3, 1)}),
    Node("Pad", ("x",), ("y",), {"pads": (0, 0, 2, 1, 0, 0, 1, 3), "mode": "reflect"}),
]
"""One for each kernel of a network's operators, but for Gather."""


def check_operators(engine: CudaEngine) -> None:
    """Each operator as a network of its own, whose output is the last of its arena."""
    x, w = (np.random.default_rng(0).standard_normal(shape).astype(np.float32) for shape in ((2, 5, 7, 6), (5,)))

    def network(node: Node, shape: tuple[int, ...]) -> Graph:
        y = Tensor("y", np.dtype(np.int64 if node.op == "ArgMax" else np.float32), shape)
        known = {name: Tensor(name, array.dtype, array.shape) for name, array in {"x": x, "w": w}.items()}
        return Graph(("x",), ("y",), (node,), known | {"y": y}, {"w": w})

    for node in OPERATORS:
        want = run_reference(network(node, x.shape), {"x": x})["y"]  # by definitions that read no output's shape
        found = DeviceNetwork(network(node, want.shape), engine).run({"x": x})["y"]
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


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
                CudaPrepared(engine._device, ChainedKernel.of(kernel, problem)).run(x, out)
                np.testing.assert_allclose(out.astype(float), want, atol=1e-3)
        check_operators(engine)
    print(f"{len(kernels.LAUNCHED)} kernels are clean")


if __name__ == "__main__":
    main(sys.argv[1])
