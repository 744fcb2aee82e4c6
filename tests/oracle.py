"""How an engine's answer is held against the float64 reference."""

from dataclasses import replace

import numpy as np

from groupconv.convolution.dtypes import is_float
from groupconv_worker import reference
from groupconv_worker.contract import Engine, Problem
from strategies import Case

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Unit roundoff of each dtype: half a unit in the last place of 1."""


def run(engine: Engine, case: Case, *, resident: bool = False) -> np.ndarray:
    out = np.full(case.geometry.output_shape, 77, dtype=case.types.output)
    problem = Problem(case.geometry, case.types)
    engine.prepare(problem, case.weight, case.bias, resident=resident).run(case.x, out)
    return out


def expected(case: Case) -> np.ndarray:
    return reference.convolve(case.x, case.weight, case.bias, case.geometry)


def bound(case: Case, factor: float = 4.0) -> np.ndarray:
    """As of `rounding`."""
    return rounding(Problem(case.geometry, case.types), case.x, case.weight, case.bias, factor)


def rounding(problem: Problem, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, factor: float) -> np.ndarray:
    """An error no correct summation exceeds: (terms · unit of the accumulator) · Σ|w||x|, and one rounding.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    sizes = [None if a is None else np.abs(a.astype(np.float64)) for a in (x, weight, bias)]
    magnitude = reference.convolve(*sizes, replace(problem.geometry, activation=None))
    terms = np.prod(problem.geometry.weight_shape[1:]) + 2
    accumulated = terms * UNIT[str(problem.types.accumulate)] * magnitude
    return factor * (accumulated + UNIT[str(problem.types.output)] * (magnitude + 1))


def check(got: np.ndarray, case: Case, factor: float = 4.0) -> None:
    """Integers bit for bit (modulo 2^32); floats within `bound`."""
    want = expected(case)
    assert got.shape == case.geometry.output_shape
    assert got.dtype == case.types.output
    if is_float(case.types.output):
        error = np.abs(got.astype(np.float64) - want)
        worst = np.max(error / bound(case, factor))
        assert worst <= 1, f"error {error.max():.3g} is {worst:.2f} times the bound"
    else:
        np.testing.assert_array_equal(got, want.astype(np.int32))
