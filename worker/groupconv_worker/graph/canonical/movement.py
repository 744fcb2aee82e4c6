"""Rules for operators that move elements: what changes nothing goes, and a channel shuffle is one node."""

from dataclasses import replace
from typing import Any

from groupconv_worker.graph.canonical.draft import Draft
from groupconv_worker.graph.graph import Node


def _drop_identity(draft: Draft, node: Node) -> bool:
    return draft.alias(node)


def _drop_same_shape(draft: Draft, node: Node) -> bool:
    """A Reshape, Slice, Expand or Tile whose output has the input's shape, but no Slice that runs backwards."""
    if draft.shape(node.inputs[0]) != draft.shape(node.outputs[0]):
        return False
    if node.op == "Slice" and any(step < 0 for step in node.attributes.get("steps", ())):
        return False
    return draft.alias(node)


def _merge_reshapes(draft: Draft, node: Node) -> bool:
    before = draft.made_by(node.inputs[0], "Reshape")
    if before is None:
        return False
    draft.replace([before, node], replace(node, inputs=before.inputs))
    return True


def _transpose_as_reshape(draft: Draft, node: Node) -> bool:
    """The order of the axes that are longer than 1 is what moves elements."""
    shape = draft.shape(node.inputs[0])
    order = [axis for axis in node.attributes.get("perm", range(len(shape))[::-1]) if shape[axis] > 1]
    if order != sorted(order):
        return False
    draft.replace([node], Node("Reshape", node.inputs, node.outputs, {}, node.name))
    return True


def _merge_transposes(draft: Draft, node: Node) -> bool:
    before = draft.made_by(node.inputs[0], "Transpose")
    if before is None or "perm" not in before.attributes or "perm" not in node.attributes:
        return False
    perm = tuple(before.attributes["perm"][axis] for axis in node.attributes["perm"])
    draft.replace([before, node], replace(node, inputs=before.inputs, attributes={"perm": perm}))
    return True


def _channel_shuffle(draft: Draft, node: Node) -> bool:
    """(N, g·k, …) as (N, g, k, …), the two swapped, and the shape again."""
    swap = draft.made_by(node.inputs[0], "Transpose")
    split = None if swap is None else draft.made_by(swap.inputs[0], "Reshape")
    if swap is None or split is None:
        return False
    shape, apart = draft.shape(split.inputs[0]), draft.shape(split.outputs[0])
    perm = swap.attributes.get("perm", ())
    fits = (
        len(shape) > 2
        and len(apart) == len(shape) + 1
        and (apart[0], *apart[3:]) == (shape[0], *shape[2:])
        and draft.shape(node.outputs[0]) == shape
        and tuple(perm) == (0, 2, 1, *range(3, len(apart)))
    )
    if not fits:
        return False
    draft.replace(
        [split, swap, node], Node("ChannelShuffle", split.inputs, node.outputs, {"groups": apart[1]}, node.name)
    )
    return True


def _pad(draft: Draft, node: Node) -> bool:
    """A Pad of nothing goes; zeros around the map become padding of the convolution that follows."""
    pads = node.attributes.get("pads")
    if pads is None or len(node.inputs) > 1:
        return False
    if not any(pads):
        return draft.alias(node)
    conv = draft.reader(node, "Conv")
    rank = len(draft.shape(node.inputs[0]))
    whole = _by_axis(node.attributes, rank)
    zeros = node.attributes.get("mode", "constant") == "constant" and not node.attributes.get("value")
    if conv is None or conv.inputs[0] != node.outputs[0] or node.outputs[0] in conv.inputs[1:] or not zeros:
        return False
    if min(pads) < 0 or any(whole[:2]) or any(whole[rank : rank + 2]):
        return False
    around = (*whole[2:rank], *whole[rank + 2 :])
    total = tuple(a + b for a, b in zip(around, conv.attributes["pads"], strict=True))
    draft.replace(
        [node, conv],
        replace(conv, inputs=(node.inputs[0], *conv.inputs[1:]), attributes={**conv.attributes, "pads": total}),
    )
    return True


def _by_axis(attributes: Any, rank: int) -> list[int]:
    """The pads of all axes: starts, then ends."""
    pads, axes = attributes["pads"], attributes.get("axes") or range(rank)
    whole = [0] * 2 * rank
    for i, axis in enumerate(axes):
        whole[axis % rank], whole[axis % rank + rank] = pads[i], pads[i + len(pads) // 2]
    return whole


def _single_concat(draft: Draft, node: Node) -> bool:
    return len(node.inputs) == 1 and draft.alias(node)


MOVEMENT = {
    "Concat": (_single_concat,),
    "Expand": (_drop_same_shape,),
    "Identity": (_drop_identity,),
    "Pad": (_pad,),
    "Reshape": (_drop_same_shape, _channel_shuffle, _merge_reshapes),
    "Slice": (_drop_same_shape,),
    "Tile": (_drop_same_shape,),
    "Transpose": (_transpose_as_reshape, _merge_transposes),
}
"""First of all, as other rules look through fewer nodes then."""
