"""An ONNX model as graphs of known shapes: optimized once, bound to the shapes of each call.

onnx-ir holds the model; onnxscript's optimizer inlines functions, folds constants and batch normalization. What it
cannot do refuses no model: there is no graph then, and onnxruntime runs the model as it is.
"""

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from groupconv.errors import FailedPreconditionError
from groupconv_worker.graph.canonical.draft import Memo
from groupconv_worker.graph.canonical.form import canonical
from groupconv_worker.graph.graph import Graph, Node
from groupconv_worker.graph.model import Model
from groupconv_worker.graph.translation import GROUPS, Translation, UnboundGraphError

FOLDED_BYTES = 2**30
"""Bytes of all tensors that are computed from constants alone, in one model."""
FOLDED_AT_BINDING = 2**24
"""Bytes of the tensors that become constants once shapes are bound: shapes, masks, coordinates."""
_REWRITING = threading.Lock()
"""onnxscript has one object of each rule in a process, which keeps what it has found in a model between two methods."""
EARLIEST = 7
"""The first operator set that is understood. Sets before it broadcast in another way."""


class Optimized:
    """A model that is simplified once, and bound to shapes as often as there are shapes.

    Args:
        model: checked.
        folded_bytes: that may be computed from constants.

    Raises:
        UnboundGraphError: the model has what graphs cannot hold, or the optimizer fails.
        FailedPreconditionError: onnx-ir or onnxscript is not installed.

    Example:
        >>> from onnx import TensorProto, helper
        >>> from groupconv_worker.graph.model import read_model
        >>> x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy")
        >>> proto = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", [x], [y])
        >>> model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)])
        >>> graph = Optimized(read_model(model.SerializeToString())).bind({"x": (2, 3)})
        >>> graph.nodes[0].op, graph.tensors["y"].shape
        ('Relu', (2, 3))
    """

    def __init__(self, model: Model, folded_bytes: int = FOLDED_BYTES) -> None:
        self._outputs = tuple(info.name for info in model.outputs)
        proto = onnx.ModelProto.FromString(model.data)
        _check_supported(proto)
        try:
            self._model = _optimized(proto, _Budget(folded_bytes))
        except ImportError as error:
            raise FailedPreconditionError(
                f"to compile networks, install what the server needs: pip install 'groupconv[server]' ({error})"
            ) from None
        except Exception as error:  # noqa: BLE001 - of any node: the optimizer evaluates and rewrites all of them
            raise UnboundGraphError(f"the optimizer fails: {_first_line(error)}") from None
        opset = self._model.opset_imports.get("", 1)
        if opset < EARLIEST:
            raise UnboundGraphError(f"operator set {opset} is older than {EARLIEST}")
        weights = [value.const_value for value in self._model.graph.initializers.values()]
        self._translation = Translation(opset, weights)
        self._memo: Memo = {}

    def canonical(self, shapes: Mapping[str, Sequence[int]]) -> Graph:
        """The graph of `bind` in its canonical form, with fused nodes, as compilers want it.

        Args:
            shapes: of all inputs.

        Raises:
            UnboundGraphError: as of `bind`, or a Resize whose answer depends on how its lengths are rounded.
        """
        graph = self.bind(shapes)
        for node in graph.nodes:
            if node.op == "Resize" and node.attributes.get("scales"):
                _check_lengths(node, graph.tensors[node.inputs[0]].shape)
        return canonical(graph, self._memo)

    def bind(self, shapes: Mapping[str, Sequence[int]]) -> Graph:
        """The graph of a call with inputs of these shapes. Safe to call from several threads.

        Args:
            shapes: of all inputs, which fit the model (`check_shapes`).

        Raises:
            UnboundGraphError: a shape depends on the values of the inputs, or an operator is not ONNX's.
        """
        try:
            bound = self._model.clone()
            _set_shapes(bound.graph, shapes)
            _fold(bound, _Budget(FOLDED_AT_BINDING), rewrite=False)
        except Exception as error:  # noqa: BLE001 - of any node, as above
            raise UnboundGraphError(f"constants cannot be folded: {_first_line(error)}") from None
        return self._translation.graph(bound.graph, self._outputs)


class _Budget:
    """Decides which nodes are computed now: while what they make fits into a number of bytes."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._seen: set[int] = set()

    def admits(self, node: Any) -> bool:
        """Whether a node whose inputs are constants is computed. Its outputs' shapes have been inferred."""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
            return False
        size = 0
        for value in node.outputs:
            if value.shape is None or value.dtype is None or not value.shape.is_static():
                return False
            size += math.prod(value.shape.numpy()) * max(1, math.ceil(value.dtype.itemsize))
        if id(node) not in self._seen:  # the optimizer passes twice, and a node that it keeps is not paid twice
            self._seen.add(id(node))
            self._left -= size
        return self._left >= 0


def _optimized(proto: onnx.ModelProto, budget: _Budget) -> Any:
    import onnx_ir
    from onnx_ir.passes import common

    for logger in map(logging.getLogger, ("onnx_ir", "onnxscript")):
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)  # they warn of each node that they leave as it is
    model = onnx_ir.from_proto(proto)
    common.RemoveInitializersFromInputsPass()(model)
    common.InlinePass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        if node.op_type == "GroupNormalization" and node.domain == "":
            _stand_in(node)
    _fold(model, budget, rewrite=True)
    common.AddDefaultAttributesPass()(model)
    return model


def _stand_in(node: Any) -> None:
    """Give a GroupNormalization the operator of another that keeps the shape: ONNX infers no shape for its own."""
    node.op_type = "InstanceNormalization"
    node.metadata_props[GROUPS] = str(node.attributes.pop("num_groups").value)
    node.attributes.pop("stash_type", None)


def _fold(model: Any, budget: _Budget, *, rewrite: bool) -> None:
    from onnx_ir.passes import common
    from onnxscript import optimizer

    most = 2**31  # elements; the budget counts bytes
    if rewrite:
        with _REWRITING:
            optimizer.optimize_ir(
                model, inline=False, should_fold=budget.admits, input_size_limit=most, output_size_limit=most
            )
    else:
        optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            should_fold=budget.admits,
            input_size_limit=most,
            output_size_limit=most,
        )
        common.RemoveUnusedNodesPass()(model)


def _check_lengths(node: Node, shape: Sequence[int]) -> None:
    """Refuse scales that give no whole lengths: ONNX and onnxruntime round these in different ways."""
    scales = node.attributes["scales"]
    for axis, scale in zip(node.attributes.get("axes") or range(len(scales)), scales, strict=True):
        length = shape[axis] * scale
        if abs(length - round(length)) > 1e-3 or math.floor(length) != round(length):
            raise UnboundGraphError(f"Resize {node.name!r}: {shape[axis]} elements times {scale:g} are no whole number")


def _set_shapes(graph: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the inputs their shapes, and forget those of all other values, which may be of another call."""
    import onnx_ir

    for value in graph.inputs:
        if value.name in shapes:
            value.shape = onnx_ir.Shape(shapes[value.name])
    for node in graph:
        for value in node.outputs:
            value.shape = None


def _check_supported(proto: onnx.ModelProto) -> None:
    if proto.graph.sparse_initializer:
        raise UnboundGraphError(f"{len(proto.graph.sparse_initializer)} sparse initializers")
    for node in proto.graph.node:
        if any(attribute.HasField("sparse_tensor") for attribute in node.attribute):
            raise UnboundGraphError(f"{node.op_type} {node.name!r} has a sparse tensor")


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0][:300]
