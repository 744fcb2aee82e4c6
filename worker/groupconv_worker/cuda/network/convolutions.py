"""Convolutions of a network by the engine's algorithms, and matrix products with a constant as such."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from groupconv import Activation, ConvSpec
from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ActivationKind
from groupconv_worker.contract import Array, Problem
from groupconv_worker.cuda.network.elements import Chain, ElementOp, activation, write
from groupconv_worker.cuda.network.lowering import CudaLowering
from groupconv_worker.graph.convolution import geometry
from groupconv_worker.graph.graph import Node, UnsupportedNodeError
from groupconv_worker.graph.operators.epilogue import RESIDUAL

F32 = np.dtype(np.float32)
FUSED: dict[str, ActivationKind] = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Silu": "silu",
}
"""Activations that the kernels of convolutions apply themselves; `Activation`'s names of them."""


def lower_convolution(low: CudaLowering, node: Node) -> None:
    """Conv and ConvTranspose, with bias and activation in the kernel; a residual is added behind it."""
    x, y = node.inputs[0], node.outputs[0]
    low.floats(x, y)
    weight = low.constant(node.inputs[1])
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if weight is None or (len(node.inputs) > 2 and node.inputs[2] and bias is None):
        raise UnsupportedNodeError("weights or a bias that are no constants")
    residual = node.inputs[RESIDUAL] if len(node.inputs) > RESIDUAL else ""
    convolve(low, node, Problem(geometry(low.graph, node), types_of(F32, F32)), weight, bias, residual)


def lower_gemm(low: CudaLowering, node: Node) -> None:
    """Gemm with a constant matrix: a convolution of one pixel, whose channels are the columns of A."""
    a, b = node.inputs[:2]
    weight = low.constant(b)
    low.floats(a, b)
    if weight is None or node.attribute("transA", 0):
        raise UnsupportedNodeError("a matrix that is no constant, or is transposed")
    matrix = (weight if node.attribute("transB", 0) else weight.T) * F32.type(node.attribute("alpha", 1.0))
    bias = low.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        if bias.size not in (1, len(matrix)) or (bias.ndim == 2 and bias.shape[0] != 1):
            raise UnsupportedNodeError(f"an addend of {list(bias.shape)}")
        bias = np.broadcast_to(bias.reshape(-1) * F32.type(node.attribute("beta", 1.0)), len(matrix))
    elif len(node.inputs) > 2 and node.inputs[2]:
        raise UnsupportedNodeError("an addend that is no constant")
    multiply(low, node, math.prod(low.shape(a)[:-1]), matrix, bias)


def multiply(low: CudaLowering, node: Node, rows: int, matrix: Array, bias: Array | None) -> None:
    """y (rows, M) = x (rows, C) · matrix (M, C)ᵀ + bias (M,)."""
    weight = np.ascontiguousarray(matrix)[:, :, None]
    g = resolve(ConvSpec(), (rows, matrix.shape[1], 1), weight.shape)
    convolve(low, node, Problem(g, types_of(F32, F32)), weight, bias, "")


def convolve(low: CudaLowering, node: Node, problem: Problem, weight: Array, bias: Array | None, residual: str) -> None:
    """A convolution, then what its kernels do not do: the residual's addition, other activations."""
    after: tuple[Any, ...] = node.attribute("activation", ())
    x, y = low.needed(node.inputs[0]), node.outputs[0]
    # in float32 whatever the engine's default is, as a network's answer is held against onnxruntime's
    problem = replace(problem, geometry=replace(problem.geometry, math="float32"))
    apart = bool(residual) or (bool(after) and after[0] not in FUSED)
    if after and not apart:
        fused = Activation(FUSED[after[0]], after[1:])
        problem = replace(problem, geometry=replace(problem.geometry, activation=fused))
    target = low.between(low.shape(y)) if apart else low.made(y)
    low.convolution(problem, weight, bias, x, target)
    if apart:
        steps = [ElementOp("Add", residual)] if residual else []
        write(low, Chain(target, (*steps, *activation(node)), y))
