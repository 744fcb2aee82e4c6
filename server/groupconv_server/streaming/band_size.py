"""The number of rows in a band: enough to hide its overhead, within the limits of memory."""

import math
from collections.abc import Sequence

from groupconv.errors import InvalidArgumentError, ResourceExhaustedError
from groupconv.text import human_bytes
from groupconv_server.coordinator.limits import Limits
from groupconv_server.streaming.bands import Band, Bands
from groupconv_worker.contract import Problem

IN_FLIGHT = 4
"""Bands of a stream in memory: one arrives, two are computed, one is sent."""
SHORTEST_BAND, LONGEST_BAND = 4 * 2**20, 16 * 2**20
"""Bytes of a band's input and output for each worker: enough to hide the overhead of a shard."""
BANDS = 64
"""A stream has at least so many bands before they grow above the shortest, so that the first result comes early."""


def choose(problems: Sequence[Problem], rows: int, limits: Limits, workers: int) -> Bands:
    """The bands of a stream, within the limits.

    Args:
        problems: the steps on the whole input.
        rows: output rows of a band that the caller wants; 0 to choose.
        limits: of a stream.
        workers: that compute a band.

    Raises:
        InvalidArgumentError: `rows` is negative.
        ResourceExhaustedError: the stream or its smallest possible band is above its limit.
    """
    if rows < 0:
        raise InvalidArgumentError("header.band_rows", "0 or more rows", rows)
    first, last = problems[0].geometry, problems[-1].geometry
    out_rows = last.batch * last.output[0]
    total = math.prod(first.input_shape) * problems[0].types.input.itemsize
    total += sum(math.prod(p.geometry.output_shape) * p.types.output.itemsize for p in problems)
    if total > limits.stream_total_bytes:
        raise ResourceExhaustedError(
            f"header.input.shape: feature maps of {human_bytes(total)} in all are more than the limit of "
            f"{human_bytes(limits.stream_total_bytes)} for a stream (groupconv serve --stream-total-gib)"
        )
    most = limits.stream_bytes // IN_FLIGHT
    if not out_rows:
        return Bands(problems, max(rows, 1))
    if rows:
        bands = Bands(problems, rows)
        check(bands.widest(), most)
        return bands
    row = max(1, total // out_rows)
    target = min(max(total // BANDS, SHORTEST_BAND), LONGEST_BAND)
    rows = max(1, min(most, target * workers) // row)
    halo = Bands(problems, rows).widest().nbytes - rows * row
    # each band computes its halo again: make the halo at most about a sixth of a band, where memory allows
    bands = Bands(problems, max(rows, 6 * halo // row))
    while bands.widest().nbytes > most and bands.rows > 1:
        bands = Bands(problems, bands.rows // 2)
    check(bands.widest(), most)
    return bands


def check(band: Band, most: int) -> None:
    """Check that a band has at most `most` bytes.

    Raises:
        ResourceExhaustedError: it has more.
    """
    if band.nbytes > most:
        circular = any(p.geometry.padding_mode == "circular" and any(p.geometry.padding[0]) for p in band.problems)
        raise ResourceExhaustedError(
            f"a band of {band.output.stop - band.output.start} output rows takes {human_bytes(band.nbytes)} with the "
            f"{band.input.stop - band.input.start} input rows it needs at once; a stream may hold {IN_FLIGHT} bands of "
            f"{human_bytes(most)} (groupconv serve --stream-mib {-(-IN_FLIGHT * band.nbytes // 2**20)} would do)"
            + "; padding_mode circular needs whole samples"
            * circular
        )
