"""The geometry and dtypes of steps on an input. All steps are checked before the first one runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groupconv.convolution.dtypes import Types, types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.steps import Step, geometries
from groupconv.errors import InvalidArgumentError
from groupconv_server.coordinator.limits import Limits
from groupconv_worker.contract import Problem


def checked_problems(limits: Limits, shape: Sequence[int], dtype: np.dtype, steps: Sequence[Step]) -> list[Problem]:
    """As `problems_of`, with the number of steps and their sizes checked, too.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[1].spec.stride`.
        ResourceExhaustedError: a step over a limit.
    """
    if not 1 <= len(steps) <= limits.steps:
        raise InvalidArgumentError("steps", f"1 to {limits.steps} steps", len(steps))
    problems = problems_of(shape, dtype, steps)
    for i, problem in enumerate(problems):
        # an empty batch is checked as one sample
        one = problem if problem.geometry.batch else replace(problem, geometry=problem.geometry.with_batch(1))
        limits.check(one, f"steps[{i}]")
    return problems


def problems_of(shape: Sequence[int], dtype: np.dtype, steps: Sequence[Step]) -> list[Problem]:
    """The geometry and dtypes of each step. Sizes are not checked.

    Args:
        shape: (N, C, *spatial), of the first step's input.
        dtype: of that input.
        steps: kernels and biases are arrays, or `Shaped`.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[1].spec.stride`.
    """
    problems = []
    for i, g in enumerate(geometries([s.spec for s in steps], shape, [s.kernel.shape for s in steps])):
        types = _types(i, dtype, steps[i], g)
        problems.append(Problem(g, types))
        dtype = types.output
    return problems


def _types(i: int, x: np.dtype, step: Step, g: Geometry) -> Types:
    bias = step.bias
    if bias is not None and bias.shape != (g.out_channels,):
        expected = f"[{g.out_channels}], the output channels"
        raise InvalidArgumentError(f"steps[{i}].bias.shape", expected, list(bias.shape))
    try:
        return types_of(x, step.kernel.dtype, None if bias is None else bias.dtype, g.activation)
    except InvalidArgumentError as error:
        if error.field.startswith("input"):
            raise
        raise error.within(f"steps[{i}].spec" if error.field == "activation" else f"steps[{i}]") from None
