"""Checks of operators whose attributes must fit one another, their weights and their input.

A runtime refuses some of these only when they run, others without the node's name, others after seconds. Empty lists
are left to it.

Source: the ONNX operators, versions 1 to 24.
"""

from collections.abc import Sequence

from onnx import NodeProto

from groupconv.convolution.spec import MAX_PARAMETER
from groupconv.errors import InvalidArgumentError

CONVOLUTIONS = frozenset(("Conv", "ConvTranspose"))
POOLS = frozenset(("MaxPool", "AveragePool", "LpPool"))
GLOBAL_POOLS = frozenset(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"))
WINDOWS = CONVOLUTIONS | POOLS | {"ConvInteger", "QLinearConv", "DeformConv"}
"""Operators whose windows have the attributes of `LEAST`."""
CHECKED = WINDOWS | GLOBAL_POOLS | {"Transpose"}
LEAST = {"group": 1, "kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0, "output_padding": 0, "output_shape": 1}
"""The least value of each attribute, or of each of its entries."""
SAME = ("SAME_UPPER", "SAME_LOWER")
RULES = ("NOTSET", *SAME, "VALID")
LONGEST = 1024
"""Entries of a list that has one or two for each axis: more than any tensor has."""
SHOWN = 16
"""Entries of a list that an error shows."""


def is_checked(node: NodeProto) -> bool:
    """Whether there are checks of a node."""
    return node.op_type in CHECKED and node.domain in ("", "ai.onnx")


def check_attributes(node: NodeProto, path: str) -> None:
    """Check what the attributes of a node say by themselves, whatever its input is.

    Args:
        node: `is_checked`.
        path: what errors call it.

    Raises:
        InvalidArgumentError: naming the attribute.

    Example:
        >>> from onnx import helper
        >>> check_attributes(helper.make_node("Conv", ["x", "w"], ["y"], group=0), "node[0]")
        Traceback (most recent call last):
            ...
        groupconv.errors.InvalidArgumentError: node[0].group: expected an integer from 1 to 2147483647, got 0
    """
    for attribute in node.attribute:
        if attribute.ref_attr_name:  # of a function, whose caller gives it
            continue
        name, field, ints = attribute.name, f"{path}.{attribute.name[:100]}", attribute.ints
        if len(ints) > LONGEST:
            raise InvalidArgumentError(field, f"at most {LONGEST} integers", len(ints))
        if node.op_type == "Transpose":
            if name == "perm" and sorted(ints) != list(range(len(ints))):
                raise InvalidArgumentError(field, f"each axis from 0 to {len(ints) - 1} once", list(ints[:SHOWN]))
            continue
        if name in LEAST:
            values = [("", attribute.i)] if attribute.HasField("i") else [(f"[{i}]", v) for i, v in enumerate(ints)]
            for index, value in values:
                if not LEAST[name] <= value <= MAX_PARAMETER:
                    wanted = f"an integer from {LEAST[name]} to {MAX_PARAMETER}"
                    raise InvalidArgumentError(f"{field}{index}", wanted, value)
        if name == "auto_pad" and attribute.s and _text(attribute.s) not in RULES:
            raise InvalidArgumentError(field, f"one of {', '.join(RULES)}", _text(attribute.s))
    if node.op_type in CONVOLUTIONS:
        _check_padding(node, path)
    elif node.op_type in POOLS:
        _check_pool(node, path)


def _check_pool(node: NodeProto, path: str) -> None:
    """Refuse windows that would lie in the padding alone, and an order of positions that there is not."""
    attributes = _integers(node)
    kernel, pads = attributes.get("kernel_shape", []), attributes.get("pads", [])
    if len(pads) == 2 * len(kernel):
        for i, pad in enumerate(pads):
            if pad >= kernel[i % len(kernel)]:
                wanted = f"less than {kernel[i % len(kernel)]}, as the kernel has"
                raise InvalidArgumentError(f"{path}.pads[{i}]", wanted, pad)
    order = next((a.i for a in node.attribute if a.name == "storage_order" and not a.ref_attr_name), 0)
    if order not in (0, 1):
        raise InvalidArgumentError(f"{path}.storage_order", "0 (by rows) or 1 (by columns)", order)


def _check_padding(node: NodeProto, path: str) -> None:
    """Refuse two ways of padding, and rows behind the output that one more step of a stride would have filled."""
    attributes, auto = _integers(node), _auto_pad(node)
    if auto != "NOTSET" and attributes.get("pads"):
        raise InvalidArgumentError(f"{path}.auto_pad", "NOTSET, as the node has pads", auto)
    extra = attributes.get("output_padding", []) if node.op_type == "ConvTranspose" else []
    strides = attributes.get("strides") or [1] * len(extra)
    by_caller = any(attribute.ref_attr_name for attribute in node.attribute)  # by the caller of a function
    if by_caller or auto != "NOTSET" or attributes.get("output_shape") or len(strides) != len(extra):
        return
    for i, (more, stride) in enumerate(zip(extra, strides, strict=True)):
        if more >= stride:
            raise InvalidArgumentError(f"{path}.output_padding[{i}]", f"less than the stride, {stride}", more)


def check_shapes(node: NodeProto, path: str, inputs: Sequence[Sequence[int] | None]) -> None:
    """Check that a node's attributes fit the shapes of its inputs, as far as these are known.

    Args:
        node: `is_checked`, and has passed `check_attributes`.
        path: what errors call it.
        inputs: their shapes; None is not known.

    Raises:
        InvalidArgumentError: naming the attribute or the input.

    Example:
        >>> from onnx import helper
        >>> node = helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2], pads=[1, 0])
        >>> check_shapes(node, "node[0]", [(1, 4, 3), (8, 4, 3)])
        Traceback (most recent call last):
            ...
        groupconv.errors.InvalidArgumentError: node[0].input[0]: expected at least 4 elements along axis 2, as the \
kernel covers 5 and 1 are padded, got [1, 4, 3]
    """
    if node.op_type == "Transpose":
        perm = _integers(node).get("perm")
        if perm and inputs and inputs[0] is not None and len(perm) != len(inputs[0]):
            wanted = f"{len(inputs[0])} axes, as the input has"
            raise InvalidArgumentError(f"{path}.perm", wanted, perm[:SHOWN])
    elif node.op_type in GLOBAL_POOLS:
        if inputs and inputs[0] is not None and len(inputs[0]) < 3:
            raise InvalidArgumentError(f"{path}.input[0]", "axes of space behind two others", list(inputs[0]))
    elif node.op_type in CONVOLUTIONS and len(inputs) > 1 and inputs[1]:
        x, w = inputs[0], inputs[1]
        if len(w) < 3:
            wanted = "weights of filters, channels and axes of space"
            raise InvalidArgumentError(f"{path}.input[1]", wanted, list(w))
        _check_lengths(node, path, w)
        if x and len(x) == len(w):
            _check_channels(node, path, x, w)
            _check_extents(node, path, x, w)


def _check_lengths(node: NodeProto, path: str, w: Sequence[int]) -> None:
    rank, attributes = len(w) - 2, _integers(node)
    for name, count in (("kernel_shape", rank), ("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
        if attributes.get(name) and len(attributes[name]) != count:
            wanted = f"{count} integers for weights of {rank} axes of space"
            raise InvalidArgumentError(f"{path}.{name}", wanted, attributes[name][:SHOWN])
    if attributes.get("kernel_shape", list(w[2:])) != list(w[2:]):
        raise InvalidArgumentError(
            f"{path}.kernel_shape", f"{list(w[2:])}, as the weights have", attributes["kernel_shape"]
        )


def _check_channels(node: NodeProto, path: str, x: Sequence[int], w: Sequence[int]) -> None:
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    channels = w[0] if node.op_type == "ConvTranspose" else w[1] * groups
    if groups < 1 or w[0] % groups:
        wanted = f"weights of a multiple of {groups} groups"
    elif x[1] != channels:
        wanted = f"weights for {x[1]} channels in {groups} group{'s' if groups > 1 else ''}"
    else:
        return
    raise InvalidArgumentError(f"{path}.input[1]", wanted, list(w))


def _check_extents(node: NodeProto, path: str, x: Sequence[int], w: Sequence[int]) -> None:
    """Refuse an output without elements along an axis of space."""
    rank, attributes, auto = len(w) - 2, _integers(node), _auto_pad(node)
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    pads = attributes.get("pads") or [0] * 2 * rank
    extra = attributes.get("output_padding") or [0] * rank
    if node.op_type == "ConvTranspose" and rank > 2 and x[0] and 0 in x[2:-1]:
        wanted = "elements along each axis, without which onnxruntime ends the process"
        raise InvalidArgumentError(f"{path}.input[0]", wanted, list(x))
    if node.op_type == "ConvTranspose" and attributes.get("output_shape"):
        _check_output_shape(node, path, x, w)
        return
    if node.op_type == "ConvTranspose" and len(extra) != rank:
        return
    for i, (n, k, s, d) in enumerate(zip(x[2:], w[2:], strides, dilations, strict=True)):
        padded, covered, axis = pads[i] + pads[rank + i], d * (k - 1) + 1, f"along axis {i + 2}"
        if auto in SAME:
            least, why = 1, f"with {auto}"
        elif node.op_type == "Conv":
            least, why = covered - padded, f"as the kernel covers {covered} and {padded} are padded"
        else:  # s · (n - 1) + covered + extra - padded ≥ 1
            least = 1 - (covered + extra[i] - padded - 1) // s
            why = f"as {padded} are cut off"
        if n < least:
            raise InvalidArgumentError(f"{path}.input[0]", f"at least {least} elements {axis}, {why}", list(x))


def _check_output_shape(node: NodeProto, path: str, x: Sequence[int], w: Sequence[int]) -> None:
    """Refuse an output that is longer than what the input, and the output padding that a stride allows, make."""
    rank, attributes = len(w) - 2, _integers(node)
    strides, dilations = (attributes.get(name) or [1] * rank for name in ("strides", "dilations"))
    wanted = attributes["output_shape"]
    if len(wanted) != rank or attributes.get("output_padding"):
        return
    for i, (n, k, s, d) in enumerate(zip(x[2:], w[2:], strides, dilations, strict=True)):
        most = s * (n - 1) + d * (k - 1) + 1 + s - 1
        if wanted[i] > most:
            raise InvalidArgumentError(f"{path}.output_shape[{i}]", f"at most {most} of {n} elements", wanted[i])


def _integers(node: NodeProto) -> dict[str, list[int]]:
    return {attribute.name: list(attribute.ints) for attribute in node.attribute if attribute.ints}


def _auto_pad(node: NodeProto) -> str:
    return next((_text(a.s) for a in node.attribute if a.name == "auto_pad" and a.s), "NOTSET")


def _text(value: bytes) -> str:
    return value[:60].decode(errors="replace")
