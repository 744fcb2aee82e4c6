"""The geometry and dtypes of steps on an input. All steps are checked before the first one runs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from groupconv.convolution.dtypes import Types, types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.steps import geometries
from groupconv.errors import InvalidArgumentError
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.steps import Shaped
from groupconv_worker.contract import Array, Problem


def checked_problems(
    limits: Limits,
    shape: Sequence[int],
    dtype: np.dtype,
    specs: Sequence[ConvSpec],
    kernels: Sequence[Array | Shaped],
    biases: Sequence[Array | None],
) -> list[Problem]:
    """The problem of each step on an input of this shape and dtype, with shapes, dtypes and sizes checked.

    Raises:
        InvalidArgumentError: naming the field at fault.
        ResourceExhaustedError: a step over a limit.
    """
    if not 1 <= len(specs) <= limits.steps:
        raise InvalidArgumentError("steps", f"1 to {limits.steps} steps", len(specs))
    problems = problems_of(shape, dtype, specs, kernels, biases)
    for i, problem in enumerate(problems):
        # an empty batch is checked as one sample
        one = problem if problem.geometry.batch else replace(problem, geometry=problem.geometry.with_batch(1))
        limits.check(one, f"steps[{i}]")
    return problems


def problems_of(
    shape: Sequence[int],
    dtype: np.dtype,
    specs: Sequence[ConvSpec],
    kernels: Sequence[Array | Shaped],
    biases: Sequence[Array | None],
) -> list[Problem]:
    """The problem of each step on an input of this shape and dtype. Sizes are not checked.

    Raises:
        InvalidArgumentError: with the path of the field, as `steps[1].spec.stride`.
    """
    problems = []
    for i, g in enumerate(geometries(specs, shape, [k.shape for k in kernels])):
        types = _types(i, dtype, kernels[i].dtype, biases[i], g)
        problems.append(Problem(g, types))
        dtype = types.output
    return problems


def _types(i: int, x: np.dtype, kernel: np.dtype, bias: Array | None, g: Geometry) -> Types:
    if bias is not None and bias.shape != (g.out_channels,):
        expected = f"[{g.out_channels}], the output channels"
        raise InvalidArgumentError(f"steps[{i}].bias.shape", expected, list(bias.shape))
    try:
        return types_of(x, kernel, None if bias is None else bias.dtype, g.activation)
    except InvalidArgumentError as error:
        if error.field.startswith("input"):
            raise
        raise error.within(f"steps[{i}].spec" if error.field == "activation" else f"steps[{i}]") from None
