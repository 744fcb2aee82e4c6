"""Small ONNX models, and what our own program and onnxruntime make of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from groupconv_worker.cpu.network.network import CompiledNetwork
from groupconv_worker.cpu.threads import Team
from groupconv_worker.graph.importing import Optimized
from groupconv_worker.graph.model import read_model

TEAM = Team(2)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    weights: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
) -> bytes:
    """A model of float32 tensors."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in (weights or {}).items()],
    )
    made = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", opset)])
    made = onnx.shape_inference.infer_shapes(made)
    data: bytes = made.SerializeToString()
    return data


def compiled(data: bytes, shapes: Mapping[str, Sequence[int]]) -> CompiledNetwork:
    """Our program of a model, its first arena full of NaN."""
    network = CompiledNetwork(Optimized(read_model(data)).canonical(shapes), TEAM)
    buffer = network._program.buffers.take(network._program.bytes)
    buffer.memory[:] = 0xFF  # float32 of these bytes are NaN
    network._program.buffers.give(buffer)
    return network


def check(data: bytes, inputs: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> CompiledNetwork:
    """Compare our program with onnxruntime, relative to the largest element of each output; run it twice."""
    network = compiled(data, {name: x.shape for name, x in inputs.items()})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, dict(inputs))
    for _ in range(2):
        found = network.run(inputs)
        for info, want in zip(session.get_outputs(), wanted, strict=True):
            assert found[info.name].shape == want.shape
            scale = max(float(np.abs(want).max(initial=0)), 1e-30)
            np.testing.assert_allclose(found[info.name], want, rtol=0, atol=tolerance * scale)
    return network
