"""An ONNX model, checked before any runtime sees it.

Whatever a file says is counted here first: nodes, depth, tensors that lie in other files, functions that call one
another. What passes may still be refused by the runtime, which checks operators and types.

Source of the format: the ONNX intermediate representation, versions 3 to 13.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from google.protobuf.message import DecodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from groupconv.errors import InvalidArgumentError
from groupconv.networks.tensors import MAX_AXES, TensorInfo

MOST_NODES = 100_000
"""Operators of a model: with those of subgraphs, and of functions as often as they are called."""
SMALL = 1024
"""Elements up to which a constant may be a shape, axes or pads, whose values shape inference reads."""
DEPTH = 16
"""Subgraphs and functions inside one another."""
INLINE = "python -c \"import onnx; onnx.save(onnx.load('model.onnx'), 'whole.onnx')\""
"""What puts external data into the file itself."""
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
    """

    data: bytes
    proto: ModelProto
    positions: tuple[int, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    constants: Mapping[str, tuple[int, ...]]

    @property
    def nodes(self) -> int:
        """Operators of the main graph."""
        return sum(node.op_type != "Constant" for node in self.proto.graph.node)


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
        raise InvalidArgumentError("model", "an ONNX model", f"{len(data)} other bytes") from None
    try:
        return _checked(proto, data)
    except UnicodeDecodeError:
        raise InvalidArgumentError("model", "names in UTF-8", "other bytes") from None


def _checked(proto: ModelProto, data: bytes) -> Model:
    if not proto.ir_version or not proto.HasField("graph") or not proto.opset_import:
        raise InvalidArgumentError("model", "an ONNX model with a graph and opset_import", f"{len(data)} other bytes")
    if not proto.graph.output:
        raise InvalidArgumentError("model.graph.output", "at least one output", "none")
    _count(proto)
    order = _check_graph(proto.graph, set(), "model.graph")
    for i, function in enumerate(proto.functions):
        _check_nodes(function.node, set(function.input), f"model.functions[{i}]", function.output)
    graph = proto.graph
    stored = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    slim, positions = _without_weights(proto, order)
    return Model(
        data,
        slim,
        positions,
        tuple(_info(value, f"model.graph.input[{i}]") for i, value in enumerate(inputs)),
        tuple(_info(value, f"model.graph.output[{i}]") for i, value in enumerate(graph.output)),
        _constants(graph),
    )


def node_path(path: str, index: int, node: NodeProto) -> str:
    """What errors call a node.

    Example:
        >>> node_path("model.graph", 17, NodeProto(op_type="Conv", name="stage2/conv1"))
        "model.graph.node[17] (Conv 'stage2/conv1')"
    """
    name = node.name or next(iter(node.output), "")
    return f"{path}.node[{index}] ({node.op_type[:60]} {name[:100]!r})"


def subgraphs(node: NodeProto) -> Iterator[tuple[str, GraphProto]]:
    """The graphs inside a node (branches, bodies of loops), each with its attribute's name."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


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


def _count(proto: ModelProto) -> None:
    """Refuse more nodes or depth than a model may have, and functions that call themselves."""
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    counted: dict[tuple[str, str, str], int] = {}

    def count(nodes: Any, path: str, depth: int, calling: tuple[tuple[str, str, str], ...]) -> int:
        if depth > DEPTH:
            raise InvalidArgumentError(path, f"at most {DEPTH} graphs and functions inside one another", "more")
        total = len(nodes)
        for i, node in enumerate(nodes):
            key = (node.domain, node.op_type, node.overload)
            if key in functions:
                total += called(key, node_path(path, i, node), depth, calling)
            for name, graph in subgraphs(node):
                total += count(graph.node, f"{node_path(path, i, node)}.{name}", depth + 1, calling)
            if total > MOST_NODES:
                raise InvalidArgumentError(path, f"at most {MOST_NODES} nodes, with those of functions", "more")
        return total

    def called(key: tuple[str, str, str], path: str, depth: int, calling: tuple[tuple[str, str, str], ...]) -> int:
        if key in calling:
            raise InvalidArgumentError(path, "functions that do not call themselves", f"{key[0]}.{key[1]} in itself")
        if key not in counted:
            function: FunctionProto = functions[key]
            counted[key] = count(function.node, f"function {key[0]}.{key[1]}", depth + 1, (*calling, key))
        return counted[key]

    count(proto.graph.node, "model.graph", 0, ())


def _check_graph(graph: GraphProto, outer: set[str], path: str) -> list[int]:
    """Check that each value is made before it is used, and that every tensor is in the file."""
    known = set(outer)
    for i, tensor in enumerate(graph.initializer):
        _check_inside(tensor, f"{path}.initializer[{i}]")
        known.add(tensor.name)
    for i, sparse in enumerate(graph.sparse_initializer):
        _check_inside(sparse.values, f"{path}.sparse_initializer[{i}].values")
        _check_inside(sparse.indices, f"{path}.sparse_initializer[{i}].indices")
        known.add(sparse.values.name)
    known.update(value.name for value in graph.input)
    return _check_nodes(graph.node, known, path, [value.name for value in graph.output])


def _check_nodes(nodes: Any, known: set[str], path: str, outputs: Any) -> list[int]:
    """Check nodes, and give an order in which each runs after those that make its inputs."""
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.output:
            if name and (name in makers or name in known):
                raise InvalidArgumentError(f"{node_path(path, i, node)}.output", "names of its own", name)
            if name:
                makers[name] = i
    order = _ordered(nodes, makers, known, path)
    known = known | set(makers)
    for i, node in enumerate(nodes):
        for attribute in node.attribute:
            for tensor in _tensors(attribute):
                _check_inside(tensor, f"{node_path(path, i, node)}.{attribute.name}")
        for name, graph in subgraphs(node):
            _check_graph(graph, known, f"{node_path(path, i, node)}.{name}")
    for name in outputs:
        if name not in known:
            raise InvalidArgumentError(f"{path}.output", "the output of a node", name)
    return order


def _ordered(nodes: Any, makers: dict[str, int], known: set[str], path: str) -> list[int]:
    """Refuse values that nothing makes, and circles. Nodes may stand in any order in the file."""
    waits: list[set[int]] = []
    for i, node in enumerate(nodes):
        needed = set()
        for k, name in enumerate(node.input):
            if name and name not in makers and name not in known:
                field = f"{node_path(path, i, node)}.input[{k}]"
                raise InvalidArgumentError(field, "an input, an initializer or the output of a node", name)
            if name in makers:
                needed.add(makers[name])
        waits.append(needed)
    followers: dict[int, list[int]] = {}
    for i, needed in enumerate(waits):
        for j in needed:
            followers.setdefault(j, []).append(i)
    ready = [i for i, needed in enumerate(waits) if not needed]
    heapq.heapify(ready)  # the file's own order, where it is one
    order = []
    while ready:
        made = heapq.heappop(ready)
        order.append(made)
        for i in followers.get(made, ()):
            waits[i].discard(made)
            if not waits[i]:
                heapq.heappush(ready, i)
    if len(order) < len(nodes):
        i = next(i for i, needed in enumerate(waits) if needed)
        raise InvalidArgumentError(node_path(path, i, nodes[i]), "a graph without circles", "a node in a circle")
    return order


def _tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for sparse in (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ):
        yield sparse.values
        yield sparse.indices


def _check_inside(tensor: TensorProto, path: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise InvalidArgumentError(
            f"{path} {tensor.name[:100]!r}", f"a tensor inside the file; put it there with {INLINE}", "external data"
        )


def _constants(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                found[node.output[0]] = tuple(attribute.t.dims)
    return found


def _without_weights(proto: ModelProto, order: Sequence[int]) -> tuple[ModelProto, tuple[int, ...]]:
    """A copy in which large initializers and constants are inputs, so that only their types are left."""
    made, positions = ModelProto(), []
    for field, value in proto.ListFields():
        if field.name not in ("graph", "training_info", "metadata_props"):
            _copy(made, field, value)
    graph, source = made.graph, proto.graph
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
    return made, tuple(positions)


def _copy(message: Any, field: Any, value: Any) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _declare(graph: GraphProto, tensor: TensorProto, name: str) -> None:
    graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
