"""The named image filters."""

import numpy as np
import pytest

from groupconv.convolution.kernels import NAMES, gaussian, kernel_named
from groupconv.errors import InvalidArgumentError


@pytest.mark.parametrize("name", [n.replace("SIGMA", "1.5") for n in NAMES])
def test_every_name_is_a_square_float32_kernel(name):
    kernel = kernel_named(name)
    assert kernel.dtype == np.float32
    assert kernel.ndim == 2
    assert kernel.shape[0] == kernel.shape[1]
    assert kernel.shape[0] % 2 == 1


def test_smoothing_kernels_keep_brightness_and_edges_have_none():
    assert kernel_named("gaussian:3").sum() == pytest.approx(1, abs=1e-6)
    assert kernel_named("sharpen").sum() == 1
    for name in ("sobel-x", "sobel-y", "laplacian"):
        assert kernel_named(name).sum() == 0
    assert np.array_equal(kernel_named("sobel-x").T, kernel_named("sobel-y"))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("sigma", "truncate"), [(2.5, 4.0), (0.5, 4.0), (1.3, 2.0), (0.1, 4.0)])
def test_the_gaussian_is_scipy_s(sigma, truncate, order):
    from scipy import ndimage

    line = np.zeros(41)
    line[20] = 1
    want = ndimage.gaussian_filter1d(line, sigma, order=order, truncate=truncate)
    got = np.convolve(line, gaussian(sigma, truncate=truncate, order=order)[::-1], mode="same")
    np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize("name", ["sobel", "gaussian", "gaussian:0", "gaussian:-1", "gaussian:x", "gaussian:nan", ""])
def test_unknown_kernels_are_refused(name):
    with pytest.raises(InvalidArgumentError, match="kernel: expected"):
        kernel_named(name)
