"""Import of the Conv and ConvTranspose nodes of an ONNX file as layers.

Source: the ONNX operators Conv and ConvTranspose.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupconv.convolution.dtypes import DTYPES
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import Array, Step
from groupconv.errors import InvalidArgumentError
from groupconv_server.layers.names import legal_name, numbered
from groupconv_server.layers.onnx_constants import first_line, fold, read_model

OPERATORS = ("Conv", "ConvTranspose")
CONVOLUTION = re.compile(r"Conv(?!er)")
"""In the names of operators that convolve, but not in Convert."""
REASONS = {
    "QLinearConv": "it rounds results to scaled integers; load the model from before it was quantized",
    "ConvInteger": "it subtracts zero points; load the model from before it was quantized",
    "FusedConv": "only onnxruntime has it; load the model from before onnxruntime optimized it",
    "NhwcFusedConv": "only onnxruntime has it; load the model from before onnxruntime optimized it",
    "DeformConv": "its taps move with the input",
}
"""Why other operators that convolve cannot be layers."""
KINDS = {
    "auto_pad": "STRING",
    "group": "INT",
    "dilations": "INTS",
    "kernel_shape": "INTS",
    "output_padding": "INTS",
    "output_shape": "INTS",
    "pads": "INTS",
    "strides": "INTS",
}
"""The attributes of Conv and ConvTranspose, and their types in ONNX."""
RULES = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}


@dataclass(frozen=True, slots=True)
class FileConvolution:
    """A convolution in a file.

    Attributes:
        name: for the layer, from the prefix and the node's name.
        operator: Conv, ConvTranspose, or another operator that convolves.
        step: None if it cannot be a layer.
        reason: why it cannot.
    """

    name: str
    operator: str
    step: Step | None
    reason: str = ""


def read_onnx(path: Path, prefix: str = "", *, fold_batch_norm: bool = False) -> list[FileConvolution]:
    """The convolutions of an ONNX file, also those in functions, branches and loops, in the order of the file.

    Args:
        path: of the file; weights in files beside it (external data) are read, too.
        prefix: of each name, before a `/`.
        fold_batch_norm: whether a BatchNormalization after a convolution is folded into its weights.

    Raises:
        FailedPreconditionError: onnx, onnx-ir or onnxscript is not installed.
        InvalidArgumentError: it is not an ONNX file, or its weights are missing.
    """
    model = read_model(path)
    nodes = list(_convolutions(model))
    # before folding, which gives names to nodes without one
    names = [node.name or next((v.name or "" for v in node.outputs), "") for node, _ in nodes]
    failed = fold(model, [node for node, _ in nodes])
    if fold_batch_norm:
        nodes = _with_batch_norm(model, nodes)
    taken: set[str] = set()
    layers = []
    for (node, left_out), name in zip(nodes, names, strict=True):
        layer = numbered(legal_name(f"{prefix}/{name}"), taken)
        if left_out:
            layers.append(FileConvolution(layer, node.op_type, None, left_out))
            continue
        try:
            layers.append(FileConvolution(layer, node.op_type, _step(node, failed)))
        except InvalidArgumentError as error:
            layers.append(FileConvolution(layer, node.op_type, None, str(error)))
    return layers


def _convolutions(model: Any) -> Iterator[tuple[Any, str]]:
    """Each node that convolves, and why its operator cannot be a layer, or ""."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for node in RecursiveGraphIterator(model.graph):
        if node.op_identifier() in model.functions or not CONVOLUTION.search(str(node.op_type)):
            continue
        if node.op_type in OPERATORS and node.domain in ("", "ai.onnx"):
            yield node, ""
        else:
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            why = REASONS.get(node.op_type, "it is not an operator of ONNX itself")
            yield node, f"operator: expected Conv or ConvTranspose, got {operator}: {why}"
    for function in model.functions.values():
        for node in RecursiveGraphIterator(function):
            if CONVOLUTION.search(str(node.op_type)) and node.op_identifier() not in model.functions:
                where = f"{function.domain}.{function.name}"
                yield node, f"function: {where} is not called, or cannot be inlined"


def _with_batch_norm(model: Any, nodes: list[tuple[Any, str]]) -> list[tuple[Any, str]]:
    """The nodes, with each BatchNormalization folded into the convolution before it."""
    from onnx_ir.passes import common
    from onnx_ir.traversal import RecursiveGraphIterator
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules import common as rules

    def after(node: Any) -> Any:
        users = [user for output in node.outputs for user, _ in output.uses()]
        return users[0].outputs[0].name if len(users) == 1 and users[0].op_type == "BatchNormalization" else None

    followed = [after(node) for node, _ in nodes]
    try:
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        RewritePass([rules.fuse_batchnorm_into_conv_rule, rules.fuse_batchnorm_into_conv_transpose_rule])(model)
    except Exception as error:  # noqa: BLE001 - of a malformed node
        raise InvalidArgumentError("fold-batch-norm", "a model that can be rewritten", first_line(error)) from None
    merged = {
        node.outputs[0].name: node
        for node in RecursiveGraphIterator(model.graph)
        if node.op_type in OPERATORS and node.outputs
    }
    return [(merged.get(name, node), why) for (node, why), name in zip(nodes, followed, strict=True)]


