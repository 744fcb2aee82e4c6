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
    """The two steps of a depthwise-separable convolution.

    Args:
        depthwise_kernel: (C, 1, *kernel), applied with the spec's stride, padding and dilation.
        pointwise_kernel: (M, C) or (M, C, 1, …), applied with the spec's activation.
        bias: (M,) of the pointwise step, or None.
        spec: of both steps together; its groups are replaced.
        depthwise_bias: (C,) of the depthwise step, or None.
        depthwise_activation: of the depthwise step.
    """
    depthwise = as_array(depthwise_kernel, "depthwise_weight")
    if depthwise.ndim < 3:
        raise InvalidArgumentError("depthwise_weight", "shape (C, 1, *kernel)", depthwise.shape)
    first = replace(spec, groups=depthwise.shape[0], activation=as_activation(depthwise_activation))
    rank = depthwise.ndim - 2
    return [
        Step(depthwise, depthwise_bias, first),
        Step(
            pointwise(pointwise_kernel, rank, "pointwise_weight"),
            bias,
            ConvSpec(activation=spec.activation, exact=spec.exact, math=spec.math),
        ),
    ]


def pointwise(kernel: Any, rank: int, field: str = "weight") -> Array:
    """A pointwise kernel with all its axes.

    Args:
        kernel: (M, C) or (M, C, 1, …).
        rank: number of spatial axes.
        field: what errors call it.

    Raises:
        InvalidArgumentError: the kernel has another shape.

    Example:
        >>> pointwise(np.ones((4, 3)), 2).shape
        (4, 3, 1, 1)
    """
    array, ones = as_array(kernel, field), (1,) * rank
    if array.ndim == 2:
        return array.reshape(array.shape + ones)
    if array.ndim != rank + 2 or array.shape[2:] != ones:
        expected = f"shape (M, C) or (M, C{', 1' * rank}), for a pointwise convolution"
        raise InvalidArgumentError(field, expected, array.shape)
    return array


def spatially_separable_steps(column: Any, row: Any, bias: Any, spec: ConvSpec, channels: int) -> list[Step]:
    """The two steps of a spatially separable convolution: K×1 and 1×K, with 2K multiplications in place of K².

    Args:
        column: (K,) for all channels, or (C, K) for each.
        row: (K,) for all channels, or (C, K) for each.
        bias: (C,), added after the second step, or None.
        spec: 2-D. Each step takes its own axis of stride, padding and dilation; groups are replaced.
        channels: C.

    Raises:
        InvalidArgumentError: `column` or `row` has another shape, or the spec is not 2-D.
    """
    stride, dilation = per_axis("stride", spec.stride, 2), per_axis("dilation", spec.dilation, 2)
    steps = []
    for axis, taps in enumerate((column, row)):
        name = ("column", "row")[axis]
        kernel = as_array(taps, name)
        if kernel.ndim not in (1, 2) or (kernel.ndim == 2 and kernel.shape[0] != channels):
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
