"""A request of the demo, and its correct answer."""

from dataclasses import dataclass, replace

from groupconv.convolution.dtypes import DTYPES, types_of
from groupconv.convolution.geometry import Geometry
from groupconv.convolution.steps import Array, Step, geometries
from groupconv_worker import reference


@dataclass(frozen=True)
class DemoCase:
    """A request of the demo.

    Attributes:
        name: of the variant.
        x: the input.
        steps: to run.
    """

    name: str
    x: Array
    steps: list[Step]

    def cast(self, dtype: str) -> "DemoCase":
        """The case with input and kernels in another float dtype."""
        to = DTYPES[dtype]
        return DemoCase(self.name, self.x.astype(to), [replace(s, kernel=s.kernel.astype(to)) for s in self.steps])

    def geometries(self) -> list[Geometry]:
        """The geometry of each step."""
        return geometries([s.spec for s in self.steps], self.x.shape, [s.kernel.shape for s in self.steps])

    def reference(self) -> Array:
        """The output in float64. Between steps it is rounded to the output's dtype, as the service does."""
        x = self.x
        for i, (step, g) in enumerate(zip(self.steps, self.geometries(), strict=True)):
            output = types_of(x.dtype, step.kernel.dtype).output
            y = reference.convolve(x, step.kernel, step.bias, g)
            x = y if i == len(self.steps) - 1 else y.astype(output)
        return x