def _step(node: Any, failed: Mapping[str, str]) -> Step:
    """A node as a step.

    Raises:
        InvalidArgumentError: the node cannot be a layer.
    """
    kernel = _weights(node, 1, failed)
    rank = kernel.ndim - 2
    if not 1 <= rank <= 3:
        raise InvalidArgumentError("kernel", "3 to 5 axes", list(kernel.shape))
    bias = _weights(node, 2, failed) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    attributes = _attributes(node, rank)
    groups = attributes.get("group", 1)
    if groups < 1 or len(kernel) % groups:
        raise InvalidArgumentError("group", f"a divisor of the kernel's first extent, {len(kernel)}", groups)
    outputs = kernel.shape[1] * groups if node.op_type == "ConvTranspose" else len(kernel)
    if bias is not None and bias.shape != (outputs,):
        raise InvalidArgumentError("bias", f"{[outputs]}, one for each output channel", list(bias.shape))
    if "kernel_shape" in attributes and tuple(attributes["kernel_shape"]) != kernel.shape[2:]:
        raise InvalidArgumentError("kernel_shape", str(list(kernel.shape[2:])), list(attributes["kernel_shape"]))
    if shape := attributes.get("output_shape"):
        raise InvalidArgumentError("output_shape", "pads: an output shape fits one input only", shape)
    stride, dilation, output_padding = (
        tuple(attributes.get(name, (default,) * rank))
        for name, default in (("strides", 1), ("dilations", 1), ("output_padding", 0))
    )
    padding = _padding(attributes, rank)
    transposed = node.op_type == "ConvTranspose"
    extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True)]
    same = padding in ("same", "same_lower")
    if transposed and same and any(e + o < s for e, o, s in zip(extents, output_padding, stride, strict=True)):
        # the standard has H·s outputs, onnxruntime fewer
        raise InvalidArgumentError("auto_pad", "pads, where the kernel is shorter than the stride", padding)
    spec = ConvSpec(
        stride=stride,
        dilation=dilation,
        padding=padding,
        groups=groups,
        transposed=transposed,
        output_padding=output_padding,
    )
    return Step(kernel, bias, spec)


def _attributes(node: Any, rank: int) -> dict[str, Any]:
    """The attributes of a node.

    Raises:
        InvalidArgumentError: an attribute is unknown, of another type, or of another length than the kernel has axes.
    """
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        kind = KINDS.get(name)
        if kind is None:
            raise InvalidArgumentError(name, f"no attributes but {', '.join(KINDS)}", attribute.type.name)
        if attribute.is_ref() or attribute.type.name != kind:
            raise InvalidArgumentError(name, f"an attribute of type {kind}", attribute.type.name)
        value = attribute.value
        length = 2 * rank if name == "pads" else rank
        if kind == "INTS" and len(value) not in ((0, length) if name == "output_shape" else (length,)):
            raise InvalidArgumentError(name, f"{length} integers for a kernel of {rank} axes", list(value))
        attributes[name] = list(value) if kind == "INTS" else value
    return attributes


def _padding(attributes: Mapping[str, Any], rank: int) -> Any:
    """`ConvSpec.padding` from `auto_pad` or `pads`."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("", "NOTSET"):
        pads = attributes.get("pads", [0] * 2 * rank)
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if auto not in RULES:
        raise InvalidArgumentError("auto_pad", f"NOTSET, {', '.join(RULES)}", auto)
    return RULES[auto]


def _weights(node: Any, index: int, failed: Mapping[str, str]) -> Array:
    """An input of a node, which must be a constant of the file."""
    what = ("input", "kernel", "bias")[index]
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise InvalidArgumentError(what, "a constant of the file", "none")
    if value.const_value is None:
        producer = value.producer()
        got = f"{value.name}, computed by {producer.op_type}" if producer else f"{value.name}, an input"
        raise InvalidArgumentError(what, "a constant of the file", got + _why(value, failed))
    declared = [int(extent) for extent in value.const_value.shape]
    if any(extent < 1 for extent in declared):  # onnx-ir would infer one that is -1 from the bytes
        raise InvalidArgumentError(what, f"extents of at least 1 of {value.name}", declared)
    try:
        array = np.asarray(value.const_value.numpy())
    except Exception as error:  # noqa: BLE001 - too few bytes for the shape, or an unknown dtype
        raise InvalidArgumentError(what, f"a tensor whose bytes fit its shape, {value.name}", str(error)) from None
    if array.dtype not in DTYPES.values():
        raise InvalidArgumentError(f"{what}.dtype", f"one of {', '.join(DTYPES)}", str(array.dtype))
    return array


def _why(value: Any, failed: Mapping[str, str]) -> str:
    """The error of a node that a value depends on, or ""."""
    waiting, seen = [value], set()
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if current.name in failed:
            return f" ({current.producer().op_type}: {failed[current.name]})"
        if current.producer() is not None:
            waiting += current.producer().inputs
    return ""
