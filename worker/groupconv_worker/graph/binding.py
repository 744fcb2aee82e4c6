"""A model for inputs of certain shapes: the shape of every tensor, what each node costs, what is alive at once.

ONNX's own shape inference does it, on the model without its large weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.networks.nodes import NodePlan
from groupconv.networks.plan import NetworkPlan
from groupconv.networks.tensors import TensorInfo
from groupconv.text import human_bytes
from groupconv_worker.graph.checks import node_path, subgraphs
from groupconv_worker.graph.model import ALGORITHM, ELEMENTS, Model
from groupconv_worker.graph.receptive import Field, follow, input_field, window
from groupconv_worker.graph.work import multiply_adds

UNKNOWN_ELEMENT = 8
"""Bytes of an element whose type inference does not tell."""
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a tensor.

    Attributes:
        shape: None if it is not known before the call.
        itemsize: bytes of an element.
    """

    shape: Shape | None
    itemsize: int

    @property
    def nbytes(self) -> int:
        """Bytes; 0 where the shape is not known."""
        return 0 if self.shape is None else math.prod(self.shape) * self.itemsize


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
        >>> plan = skeleton.bind({"x": (2, 3)}, most=2**20)
        >>> plan.nodes[0].shape, plan.peak_bytes
        ((2, 3), 48)
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._weights = dict(model.constants)
        self.folded_bytes = 0
        values = self._inferred({})
        self._check_weights(values)
        for node in model.proto.graph.node:
            if all(not name or name in self._weights for name in node.input) and not any(subgraphs(node)):
                for name in node.output:
                    if name in values and name not in self._weights:
                        self._weights[name] = values[name].shape or ()
                        self.folded_bytes += values[name].nbytes

    def _check_weights(self, values: Mapping[str, Value]) -> None:
        """Refuse convolutions whose weights do not fit their input's channels: shape inference lets them through.

        Raises:
            InvalidArgumentError: naming the node.
        """
        for i, node in zip(self._model.positions, self._model.proto.graph.node, strict=True):
            if node.op_type not in ("Conv", "ConvTranspose") or node.domain not in ("", "ai.onnx"):
                continue
            x, w = (self._weights.get(n) or (values[n].shape if n in values else None) for n in node.input[:2])
            if not x or not w or len(x) != len(w):
                continue
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            path = f"{node_path('model.graph', i, node)}.input[1]"
            if groups < 1 or w[0] % groups:
                raise InvalidArgumentError(path, f"weights of a multiple of {groups} groups", list(w))
            channels = w[0] if node.op_type == "ConvTranspose" else w[1] * groups
            if x[1] != channels:
                wanted = f"weights for {x[1]} channels in {groups} group{'s' if groups > 1 else ''}"
                raise InvalidArgumentError(path, wanted, list(w))

    @property
    def weights(self) -> int:
        """Elements of all constants, those that are computed from others too."""
        return sum(map(math.prod, self._weights.values()))

    def bind(self, shapes: Mapping[str, Sequence[int]], *, most: int) -> NetworkPlan:
        """What a call with inputs of these shapes computes.

        Args:
            shapes: of the inputs, which fit the model (`check_shapes`).
            most: bytes that a tensor may have.

        Raises:
            ResourceExhaustedError: naming a node whose output has more.
            InvalidArgumentError: naming a convolution whose weights do not fit.
        """
        values = self._inferred(shapes)
        self._check_weights(values)
        nodes = []
        names = {info.name for info in self._model.inputs}
        known = {name: value.shape for name, value in values.items()} | self._weights
        fields = {info.name: field for info in self._model.inputs if (field := input_field(known.get(info.name)))}
        for i, node in zip(self._model.positions, self._model.proto.graph.node, strict=True):
            for name in node.output:
                size = values[name].nbytes if name in values else 0
                if size > most:
                    shape = list(values[name].shape or ())
                    raise ResourceExhaustedError(
                        f"{node_path('model.graph', i, node)}: an output of {shape} takes {human_bytes(size)}, "
                        f"more than the limit of {human_bytes(most)} for a tensor"
                    )
            if node.op_type != "Constant" and not set(filter(None, node.output)) <= self._weights.keys():
                field = follow(node, fields, known)
                if field is not None:
                    fields.update(dict.fromkeys(node.output, field))
                read = tuple(name for name in node.input if name in names)
                names.update(filter(None, node.output))
                seen = _seen(node, field)
                nodes.append(replace(self._planned(i, node, values), inputs=read, window=window(node, known), **seen))
        outputs = tuple(
            TensorInfo(
                info.name, info.dtype, values[info.name].shape or info.shape if info.name in values else info.shape
            )
            for info in self._model.outputs
        )
        return NetworkPlan(tuple(nodes), outputs, self._peak(values))

    def _inferred(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, Value]:
        proto = ModelProto()
        proto.CopyFrom(self._model.proto)
        for value in proto.graph.input:
            if value.name in shapes:
                _set_shape(value, shapes[value.name])
        for value in proto.graph.output:  # what the model says of them may be of other shapes
            value.type.tensor_type.ClearField("shape")
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        except Exception:  # noqa: BLE001 - of operators that inference does not know; the runtime judges the model
            inferred = proto.graph
        found = {}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            tensor = value.type.tensor_type
            shape = _known_shape(tensor) if tensor.HasField("shape") else None
            dtype = ELEMENTS.get(tensor.elem_type)
            found[value.name] = Value(shape, UNKNOWN_ELEMENT if dtype is None else dtype.itemsize)
        return found

    def _planned(self, index: int, node: NodeProto, values: Mapping[str, Value]) -> NodePlan:
        output = next((name for name in node.output if name), "")
        shape = values[output].shape if output in values else None
        weights = sum(math.prod(self._weights[name]) for name in node.input if name in self._weights)
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        return NodePlan(
            node.name or output or f"node {index}",
            domain + node.op_type,
            shape,
            weights,
            self._multiply_adds(node, shape, values),
            ALGORITHM,
        )

    def _multiply_adds(self, node: NodeProto, shape: Shape | None, values: Mapping[str, Value]) -> int:
        """As of `multiply_adds`; 0 where extents are not known."""
        given = [self._weights.get(name) or (values[name].shape if name in values else None) for name in node.input]
        if shape is None or len(given) < 2 or given[0] is None or given[1] is None:
            return 0
        transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
        return multiply_adds(node.op_type, given[0], given[1], shape, transposed=transposed)

    def _peak(self, values: Mapping[str, Value]) -> int:
        """Bytes alive at once at most, where each tensor lives from its node to the last one that reads it."""
        nodes = self._model.proto.graph.node
        last: dict[str, int] = {}
        for i, node in enumerate(nodes):
            for name in node.input:
                last[name] = i
        kept = {info.name for info in (*self._model.inputs, *self._model.outputs)}
        alive = sum(values[info.name].nbytes for info in self._model.inputs if info.name in values)
        peak = alive
        for i, node in enumerate(nodes):
            alive += sum(values[name].nbytes for name in node.output if name in values and name not in self._weights)
            peak = max(peak, alive)
            for name in {*node.input, *node.output}:
                if name in values and name not in kept and last.get(name, i) == i and name not in self._weights:
                    alive -= values[name].nbytes
        return peak


def _seen(node: NodeProto, field: Field | None) -> dict[str, Any]:
    """The attributes of a `NodePlan` that say what the node makes, and what that sees."""
    return {
        "outputs": tuple(filter(None, node.output)),
        "receptive_field": None if field is None else tuple(map(math.ceil, field.extent)),
        "stride": None if field is None or field.stride is None else tuple(map(float, field.stride)),
    }


def _set_shape(value: ValueInfoProto, shape: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape
    del dims.dim[:]
    for extent in shape:
        dims.dim.add(dim_value=extent)


def _known_shape(tensor: Any) -> Shape | None:
    if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)
