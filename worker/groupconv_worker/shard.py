"""Run one shard on an engine: the one plain function that every executor wraps."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from groupconv_worker.contract import Array, Engine, Prepared, Problem, beside
from groupconv_worker.job import current
from groupconv_worker.resident import Resident, ResidentKey, WeightsMissingError, of_one_sample


@dataclass(frozen=True, slots=True)
class Stage:
    """One step's part in a shard.

    Attributes:
        problem: of this part, not of the whole step.
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        key: of a resident layer, which part of its weights this is; the worker keeps it prepared.
        one: the problem that a resident kernel is prepared for: of one sample, as it serves any batch.
    """

    problem: Problem
    weight: Array
    bias: Array | None = None
    key: ResidentKey | None = None
    one: Problem = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "one", self.problem if self.key is None else of_one_sample(self.problem))


class Ran(NamedTuple):
    """What came of a stage: the algorithm and its seconds in the engine."""

    algorithm: str
    seconds: float


def run_shard(
    engine: Engine, stages: Sequence[Stage], x: Array, out: Array, resident: Resident | None = None
) -> tuple[Ran, ...]:
    """Run the stages of one shard on `x`, the output of each being the input of the next, the last into `out`.

    Args:
        engine: of this worker.
        stages: at least one.
        x: (N, C, *input) of the first, any strides, not changed. Of no samples nothing is prepared or run.
        out: (N, M, *output) of the last, any strides; every element is written.
        resident: the worker's store of prepared kernels; None prepares every kernel for this shard alone.

    Raises:
        WeightsMissingError: a stage of a resident layer has no weights, and they are not prepared here.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.convolution.dtypes import types_of
        >>> from groupconv_worker.engines import create_engine
        >>> x, w = np.ones((1, 2, 4)), np.ones((2, 1, 3))
        >>> out = np.empty((1, 2, 2))
        >>> problem = Problem(resolve(ConvSpec(groups=2), x.shape, w.shape), types_of(x.dtype, w.dtype))
        >>> (ran,) = run_shard(create_engine("reference"), [Stage(problem, w)], x, out)
        >>> ran.algorithm, out.tolist()
        ('reference', [[[3.0, 3.0], [3.0, 3.0]]])
    """
    if not x.shape[0]:
        return (Ran("none", 0.0),) * len(stages)
    done = []
    for i, stage in enumerate(stages):
        current().check()
        start = time.perf_counter()
        problem = stage.problem
        last = i == len(stages) - 1
        y = out if last else beside(x, problem.geometry.output_shape, problem.types.output)
        prepared = _prepared(engine, stage, resident)
        prepared.run(x, y)
        done.append(Ran(prepared.algorithm, time.perf_counter() - start))
        x = y
    return tuple(done)


def _prepared(engine: Engine, stage: Stage, resident: Resident | None) -> Prepared:
    if stage.key is None or resident is None:
        return engine.prepare(stage.problem, stage.weight, stage.bias)

    def prepare(problem: Problem) -> Prepared:
        if stage.weight.size == 0:
            raise WeightsMissingError
        return engine.prepare(problem, stage.weight, stage.bias, resident=True)

    return resident.get(stage.key, stage.one, prepare)
