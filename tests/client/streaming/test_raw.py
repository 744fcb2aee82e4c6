"""Arrays in one piece of a file: every part is what NumPy reads, and a lost part is an error."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.errors import DataLossError, InvalidArgumentError
from groupconv.streaming import raw
from groupconv.streaming.raw import RawArray

DTYPES = ["uint8", "<u2", ">i4", "<f4", ">f8", "?"]


def values(shape, dtype):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


@st.composite
def parts(draw):
    """A shape, and an integer or a slice for each axis."""
    shape = draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    key = []
    for size in shape:
        if size and draw(st.booleans()):
            key.append(draw(st.integers(-size, size - 1)))
        else:
            start = draw(st.integers(0, size))
            key.append(slice(start, draw(st.integers(start, size + 2))) if draw(st.booleans()) else slice(None))
    return tuple(shape), tuple(key[: draw(st.integers(0, len(key)))])


@given(
    parts(),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([0, 3, raw.GAP_BYTES]),
    st.sampled_from([1, 40, 2**18]),
)
def test_a_part_is_what_numpy_reads(tmp_path_factory, part, dtype, fortran, gap, piece):
    shape, key = part
    x, path = values(shape, dtype), tmp_path_factory.getbasetemp() / "x.raw"
    path.write_bytes(b"header" + x.tobytes("F" if fortran else "C"))
    with pytest.MonkeyPatch.context() as patch, path.open("rb", buffering=0) as file:
        patch.setattr(raw, "GAP_BYTES", gap)
        patch.setattr(raw, "PIECE_BYTES", piece)
        read = RawArray(file, np.dtype(dtype), shape, 6, fortran=fortran)[key]
    assert read.dtype == x[key].dtype
    np.testing.assert_array_equal(read, x[key])


@given(parts(), st.sampled_from(DTYPES), st.booleans())
def test_a_part_is_written_as_numpy_does(tmp_path_factory, part, dtype, alike):
    shape, key = part
    x, path = values(shape, dtype), tmp_path_factory.getbasetemp() / "y.raw"
    path.write_bytes(b"header" + x.tobytes())
    new = np.dtype(dtype).type(1) if alike else values(x[key].shape, "uint8")
    with path.open("rb+", buffering=0) as file:
        RawArray(file, np.dtype(dtype), shape, 6)[key] = new
    x[key] = new
    assert path.read_bytes() == b"header" + x.tobytes()


def test_what_is_no_part_is_refused(tmp_path):
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(12))
    with path.open("rb", buffering=0) as file, RawArray(file, np.dtype("u1"), (3, 4)) as array:
        for key in (slice(0, 3, 2), slice(None, None, -1), 3, (0, -5), (0, 0, 0)):
            with pytest.raises(IndexError):
                array[key]
        with pytest.raises(TypeError, match="reading alone"):
            array[0] = 1
        np.testing.assert_array_equal(np.asarray(array, "float32"), np.zeros((3, 4), np.float32))
    assert file.closed


@pytest.mark.parametrize("columns", [(0, 3000), (100, 2900), (100, 200)], ids=["whole rows", "with gaps", "by runs"])
def test_a_file_that_ends_in_the_middle_of_a_part_is_an_error(tmp_path, columns):
    x, path = values((300, 3000), "<f4"), tmp_path / "x.raw"
    path.write_bytes(x.tobytes())
    with path.open("rb", buffering=0) as file:
        array = RawArray(file, x.dtype, x.shape)
        os.truncate(path, 150 * 12000 + 600)
        np.testing.assert_array_equal(array[0:150, slice(*columns)], x[:150, slice(*columns)])
        with pytest.raises(DataLossError, match=rf"input: expected 3600000 bytes in {path}, got 1800600: "):
            array[100:200, slice(*columns)]


def test_a_file_that_is_too_short_is_refused(tmp_path):
    path = tmp_path / "x.raw"
    path.write_bytes(bytes(11))
    with path.open("rb", buffering=0) as file, pytest.raises(InvalidArgumentError, match=f"12 bytes in {path}, got 11"):
        RawArray(file, np.dtype("<f4"), (3,))
