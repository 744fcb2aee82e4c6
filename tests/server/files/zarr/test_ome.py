"""Images in Zarr groups: OME-Zarr, bioformats2raw, plates, and groups of plain arrays."""

import h5py
import numpy as np
import pytest
import zarr

from groupconv.errors import InvalidArgumentError
from groupconv_server import files

RNG = np.random.default_rng(3)


def read(path, axes=None):
    with files.open_input(path, axes) as opened:
        layout = opened.array.layout
        samples = [opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])]
        return np.stack(samples), "".join(axis.kind for axis in layout.axes), " ".join(opened.notes)


def refused(path, *words):
    with pytest.raises(InvalidArgumentError) as raised:
        read(path)
    for word in words:
        assert word in str(raised.value)


def image(group, *, version="0.5", levels=2, x=None):
    """An OME-Zarr image of tczyx with a pyramid."""
    x = RNG.integers(0, 99, (2, 3, 1, 8, 12), dtype="u2") if x is None else x
    for i in range(levels):
        group.create_array(str(i), data=x[..., :: 2**i, :: 2**i])
    axes = [{"name": name} for name in "tczyx"]
    said = [{"version": version, "axes": axes, "datasets": [{"path": str(i)} for i in range(levels)]}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": said}
    else:
        group.attrs["multiscales"] = said
    return x


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_of_an_ome_zarr_is_taken_and_the_others_are_told(tmp_path, version):
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2 if version == "0.4" else 3)
    x = image(group, version=version)
    got, kinds, note = read(tmp_path / "x.zarr")
    np.testing.assert_array_equal(got, x.transpose(0, 2, 1, 3, 4)[:, 0])
    assert kinds == "NCZYX"
    assert note == "x.zarr: took level 0 of 2; for another one, x.zarr/1"
    got, kinds, note = read(tmp_path / "x.zarr/1")
    np.testing.assert_array_equal(got, x[:, :, 0, ::2, ::2])
    assert (kinds, note) == ("NCZYX", "")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_bioformats2raw_points_to_its_images(tmp_path, version):
    group = zarr.create_group(tmp_path / "b.zarr", zarr_format=2 if version == "0.4" else 3)
    layout = {"bioformats2raw.layout": 3}
    group.attrs.update(layout if version == "0.4" else {"ome": layout})
    x = image(group.create_group("0"), version=version)
    assert read(tmp_path / "b.zarr")[0].size == x.size  # the only one
    image(group.create_group("1"), version=version)
    refused(tmp_path / "b.zarr", "b.zarr/0, b.zarr/1")
    assert read(tmp_path / "b.zarr/1")[0].size == x.size


def test_a_plate_points_to_the_images_of_its_wells(tmp_path):
    plate = zarr.create_group(tmp_path / "plate.zarr")
    plate.attrs["ome"] = {"version": "0.5", "plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}}
    for well in ("A/1", "B/2"):
        group = plate.create_group(well)
        group.attrs["ome"] = {"version": "0.5", "well": {"images": [{"path": "0"}, {"path": "1"}]}}
        x = image(group.create_group("0"))
        image(group.create_group("1"))
    refused(tmp_path / "plate.zarr", "plate.zarr/A/1/0", "plate.zarr/B/2/1")
    refused(tmp_path / "plate.zarr/B/2", "2/0, 2/1")
    assert read(tmp_path / "plate.zarr/B/2/0")[0].size == x.size


def test_a_group_without_an_array_lists_what_there_is(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr")
    refused(tmp_path / "g.zarr", "the group has none")
    for i in range(20):
        group.create_array(f"deep/{i:02}", data=np.zeros((4, 5)))
    refused(tmp_path / "g.zarr", "g.zarr/deep/00", "g.zarr/deep/11 and 8 more")


def test_coordinates_are_no_images(tmp_path):
    """As xarray writes them: one variable, and one array for each of its axes."""
    x = RNG.standard_normal((3, 4, 5)).astype("f4")
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2)
    sizes = {"time": 3, "lat": 4, "lon": 5}
    group.create_array("t2m", data=x).attrs["_ARRAY_DIMENSIONS"] = list(sizes)
    with h5py.File(tmp_path / "x.nc", "w") as file:
        file["t2m"] = x
        for i, (name, size) in enumerate(sizes.items()):
            group.create_array(name, data=np.arange(size)).attrs["_ARRAY_DIMENSIONS"] = [name]
            file[name] = np.arange(size)
            file[name].make_scale(name)
            file["t2m"].dims[i].attach_scale(file[name])
    for name in ("x.zarr", "x.nc"):
        got, kinds, _ = read(tmp_path / name)
        assert kinds == "NYX"
        np.testing.assert_array_equal(got[:, 0], x)


@pytest.mark.parametrize(
    "said",
    [
        {"multiscales": [{"datasets": [{"path": "9"}]}]},
        {"multiscales": [{"datasets": []}]},
        {"multiscales": [{"axes": [{"type": "space"}] * 4, "datasets": [{"path": "0"}]}]},
        {"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]},
        {
            "multiscales": [
                {
                    "axes": list("czyx"),
                    "datasets": [
                        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1, "wide"]}]}
                    ],
                }
            ]
        },
        {"well": {"images": [{}]}},
        {"plate": {"wells": [{}]}},
    ],
)
def test_broken_metadata_is_refused_with_the_name_of_the_file(tmp_path, said):
    group = zarr.create_group(tmp_path / "x.zarr")
    group.create_array("0", shape=(2, 3, 4, 5), dtype="u2")
    group.attrs["ome"] = said
    refused(tmp_path / "x.zarr", "expected")
