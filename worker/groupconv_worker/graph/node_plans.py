"""What each node of a model computes in a call: shape, weights, multiply-adds, receptive field."""

import math
from collections.abc import Mapping
from typing import Any

from onnx import NodeProto

from groupconv.networks.nodes import NodePlan
from groupconv_worker.graph.model import ALGORITHM, Model
from groupconv_worker.graph.receptive import Field, follow, input_field, window
from groupconv_worker.graph.work import multiply_adds

Shape = tuple[int, ...]


def node_plans(model: Model, weights: Mapping[str, Shape], shapes: Mapping[str, Shape | None]) -> tuple[NodePlan, ...]:
    """The nodes that compute something from the inputs, in the order in which they run.

    Args:
        model: checked.
        weights: shapes of what is constant, and of what is computed from constants alone.
        shapes: of the other tensors, None where one is known only while the network runs.
    """
    known = {**shapes, **weights}
    names = {info.name for info in model.inputs}
    fields = {info.name: field for info in model.inputs if (field := input_field(known.get(info.name)))}
    plans = []
    for i, node in zip(model.positions, model.proto.graph.node, strict=True):
        outputs = tuple(filter(None, node.output))
        if node.op_type == "Constant" or set(outputs) <= weights.keys():
            continue
        field = follow(node, fields, known)
        if field is not None:
            fields.update(dict.fromkeys(node.output, field))
        read = tuple(name for name in node.input if name in names)
        names.update(outputs)
        output = outputs[0] if outputs else ""
        shape = shapes.get(output)
        domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
        plans.append(
            NodePlan(
                node.name or output or f"node {i}",
                domain + node.op_type,
                shape,
                sum(math.prod(weights[name]) for name in node.input if name in weights),
                _multiply_adds(node, shape, known),
                ALGORITHM,
                inputs=read,
                window=window(node, known),
                outputs=outputs,
                **_seen(field),
            )
        )
    return tuple(plans)


def _multiply_adds(node: NodeProto, shape: Shape | None, known: Mapping[str, Shape | None]) -> int:
    """As of `multiply_adds`; 0 where extents are not known."""
    input_shapes = [known.get(name) for name in node.input]
    if shape is None or len(input_shapes) < 2 or input_shapes[0] is None or input_shapes[1] is None:
        return 0
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return multiply_adds(node.op_type, input_shapes[0], input_shapes[1], shape, transposed=transposed)


def _seen(field: Field | None) -> dict[str, Any]:
    """The receptive field of an element of a node's output, as attributes of a `NodePlan`."""
    return {
        "receptive_field": None if field is None else tuple(map(math.ceil, field.extent)),
        "stride": None if field is None or field.stride is None else tuple(map(float, field.stride)),
    }
