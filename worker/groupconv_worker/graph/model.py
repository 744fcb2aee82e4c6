"""An ONNX model, checked before any runtime sees it.

Whatever a file says is counted here first: nodes, depth, tensors that lie in other files, functions that call one
another. What passes may still be refused by the runtime, which checks operators and types.

Source of the format: the ONNX intermediate representation, versions 3 to 13.
"""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import MAX_AXES, TensorInfo
from groupconv_worker.graph.checks import check_extents, check_graph, check_nodes, count_nodes

ALGORITHM = "onnxruntime"
"""The name of the runtime in plans and reports."""
SMALL = 1024
"""Elements up to which a constant may be a shape, axes or pads, whose values shape inference reads."""
ELEMENTS: dict[int, np.dtype] = {
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BOOL: np.dtype(np.bool_),
}
"""ONNX's element types that inputs and outputs may have."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checked model.

    Attributes:
        data: its bytes.
        proto: the same without large weights, which are inputs there.
        positions: of that one's nodes in the file; they stand in an order in which they can run.
        inputs, outputs: of a call.
        constants: shapes of the main graph's initializers and constants, by name.
        nodes: operators of the main graph.
    """

    data: bytes
    proto: ModelProto
    positions: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    constants: Mapping[str, tuple[int, ...]]
    nodes: int


def read_model(data: bytes) -> Model:
    """Read an ONNX model and check it.

    Args:
        data: the file's bytes.

    Raises:
        InvalidArgumentError: naming the node or tensor at fault, what was expected and what came.

    Example:
        >>> from onnx import TensorProto, helper
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy")
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
        >>> model = read_model(helper.make_model(graph).SerializeToString())
        >>> str(model.inputs[0]), model.nodes
        ('x: float32 (N, 3)', 1)
    """
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise InvalidArgumentError("model", "an ONNX model", f"{len(data)} bytes of another format") from None
    try:
        return _checked(proto, data)
    except UnicodeDecodeError:
        raise InvalidArgumentError("model", "names in UTF-8", "bytes of another encoding") from None


def _checked(proto: ModelProto, data: bytes) -> Model:
    if not proto.ir_version or not proto.HasField("graph") or not proto.opset_import:
        wanted = "an ONNX model with a graph and opset_import"
        raise InvalidArgumentError("model", wanted, f"{len(data)} bytes of another format")
    newest = onnx.defs.onnx_opset_version()
    for imported in proto.opset_import:
        if imported.domain in ("", "ai.onnx") and imported.version > newest:
            raise InvalidArgumentError(
                "model.opset_import", f"a version of ONNX's operators up to {newest}", imported.version
            )
    if not proto.graph.output:
        raise InvalidArgumentError("model.graph.output", "at least one output", "none")
    count_nodes(proto)
    order = check_graph(proto.graph, set(), "model.graph")
    for i, function in enumerate(proto.functions):
        check_nodes(function.node, set(function.input), f"model.functions[{i}]", function.output)
    graph = proto.graph
    given = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in graph.input}
    check_extents(graph.node, given | _constants(graph), "model.graph")
    stored = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    slim, positions = _without_weights(proto, order)
    if not all(value.type.tensor_type.HasField("shape") for value in graph.output):
        _infer_outputs(slim)
    return Model(
        data,
        slim,
        positions,
        tuple(_info(value, f"model.graph.input[{i}]") for i, value in enumerate(inputs)),
        tuple(_info(value, f"model.graph.output[{i}]") for i, value in enumerate(slim.graph.output)),
        _constants(graph),
        sum(node.op_type != "Constant" for node in slim.graph.node),
    )


def _infer_outputs(slim: ModelProto) -> None:
    """Find out what the file does not say of its outputs, as far as ONNX's shape inference can."""
    with contextlib.suppress(Exception):  # of operators that it does not know
        outputs = list(onnx.shape_inference.infer_shapes(slim, data_prop=True).graph.output)
        del slim.graph.output[:]
        slim.graph.output.extend(outputs)


def _info(value: ValueInfoProto, path: str) -> TensorInfo:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise InvalidArgumentError(f"{path} {value.name!r}", "a tensor", kind or "no type")
    tensor = value.type.tensor_type
    dtype = ELEMENTS.get(tensor.elem_type)
    if dtype is None:
        known = ", ".join(map(str, ELEMENTS.values()))
        name = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in _NUMBERS else tensor.elem_type
        raise InvalidArgumentError(f"{path} {value.name!r}", f"elements of {known}", name)
    if not tensor.HasField("shape"):
        raise InvalidArgumentError(f"{path} {value.name!r}", "a shape, whose axes may be free", "none")
    if len(tensor.shape.dim) > MAX_AXES:
        raise InvalidArgumentError(f"{path} {value.name!r}", f"at most {MAX_AXES} axes", len(tensor.shape.dim))
    return TensorInfo(value.name, dtype, tuple(map(_extent, tensor.shape.dim)))


_NUMBERS = frozenset(TensorProto.DataType.values())


def _extent(dim: Any) -> int | str | None:
    """An extent; negative ones are free axes, as some exporters write them."""
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value > 0 else None
    return dim.dim_param or None


def _constants(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                shapes[node.output[0]] = tuple(attribute.t.dims)
    return shapes


def _without_weights(proto: ModelProto, order: Sequence[int]) -> tuple[ModelProto, tuple[int, ...]]:
    """A copy in which large initializers and constants are inputs, so that only their types are left."""
    skeleton, positions = ModelProto(), []
    for field, value in proto.ListFields():
        if field.name not in ("graph", "training_info", "metadata_props"):
            _copy(skeleton, field, value)
    graph, source = skeleton.graph, proto.graph
    graph.name = source.name
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    named = {value.name for value in source.input}
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in named:
            _declare(graph, tensor, tensor.name)
    for i in order:
        node = source.node[i]
        constant = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and constant is not None and math.prod(constant.dims) > SMALL:
            _declare(graph, constant, node.output[0])
        else:
            graph.node.append(node)
            positions.append(i)
    return skeleton, tuple(positions)


def _copy(message: Any, field: Any, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _declare(graph: GraphProto, tensor: TensorProto, name: str) -> None:
    graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
