"""Smaller levels of an OME-Zarr image."""

import itertools

import numpy as np
import pytest

from groupconv_server import files
from groupconv_server.files.zarr.pyramid import halved


def test_levels_are_halved_until_they_are_small(tmp_path):
    zarr = pytest.importorskip("zarr")
    x = np.random.default_rng(0).integers(0, 256, (1, 2, 1030, 515), dtype=np.uint8)
    with files.create_output(tmp_path / "x.ome.zarr", x.shape, x.dtype, pyramid=True) as out:
        out.array[0, :, 0:1030] = x[0]
    group = zarr.open_group(str(tmp_path / "x.ome.zarr"), mode="r")
    levels = [np.asarray(group[str(i)]) for i in range(4)]
    assert [level.shape[-2:] for level in levels] == [(1030, 515), (515, 258), (258, 129), (129, 65)]
    for large, small in itertools.pairwise(levels):
        np.testing.assert_array_equal(
            small.reshape(-1, *small.shape[-2:]), np.rint(halved(large.reshape(-1, *large.shape[-2:])))
        )
