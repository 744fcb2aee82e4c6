"""Rules for arithmetic with constants: one way to say each sum and product."""

import math
from dataclasses import replace

import numpy as np

from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Node


def is_float(draft: Draft, name: str) -> bool:
    """Whether a tensor's elements are floats of 32 or 64 bits, in which constants may be computed ahead."""
    return draft.tensors[name].dtype in (np.float32, np.float64)


def constant_of(draft: Draft, node: Node) -> tuple[str, str] | None:
    """The names of the variable and the constant input of a node that has one of each."""
    a, b = node.inputs
    if (a in draft.constants) == (b in draft.constants):
        return None
    return (b, a) if a in draft.constants else (a, b)


def _div(draft: Draft, node: Node) -> bool:
    divisor = draft.value(node.inputs[1])
    if divisor is None or not is_float(draft, node.outputs[0]) or not (divisor != 0).all():
        return False
    inverse = draft.constant(node.inputs[1], _inverse, divisor)
    draft.replace([node], replace(node, op="Mul", inputs=(node.inputs[0], inverse)))
    return True


def _inverse(array: np.ndarray) -> np.ndarray:
    return (1 / array.astype(np.float64)).astype(array.dtype)


def _sub(draft: Draft, node: Node) -> bool:
    term = draft.value(node.inputs[1])
    if term is None or not is_float(draft, node.outputs[0]):
        return False
    draft.replace(
        [node], replace(node, op="Add", inputs=(node.inputs[0], draft.constant(node.inputs[1], _minus, term)))
    )
    return True


def _minus(array: np.ndarray) -> np.ndarray:
    return -array


def _square(draft: Draft, node: Node) -> bool:
    if draft.number(node.inputs[1]) != 2 or draft.shape(node.inputs[0]) != draft.shape(node.outputs[0]):
        return False
    draft.replace([node], replace(node, op="Mul", inputs=(node.inputs[0],) * 2))
    return True


def _neutral(draft: Draft, node: Node) -> bool:
    """A product with 1 or a sum with 0 that does not broadcast."""
    operands = constant_of(draft, node)
    if operands is None:
        return False
    variable, constant = operands
    if draft.number(constant) != (1 if node.op == "Mul" else 0):
        return False
    if draft.shape(variable) != draft.shape(node.outputs[0]):
        return False
    return draft.alias(replace(node, inputs=(variable,)))


def _sum(draft: Draft, node: Node) -> bool:
    """Several terms: added in their order."""
    nodes, total = [], node.inputs[0]
    for i, term in enumerate(node.inputs[1:], 2):
        shape = np.broadcast_shapes(draft.shape(total), draft.shape(term))
        dtype = draft.tensors[node.outputs[0]].dtype
        partial = node.outputs[0] if i == len(node.inputs) else draft.fresh(node.outputs[0], shape, dtype)
        nodes.append(Node("Add", (total, term), (partial,), {}, node.name))
        total = partial
    if not nodes:
        return draft.alias(node)
    draft.replace([node], *nodes)
    return True


def _clip(draft: Draft, node: Node) -> bool:
    """Min or Max with a number."""
    if len(node.inputs) != 2:
        return False
    operands = constant_of(draft, node)
    bound = None if operands is None else draft.number(operands[1])
    if operands is None or bound is None or draft.shape(operands[0]) != draft.shape(node.outputs[0]):
        return False
    if not is_float(draft, node.outputs[0]):
        return False
    bounds = {"min": bound} if node.op == "Max" else {"max": bound}
    draft.replace([node], Node("Clip", (operands[0],), node.outputs, bounds, node.name))
    return True


def _merge_clips(draft: Draft, node: Node) -> bool:
    """Both bounds are always there in this form; a Clip from 0 alone is Relu."""
    if len(node.inputs) > 1:
        return False
    low, high = (_bound(node, name, default) for name, default in (("min", -math.inf), ("max", math.inf)))
    before = draft.made_by(node.inputs[0], "Clip", "Relu")
    if before is not None and len(before.inputs) == 1:
        inner = (
            (0.0, math.inf)
            if before.op == "Relu"
            else (_bound(before, "min", -math.inf), _bound(before, "max", math.inf))
        )
        low, high = min(max(low, inner[0]), high), min(max(inner[1], low), high)
        merged = Node("Clip", before.inputs, node.outputs, {"min": low, "max": high}, node.name)
        draft.replace([before, node], merged)
        return True
    if is_float(draft, node.outputs[0]) and (low, high) == (0, math.inf):
        draft.replace([node], Node("Relu", node.inputs, node.outputs, {}, node.name))
        return True
    if set(node.attributes) == {"min", "max"}:
        return False
    draft.replace([node], replace(node, attributes={"min": low, "max": high}))
    return True


def _bound(node: Node, name: str, default: float) -> float:
    value = node.attributes.get(name)
    return default if value is None else float(value)


ARITHMETIC = {
    "Add": (_neutral,),
    "Clip": (_merge_clips,),
    "Div": (_div,),
    "Max": (_clip,),
    "Min": (_clip,),
    "Mul": (_neutral,),
    "Pow": (_square,),
    "Sub": (_sub,),
    "Sum": (_sum,),
}
"""Before activations, which are looked for in this form alone."""
