"""Names of axes, in all formats."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupconv.errors import InvalidArgumentError
from groupconv_server import files

RNG = np.random.default_rng(0)


def whole(array):
    return np.stack([array[n, :, 0 : array.shape[2]] for n in range(array.shape[0])])


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
