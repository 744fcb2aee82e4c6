"""The number of rows in a band, and the limits of a stream."""

import numpy as np
import pytest

from groupconv.convolution.dtypes import types_of
from groupconv.convolution.geometry import resolve
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv_server.coordinator.limits import Limits
from groupconv_server.streaming.band_size import IN_FLIGHT, LONGEST_BAND, SHORTEST_BAND, choose
from groupconv_worker.contract import Problem

F32 = np.dtype(np.float32)


def problem(height, width=1024, kernel=3, **spec):
    shape = (1, 1, height, width)
    return Problem(resolve(ConvSpec(padding=kernel // 2, **spec), shape, (1, 1, kernel, kernel)), types_of(F32, F32))


def test_short_streams_have_short_bands_and_long_ones_longer():
    short, long = (choose([problem(height)], 0, Limits(), 1).widest().nbytes for height in (4096, 2**20))
    assert SHORTEST_BAND // 2 <= short <= 2 * SHORTEST_BAND
    assert LONGEST_BAND // 2 <= long <= 2 * LONGEST_BAND


def test_more_workers_and_larger_kernels_make_longer_bands():
    few = choose([problem(2**16)], 0, Limits(), 1).rows
    assert choose([problem(2**16)], 0, Limits(), 4).rows > 2 * few
    wide = choose([problem(2**16, width=65536, kernel=31)], 0, Limits(), 1)
    halo = wide.widest().input.length - wide.rows
    assert wide.rows >= 2 * halo


def test_a_band_is_as_long_as_the_caller_wants_within_the_limit():
    assert choose([problem(4096)], 7, Limits(), 1).rows == 7
    with pytest.raises(ResourceExhaustedError, match="--stream-mib"):
        choose([problem(4096)], 4096, Limits(stream_bytes=IN_FLIGHT * 2**20), 1)
    with pytest.raises(InvalidArgumentError, match="band_rows"):
        choose([problem(4096)], -1, Limits(), 1)


def test_memory_shortens_bands_and_the_whole_stream_has_a_limit():
    tight = choose([problem(2**16)], 0, Limits(stream_bytes=IN_FLIGHT * 2**18), 1)
    assert tight.widest().nbytes <= 2**18
    with pytest.raises(ResourceExhaustedError, match="--stream-total-gib"):
        choose([problem(2**16)], 0, Limits(stream_total_bytes=2**20), 1)
    with pytest.raises(ResourceExhaustedError, match="circular needs whole samples"):
        choose([problem(2**16, padding_mode="circular")], 0, Limits(stream_bytes=2**20), 1)
