"""From an onnx-ir graph with known shapes to a `Graph`: what operator sets say in different ways is said in one."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.graph.attributes import CONSTANT_INPUTS, resolve_window
from groupconv_worker.graph.graph import Graph, Node, Tensor

GROUPS = "num_groups"
"""In the metadata of an InstanceNormalization that stands for a GroupNormalization while shapes are inferred."""
RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the elements and their order: a `Reshape` whose output's shape says all."""


class UnboundGraphError(ValueError):
    """A model has no graph of ours, for the reason that the message gives; onnxruntime may still run it."""


class Translation:
    """Translates the graphs of one model.

    Args:
        opset: the version of ONNX's operators in them.
        weights: the model's tensors, which all its graphs share.
    """

    def __init__(self, opset: int, weights: Iterable[Any]) -> None:
        self._opset = opset
        self._weights = {id(tensor): tensor for tensor in weights}
        self._arrays: dict[int, Array] = {}

    def graph(self, source: Any, outputs: Sequence[str]) -> Graph:
        """Translate a graph.

        Args:
            source: an `onnx_ir.Graph` whose shapes have been inferred.
            outputs: the names of its outputs.

        Raises:
            UnboundGraphError: naming the node that cannot be translated.
        """
        builder = _Made(self._opset)
        for value in source.inputs:
            builder.add(_tensor(value, f"input {value.name!r}"))
        for value in source.initializers.values():
            if value.const_value is not None and not value.is_graph_input():
                builder.constant(value.name, self._array(value))
        for node in source:
            builder.node(node, self._array)
        for name, value in zip(outputs, source.outputs, strict=True):
            if value.name != name:
                builder.add(Tensor(name, builder.tensors[value.name].dtype, builder.tensors[value.name].shape))
                builder.nodes.append(Node("Identity", (value.name,), (name,), name=name))
        used = {name for node in builder.nodes for name in node.inputs} | set(outputs)
        constants = {name: array for name, array in builder.constants.items() if name in used}
        tensors = {n: t for n, t in builder.tensors.items() if n not in builder.constants or n in constants}
        return Graph(tuple(v.name for v in source.inputs), tuple(outputs), tuple(builder.nodes), tensors, constants)

    def _array(self, value: Any) -> Array:
        """The elements of a constant. A weight is the same array in each graph."""
        tensor = value.const_value
        array = self._arrays.get(id(tensor))
        if array is None:
            array = np.asarray(tensor.numpy())
            array.setflags(write=False)
            if id(tensor) in self._weights:
                self._arrays[id(tensor)] = array
        return array


