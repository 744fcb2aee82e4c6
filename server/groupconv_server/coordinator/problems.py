"""What steps are on an input: every one checked before the first is run, and remembered for resident layers."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from cachetools import FIFOCache

from groupconv.convolution.dtypes import Types, types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.spec import ConvSpec
from groupconv.errors import InvalidArgumentError
from groupconv.wire.requests import Step, geometries
from groupconv_server.coordinator.limits import Limits
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.coordinator.steps import Shaped
from groupconv_worker.contract import Array, Problem

CHECKED = 2048
"""Steps of resident layers, on inputs of some shape, whose checks are remembered."""
EXPECTED = 8
"""Shapes that a new version is prepared for because the one before was given them."""

_Input = tuple[str, int, tuple[int, ...], np.dtype]
"""A layer, its version, the shape and the dtype of an input."""


class Problems:
    """The checks of a server. Safe to use from several threads.

    Args:
        limits: of a request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: FIFOCache[_Input, Sequence[Problem]] = FIFOCache(CHECKED, getsizeof=len)
        self._lock = threading.Lock()

    def of(self, shape: tuple[int, ...], dtype: np.dtype, steps: Sequence[Step]) -> Sequence[Problem]:
        """What each step is on an input of this shape and dtype, checked; remembered for resident layers.

        Raises:
            InvalidArgumentError, ResourceExhaustedError: as `checked`.
        """
        first = steps[0] if steps else None
        key = (first.layer, first.version, shape, dtype) if isinstance(first, ResidentStep) else None
        if key is not None:
            with self._lock:
                known = self._known.get(key)
            if known is not None:
                return known
        kernels = [s.kernel for s in steps]
        problems = tuple(self.checked(shape, dtype, [s.spec for s in steps], kernels, [s.bias for s in steps]))
        if key is not None:
            with self._lock:
                self._known[key] = problems
        return problems

    def checked(
        self,
        shape: Sequence[int],
        dtype: np.dtype,
        specs: Sequence[ConvSpec],
        kernels: Sequence[Array | Shaped],
        biases: Sequence[Array | None],
    ) -> list[Problem]:
        """What each step is: its shapes, dtypes and size checked.

        Raises:
            InvalidArgumentError: naming the field at fault.
            ResourceExhaustedError: a step over a limit.
        """
        if not 1 <= len(specs) <= self._limits.steps:
            raise InvalidArgumentError("steps", f"1 to {self._limits.steps} steps", len(specs))
        problems = problems_of(shape, dtype, specs, kernels, biases)
        for i, problem in enumerate(problems):
            # an empty batch is held to what one sample would take: NumPy counts it, too
            one = problem if problem.geometry.batch else replace(problem, geometry=problem.geometry.with_batch(1))
            self._limits.check(one, f"steps[{i}]")
        return problems

    def inputs(self, layer: str, version: int) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the inputs that a version of a resident layer was last given, as far as remembered."""
        with self._lock:
            return [key[2:] for key in self._known if key[:2] == (layer, version)][-EXPECTED:]


def problems_of(
    shape: Sequence[int],
    dtype: np.dtype,
    specs: Sequence[ConvSpec],
    kernels: Sequence[Array | Shaped],
    biases: Sequence[Array | None],
) -> list[Problem]:
    """What each step is on an input of this shape and dtype; only sizes are not checked.

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
