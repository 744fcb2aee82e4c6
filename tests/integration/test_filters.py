"""The filters of `groupconv conv` against scipy.ndimage and scikit-image."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import unsharp_mask
from typer.testing import CliRunner

from groupconv_server.cli.app import app
from groupconv_server.files.filters import filtering

RNG = np.random.default_rng(7)
PLANE = RNG.standard_normal((40, 45))
VOLUME = RNG.standard_normal((14, 20, 17))


@pytest.fixture(scope="module")
def filtered(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("filters")

    def run(x, kernel, *flags, axes="zyx", output="y.npy", code=0):
        np.save(folder / "x.npy", x)
        arguments = ["conv", str(folder / "x.npy"), "-k", kernel, "-o", str(folder / output), "-t", server.address]
        done = CliRunner().invoke(app(), [*arguments, "--axes", axes[-x.ndim :], *map(str, flags)])
        assert done.exit_code == code, done.output
        return np.load(folder / output) if code == 0 else done.stderr

    return run


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("x", [PLANE, VOLUME], ids=["plane", "volume"])
def test_named_filters_are_scipy_s(filtered, x):
    x = x.astype(np.float32)
    nearest = {"mode": "nearest"}
    close(filtered(x, "gaussian:1.5"), ndimage.gaussian_filter(x, 1.5, **nearest))
    close(filtered(x, "gaussian:1.5", "--truncate", 2), ndimage.gaussian_filter(x, 1.5, truncate=2, **nearest))
    close(filtered(x, "log:1.2"), ndimage.gaussian_laplace(x, 1.2, **nearest))
    close(filtered(x, "gradient:1.2"), ndimage.gaussian_gradient_magnitude(x, 1.2, **nearest))
    difference = ndimage.gaussian_filter(x, 1, **nearest) - ndimage.gaussian_filter(x, 2, **nearest)
    close(filtered(x, "dog:1,2"), difference)
    close(filtered(x, "dog:1,2", "--absolute"), np.abs(difference))
    sharp = filtered(x, "unsharp:1.5,0.7")
    close(sharp, x + 0.7 * (x - ndimage.gaussian_filter(x, 1.5, **nearest)))
    inner = (slice(6, -6),) * x.ndim  # scikit-image mirrors at the edges
    close(sharp[inner], unsharp_mask(x, 1.5, 0.7, preserve_range=True)[inner])


def test_a_wide_gaussian_of_an_image_is_passes(filtered):
    x = PLANE.astype(np.float32)
    assert [step.kernel.shape for step in filtering("gaussian:40", None, 1, "YX", alpha=False).steps] == [
        (1, 1, 321, 1),
        (1, 1, 1, 321),
    ]
    close(filtered(x, "gaussian:40,2"), ndimage.gaussian_filter(x, (40, 2), mode="nearest"))
    close(filtered(x, "dog:2,40"), filtered(x, "gaussian:2") - filtered(x, "gaussian:40"))


@pytest.mark.parametrize("sigmas", [(0.5, 2, 1), (2, 0, 1), (0, 1, 2)])
def test_each_axis_has_its_sigma(filtered, sigmas):
    text = ",".join(map(str, sigmas))
    x = VOLUME.astype(np.float32)
    close(filtered(x, f"gaussian:{text}"), ndimage.gaussian_filter(x, sigmas, mode="nearest"))
    close(filtered(x, "gaussian:" + text[text.index(",") + 1 :]), ndimage.gaussian_filter(x, (0, *sigmas[1:]), mode="nearest"))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("mode", [("reflect", "mirror"), ("circular", "wrap"), ("zeros", "constant")])
def test_passes_keep_the_padding_mode(filtered, mode):
    ours, scipy_s = mode
    got = filtered(VOLUME.astype(np.float32), "gaussian:1", "--padding-mode", ours)
    close(got, ndimage.gaussian_filter(VOLUME, 1, mode=scipy_s))


def test_each_channel_of_a_volume_has_its_filter(filtered):
    x = np.stack([VOLUME, VOLUME + 1, VOLUME * 2]).astype(np.float32)
    got = filtered(x, "gaussian:1,log:1,sobel-x", "--signed", axes="czyx")
    close(got[0], ndimage.gaussian_filter(x[0], 1, mode="nearest"))
    close(got[1], ndimage.gaussian_laplace(x[1], 1, mode="nearest"))
    close(got[2], np.stack([ndimage.correlate(p, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], mode="nearest") for p in x[2]]))


def test_a_strided_volume_is_every_other_voxel(filtered):
    got = filtered(VOLUME.astype(np.float32), "gaussian:1", "--stride", 2)
    assert got.shape == (7, 10, 9)
    whole = ndimage.gaussian_filter(VOLUME, 1, mode="nearest")
    close(
        got[1:-1, 1:-1, 1:-1], whole[1::2, 1::2, ::2][1:-1, 1:-1, 1:-1]
    )  # same padding of even extents begins one later


def test_what_is_saturated_is_counted_and_said(filtered, server, tmp_path):
    x = np.full((30, 40), 200, np.uint8)
    x[10, 5:15] = 0
    np.save(tmp_path / "x.npy", x)
    command = ["conv", str(tmp_path / "x.npy"), "-k", "sharpen", "-o", str(tmp_path / "y.npy"), "-t", server.address]
    done = CliRunner().invoke(app(), [*command, "--dtype", "same"])
    want = ndimage.correlate(x.astype(float), [[0, -1, 0], [-1, 5, -1], [0, -1, 0]], mode="nearest")
    count = np.count_nonzero((want < 0) | (want > 255))
    assert count > 0
    assert f"groupconv: {count} values " in done.stderr
    assert "outside the range of uint8 and were saturated" in done.stderr
    done = CliRunner().invoke(app(), [*command, "--dtype", "int32"])
    assert "saturated" not in done.stderr
    np.save(tmp_path / "x.npy", np.where(np.arange(1200).reshape(30, 40) == 620, np.nan, 1))
    done = CliRunner().invoke(app(), [*command, "--dtype", "uint8"])
    assert "groupconv: 9 values (0.0075 of all) are outside" in done.stderr


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        ("gaussian", "one of sobel-x"),
        ("gaussian:0", "gaussian:SIGMA[,SIGMA,SIGMA] with 0 < SIGMA <= 1000"),
        ("dog:1", "dog:SIGMA,SIGMA"),
        ("dog:1,2,3", "dog:SIGMA,SIGMA"),
        ("gaussian:1,2,3,4", "gaussian:SIGMA[,SIGMA,SIGMA]"),
        ("log:nan", "log:SIGMA"),
        ("unsharp:1,inf", "unsharp:SIGMA[,AMOUNT]"),
        ("blur:3", "one of sobel-x"),
    ],
)
def test_parameters_that_are_none_are_refused(filtered, kernel, words):
    assert words in filtered(PLANE, kernel, code=2)
