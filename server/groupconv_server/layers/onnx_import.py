"""Every Conv and ConvTranspose of an ONNX file as the step of a layer.

Source of the attributes' meaning: the ONNX operators Conv and ConvTranspose.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv.wire.requests import Array, Step

OPERATORS = ("Conv", "ConvTranspose")


@dataclass(frozen=True, slots=True)
class Found:
    """A convolution of a file.

    Attributes:
        name: a layer may have, made of the node's.
        operator: Conv or ConvTranspose.
        step: None if it cannot be a layer.
        reason: why it cannot.
    """

    name: str
    operator: str
    step: Step | None
    reason: str = ""


def read_onnx(path: Path) -> list[Found]:
    """The convolutions of an ONNX file, in its order, those in branches and loops too.

    Args:
        path: weights beside it (external data) are read.

    Raises:
        FailedPreconditionError: the `onnx` package is not installed.
        InvalidArgumentError: not an ONNX file, or its weights are not there.
    """
    try:
        import onnx
    except ImportError:
        raise FailedPreconditionError("reading ONNX files needs the onnx package: pip install onnx") from None
    try:
        model = onnx.load(path)
    except Exception as error:  # noqa: BLE001 - protobuf's, onnx's own and the file system's
        raise InvalidArgumentError("file", "an ONNX model with its weights", str(error).splitlines()[0]) from None
    taken: dict[str, int] = {}
    found = []
    for node, constants in _nodes(model.graph, {}):
        name = _unique(_layer_name(node.name or node.output[0]), taken)
        try:
            found.append(Found(name, node.op_type, _step(node, constants)))
        except InvalidArgumentError as error:
            found.append(Found(name, node.op_type, None, str(error)))
    return found


def _nodes(graph: Any, outer: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """The convolutions of a graph and of those within its nodes, each with the constants it sees."""
    constants = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
        if node.op_type == "Identity" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            yield node, constants
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner, constants)


def _step(node: Any, constants: Mapping[str, Any]) -> Step:
    """A node as a step.

    Raises:
        InvalidArgumentError: what it says cannot be a layer.
    """
    import onnx

    kernel = _weights(node, 1, constants)
    bias = _weights(node, 2, constants) if len(node.input) > 2 and node.input[2] else None
    said = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rank = kernel.ndim - 2
    if "kernel_shape" in said and tuple(said["kernel_shape"]) != kernel.shape[2:]:
        raise InvalidArgumentError("kernel_shape", str(list(kernel.shape[2:])), list(said["kernel_shape"]))
    if said.get("output_shape"):
        raise InvalidArgumentError("output_shape", "pads: an output shape fits one input only", said["output_shape"])
    stride = tuple(said.get("strides", (1,) * rank))
    dilation = tuple(said.get("dilations", (1,) * rank))
    beyond = tuple(said.get("output_padding", (0,) * rank))
    padding = _padding(said, rank)
    transposed = node.op_type == "ConvTranspose"
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
    same = padding in ("same", "same_lower")
    if transposed and same and any(e + r < s for e, r, s in zip(reach, beyond, stride, strict=True)):
        # the standard says H·s outputs, onnxruntime gives fewer
        raise InvalidArgumentError("auto_pad", "pads, where the kernel is shorter than the stride", padding)
    spec = ConvSpec(
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=said.get("group", 1),
        transposed=transposed,
        output_padding=beyond,
    )
    return Step(kernel, bias, spec)


def _padding(said: Mapping[str, Any], rank: int) -> Any:
    """`auto_pad` as a rule, `pads` as (low, high) per axis."""
    auto = said.get("auto_pad", b"NOTSET").decode()
    if auto in ("", "NOTSET"):
        pads = said.get("pads", [0] * 2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    rules = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}
    if auto not in rules:
        raise InvalidArgumentError("auto_pad", f"NOTSET, {', '.join(rules)}", auto)
    return rules[auto]


def _weights(node: Any, index: int, constants: Mapping[str, Any]) -> Array:
    """An input that is a constant of the file."""
    from onnx import numpy_helper

    tensor = constants.get(node.input[index]) if len(node.input) > index else None
    if tensor is None:
        what = ("input", "kernel", "bias")[index]
        raise InvalidArgumentError(what, "a constant of the file", "a computed one")
    array = np.asarray(numpy_helper.to_array(tensor))
    if array.dtype not in DTYPES.values():
        raise InvalidArgumentError("dtype", f"one of {', '.join(DTYPES)}", str(array.dtype))
    return array


def _layer_name(name: str) -> str:
    """A node's name with nothing in it that a layer's may not have.

    Example:
        >>> _layer_name("/features/0.conv:Conv"), _layer_name("..")
        ('features/0.conv_Conv', '_')
    """
    parts = [re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in name.split("/")]
    return "/".join("_" if part in (".", "..") else part for part in parts if part)[:200] or "_"


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else _unique(f"{name}-{taken[name]}", taken)
