"""`groupconv conv` on arrays of any axes: what the output says about them, and the values."""

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from typer.testing import CliRunner

from groupconv_server.cli.app import app

RNG = np.random.default_rng(1)
NAMES = {
    "N": ["t", "time", "date", "sample"],
    "C": ["c", "band", "channel"],
    "Z": ["z", "depth", "level"],
    "Y": ["y", "row", "lat"],
    "X": ["x", "column", "lon"],
}
SIZES = {"N": 2, "C": 3, "Z": 4, "Y": 9, "X": 11}
IDENTITIES = {"plane": np.ones((1, 1), "f4"), "wide": np.pad(np.ones((1, 1), "f4"), 1), "named": None}


@pytest.fixture(scope="module")
def conv(server):
    def run(*arguments, code=0):
        done = CliRunner().invoke(app(), ["conv", *map(str, arguments), "-t", server.address], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return run


def write(path, x, names):
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = x
            for dimension, name in zip(file["data"].dims, names, strict=True):
                dimension.label = name
    elif path.name.endswith(".ome.zarr"):
        group = zarr.create_group(path)
        group.create_array("0", data=x)
        said = {"axes": [{"name": n} for n in names], "datasets": [{"path": "0"}]}
        group.attrs["ome"] = {"version": "0.5", "multiscales": [said]}
    else:
        zarr.create_array(path, data=x, dimension_names=names)


def read(path):
    if path.suffix == ".npy":
        return np.load(path), None
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return file["data"][...], [d.label for d in file["data"].dims]
    array = zarr.open(path, mode="r")
    if path.name.endswith(".ome.zarr"):
        (said,) = array.attrs["ome"]["multiscales"]
        return array["0"][...], [axis["name"] for axis in said["axes"]]
    return array[...], list(array.metadata.dimension_names)


@settings(max_examples=40)
@given(data=st.data())
def test_the_identity_keeps_every_array_as_it_is(conv, tmp_path_factory, data):
    """Container × axes × names × shapes × dtype: values, dtype, order and names are the same afterwards."""
    kinds = [k for k in data.draw(st.permutations("NCZYX"), "axes") if k in "YX" or data.draw(st.booleans(), k)]
    sizes = [data.draw(st.sampled_from([1, SIZES[k]]), k) if k in "NCZ" else SIZES[k] for k in kinds]
    names = [data.draw(st.sampled_from(NAMES[k])) for k in kinds]
    dtype = data.draw(st.sampled_from(["u1", "u2", ">u2", "i2", "f4", ">f4", "f8"]))
    x = (RNG.standard_normal(sizes) * 50 + 100).astype(dtype)
    source, target = (data.draw(st.sampled_from([".npy", ".h5", ".zarr", ".ome.zarr"]), e) for e in ("from", "to"))
    folder = tmp_path_factory.mktemp("arrays")
    write(folder / f"x{source}", x, names)
    kernel = data.draw(st.sampled_from(["plane", "wide", "named"]))
    flags = ["--axes", ",".join(names)] if source == ".npy" else []
    if kernel == "named":
        flags += ["-k", "gaussian:0.1"]
    else:
        np.save(folder / "k.npy", IDENTITIES[kernel])
        flags += ["-k", folder / "k.npy"]
    conv(folder / f"x{source}", "-o", folder / f"y{target}", "--dtype", "same", *flags)
    y, said = read(folder / f"y{target}")
    np.testing.assert_array_equal(y, x)
    assert y.dtype == x.dtype.newbyteorder("=")
    assert said is None or said == names


@pytest.mark.parametrize("axes", ["tczyx", "zcyx", "yxz", "xzy"])
def test_a_filter_of_planes_or_of_volumes_in_any_order_of_axes(conv, tmp_path, axes):
    sizes = {"t": 2, "c": 3, "z": 7, "y": 16, "x": 19}
    x = RNG.standard_normal([sizes[a] for a in axes]).astype("f4")
    write(tmp_path / "x.zarr", x, list(axes))
    for kernel, touched in (("gaussian:1.3", "zyx"), ("gaussian:1.3,1.3", "yx")):
        conv(tmp_path / "x.zarr", "-k", kernel, "-o", tmp_path / "y.zarr")
        want = ndimage.gaussian_filter(x, [1.3 if a in touched else 0 for a in axes], mode="nearest")
        np.testing.assert_allclose(read(tmp_path / "y.zarr")[0], want, atol=1e-5)


def test_a_volume_of_few_large_planes_is_cut_along_its_rows(conv, tmp_path):
    """A band along Z would be larger than what a stream of this server may hold."""
    x = np.zeros((3, 1500, 4000), np.float32)
    x[1, 700:720, 2000:2030] = 100
    np.save(tmp_path / "x.npy", x)
    conv(tmp_path / "x.npy", "--axes", "zyx", "-k", "gaussian:2", "-o", tmp_path / "y.npy")
    near = (slice(None), slice(640, 780), slice(1940, 2090))
    want = ndimage.gaussian_filter(x[near], 2, mode="nearest")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[near], want, atol=1e-4)
    command = (tmp_path / "x.npy", "--axes", "zyx", "-k", "gaussian:2", "-o", tmp_path / "y.ome.tif")
    assert "or write .ome.zarr, .h5 or .npy: .tif is filled plane by plane" in conv(*command, code=1).stderr


