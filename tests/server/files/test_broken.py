"""Files that other programs left incomplete, and metadata that no program writes, are refused with the file's name."""

import json
import struct
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest

from groupconv.errors import InvalidArgumentError
from groupconv_server import files

tifffile = pytest.importorskip("tifffile")
ARRAY = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [64, 64],
    "data_type": "uint8",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [16, 16]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0,
    "codecs": [{"name": "bytes"}],
    "attributes": {},
}
ITSELF = {"ome": {"well": {"images": [{"path": ""}]}}}
PLANES = np.arange(5 * 64 * 64, dtype=np.uint16).reshape(5, 64, 64)


def tiff(pixels, **options):
    file = BytesIO()
    tifffile.imwrite(file, pixels, photometric="minisblack", **options)
    return file.getvalue()


def whole(path):
    with files.open_input(path) as opened:
        return np.stack([opened.array[n, :, 0 : opened.array.shape[2]] for n in range(opened.array.shape[0])])


@pytest.mark.parametrize("tag", ["ImageWidth", "ImageLength", "BitsPerSample", "SamplesPerPixel", "RowsPerStrip"])
@pytest.mark.parametrize("count", [0, 7])
def test_a_tag_without_its_value_is_refused(tmp_path, tag, count):
    data = bytearray(tiff(PLANES[0], metadata=None))
    at = tifffile.TiffFile(BytesIO(data)).pages[0].tags[tag].offset
    struct.pack_into("<I", data, at + 4, count)
    (tmp_path / "broken.tif").write_bytes(data)
    with suppress(InvalidArgumentError):  # tifffile finds some values all the same
        whole(tmp_path / "broken.tif")


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "zlib", "rowsperstrip": 8}])
@pytest.mark.parametrize("big", [False, True])
def test_a_stack_that_lost_its_last_pages_is_refused(tmp_path, options, big):
    """A copy that was cut off. The list of pages then goes on behind the end of the file."""
    data = tiff(PLANES, metadata=None, bigtiff=big, **options)
    (tmp_path / "whole.tif").write_bytes(data)
    np.testing.assert_array_equal(whole(tmp_path / "whole.tif")[:, 0], PLANES)
    (tmp_path / "cut.tif").write_bytes(data[: len(data) * 7 // 10])
    with pytest.raises(InvalidArgumentError, match=r"a complete TIFF.*cut.tif, whose page \d goes on"):
        whole(tmp_path / "cut.tif")
    with files.open_input(tmp_path / "cut.tif:0") as opened:
        np.testing.assert_array_equal(opened.array[0, 0:1, 0:9][0], PLANES[0, 0:9])


def test_planes_that_are_in_no_file_are_told(tmp_path):
    """An OME-TIFF of several files, one of which was not copied. All readers show zeros there."""
    names, ids = ("a.ome.tif", "b.ome.tif"), ("urn:uuid:1", "urn:uuid:2")
    where = "".join(
        f'<TiffData FirstZ="{i}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{id_}</UUID></TiffData>'
        for i, (name, id_) in enumerate(zip(names, ids, strict=True))
    )
    for i, (name, id_) in enumerate(zip(names, ids, strict=True)):
        described = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{id_}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            f'SizeX="64" SizeY="64" SizeZ="2" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{where}</Pixels></Image></OME>'
        )
        (tmp_path / name).write_bytes(tiff(PLANES[i], description=described, metadata=None, ome=False))
    with files.open_input(tmp_path / names[0]) as opened:
        assert opened.array.shape == (1, 1, 2, 64, 64)
        assert not opened.notes
    (tmp_path / names[1]).unlink()
    with files.open_input(tmp_path / names[0]) as opened:
        assert opened.notes == ("a.ome.tif: 1 of 2 planes are in no file here; they are read as zeros",)


@pytest.mark.parametrize(
    "said",
    [
        ARRAY | {"shape": "ab"},
        ARRAY | {"shape": None},
        ARRAY | {"dimension_names": [1, 2]},
        ARRAY | {"attributes": []},
        ARRAY | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 16]}}},
        {"zarr_format": 3, "node_type": "group", "attributes": ITSELF},
        [],
        "[" * 100_000,
    ],
    ids=lambda said: str(said)[:40],
)
def test_zarr_metadata_that_no_program_writes_is_refused(tmp_path, said):
    pytest.importorskip("zarr")
    path = tmp_path / "odd.zarr"
    path.mkdir()
    (path / "zarr.json").write_text(said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(InvalidArgumentError, match="input"):
        whole(path)


@pytest.mark.parametrize(
    "said", ["{", "[]", "null", '{"attributes": []}', '{"attributes": {"ome": {"multiscales": [1]}}}']
)
@pytest.mark.parametrize("name", ["x.zarr", "x.ome.zarr"])
def test_a_folder_that_is_no_zarr_array_is_not_replaced(tmp_path, name, said):
    pytest.importorskip("zarr")
    (tmp_path / name).mkdir()
    (tmp_path / name / "zarr.json").write_text(said)
    with (
        pytest.raises(InvalidArgumentError, match="output: expected a new path"),
        files.create_output(tmp_path / name, (1, 1, 8, 8), np.dtype("f4")),
    ):
        pass
    assert (tmp_path / name / "zarr.json").read_text() == said
