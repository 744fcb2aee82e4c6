"""Checks that are added to a model, where values decide whether onnxruntime would crash or take all memory.

They are ONNX nodes that fail while the network runs; `refusal` recognizes them by their names:

- A transposed convolution with three axes of space or more ends the process if its input has no elements. `Reshape` to
  [-1, 0, 0, …], which means the shape that it has, refuses such an input. It copies nothing.
- A loop can double a tensor in each turn. What it carries from turn to turn has at most `MOST` elements.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from groupconv.errors import GroupconvError, InvalidArgumentError, ResourceExhaustedError
from groupconv_worker.graph.checks import node_path, subgraphs
from groupconv_worker.graph.model import Model

MOST = 2**27
"""Elements that a loop may carry from turn to turn: 512 MiB of float32."""
MARK = "groupconv checks "
"""The names of checks begin so; the path of the node that they guard follows."""
FAILED = re.compile(rf"running (Reshape|Gather) node\. Name:'[^']*{MARK}(.*?)' Status Message")


def safeguarded(model: Model) -> bytes:
    """The bytes of a model with all checks that it needs; its own where it needs none."""
    operators = [node.op_type for node in _all_nodes(model.proto)]
    if not {"ConvTranspose", "Loop"} & set(operators):
        return model.data
    proto = ModelProto()
    proto.ParseFromString(model.data)
    guards = _Guards(model.constants, sequences=any("Sequence" in op or "Optional" in op for op in operators))
    guards.add(proto.graph.node, "model.graph", whole=True)
    for i, function in enumerate(proto.functions):
        guards.add(function.node, f"model.functions[{i}]")
    return proto.SerializeToString() if guards.count else model.data


def refusal(said: str) -> GroupconvError | None:
    """The error for what the runtime said, if a check failed; else None."""
    failed = FAILED.search(said)
    if failed is None:
        return None
    kind, path = failed.groups()
    if kind == "Gather":
        return ResourceExhaustedError(f"{path}: the loop carries more than {MOST} elements from turn to turn")
    wanted = "elements along each axis, without which onnxruntime ends the process"
    return InvalidArgumentError(f"{path}.input[0]", wanted, "none")


def _all_nodes(proto: ModelProto) -> Iterator[NodeProto]:
    def within(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
        for node in nodes:
            yield node
            for _, graph in subgraphs(node):
                yield from within(graph.node)

    yield from within(proto.graph.node)
    for function in proto.functions:
        yield from within(function.node)


class _Guards:
    """Adds checks to lists of nodes.

    Args:
        constants: shapes of the main graph's constants.
        sequences: whether a tensor without a type may be a sequence, which has no size.

    Attributes:
        count: how many checks were added.
    """

    def __init__(self, constants: Mapping[str, Sequence[int]], *, sequences: bool) -> None:
        self._constants, self._sequences, self.count = constants, sequences, 0

    def add(self, nodes: Any, path: str, *, whole: bool = False) -> None:
        """Add all checks to nodes, and to the graphs inside them. `whole`: they are the main graph's."""
        guarded: list[NodeProto] = []
        for i, node in enumerate(nodes):
            here = node_path(path, i, node)
            for name, graph in subgraphs(node):
                self.add(graph.node, f"{here}.{name}")
            if node.domain in ("", "ai.onnx"):
                if node.op_type == "ConvTranspose":
                    guarded += self._filled(node, here, self._rank(node, whole=whole))
                elif node.op_type == "Loop":
                    for _, body in subgraphs(node):
                        self._bound(body, len(node.input) - 2, here)
            guarded.append(node)
        if len(guarded) > len(nodes):
            copies = [NodeProto.FromString(node.SerializeToString()) for node in guarded]
            del nodes[:]
            nodes.extend(copies)

    def _rank(self, node: NodeProto, *, whole: bool) -> int | None:
        """Axes of the weights of a convolution, None if they are not known."""
        kernel = next((len(a.ints) for a in node.attribute if a.name == "kernel_shape" and a.ints), None)
        if kernel is not None:
            return kernel + 2
        shape = self._constants.get(node.input[1]) if whole and len(node.input) > 1 else None
        return None if shape is None else len(shape)

    def _filled(self, node: NodeProto, path: str, rank: int | None) -> Iterator[NodeProto]:
        """Nodes before a transposed convolution that refuse an input without elements; they replace its input."""
        if (rank is not None and rank < 5) or not node.input:
            return
        x, stem = node.input[0], self._stem()
        target = f"{stem}.shape"
        if rank is not None:
            yield _constant(target, [-1, *[0] * (rank - 1)])
        else:
            zero = numpy_helper.from_array(np.zeros(1, np.int64))
            yield _constant(f"{stem}.first", [-1])
            yield _constant(f"{stem}.one", [1])
            yield helper.make_node("Shape", [x], [f"{stem}.own"])
            yield helper.make_node("Shape", [f"{stem}.own"], [f"{stem}.rank"])
            yield helper.make_node("Sub", [f"{stem}.rank", f"{stem}.one"], [f"{stem}.others"])
            yield helper.make_node("ConstantOfShape", [f"{stem}.others"], [f"{stem}.zeros"], value=zero)
            yield helper.make_node("Concat", [f"{stem}.first", f"{stem}.zeros"], [target], axis=0)
        yield helper.make_node("Reshape", [x, target], [stem], MARK + path)
        node.input[0] = stem

    def _bound(self, body: GraphProto, carried: int, path: str) -> None:
        """Have a loop's body fail if what it carries to the next turn is too large: its condition reads the sizes."""
        outputs = [value for value in body.output[1 : 1 + carried] if self._is_tensor(value)]
        if not outputs:
            return
        stem = self._stem()
        total = ""
        for i, value in enumerate(outputs):
            size = f"{stem}.size{i}"
            body.node.append(helper.make_node("Size", [value.name], [size]))
            if total:
                body.node.append(helper.make_node("Add", [total, size], [f"{stem}.sum{i}"]))
            total = f"{stem}.sum{i}" if total else size
        true = numpy_helper.from_array(np.ones(1, np.bool_))
        body.node.extend(
            [
                helper.make_node("Constant", [], [f"{stem}.true"], value=true),
                helper.make_node("Constant", [], [f"{stem}.most"], value=numpy_helper.from_array(np.array(MOST + 1))),
                helper.make_node("Div", [total, f"{stem}.most"], [f"{stem}.over"]),  # 0 as long as it fits
                helper.make_node("Gather", [f"{stem}.true", f"{stem}.over"], [f"{stem}.fits"], MARK + path),
                helper.make_node("And", [body.output[0].name, f"{stem}.fits"], [stem]),
            ]
        )
        body.output[0].name = stem

    def _is_tensor(self, value: Any) -> bool:
        kind = value.type.WhichOneof("value")
        return kind == "tensor_type" or (kind is None and not self._sequences)

    def _stem(self) -> str:
        """A name that no model has, for the values of one check."""
        self.count += 1
        return f"{MARK}{self.count}"


def _constant(name: str, values: Sequence[int]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, np.int64)))
