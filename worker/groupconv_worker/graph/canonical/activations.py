"""Rules for activations and normalizations that are written as several nodes."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groupconv_worker.graph.canonical.arithmetic import constant_of
from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Node

CLOSE = 1e-4
"""Relative difference of a constant of a formula: exporters write √2 in few digits."""


def _close(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=CLOSE)


def _scaled(draft: Draft, name: str, op: str) -> tuple[str, float, Node] | None:
    """(x, c, node) where a tensor is x · c or x + c with a number c."""
    node = draft.maker(name)
    if node is None or node.op != op:
        return None
    operands = constant_of(draft, node)
    number = None if operands is None else draft.number(operands[1])
    if operands is None or number is None or draft.shape(operands[0]) != draft.shape(name):
        return None
    return operands[0], number, node


def _hard_sigmoid(draft: Draft, node: Node) -> bool:
    """clip(x · a + b, 0, 1), or clip(x + b, 0, h) / h."""
    low, high = node.attributes.get("min"), node.attributes.get("max")
    added = draft.made_by(node.inputs[0], "Add")
    if low != 0 or high is None or not 0 < high < math.inf or added is None or len(node.inputs) > 1:
        return False
    sum_ = _scaled(draft, node.inputs[0], "Add")
    if sum_ is None:
        return False
    x, beta, _ = sum_
    nodes, alpha = [added], 1.0
    product = _scaled(draft, x, "Mul")
    if product is not None and draft.used_once(x):
        x, alpha = product[:2]
        nodes.insert(0, product[2])
    if high == 1:
        fused = Node("HardSigmoid", (x,), node.outputs, {"alpha": alpha, "beta": beta}, node.name)
        draft.replace([*nodes, node], fused)
        return True
    end = draft.reader(node, "Mul")
    scaled = None if end is None else _scaled(draft, end.outputs[0], "Mul")
    if end is None or scaled is None or not _close(scaled[1], 1 / high):
        return False
    attributes = {"alpha": alpha / high, "beta": beta / high}
    draft.replace([*nodes, node, end], Node("HardSigmoid", (x,), end.outputs, attributes, end.name))
    return True


def _factors(draft: Draft, node: Node) -> tuple[list[str], float, list[Node]]:
    """A product taken apart: its variables, its number, and the nodes that only it needs."""
    names, number, nodes = [], 1.0, [node]
    for name in node.inputs:
        constant, inner = draft.number(name), draft.made_by(name, "Mul")
        if constant is not None:
            number *= constant
        elif inner is not None and node.inputs.count(name) == 1:
            inside = _factors(draft, inner)
            names += inside[0]
            number *= inside[1]
            nodes = [*inside[2], *nodes]
        else:
            names.append(name)
    return names, number, nodes


def _gate(draft: Draft, x: str, gate: str, number: float) -> tuple[str, float, list[Node]] | None:
    """The activation that x · gate(x) · number is, by name, with the number that is left and the nodes of the gate."""
    node = draft.made_by(gate, "Sigmoid", "HardSigmoid", "Clip", "Tanh", "Add")
    if node is None:
        return None
    if node.op == "Sigmoid" and node.inputs[0] == x:
        return "Silu", number, [node]
    if node.op == "HardSigmoid" and node.inputs[0] == x:
        sixth, half = node.attributes["alpha"], node.attributes["beta"]
        return ("HardSwish", number, [node]) if _close(sixth, 1 / 6) and _close(half, 0.5) else None
    if node.op == "Clip" and (node.attributes.get("min"), node.attributes.get("max")) == (0, 6):
        added = _scaled(draft, node.inputs[0], "Add") if draft.used_once(node.inputs[0]) else None
        fits = added is not None and added[0] == x and _close(added[1], 3)
        return ("HardSwish", number * 6, [added[2], node]) if added is not None and fits else None
    if node.op == "Tanh":
        inner = draft.made_by(node.inputs[0], "Softplus")
        return ("Mish", number, [inner, node]) if inner is not None and inner.inputs[0] == x else None
    if node.op == "Add":  # 1 + erf(x / √2)
        added = _scaled(draft, gate, "Add")
        error = None if added is None else draft.made_by(added[0], "Erf")
        inner_x = None if error is None else _scaled(draft, error.inputs[0], "Mul")
        if added is None or error is None or inner_x is None or not draft.used_once(error.inputs[0]):
            return None
        if _close(added[1], 1) and inner_x[0] == x and _close(inner_x[1], math.sqrt(0.5)):
            return "Gelu", number * 2, [inner_x[2], error, node]
    return None


def _gated(draft: Draft, node: Node) -> bool:
    """x · gate(x), times the number that the formula has."""
    names, number, nodes = _factors(draft, node)
    if len(names) != 2 or any(draft.shape(name) != draft.shape(node.outputs[0]) for name in names):
        return False
    for x, gate in (names, names[::-1]):
        matched = _gate(draft, x, gate, number)
        if matched is not None and _close(matched[1], 1):
            attributes = {"approximate": "none"} if matched[0] == "Gelu" else {}
            draft.replace([*matched[2], *nodes], Node(matched[0], (x,), node.outputs, attributes, node.name))
            return True
    return False


def _layer_normalization(draft: Draft, node: Node) -> bool:
    """d / √(mean(d²) + ε) with d = x - mean(x), over the last axes."""
    centered = draft.maker(node.inputs[0])
    root = draft.made_by(node.inputs[1], "Sqrt")
    if centered is None or centered.op != "Sub" or root is None:
        return False
    mean = draft.made_by(centered.inputs[1], "ReduceMean")
    added = _scaled(draft, root.inputs[0], "Add") if draft.used_once(root.inputs[0]) else None
    variance = None if added is None else draft.made_by(added[0], "ReduceMean")
    square = None if variance is None else draft.made_by(variance.inputs[0], "Mul")
    if mean is None or added is None or variance is None or square is None:
        return False
    x, d = centered.inputs[0], node.inputs[0]
    rank = len(draft.shape(x))
    axes = [_last_axes(n, rank) for n in (mean, variance)]
    if mean.inputs[0] != x or square.inputs != (d, d) or axes[0] is None or axes[0] != axes[1]:
        return False
    if {reader.outputs[0] for reader in draft if d in reader.inputs} != {square.outputs[0], node.outputs[0]}:
        return False
    shape = draft.shape(x)[axes[0] :]
    dtype = draft.tensors[x].dtype
    nodes, name, shift = [mean, centered, square, variance, added[2], root, node], node.outputs[0], None
    scale = draft.keep(f"{name}/scale", np.ones(shape, dtype))
    for op in ("Mul", "Add"):  # a scale and a shift of the normalized axes belong to it
        after = draft.reader(nodes[-1], op)
        operands = None if after is None else constant_of(draft, after)
        if after is not None and operands is not None and draft.shape(operands[1])[-len(shape) :] == shape:
            array = draft.constants[operands[1]]
            if array.size == math.prod(shape):
                nodes.append(after)
                constant = draft.keep(operands[1], array.reshape(shape))
                scale, shift = (constant, None) if op == "Mul" else (scale, constant)
    inputs = (x, scale) if shift is None else (x, scale, shift)
    attributes = {"axis": axes[0], "epsilon": added[1]}
    draft.replace(nodes, Node("LayerNormalization", inputs, nodes[-1].outputs, attributes, node.name))
    return True


def _last_axes(node: Node, rank: int) -> int | None:
    """The first of the axes that a reduction keeps as 1, if they are the last ones."""
    axes: Sequence[int] = sorted(axis % rank for axis in node.attributes.get("axes", range(rank)))
    fits = bool(axes) and axes == list(range(axes[0], rank)) and node.attributes.get("keepdims", 1)
    return axes[0] if fits and len(node.inputs) == 1 else None


def _swish(draft: Draft, node: Node) -> bool:
    if node.attributes.get("alpha", 1.0) != 1:
        return False
    draft.replace([node], replace(node, op="Silu", attributes={}))
    return True


ACTIVATIONS = {
    "Clip": (_hard_sigmoid,),
    "Div": (_layer_normalization,),
    "Mul": (_gated,),
    "Swish": (_swish,),
}
