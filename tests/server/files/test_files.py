"""Arrays in files: what is written is read, by rows, in any order of axes."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupconv.errors import FailedPreconditionError, InvalidArgumentError
from groupconv_server import files
from groupconv_server.files import extras
from groupconv_server.files.axes import axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.metadata import Metadata
from groupconv_server.files.values import Fitted, as_request_dtype, saturate

RNG = np.random.default_rng(0)


def pixels(shape, dtype):
    if np.dtype(dtype).kind == "f":
        return RNG.standard_normal(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def write(path: Path, x, rows=37, *, alpha=False):
    with files.create_output(path, x.shape, x.dtype, Metadata(alpha="unassociated" if alpha else "")) as out:
        for n in range(x.shape[0]):
            for at in range(0, x.shape[2], rows):
                stop = min(x.shape[2], at + rows)
                out.array[n, :, at:stop] = x[n, :, at:stop]


def whole(array):
    return np.stack([array[n, :, 0 : array.shape[2]] for n in range(array.shape[0])])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(1, 1, 300, 270), (1, 3, 513, 40), (2, 5, 260, 257), (1, 2, 7, 30, 300)])
@pytest.mark.parametrize("name", ["x.tif", "x.ome.tif", "x.zarr", "x.h5", "x.npy"])
def test_every_format_gives_back_what_it_took(tmp_path, name, shape, dtype):
    x = pixels(shape, dtype)
    write(tmp_path / name, x)
    with files.open_input(tmp_path / name) as opened:
        assert (opened.array.shape, opened.array.dtype, opened.alpha) == (shape, x.dtype, False)
        np.testing.assert_array_equal(whole(opened.array), x)
        np.testing.assert_array_equal(opened.array[0, :, 3:5], x[0, :, 3:5])


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_photograph_keeps_its_alpha(tmp_path, name, channels):
    x = pixels((1, channels, 50, 40), "uint8")
    write(tmp_path / name, x, alpha=channels in (2, 4))
    with files.open_input(tmp_path / name) as opened:
        assert opened.alpha == (channels in (2, 4))
        np.testing.assert_array_equal(whole(opened.array), x)


def test_a_tiff_is_what_others_read(tmp_path):
    """Pillow and tifffile's own reader, a BigTIFF, tiles, and the axes of OME."""
    import imageio.v3 as iio
    import tifffile

    x = pixels((1, 3, 600, 500), "uint8")
    write(tmp_path / "x.tif", x)
    np.testing.assert_array_equal(iio.imread(tmp_path / "x.tif", plugin="pillow"), x[0].transpose(1, 2, 0))
    v = pixels((1, 1, 4, 20, 30), "uint16")
    write(tmp_path / "v.ome.tif", v)
    with tifffile.TiffFile(tmp_path / "v.ome.tif") as file:
        assert (file.is_ome, file.series[0].axes, file.pages[0].is_tiled) == (True, "ZYX", True)
        np.testing.assert_array_equal(file.asarray(), v[0, 0])


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 64), "compression": "lzw"},
        {"tile": (128, 64), "compression": "jpeg", "bigtiff": True},
        {"rowsperstrip": 10, "compression": "zlib"},
        {},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
)
def test_tiffs_of_others_are_read(tmp_path, options):
    import tifffile

    x = pixels((333, 210, 3), "uint8" if options.get("compression") == "jpeg" else "uint16")
    tifffile.imwrite(tmp_path / "x.tif", x, photometric="rgb", **options)
    want = tifffile.imread(tmp_path / "x.tif")
    with files.open_input(tmp_path / "x.tif") as opened:
        np.testing.assert_array_equal(whole(opened.array)[0].transpose(1, 2, 0), want)


