"""Measures up to which size a lane is faster than Ray, when the lane is opened."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray

from groupconv_server.executors.lanes.lane import LARGEST, Lane

log = logging.getLogger(__name__)

SIZES = (2**16, 2**20, 2**24)
"""Bytes in each direction."""
REPEATS = 3
"""Runs of each; the fastest counts."""
LEAST = 2 * SIZES[0]
"""Bytes up to which a shard goes by the lane whatever is measured: as a call of Ray's it waits behind long shards."""
TIMEOUT = 10.0
"""Seconds that Ray has for one run."""


def measure_limit(lane: Lane, actor: Any) -> int:
    """Bytes of a shard's arrays, in and out together, up to which the lane is faster: LEAST to LARGEST.

    Raises:
        OSError: the connection broke.
        RayError: the actor does not answer.
    """
    connection = lane.take()
    try:
        before, limit = 0.0, LARGEST
        for size in SIZES:
            x = np.zeros(size, np.uint8)
            out = np.empty_like(x)

            def through_ray() -> None:
                out[...] = ray.get(actor.echo.remote(x), timeout=TIMEOUT)  # noqa: B023 - used within this iteration

            ratio = math.log(_fastest(lambda: connection.echo(x, out)) / _fastest(through_ray))  # noqa: B023 - used within this iteration
            if ratio > 0:  # Ray is faster from where the ratio, linear over the logarithm of the size, crosses 1
                back = ratio / (ratio - before) if before < 0 else math.inf
                limit = LEAST if math.isinf(back) else max(LEAST, int(2 * size / (size / (size >> 4)) ** back))
                break
            before = ratio
    except MemoryError as error:
        log.warning("a lane has no shared memory: %s", error)
        limit = LEAST
    finally:
        lane.drop(connection)  # its memory is larger than most shards need
    return limit


def _fastest(call: Callable[[], None]) -> float:
    best = math.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best
