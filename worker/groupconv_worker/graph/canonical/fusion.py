"""Rules for whole maps, and those that give a node what follows it: a residual, an activation."""

import math
from dataclasses import replace

from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Node
from groupconv_worker.graph.operators.epilogue import PARAMETERS, RESIDUAL

DEFAULTS = {"HardSigmoid": (0.2, 0.5), "LeakyRelu": (0.01,), "Clip": (-math.inf, math.inf)}
"""Parameters of activations that a node may leave out."""
HOSTS = ("Conv", "ConvTranspose", "Gemm", "AffineChannel")
"""Operators that take an activation."""


def _residual(draft: Draft, node: Node) -> bool:
    """A sum of which a convolution is one term. Of two convolutions it is the one that is computed last."""
    order = {maker.outputs[0]: i for i, maker in enumerate(draft) if maker.outputs[0] in node.inputs}
    for name in sorted(node.inputs, key=lambda name: -order.get(name, -1)):
        conv = draft.made_by(name, "Conv", "ConvTranspose")
        others = [other for other in node.inputs if other != name]
        if conv is None or len(others) != 1 or "activation" in conv.attributes or len(conv.inputs) > RESIDUAL:
            continue
        other = others[0]
        if other in draft.constants or draft.tensors[other].shape != draft.shape(name):
            continue
        inputs = (*conv.inputs, *("",) * (RESIDUAL - len(conv.inputs)), other)
        draft.replace([conv, node], replace(conv, inputs=inputs, outputs=node.outputs))
        return True
    return False


def _global_pool(draft: Draft, node: Node) -> bool:
    """An average over a whole map, written as a reduction or as one window."""
    shape, out_shape = draft.shape(node.inputs[0]), draft.shape(node.outputs[0])
    rank = len(shape)
    if node.op == "ReduceMean":
        axes = sorted(axis % rank for axis in node.attributes.get("axes", ()))
        if rank < 3 or axes != list(range(2, rank)) or len(node.inputs) > 1:
            return False
    elif math.prod(out_shape[2:]) != 1 or any(node.attributes["pads"]) or node.attributes["kernel_shape"] != shape[2:]:
        return False
    pooled_shape = (*shape[:2], *(1,) * (rank - 2))
    if out_shape == pooled_shape:
        draft.replace([node], Node("GlobalAveragePool", node.inputs, node.outputs, {}, node.name))
    else:
        pooled = draft.fresh(node.outputs[0], pooled_shape, draft.tensors[node.outputs[0]].dtype)
        draft.replace(
            [node],
            Node("GlobalAveragePool", node.inputs, (pooled,), {}, node.name),
            Node("Reshape", (pooled,), node.outputs, {}, node.name),
        )
    return True


def _activation(draft: Draft, node: Node) -> bool:
    before = draft.made_by(node.inputs[0], *HOSTS)
    if before is None or "activation" in before.attributes or len(node.inputs) > 1:
        return False
    defaults = DEFAULTS.get(node.op, ())
    parameters = [node.attributes.get(name, value) for name, value in zip(PARAMETERS[node.op], defaults, strict=True)]
    attributes = {**before.attributes, "activation": (node.op, *parameters)}
    draft.replace([before, node], replace(before, attributes=attributes, outputs=node.outputs))
    return True


FUSION = {
    "Add": (_residual,),
    "AveragePool": (_global_pool,),
    "ReduceMean": (_global_pool,),
    **dict.fromkeys(PARAMETERS, (_activation,)),
}
