"""Lowering of Cast, comparisons, logic and choices. A truth is 0 or 1 in float32 while it is computed."""

import math

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.network.assembly import aligned_copy
from groupconv_worker.cpu.network.kernels.elements import BLOCK, STORED, convert
from groupconv_worker.cpu.network.lowering import CpuLowering
from groupconv_worker.cpu.network.pointwise import Given, on_given
from groupconv_worker.cpu.stages import Address
from groupconv_worker.graph.graph import Node, UnsupportedNodeError

COMPARISONS = {"Less": "Less", "LessOrEqual": "LessOrEqual", "Greater": "Greater", "GreaterOrEqual": "GreaterOrEqual",
               "Equal": "Equal", "And": "Mul", "Or": "Max", "Xor": "NotEqual"}  # fmt: skip
"""By operator, the function of two vectors that gives 1 where it holds."""


def lower_cast(low: CpuLowering, node: Node) -> None:
    """Cast between the dtypes of `STORED`."""
    x, y = node.inputs[0], node.outputs[0]
    source, target = low.array(x), low.any_array(y)
    _convert(low, source, target, low.graph.tensors[x].dtype, low.graph.tensors[y].dtype, math.prod(low.shape(x)))


def lower_comparison(low: CpuLowering, node: Node) -> None:
    """Comparisons of float32, and logic of two truths."""
    _lower_truth(low, node, COMPARISONS[node.op], [_numbers(low, name) for name in node.inputs])


def lower_not(low: CpuLowering, node: Node) -> None:
    """Not: whether a truth is 0."""
    _lower_truth(low, node, "Equal", [_numbers(low, node.inputs[0]), Given(np.zeros(16, np.float32), ())])


def _lower_truth(low: CpuLowering, node: Node, function: str, operands: list[Given]) -> None:
    """A function whose values are 0 and 1, stored as truths."""
    out = node.outputs[0]
    shape = low.shape(out)
    truths = low.assembly.block(4 * math.prod(shape))
    on_given(low, function, operands, Given(truths, shape), ())
    _convert(low, truths, low.any_array(out), np.dtype(np.float32), low.graph.tensors[out].dtype, math.prod(shape))


def lower_where(low: CpuLowering, node: Node) -> None:
    """Where, of float32."""
    operands = [_numbers(low, name) for name in node.inputs]
    if any(low.graph.tensors[name].dtype != np.float32 for name in node.inputs[1:]):
        raise UnsupportedNodeError("elements that are not float32")
    out = node.outputs[0]
    on_given(low, "Where", operands, Given(low.new_array(out), low.shape(out)), ())


def _numbers(low: CpuLowering, name: str) -> Given:
    """A tensor of float32, or truths as such."""
    dtype, shape = low.graph.tensors[name].dtype, low.shape(name)
    constant = low.constant(name)
    if dtype == np.float32:
        return Given(low.array(name), shape)
    if dtype != np.bool_:
        raise UnsupportedNodeError(f"elements of {dtype}")
    if constant is not None:
        return Given(aligned_copy(constant), shape)
    numbers = low.assembly.block(4 * math.prod(shape))
    _convert(low, low.array(name), numbers, dtype, np.dtype(np.float32), math.prod(shape))
    return Given(numbers, shape)


def _convert(low: CpuLowering, x: Address | Array, y: Address, source: np.dtype, target: np.dtype, count: int) -> None:
    if source.name not in STORED or target.name not in STORED:
        raise UnsupportedNodeError(f"from {source} to {target}")
    low.assembly.add(low.assembly.kernel(convert, source.name, target.name), (x, y, count), -(-count // BLOCK))
