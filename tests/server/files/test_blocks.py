"""Blocks of whole chunks, in layouts of any axes."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groupconv_server.files.axes import axes_of
from groupconv_server.files.blocks import BlockReader, BlockWriter, band_axis
from groupconv_server.files.layout import Layout, View

RNG = np.random.default_rng(0)


def whole(array):
    return np.stack([array[n, :, 0 : array.shape[2]] for n in range(array.shape[0])])


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


def test_an_axis_without_elements_has_bands():
    view = View(np.empty((3, 0, 24), np.float32), "cyx")
    assert band_axis(view, {"Y": 9, "X": 9}) == "Y"
