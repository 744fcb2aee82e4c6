"""Holding an answer against the float64 reference."""

from dataclasses import dataclass

import numpy as np

from groupconv import cost
from groupconv.dtypes import types_of
from groupconv.requests import Array, Result, geometries
from groupconv_server.demo.cases import Case
from groupconv_worker.engines import reference

TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2, "float32": 1e-5, "float64": 1e-13, "int32": 0.0}
"""Largest error, relative to the largest output: a few units roundoff; integers are exact."""


@dataclass(frozen=True)
class Verdict:
    """A case, its answer and how far it is off.

    Attributes:
        error: largest difference to the reference, relative to the largest output.
        seconds: the client waited. weights, multiply_adds: of all steps.
    """

    case: Case
    result: Result
    error: float
    seconds: float
    weights: int
    multiply_adds: int

    @property
    def passed(self) -> bool:
        """The shape is right and the error within the tolerance of the dtype."""
        return self.error <= TOLERANCE[str(self.result.output.dtype)]


def judge(case: Case, result: Result, seconds: float) -> Verdict:
    """Compare an answer with the reference."""
    want, got = reference_output(case), result.output
    error = float("inf")
    if got.shape == want.shape:
        error = float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))
    steps = geometries([s.spec for s in case.steps], case.x.shape, [s.kernel.shape for s in case.steps])
    weights, adds = sum(map(cost.weights, steps)), sum(map(cost.multiply_adds, steps))
    return Verdict(case, result, error, seconds, weights, adds)


def reference_output(case: Case) -> Array:
    """What a case should give, in float64, rounded to the output's dtype between steps as the service does."""
    x = case.x
    steps = geometries([s.spec for s in case.steps], x.shape, [s.kernel.shape for s in case.steps])
    for i, (step, g) in enumerate(zip(case.steps, steps, strict=True)):
        output = types_of(x.dtype, step.kernel.dtype).output
        y = reference.convolve(x, step.kernel, step.bias, g)
        x = y if i == len(steps) - 1 else y.astype(output)
    return x
