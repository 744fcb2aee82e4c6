"""Step and Result: what a request runs, and what it returns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution.geometry import Geometry, resolve
from groupconv.convolution.report import Report
from groupconv.convolution.spec import ConvSpec
from groupconv.convolution.totals import Window, field_of
from groupconv.errors import InvalidArgumentError

Array = NDArray[Any]


@dataclass(frozen=True)
class Step:
    """One convolution with its kernel. A request runs one or more steps in order.

    Attributes:
        kernel: (M, C/g, *kernel); transposed: (C, M/g, *kernel).
        bias: (M,) or None.
        spec: stride, padding and the other parameters.

    Raises:
        InvalidArgumentError: `spec` is not a `ConvSpec`.

    Example:
        >>> import numpy as np
        >>> Step(np.ones((256, 48, 5, 5), np.float32), None, ConvSpec(padding=2, groups=2))
        Step(kernel (256, 48, 5, 5) float32, ConvSpec(padding=2, groups=2))
    """

    kernel: Any
    bias: Any = None
    spec: ConvSpec = field(default_factory=ConvSpec)

    def __post_init__(self) -> None:
        if not isinstance(self.spec, ConvSpec):
            raise InvalidArgumentError("spec", "a groupconv.ConvSpec", self.spec)
        for name, array in (("kernel", self.kernel), ("bias", self.bias)):
            if isinstance(array, ConvSpec):
                raise InvalidArgumentError(name, "an array (the spec is the third argument)", array)

    @property
    def windows(self) -> tuple[Window, ...]:
        """Its window, for `groupconv.receptive_field`."""
        return (self.spec.window(np.shape(self.kernel)),)

    @property
    def weights(self) -> int:
        """Number of kernel weights without the bias."""
        return math.prod(np.shape(self.kernel))

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """One per axis."""
        return self.windows[0].stride

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input elements per axis that one output depends on, from the first to the last.

        Example:
            >>> import numpy as np
            >>> Step(np.ones((8, 1, 3, 3)), None, ConvSpec(dilation=2, groups=8)).receptive_field
            (5, 5)
        """
        return field_of(self.windows)

    def multiply_adds(self, input_shape: Sequence[int]) -> int:
        """Multiply-adds for an input (N, C, *spatial).

        Raises:
            InvalidArgumentError: the shapes do not fit.
        """
        return resolve(self.spec, input_shape, np.shape(self.kernel)).multiply_adds

    def __repr__(self) -> str:
        bias = "" if self.bias is None else f", bias {described(self.bias)}"
        return f"Step(kernel {described(self.kernel)}{bias}, {self.spec})"


@dataclass(frozen=True)
class Result:
    """The output of a request, and a report of how the server computed it.

    Attributes:
        output: (N, M, *spatial), or (M, *spatial) if the input had no batch axis.
        report: the plan, each shard's worker and times, and the time of each phase.
    """

    output: Array
    report: Report

    def __repr__(self) -> str:
        return f"Result(output {described(self.output)}, {self.report!r})"

    def _repr_html_(self) -> str:
        return f"<p>output {described(self.output)}</p>{self.report._repr_html_()}"


def described(x: Any) -> str:
    """Shape and dtype of an array in words; the type of anything else.

    Example:
        >>> import numpy as np
        >>> described(np.zeros((2, 3), np.int8)), described([1.0])
        ('(2, 3) int8', 'list')
    """
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{tuple(x.shape)} {x.dtype}"
    return type(x).__name__


def geometries(
    specs: Sequence[ConvSpec], input_shape: Sequence[int], kernel_shapes: Sequence[Sequence[int]]
) -> list[Geometry]:
    """The geometry of each step. The output of one step is the input of the next.

    Args:
        specs: one for each step.
        input_shape: (N, C, *spatial), of the first step.
        kernel_shapes: one for each step.

    Raises:
        InvalidArgumentError: the shapes do not fit; the field is a path such as `steps[1].spec.stride`.

    Example:
        >>> [g.output_shape for g in geometries([ConvSpec(), ConvSpec()], (1, 1, 9), [(2, 1, 3), (4, 2, 3)])]
        [(1, 2, 7), (1, 4, 5)]
    """
    resolved: list[Geometry] = []
    shape = tuple(input_shape)
    for i, (spec, kernel_shape) in enumerate(zip(specs, kernel_shapes, strict=True)):
        try:
            resolved.append(resolve(spec, shape, kernel_shape))
        except InvalidArgumentError as error:
            raise _with_path(error, i) from None
        shape = resolved[-1].output_shape
    return resolved


def _with_path(error: InvalidArgumentError, step: int) -> InvalidArgumentError:
    if error.field.startswith("input"):
        return error if step == 0 else error.within(f"steps[{step}]")
    path = f"steps[{step}]" if error.field.startswith(("kernel", "bias")) else f"steps[{step}].spec"
    return error.within(path)