def test_zarr_and_hdf5_of_others_are_read(tmp_path):
    import h5py
    import zarr

    x = pixels((5, 40, 30), "float32")
    group = zarr.create_group(tmp_path / "image.zarr")
    group.create_array("0", data=x, chunks=(1, 16, 16), shards=(1, 32, 32))
    group.create_array("1", data=x[:, ::2, ::2])
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "0"}, {"path": "1"}]}]}
    zarr.create_array(tmp_path / "old.zarr", data=x, zarr_format=2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/raw"], file["a/other"] = x, x + 1
    for name, axes, shape in [
        ("image.zarr", None, (1, 1, 5, 40, 30)),
        ("image.zarr/1", "zyx", (1, 1, 5, 20, 15)),
        ("old.zarr", None, (1, 5, 40, 30)),
        ("x.h5:/a/raw", "tyx", (5, 1, 40, 30)),
    ]:
        with files.open_input(tmp_path / name, axes) as opened:
            assert opened.array.shape == shape
            want = x[:, ::2, ::2] if name.endswith("/1") else x
            np.testing.assert_array_equal(whole(opened.array).reshape(want.shape), want)
    with pytest.raises(InvalidArgumentError, match=r"HDF5 with x\.h5:/a/other, x\.h5:/a/raw"):
        files.open_input(tmp_path / "x.h5").__enter__()
    with pytest.raises(InvalidArgumentError, match="a new path, or a Zarr array"):
        files.create_output(tmp_path / "image.zarr" / "", (1, 1, 4, 4), np.dtype("f4")).__enter__()


def copied(reader, writer, rows, again=0):
    assert reader.shape == writer.shape
    for n in range(reader.shape[0]):
        for at in range(0, reader.shape[2], rows):
            stop = min(reader.shape[2], at + rows)
            start = max(0, at - again)  # as after a resume
            writer[n, :, start:stop] = reader[n, :, start:stop]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.permutations(["n", "time", "channel", "z", "row", "col"]),
    drop=st.sets(st.sampled_from(["n", "time", "channel", "z"])),
    fold=st.sampled_from(["", "C", "Z", "CZ"]),
    first=st.sampled_from(["", "Z", "Y", "X"]),
    rows=st.integers(1, 9),
    chunk=st.integers(1, 5),
    buffer=st.sampled_from([1, 2**20]),
)
def test_blocks_and_views_of_any_axes(monkeypatch, names, drop, fold, first, rows, chunk, buffer):
    """Every sample of a view is what NumPy has there, and what is written through one is where it was read."""
    monkeypatch.setattr("groupconv_server.files.blocks.BLOCK_BYTES", 1)
    monkeypatch.setattr("groupconv_server.files.blocks.BUFFER_BYTES", buffer)
    sizes = {"n": 2, "time": 3, "channel": 3, "z": 5, "row": 8, "col": 4}
    names = [name for name in names if name not in drop]
    x = RNG.standard_normal([sizes[name] for name in names])
    layout = Layout(axes_of(x.shape, names), fold, first)
    view, out = View(x, layout), np.zeros_like(x)
    chunks = (chunk,) * x.ndim
    copied(BlockReader(View(x, layout), chunks), BlockWriter(View(out, layout), chunks), rows, again=2)
    np.testing.assert_array_equal(out, x)
    planar = "channel" in names and "C" in fold and names.index("channel") < names.index("row")
    samples = [n for n in names if n in ("n", "time") or (n == "z" and "Z" in fold) or (n == "channel" and planar)]
    spatial = [n for n in ("z", "row", "col") if n in names and n not in samples]
    spatial.sort(key=lambda name: {"Z": "z", "Y": "row", "X": "col"}.get(first) != name)
    channel = ["channel"] if "channel" in names and not planar else []
    want = x.transpose([names.index(n) for n in (*samples, *channel, *spatial)])
    want = want.reshape(-1, *(sizes[n] for n in channel or [0]) if channel else (1,), *(sizes[n] for n in spatial))
    assert view.shape == want.shape
    np.testing.assert_array_equal(whole(view), want)


def test_planes_that_are_stored_together_are_decoded_once():
    class Counted:
        def __init__(self, array):
            self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

        def __getitem__(self, index):
            part = self.array[index]
            self.read += part.size
            return part

    x = Counted(RNG.standard_normal((2, 10, 30, 20)))
    reader = BlockReader(View(x, Layout(axes_of(x.shape, ["t", "z", "y", "x"]), "CZ")), (1, 4, 8, 8))
    np.testing.assert_array_equal(whole(reader), x.array.reshape(20, 1, 30, 20))
    assert x.read == x.array.size


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("YX", "expected 3 axes, one for each of (3, 4, 5), got 'y, x'"),
        ("YXO", "known names; perhaps --axes yxn, got 'y, x, o'"),
        ("foo,bar,x", "known names; perhaps --axes nyx, got 'foo, bar, x'"),
        ("YXY", "expected one Y, one X, at most one Z; perhaps --axes nxy, got 'y, x, y'"),
        ("CZX", "expected one Y, one X, at most one Z; perhaps --axes czx"),
    ],
)
def test_axes_that_do_not_fit_are_refused(tmp_path, axes, message):
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 5)))
    with pytest.raises(InvalidArgumentError, match="axes: .*" + re.escape(message)):
        files.open_input(tmp_path / "x.npy", axes).__enter__()


