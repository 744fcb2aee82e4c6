"""Separable convolutions as steps."""

from dataclasses import replace
from typing import Any

import numpy as np

from groupconv.arguments import as_array
from groupconv.convolution.spec import Activation, ActivationKind, ConvSpec, as_activation, padding_pairs, per_axis
from groupconv.convolution.steps import Array, Step
from groupconv.errors import InvalidArgumentError


def depthwise_separable_steps(
    depthwise_kernel: Any,
    pointwise_kernel: Any,
    bias: Any,
    spec: ConvSpec,
    *,
    depthwise_bias: Any = None,
    depthwise_activation: ActivationKind | Activation | None = None,
) -> list[Step]:
    """Depthwise K×K with the spec's stride, padding and dilation, then pointwise with its activation."""
    depthwise = as_array(depthwise_kernel)
    first = replace(spec, groups=depthwise.shape[0], activation=as_activation(depthwise_activation))
    rank = depthwise.ndim - 2
    return [
        Step(depthwise, depthwise_bias, first),
        Step(pointwise(pointwise_kernel, rank), bias, ConvSpec(activation=spec.activation, exact=spec.exact)),
    ]


def pointwise(kernel: Any, rank: int) -> Array:
    """(M, C) as (M, C, 1, …) for `rank` spatial axes; a kernel that has them already is left alone."""
    array = as_array(kernel)
    return array.reshape(array.shape + (1,) * rank) if array.ndim == 2 else array


def spatially_separable_steps(column: Any, row: Any, bias: Any, spec: ConvSpec, channels: int) -> list[Step]:
    """K×1 then 1×K on every channel: the rank-1 kernel column·rowᵀ in 2K multiplications for K².

    Args:
        column: (K,) for every channel, or (C, K) one for each.
        row: likewise.
        bias: (C,), added after the second pass.
        spec: 2-D; each pass takes its axis of stride, padding and dilation.
        channels: C.
    """
    stride, dilation = per_axis("stride", spec.stride, 2), per_axis("dilation", spec.dilation, 2)
    steps = []
    for axis, taps in enumerate((column, row)):
        kernel = as_array(taps)
        if kernel.ndim not in (1, 2) or (kernel.ndim == 2 and kernel.shape[0] != channels):
            name = ("column", "row")[axis]
            raise InvalidArgumentError(name, f"shape (K,) or ({channels}, K)", kernel.shape)
        kernel = np.broadcast_to(kernel, (channels, kernel.shape[-1]))
        kernel = kernel[:, None, :, None] if axis == 0 else kernel[:, None, None, :]
        padding: Any = spec.padding
        if not isinstance(padding, str):
            pairs = padding_pairs(padding, 2)
            padding = tuple(pairs[axis] if a == axis else (0, 0) for a in range(2))
        one = replace(
            spec,
            stride=tuple(stride[axis] if a == axis else 1 for a in range(2)),
            dilation=tuple(dilation[axis] if a == axis else 1 for a in range(2)),
            padding=padding,
            groups=channels,
            activation=spec.activation if axis == 1 else None,
        )
        steps.append(Step(kernel, bias if axis == 1 else None, one))
    return steps
