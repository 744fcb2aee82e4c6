"""Comparison of an answer with the float64 reference."""

from dataclasses import dataclass

import numpy as np

from groupconv.convolution import cost
from groupconv.convolution.steps import Result
from groupconv_server.demo.case import DemoCase

TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2, "float32": 1e-5, "float64": 1e-13, "int32": 0.0}
"""Largest allowed error, relative to the largest output: a few units of roundoff. Integers are exact."""


@dataclass(frozen=True)
class Verdict:
    """A case, its answer and the answer's error.

    Attributes:
        case: the request.
        result: the answer.
        error: largest difference from the reference, relative to the largest output.
        seconds: that the client waited.
        weights, multiply_adds: of all steps.
    """

    case: DemoCase
    result: Result
    error: float
    seconds: float
    weights: int
    multiply_adds: int

    @property
    def passed(self) -> bool:
        """Whether the shape is right and the error within the tolerance of the dtype."""
        return self.error <= TOLERANCE[str(self.result.output.dtype)]


def judge(case: DemoCase, result: Result, seconds: float) -> Verdict:
    """Compare an answer with the reference."""
    want, got = case.reference(), result.output
    error = float("inf")
    if got.shape == want.shape:
        error = float(np.abs(got.astype(np.float64) - want).max() / max(np.abs(want).max(), 1e-30))
    steps = case.geometries()
    weights, adds = sum(map(cost.weights, steps)), sum(map(cost.multiply_adds, steps))
    return Verdict(case, result, error, seconds, weights, adds)