def test_an_ome_zarr_keeps_its_pixel_sizes_and_has_a_pyramid(conv, tmp_path):
    x = RNG.integers(0, 999, (2, 1, 3, 600, 501), dtype="u2")
    group = zarr.create_group(tmp_path / "x.ome.zarr", zarr_format=2)
    group.create_array("0", data=x)
    axes = [{"name": n, "type": "space", "unit": "micrometer"} if n in "zyx" else {"name": n} for n in "tczyx"]
    scale = [{"type": "scale", "scale": [1, 1, 2.0, 0.5, 0.25]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
    np.save(tmp_path / "k.npy", np.ones((1, 1), "f4"))
    command = [tmp_path / "x.ome.zarr", "-k", tmp_path / "k.npy", "--dtype", "same"]
    conv(*command, "-o", tmp_path / "y.ome.zarr", "--pyramid")
    made = zarr.open(tmp_path / "y.ome.zarr", mode="r")
    (said,) = made.attrs["ome"]["multiscales"]
    assert [(a["name"], a["type"], a.get("unit")) for a in said["axes"]] == [
        ("t", "time", None), ("c", "channel", None), *((n, "space", "micrometer") for n in "zyx")
    ]  # fmt: skip
    scales = [d["coordinateTransformations"][0]["scale"] for d in said["datasets"]]
    assert scales == [[1, 1, 2, 0.5, 0.25], [1, 1, 2, 1, 0.5], [1, 1, 2, 2, 1]]
    np.testing.assert_array_equal(made["0"][...], x)
    assert [made[str(i)].shape[-2:] for i in range(3)] == [(600, 501), (300, 251), (150, 126)]
    means = x[..., :500].reshape(2, 1, 3, 300, 2, 250, 2).mean(axis=(4, 6))
    np.testing.assert_array_equal(made["1"][..., :250], np.rint(means))
    conv(*command, "-o", tmp_path / "small.ome.zarr", "--stride", 2)
    (said,) = zarr.open(tmp_path / "small.ome.zarr", mode="r").attrs["ome"]["multiscales"]
    assert said["datasets"][0]["coordinateTransformations"][0]["scale"] == [1, 1, 2, 1, 0.5]
    done = conv(*command, "-o", tmp_path / "y.npy", "--pyramid", code=2)
    assert "pyramid: expected an output whose name ends in .ome.zarr" in done.stderr


@pytest.mark.parametrize("output", ["y.tif", "y.ome.tif"])
@pytest.mark.parametrize("kernel", ["gaussian:0.1", "gaussian:0.1,0.1"])
@pytest.mark.parametrize("axes", ["tzcyx", "tczyx", "cyx", "zcyx", "zyxc"])
def test_a_tiff_has_the_axes_of_an_array_in_their_order(conv, tmp_path, axes, kernel, output):
    sizes = {"t": 2, "c": 3, "z": 4, "y": 20, "x": 30}
    x = RNG.integers(0, 999, [sizes[a] for a in axes], dtype="u2")
    write(tmp_path / "x.zarr", x, list(axes))
    conv(tmp_path / "x.zarr", "-k", kernel, "-o", tmp_path / output, "--dtype", "same")
    with tifffile.TiffFile(tmp_path / output) as file:
        assert file.series[0].axes == axes.upper().replace("YXC", "YXS")
        np.testing.assert_array_equal(file.series[0].asarray(), x)
