"""Bands cover all rows of a stream once, and read only rows that exist."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv_server.streaming.bands import Bands
from groupconv_worker.contract import Problem
from strategies import Case, cases

F32 = np.dtype(np.float32)


def problem(x, w, **spec):
    return Problem(resolve(ConvSpec(**spec), x, w), types_of(F32, F32))


@given(case=cases(), rows=st.integers(1, 9), data=st.data())
def test_bands_from_any_row_cover_the_rest_in_order(case: Case, rows, data):
    g = case.geometry
    bands = Bands([Problem(g, case.types)], rows)
    total = g.batch * g.output[0]
    first = bands.first(data.draw(st.integers(0, total - 1)))
    made = list(bands.after(first))
    assert [b.output.start for b in made] == [first, *(b.output.stop for b in made[:-1])]
    assert made[-1].output.stop == total
    for band in made:
        geometry = band.problems[0].geometry
        assert band.input.length == geometry.batch * geometry.input[0]
        assert 0 <= band.input.start < band.input.stop <= g.batch * g.input[0]


def test_small_samples_share_a_band_and_large_ones_are_cut():
    small = Bands([problem((6, 1, 4, 4), (1, 1, 3, 3), padding=1)], 9)
    assert [str(b.output) for b in small.after(0)] == ["0:8", "8:16", "16:24"]
    large = Bands([problem((1, 1, 9, 4), (1, 1, 3, 3), padding=1)], 4)
    assert [(str(b.input), str(b.output)) for b in large.after(0)] == [("0:5", "0:4"), ("3:9", "4:8"), ("7:9", "8:9")]


@pytest.mark.parametrize("mode", ["circular"])
def test_padding_from_the_other_end_makes_each_sample_a_band(mode):
    bands = Bands([problem((2, 1, 8, 4), (1, 1, 3, 3), padding=1, padding_mode=mode)], 2)
    assert [str(b.output) for b in bands.after(0)] == ["0:8", "8:16"]
