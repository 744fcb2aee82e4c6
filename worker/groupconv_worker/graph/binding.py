"""A model for inputs of certain shapes: the shape of every tensor, what is alive at once.

ONNX's own shape inference does it, on the model without its large weights.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, ValueInfoProto

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.tensors import TensorInfo
from groupconv.text import human_bytes
from groupconv_worker.graph.checks import node_path, subgraphs
from groupconv_worker.graph.model import ELEMENTS, Model
from groupconv_worker.graph.node_checks import check_shapes, is_checked
from groupconv_worker.graph.node_plans import node_plans

UNKNOWN_ELEMENT = 8
"""Bytes of an element whose type inference does not tell."""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor.

    Attributes:
        shape: None if it is not known before the call.
        nbytes: 0 where the shape is not known.
    """

    shape: Shape | None
    nbytes: int


class Binding:
    """A model with inputs of certain shapes. What a call does not need is found out when it is asked for.

    Args:
        model: checked.
        weights: shapes of what is constant.
        values: all tensors, by name.

    Attributes:
        outputs: of the model, with all extents that are known.
        peak_bytes: of all tensors that are alive at once.
    """

    def __init__(self, model: Model, weights: Mapping[str, Shape], values: Mapping[str, Value]) -> None:
        self._model, self._weights, self._values = model, weights, values
        shapes = [values[info.name].shape if info.name in values else None for info in model.outputs]
        self.outputs = tuple(
            TensorInfo(info.name, info.dtype, shape or info.shape)
            for info, shape in zip(model.outputs, shapes, strict=True)
        )
        self.peak_bytes = self._peak()

    @functools.cached_property
    def plan(self) -> NetworkPlan:
        """What each node computes."""
        shapes = {name: value.shape for name, value in self._values.items()}
        return NetworkPlan(node_plans(self._model, self._weights, shapes), self.outputs, self.peak_bytes)

    def _peak(self) -> int:
        """Bytes alive at once at most, where each tensor lives from its node to the last one that reads it."""
        nodes, values = self._model.proto.graph.node, self._values
        names = [(list(node.input), list(node.output)) for node in nodes]
        last = {name: i for i, (inputs, _) in enumerate(names) for name in inputs}
        permanent = {info.name for info in (*self._model.inputs, *self._model.outputs)}
        alive = sum(values[info.name].nbytes for info in self._model.inputs if info.name in values)
        peak = alive
        for i, (inputs, outputs) in enumerate(names):
            alive += sum(values[name].nbytes for name in outputs if name in values and name not in self._weights)
            peak = max(peak, alive)
            for name in {*inputs, *outputs}:
                if name in values and name not in permanent and last.get(name, i) == i and name not in self._weights:
                    alive -= values[name].nbytes
        return peak


class Skeleton:
    """What ONNX's shape inference makes of a model.

    Args:
        model: checked.

    Attributes:
        folded_bytes: of tensors that depend on constants alone; a runtime computes them once and keeps them.

    Example:
        >>> from onnx import TensorProto, helper
        >>> from groupconv_worker.graph.model import read_model
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy")
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", [x], [y])
        >>> skeleton = Skeleton(read_model(helper.make_model(graph).SerializeToString()))
        >>> bound = skeleton.bind({"x": (2, 3)}, most=2**20)
        >>> bound.plan.nodes[0].shape, bound.peak_bytes
        ((2, 3), 48)
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._weights = dict(model.constants)
        self.folded_bytes = 0
        self._values = values = self._inferred({})
        self._check_nodes(values)
        for node in model.proto.graph.node:
            if all(not name or name in self._weights for name in node.input) and not any(subgraphs(node)):
                for name in node.output:
                    if name in values and name not in self._weights:
                        self._weights[name] = values[name].shape or ()
                        self.folded_bytes += values[name].nbytes

    def _check_nodes(self, values: Mapping[str, Value]) -> None:
        """Refuse nodes that do not fit their inputs, and outputs that cannot be: shape inference lets them through.

        Raises:
            InvalidArgumentError: naming the node.
        """
        for i, node in zip(self._model.positions, self._model.proto.graph.node, strict=True):
            if is_checked(node):
                shapes = [self._weights.get(n) or (values[n].shape if n in values else None) for n in node.input[:2]]
                check_shapes(node, node_path("model.graph", i, node), shapes)
            for name in node.output:
                shape = values[name].shape if name in values else None
                if shape and min(shape) < 0:
                    wanted = "inputs whose output has extents from 0"
                    raise InvalidArgumentError(node_path("model.graph", i, node), wanted, list(shape))

    @property
    def weights(self) -> int:
        """Elements of all constants, those that are computed from others too."""
        return sum(map(math.prod, self._weights.values()))

    def bind(self, shapes: Mapping[str, Sequence[int]], *, most: int) -> Binding:
        """The model with inputs of these shapes.

        Args:
            shapes: of the inputs, which fit the model (`check_shapes`).
            most: bytes that a tensor may have.

        Raises:
            ResourceExhaustedError: naming a node whose output has more.
            InvalidArgumentError: naming a node that does not fit its inputs.
        """
        values = self._values
        if any(tuple(shapes.get(info.name, info.shape)) != info.shape for info in self._model.inputs):
            values = self._inferred(shapes)
            self._check_nodes(values)
        if any(value.nbytes > most for value in values.values()):
            self._refuse(values, most)
        return Binding(self._model, self._weights, values)

    def _refuse(self, values: Mapping[str, Value], most: int) -> None:
        """Refuse a node whose output has more than `most` bytes."""
        for i, node in zip(self._model.positions, self._model.proto.graph.node, strict=True):
            for name in node.output:
                if name in values and values[name].nbytes > most:
                    shape, size = list(values[name].shape or ()), human_bytes(values[name].nbytes)
                    raise ResourceExhaustedError(
                        f"{node_path('model.graph', i, node)}: an output of {shape} takes {size}, "
                        f"more than the limit of {human_bytes(most)} for a tensor"
                    )

    def _inferred(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Value]:
        proto = ModelProto()
        proto.CopyFrom(self._model.proto)
        free = {info.name for info in self._model.inputs}
        for value in proto.graph.input:
            if value.name in shapes:
                _set_shape(value, shapes[value.name])
            elif value.name in free:
                for dim in value.type.tensor_type.shape.dim:
                    if dim.HasField("dim_value") and dim.dim_value < 1:  # a free axis, as `Model.inputs` says
                        dim.Clear()
        for value in proto.graph.output:  # what the model says of them may be of other shapes
            value.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        except Exception:  # noqa: BLE001 - of operators that inference does not know; the runtime judges the model
            inferred = proto.graph
        values = {}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            tensor = value.type.tensor_type
            shape = _known_shape(tensor) if tensor.HasField("shape") else None
            dtype = ELEMENTS.get(tensor.elem_type)
            itemsize = UNKNOWN_ELEMENT if dtype is None else dtype.itemsize
            values[value.name] = Value(shape, 0 if shape is None else math.prod(shape) * itemsize)
        return values


def _set_shape(value: ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for extent in shape:
        dims.dim.add(dim_value=extent)


def _known_shape(tensor: Any) -> Shape | None:
    shape = tuple(dim.dim_value for dim in tensor.shape.dim)
    if 0 in shape and not all(dim.HasField("dim_value") for dim in tensor.shape.dim):  # 0 is what an unset one reads as
        return None
    return shape
