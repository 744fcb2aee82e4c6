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


OMERO = {"channels": [{"label": "DAPI", "color": "0000FF", "active": True}, {"label": "GFP", "color": "00FF00"}]}
PLACE = [
    {"type": "scale", "scale": [2, 1, 1, 0.5, 0.25]},
    {"type": "translation", "translation": [0, 0, 0, 20, 30]},
]


def described(group, omero, version="0.5"):
    """An image of two channels, at a place."""
    x = image(group, version=version, levels=1, x=RNG.integers(0, 99, (1, 2, 1, 600, 12), dtype="u2"))
    about = dict(group.attrs["ome"] if version == "0.5" else group.attrs)
    about["multiscales"][0]["datasets"][0]["coordinateTransformations"] = PLACE
    about["omero"] = omero
    group.attrs.update({"ome": about} if version == "0.5" else about)
    return x


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", ["", "0"])
def test_channels_and_the_place_of_an_image_are_kept(tmp_path, version, level):
    group = zarr.create_group(tmp_path / "x.zarr", zarr_format=2 if version == "0.4" else 3)
    x = described(group, OMERO, version)
    with files.open_input(tmp_path / "x.zarr" / level) as opened:
        layout, metadata = opened.array.layout, opened.metadata
    with files.create_output(tmp_path / "y.ome.zarr", layout, x.dtype, metadata, pyramid=True) as created:
        for n in range(created.array.shape[0]):
            created.array[n, :, 0:600] = np.ones(created.array.shape[1:], x.dtype)[:, 0:600]
    about = zarr.open(tmp_path / "y.ome.zarr", mode="r").attrs["ome"]
    first, second, *_ = about["multiscales"][0]["datasets"]
    assert first["coordinateTransformations"] == PLACE
    assert second["coordinateTransformations"][1]["translation"] == [0, 0, 0, 20.25, 30.125]
    assert [(c["label"], c["color"]) for c in about["omero"]["channels"]] == [("DAPI", "0000FF"), ("GFP", "00FF00")]
    with files.create_output(tmp_path / "y.npy", layout, x.dtype, metadata) as created:
        assert created.notes == (".npy holds no pixel sizes, position, channel names, channel colors: left out",)


@pytest.mark.parametrize("omero", [None, [], {"channels": None}, {"channels": [5, 6]}, {"channels": [{"label": "a"}]}])
def test_channels_that_are_not_described_are_no_channels(tmp_path, omero):
    described(zarr.create_group(tmp_path / "x.zarr"), omero)
    with files.open_input(tmp_path / "x.zarr") as opened:
        assert opened.metadata.channel_names == ()


def test_labels_and_attributes_that_an_output_loses_are_told(tmp_path):
    group = zarr.create_group(tmp_path / "x.zarr")
    image(group, levels=1)
    group.create_group("labels").attrs["labels"] = []
    assert read(tmp_path / "x.zarr")[2] == "the output does not keep: labels"
    said = {"scale_factor": 0.01, "add_offset": 273.15, "_FillValue": -999, "units": "K"}
    want = (
        "scale_factor 0.01, add_offset 273.15: values are computed as they are stored pixels of the no-data value -999 "
        "are computed like any others; the output does not mark them the output does not keep: units"
    )
    array = zarr.create_array(tmp_path / "cf.zarr", data=np.zeros((8, 9), "i2"))
    array.attrs.update(said)
    with h5py.File(tmp_path / "cf.nc", "w") as file:
        file["t"] = np.zeros((8, 9), "i2")
        file["t"].attrs.update(said)
    assert read(tmp_path / "cf.zarr")[2] == want
    assert read(tmp_path / "cf.nc")[2] == want