NAMES = {
    "N": ["time", "date", "Time_2", "valid-time", "ensemble"],
    "C": ["band", "channel", "Bands", "wavelength"],
    "Z": ["depth", "level", "slice", "plev"],
    "Y": ["row", "lat", "Latitude", "y_1", "south_north"],
    "X": ["column", "lon", "longitude", "x 1", "west_east"],
}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), container=st.sampled_from(["zarr2", "zarr3", "ome", "labels", "scales"]))
def test_axes_are_known_by_their_words_in_every_container(tmp_path_factory, data, container):
    import h5py
    import zarr

    kinds = data.draw(st.permutations(["N", "C", "Z", "Y", "X"]))
    kinds = [k for k in kinds if k in "YX" or data.draw(st.booleans())]
    names = [data.draw(st.sampled_from(NAMES[kind])) for kind in kinds]
    x = RNG.standard_normal([{"N": 2, "C": 3, "Z": 4, "Y": 5, "X": 6}[k] for k in kinds])
    path = tmp_path_factory.mktemp("x") / ("x.h5" if container in ("labels", "scales") else "x.zarr")
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["data"] = x
            for i, name in enumerate(names):
                if container == "labels":
                    file["data"].dims[i].label = name
                else:
                    file[name] = np.arange(x.shape[i])
                    file[name].make_scale(name)
                    file["data"].dims[i].attach_scale(file[name])
    elif container == "ome":
        group = zarr.create_group(path, zarr_format=2)
        group.create_array("0", data=x)
        axes = [{"name": name} for name in names]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    elif container == "zarr3":
        zarr.create_array(path, data=x, dimension_names=names)
    else:
        zarr.create_array(path, data=x, zarr_format=2).attrs["_ARRAY_DIMENSIONS"] = names
    with files.open_input(path) as opened:
        assert [axis.kind for axis in opened.array.layout.axes] == kinds
        assert [axis.name for axis in opened.array.layout.axes] == names
        order = [kinds.index(k) for k in ("N", "C", "Z", "Y", "X") if k in kinds]
        np.testing.assert_array_equal(whole(opened.array).ravel(), x.transpose(order).ravel())


def test_words_that_are_not_known_are_refused_with_axes_that_would_do(tmp_path):
    import zarr

    zarr.create_array(tmp_path / "x.zarr", data=np.zeros((2, 3, 4)), dimension_names=["dim_0", "lat", "lon"])
    with pytest.raises(InvalidArgumentError, match="--axes nyx, got 'dim_0, lat, lon'"):
        files.open_input(tmp_path / "x.zarr").__enter__()
    with files.open_input(tmp_path / "x.zarr", "nyx") as opened:
        assert opened.array.shape == (2, 1, 3, 4)
        assert [axis.name for axis in opened.array.layout.axes] == ["dim_0", "lat", "lon"]


def test_a_tiff_that_ends_early_ends_its_thread(tmp_path):
    import threading

    x = pixels((1, 1, 600, 300), "uint8")

    def begun():
        with files.create_output(tmp_path / "x.tif", x.shape, x.dtype) as out:
            out.array[0, :, 0:300] = x[0, :, 0:300]
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        begun()
    assert not [t for t in threading.enumerate() if t.name == "tiff"]


def test_results_are_saturated_to_what_is_held():
    y = np.array([-np.inf, -1, 0.4, 65534.6, 1e9, np.nan])
    assert saturate(y, np.dtype("uint16")).tolist() == [0, 0, 0, 65535, 65535, 0]
    out = np.zeros((1, 1, 2, 2), np.uint8)
    Fitted(out, np.dtype("float32"), absolute=True)[0, :, 0:2] = np.array([[[-3.6, 2], [-400, 7]]], np.float32)
    assert out.tolist() == [[[[4, 2], [255, 7]]]]
    for dtype, wide in [("uint16", "float32"), ("int64", "float64"), ("bool", "uint8"), ("float16", "float16")]:
        assert as_request_dtype(np.zeros((1, 1, 2, 2), dtype)).dtype == wide


def test_what_is_no_image_is_refused_with_its_name(tmp_path):
    for name in ("x.png", "x.tif", "x.npy"):
        (tmp_path / name).write_text("not a picture")
        with pytest.raises(InvalidArgumentError, match=rf"input: expected .*{name}"):
            files.open_input(tmp_path / name).__enter__()
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.open_input(tmp_path / "none.zarr")
    with pytest.raises(InvalidArgumentError, match="output: expected a known format"):
        write(tmp_path / "y.nothing", np.zeros((1, 1, 2, 2)))
    with pytest.raises(InvalidArgumentError, match=r"output: .*float64.*PNG"):
        write(tmp_path / "y.png", np.zeros((1, 1, 2, 2)))


def test_a_missing_library_says_what_to_install(monkeypatch, tmp_path):
    (tmp_path / "x.tif").touch()
    monkeypatch.setattr(extras.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(FailedPreconditionError, match=r"pip install 'groupconv\[images\]'"):
        files.open_input(tmp_path / "x.tif").__enter__()
