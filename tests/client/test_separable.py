"""Separable convolutions against the convolutions that they are made of."""

import numpy as np
import pytest

from groupconv import ConvSpec, Step, resolve
from groupconv.arguments import prepare
from groupconv.errors import InvalidArgumentError
from groupconv.separable import depthwise_separable_steps, pointwise, spatially_separable_steps
from groupconv_worker import reference


def run(x, steps):
    x, steps, _ = prepare(x, steps)
    for step in steps:
        x = reference.convolve(x, step.kernel, step.bias, resolve(step.spec, x.shape, step.kernel.shape))
    return x


def test_spatially_separable_is_the_rank_1_kernel():
    """The worked example: [[3,6,9],[4,8,12],[5,10,15]] = [3,4,5]ᵀ·[1,2,3]."""
    full = np.array([[3, 6, 9], [4, 8, 12], [5, 10, 15]], dtype=float)
    np.testing.assert_array_equal(full, np.outer([3, 4, 5], [1, 2, 3]))
    x = np.random.default_rng(0).standard_normal((2, 4, 9, 8))
    spec = ConvSpec(stride=(2, 1), padding=((1, 0), 2), dilation=(1, 2))
    separable = run(x, spatially_separable_steps([3, 4, 5], [1, 2, 3], np.arange(4.0), spec, 4))
    one = ConvSpec(stride=(2, 1), padding=((1, 0), 2), dilation=(1, 2), groups=4)
    whole = run(x, [Step(np.broadcast_to(full, (4, 1, 3, 3)), np.arange(4.0), one)])
    np.testing.assert_allclose(separable, whole, rtol=1e-12)


def test_spatially_separable_takes_taps_per_channel_and_refuses_others():
    x = np.random.default_rng(1).standard_normal((1, 2, 6, 6))
    column, row = np.array([[1.0, 2, 1], [1, 0, -1]]), np.array([[1.0, 0, -1], [1, 2, 1]])
    y = run(x, spatially_separable_steps(column, row, None, ConvSpec(padding="same"), 2))
    full = np.einsum("ci,cj->cij", column, row)[:, None]
    np.testing.assert_allclose(y, run(x, [Step(full, spec=ConvSpec(padding="same", groups=2))]), atol=1e-12)
    with pytest.raises(InvalidArgumentError, match=r"row: expected shape \(K,\) or \(2, K\)"):
        spatially_separable_steps(column, np.ones((3, 3)), None, ConvSpec(), 2)


def test_depthwise_separable_is_depthwise_then_pointwise():
    x = np.random.default_rng(2).standard_normal((1, 3, 7, 7))
    depthwise, mix = np.random.default_rng(3).standard_normal((3, 1, 3, 3)), np.arange(6.0).reshape(2, 3)
    spec = ConvSpec(stride=2, padding=1, activation="relu")
    steps = depthwise_separable_steps(depthwise, mix, np.ones(2), spec, depthwise_activation="tanh")
    assert [s.spec.groups for s in steps] == [3, 1]
    y = run(x, steps)
    middle = np.tanh(run(x, [Step(depthwise, spec=ConvSpec(stride=2, padding=1, groups=3))]))
    np.testing.assert_allclose(y, np.maximum(0, np.einsum("mc,nchw->nmhw", mix, middle) + 1), rtol=1e-12)


def test_pointwise_kernels_may_be_matrices():
    assert pointwise(np.ones((4, 3)), 2).shape == (4, 3, 1, 1)
    assert pointwise(np.ones((4, 3, 1)), 1).shape == (4, 3, 1)