class _Made:
    """The parts of a graph that is being translated."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.tensors: dict[str, Tensor] = {}
        self.constants: dict[str, Array] = {}
        self.nodes: list[Node] = []

    def add(self, tensor: Tensor) -> None:
        self.tensors[tensor.name] = tensor

    def constant(self, name: str, array: Array) -> None:
        self.add(Tensor(name, array.dtype, array.shape))
        self.constants[name] = array

    def node(self, node: Any, array_of: Any) -> None:
        """Translate one node, which may become several."""
        where = f"{node.op_type} {(node.name or node.outputs[0].name)!r}"
        if node.domain not in ("", "ai.onnx"):
            raise UnboundGraphError(f"{where} is of {node.domain!r}, not of ONNX")
        if node.op_type == "Constant":  # of a type that the optimizer leaves
            if node.outputs[0].const_value is None:
                raise UnboundGraphError(f"{where} holds neither numbers nor bools")
            self.constant(node.outputs[0].name, array_of(node.outputs[0]))
            return
        for value in node.outputs:
            if value.name:
                self.add(_tensor(value, where))
        inputs = [value.name if value is not None else "" for value in node.inputs]
        attributes = dict(_attributes(node, where))
        for position, name in CONSTANT_INPUTS.get(node.op_type, {}).items():
            if position < len(inputs) and inputs[position]:
                value = node.inputs[position]
                if value.const_value is None:
                    continue
                array = array_of(value)
                attributes[name] = array.item() if array.ndim == 0 else tuple(array.tolist())
                inputs[position] = ""
        while inputs and not inputs[-1]:
            inputs.pop()
        op = node.op_type
        if GROUPS in node.metadata_props:
            op, attributes["num_groups"] = "GroupNormalization", int(node.metadata_props[GROUPS])
        translated = Node(
            op,
            tuple(inputs),
            tuple(value.name or "" for value in node.outputs),
            attributes,
            node.name or node.outputs[0].name,
        )
        self.nodes.extend(self._in_one_way(translated, where))

    def _in_one_way(self, node: Node, where: str) -> Iterator[Node]:
        """A node as the latest operator set and this project's graphs have it."""
        attributes = dict(node.attributes)
        shapes = [self.tensors[name].shape if name else () for name in node.inputs]
        out = self.tensors[node.outputs[0]]
        if attributes.get("training_mode"):
            raise UnboundGraphError(f"{where} is in training mode")
        if node.op in RESHAPES:
            if (count := math.prod(shapes[0])) != math.prod(out.shape):
                raise UnboundGraphError(f"{where}: {count} elements cannot have the shape {list(out.shape)}")
            yield Node("Reshape", node.inputs[:1], node.outputs, {}, node.name)
        elif node.op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"):
            try:
                window = resolve_window(node, shapes, out.shape)
            except ValueError as error:
                raise UnboundGraphError(f"{where}: {error}") from None
            yield Node(node.op, node.inputs, node.outputs, window, node.name)
        elif node.op in ("Softmax", "LogSoftmax") and self._opset < 13:
            yield from self._flat_softmax(node, out)
        elif node.op in ("Upsample", "Resize"):
            if self._opset < 11:
                attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            yield Node("Resize", node.inputs, node.outputs, attributes, node.name)
        elif node.op == "Sum" and len(node.inputs) == 2:
            yield Node("Add", node.inputs, node.outputs, {}, node.name)
        elif node.op == "Dropout" and not any(node.outputs[1:]):
            yield Node("Identity", node.inputs[:1], node.outputs[:1], {}, node.name)
        elif node.op == "Cast" and self.tensors[node.inputs[0]].dtype == out.dtype:
            yield Node("Identity", node.inputs, node.outputs, {}, node.name)
        else:
            yield node

    def _flat_softmax(self, node: Node, out: Tensor) -> Iterator[Node]:
        """Before operator set 13, softmax runs over the axis and all axes behind it together."""
        axis = node.attributes.get("axis", 1)
        axis += len(out.shape) if axis < 0 else 0
        inner = out.shape[axis:]
        if sum(extent > 1 for extent in inner) <= 1:
            over = axis + max(range(len(inner)), key=inner.__getitem__, default=0)
            yield Node(node.op, node.inputs, node.outputs, {"axis": over}, node.name)
            return
        flat = (*out.shape[:axis], int(np.prod(inner)))
        before, after = f"{out.name}/flat", f"{out.name}/softmax"
        self.add(Tensor(before, out.dtype, flat))
        self.add(Tensor(after, out.dtype, flat))
        yield Node("Reshape", node.inputs, (before,), {}, f"{node.name}/flat")
        yield Node(node.op, (before,), (after,), {"axis": axis}, node.name)
        yield Node("Reshape", (after,), node.outputs, {}, f"{node.name}/shape")


def _tensor(value: Any, where: str) -> Tensor:
    if value.dtype is None or value.shape is None:
        raise UnboundGraphError(f"{where}: its shape or type is not known before it runs")
    if not value.shape.is_static():
        raise UnboundGraphError(f"{where}: its shape {value.shape} depends on the values of the inputs")
    try:
        dtype = np.dtype(value.dtype.numpy())
    except TypeError:
        raise UnboundGraphError(f"{where}: elements of {value.dtype}") from None
    return Tensor(value.name, dtype, tuple(int(extent) for extent in value.shape.numpy()))


def _attributes(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    import onnx_ir

    kinds = onnx_ir.AttributeType
    for name, attribute in node.attributes.items():
        if attribute.type in (kinds.INT, kinds.FLOAT, kinds.STRING):
            yield name, attribute.value
        elif attribute.type in (kinds.INTS, kinds.FLOATS, kinds.STRINGS):
            yield name, tuple(attribute.value)
        elif attribute.type == kinds.TENSOR:
            array = attribute.value.numpy()
            yield name, array.item() if array.size == 1 else tuple(array.reshape(-1).tolist())
        else:
            raise UnboundGraphError(f"{where} has the attribute {name!r} of type {attribute.type.name}")
