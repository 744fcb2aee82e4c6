"""Run one shard on an engine: the one plain function that every executor wraps."""

import time
from typing import NamedTuple

import numpy as np

from groupconv_worker.engines.base import Array, Engine, Problem


class Ran(NamedTuple):
    """What came of a shard: the algorithm and its seconds in the engine."""

    algorithm: str
    seconds: float


def run_shard(engine: Engine, problem: Problem, x: Array, weight: Array, bias: Array | None, out: Array) -> Ran:
    """Convolve one shard into `out`.

    Args:
        engine: of this worker.
        problem: of the shard, not of the whole step.
        x: (N, C, *input), any strides, not changed.
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        out: (N, M, *output), any strides; every element is written.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.dtypes import types_of
        >>> from groupconv_worker.engines import create_engine
        >>> x, w = np.ones((1, 2, 4)), np.ones((2, 1, 3))
        >>> out = np.empty((1, 2, 2))
        >>> problem = Problem(resolve(ConvSpec(groups=2), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> run_shard(create_engine("reference"), problem, x, w, None, out).algorithm, out.tolist()
        ('reference', [[[3.0, 3.0], [3.0, 3.0]]])
    """
    start = time.perf_counter()
    prepared = engine.prepare(problem, weight, bias)
    with np.errstate(all="ignore"):  # NaN and infinity are data
        prepared.run(x, out)
    return Ran(prepared.algorithm, time.perf_counter() - start)
