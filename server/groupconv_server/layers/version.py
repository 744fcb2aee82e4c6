"""One version of a layer, and the bytes of one that is about to be loaded."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from groupconv.convolution.steps import Step
from groupconv_server.coordinator.resident import ResidentStep, resident_steps
from groupconv_server.coordinator.steps import input_types


@dataclass
class Usage:
    """What one version of a layer did: requests answered and failed, samples, seconds in the coordinator."""

    requests: int = 0
    failures: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class LayerVersion:
    """One version of a layer.

    Attributes:
        name, version: every load has a higher version.
        steps: with their weights.
        bytes: of the weights.
        usage: what it did.
    """

    name: str
    version: int
    steps: tuple[ResidentStep, ...]
    bytes: int
    usage: Usage = field(default_factory=Usage)
    running: int = 0
    used: int = 0
    gone: bool = False

    @functools.cached_property
    def dtypes(self) -> tuple[np.dtype, np.dtype]:
        """Of the input that its metadata names, and of the output then."""
        return next(iter(input_types(self.steps).items()))

    @functools.cached_property
    def exact_steps(self) -> tuple[ResidentStep, ...]:
        """The steps as sums of their products alone; the workers prepare them apart."""
        if all(step.spec.exact for step in self.steps):
            return self.steps
        plain = [Step(s.kernel, s.bias, s.spec.with_exact()) for s in self.steps]
        return resident_steps(self.name, self.version, plain)


@dataclass
class Reservation:
    """Bytes reserved for a layer that is about to be loaded."""

    bytes: int


class Arriving:
    """The weights of one load, counted as they come.

    Args:
        arrived: counts bytes of all loads; raises where they are too many.

    Attributes:
        bytes: that have come.
    """

    def __init__(self, arrived: Callable[[int], None]) -> None:
        self.bytes, self._arrived = 0, arrived

    def add(self, size: int) -> None:
        """So many more have come.

        Raises:
            ResourceExhaustedError: those of all loads are more than the layers may have.
        """
        self._arrived(size)
        self.bytes += size
