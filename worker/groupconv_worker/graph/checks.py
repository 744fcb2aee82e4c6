"""Checks of an ONNX graph that count before they pay: nodes, depth, circles, tensors that lie in other files."""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from groupconv.errors import InvalidArgumentError
from groupconv_worker.graph.node_checks import check_attributes, is_checked

MOST_NODES = 100_000
"""Operators of a model: with those of subgraphs, and of functions as often as they are called."""
DEPTH = 16
"""Subgraphs and functions inside one another."""
INLINE = "python -c \"import onnx; onnx.save(onnx.load('model.onnx'), 'whole.onnx')\""
"""A command that moves external data into the file."""
MOST_EXTENTS = 1024
"""Elements of a tensor whose elements are extents or axes: many times those that any tensor has."""
_EXTENTS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Inputs of operators whose elements are extents or axes."""
TENSOR_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


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


def count_nodes(proto: ModelProto) -> None:
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
    for i, key in enumerate(functions):  # those that nothing calls too
        called(key, f"model.functions[{i}]", 0, ())


def check_graph(graph: GraphProto, outer: set[str], path: str) -> list[int]:
    """Check that each value is made before it is used, and that every tensor is in the file."""
    known = set(outer)
    for i, tensor in enumerate(graph.initializer):
        _check_tensor(tensor, f"{path}.initializer[{i}]")
        known.add(tensor.name)
    for i, sparse in enumerate(graph.sparse_initializer):
        _check_tensor(sparse.values, f"{path}.sparse_initializer[{i}].values")
        _check_tensor(sparse.indices, f"{path}.sparse_initializer[{i}].indices")
        known.add(sparse.values.name)
    known.update(value.name for value in graph.input)
    return check_nodes(graph.node, known, path, [value.name for value in graph.output])


def check_nodes(nodes: Any, known: set[str], path: str, outputs: Any) -> list[int]:
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
        here = node_path(path, i, node)
        if is_checked(node):
            check_attributes(node, here)
        for attribute in node.attribute:
            for tensor in _tensors(attribute):
                _check_tensor(tensor, f"{here}.{attribute.name}")
        for name, graph in subgraphs(node):
            check_graph(graph, known, f"{here}.{name}")
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


def check_extents(nodes: Sequence[NodeProto], shapes: Mapping[str, Sequence[int]], path: str) -> None:
    """Check that no operator reads more extents or axes than a tensor has.

    ONNX's shape inference, and onnxruntime's, makes an axis of each: those of a kilobyte took all memory.

    Args:
        nodes: of a graph.
        shapes: of its inputs and constants, by name; 0 for a free axis.
        path: of the graph, for messages.
    """
    for i, node in enumerate(nodes):
        for k in _EXTENTS.get(node.op_type, ()):
            shape = shapes.get(node.input[k], ()) if k < len(node.input) else ()
            if len(shape) == 1 and shape[0] > MOST_EXTENTS:
                field = f"{node_path(path, i, node)}.input[{k}]"
                raise InvalidArgumentError(field, f"at most {MOST_EXTENTS} elements, for as many axes", shape[0])


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


def _check_tensor(tensor: TensorProto, path: str) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        wanted = f"a tensor inside the file; put it there with {INLINE}"
        raise InvalidArgumentError(_place(tensor, path), wanted, "external data")
    if tensor.data_type not in TENSOR_TYPES:
        raise InvalidArgumentError(f"{_place(tensor, path)}.data_type", "a data type of ONNX", tensor.data_type)
    if min(tensor.dims, default=0) < 0:
        raise InvalidArgumentError(f"{_place(tensor, path)}.dims", "extents from 0", list(tensor.dims))
    if (elements := math.prod(tensor.dims)) > 8 * (size := tensor.ByteSize()):  # the smallest elements have some bits
        raise InvalidArgumentError(
            f"{_place(tensor, path)}.dims", f"as many elements as its {size} bytes hold", f"{elements} elements"
        )


def _place(tensor: TensorProto, path: str) -> str:
    return f"{path} {tensor.name[:100]!r}"
