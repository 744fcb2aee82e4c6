"""The other ways to compute a layer on this machine, each as a function without arguments."""

import os
import sys
from collections.abc import Callable, Mapping

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.steps import Array
from groupconv_worker.cpu.algorithms.gemm import Gemm
from groupconv_worker.cpu.kernels.target import VARIABLE, select_here
from groupconv_worker.cpu.threads import Team
from groupconv_worker.engines import Problem
from groupconv_worker.pieces import erf

Call = Callable[[], object]
SWITCHES = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    }
}
"""Instruction set -> the environment variables that hold torch and NumPy to it."""
UNHELD = "onnxruntime has no switch for its instructions: it uses all this processor has, so it is no peer here"
"""A note in the output where the peers are held to fewer instructions than the processor has."""


def environment_for(simd: str) -> dict[str, str]:
    """The variables that hold the engine, torch and NumPy to an instruction set, before they are loaded.

    Raises:
        InvalidArgumentError: it is none, or this machine does not have it.
    """
    select_here(simd)
    return {VARIABLE: simd, **SWITCHES.get(simd, {})}


def restart_with(simd: str, environment: Mapping[str, str] = os.environ) -> None:
    """Start this process anew, held to an instruction set, unless it is; libraries read their switches once.

    Raises:
        InvalidArgumentError: it is none, or this machine does not have it.
    """
    wanted = environment_for(simd)
    if any(environment.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, **wanted})  # noqa: S606


def torch_peer(g: Geometry, x: Array, w: Array, b: Array, threads: int) -> Call | None:
    """PyTorch's functional convolution; None where PyTorch is not installed."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return None
    torch.set_num_threads(threads)
    tensors = [torch.from_numpy(a) for a in (x, w, b)]
    padding = tuple(low for low, _ in g.padding)

    def run() -> object:
        with torch.inference_mode():
            if g.transposed:
                return functional.conv_transpose2d(*tensors, g.stride, padding, g.output_padding, g.groups, g.dilation)
            return functional.conv2d(*tensors, g.stride, padding, g.dilation, g.groups)

    return run


def onnxruntime_peer(g: Geometry, x: Array, w: Array, b: Array, threads: int) -> Call:
    """onnxruntime as people use it: weights as initializers, its own threads, `run`."""
    node = helper.make_node(
        "ConvTranspose" if g.transposed else "Conv",
        ["x", "w", "b"],
        ["y"],
        kernel_shape=g.kernel,
        strides=g.stride,
        dilations=g.dilation,
        group=g.groups,
        pads=[low for low, _ in g.padding] + [high for _, high in g.padding],
    )
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, g.input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, g.output_shape)],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def numpy_peer(g: Geometry, x: Array, w: Array, b: Array, threads: int) -> Call:
    """Patches and one matrix product, in NumPy; the product is shared by `threads` threads."""
    problem = Problem(g, types_of(x.dtype, w.dtype, b.dtype))
    prepared = Gemm(np, erf, team=Team(threads)).prepare(problem, w, b, resident=True)
    out = np.empty(g.output_shape, np.float32)
    return lambda: prepared.run(x, out)
