"""Smaller copies of an image: each level is half as wide and high as the one before."""

from dataclasses import replace
from typing import Any

import numpy as np

from groupconv.convolution.steps import Array
from groupconv_server.files.blocks import BlockReader, BlockWriter, chunks_for
from groupconv_server.files.layout import Layout, View
from groupconv_server.files.values import saturate

SMALLEST = 256
"""A level whose longer side has at most so many pixels is the last."""
ROWS = 128
"""Rows of a level that are computed at a time."""


def add_levels(group: Any, layout: Layout, dtype: np.dtype) -> int:
    """Write the arrays `1`, `2`, … of a Zarr group from its array `0`. A pixel is the mean of four.

    Returns:
        The number of arrays in the group.
    """
    large = replace(layout, fold="CZ", first="")
    level = 0
    while max(large.shape[-2:]) > SMALLEST:
        n, channels, height, width = large.shape
        small = large.of_output((n, channels, -(-height // 2), -(-width // 2)))
        chunks = chunks_for(small, dtype)
        names = [axis.name for axis in layout.axes]
        array = group.create_array(
            str(level + 1), shape=small.array_shape, dtype=dtype, chunks=chunks, dimension_names=names
        )
        source = group[str(level)]
        reader, writer = BlockReader(View(source, large), source.chunks), BlockWriter(View(array, small), chunks)
        for sample in range(n):
            for row in range(0, small.shape[2], ROWS):
                stop = min(small.shape[2], row + ROWS)
                part = reader[sample, :, 2 * row : min(height, 2 * stop)]
                writer[sample, :, row:stop] = saturate(halved(part), dtype)
        large, level = small, level + 1
    return level + 1


def halved(x: Array) -> Array:
    """Means of 2 × 2 pixels of (C, H, W). The last row or column of an odd extent counts twice.

    Example:
        >>> halved(np.array([[[0, 2, 4], [4, 6, 4]]], np.uint8)).tolist()
        [[[3.0, 4.0]]]
    """
    even = np.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)], mode="edge").astype(np.float64)
    pairs = even.reshape(x.shape[0], even.shape[1] // 2, 2, even.shape[2] // 2, 2)
    mean: Array = pairs.mean(axis=(2, 4))
    return mean
