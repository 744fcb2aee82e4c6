"""Steps of a loaded layer, as the coordinator and the workers know them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from groupconv.convolution.steps import Step

CALLS = 64
"""Shapes and dtypes of input for which a layer's version keeps a compiled call."""
Key = tuple[tuple[int, ...], np.dtype, bool, str]
"""Shape and dtype of an input, whether sums may be reordered, and the cut that was requested."""


class CompiledCalls:
    """The compiled calls of a layer's version. Safe to use from several threads.

    Args:
        most: calls that are kept; those that were made first leave.

    Attributes:
        known: the `CompiledCall` for each key. It is replaced as a whole, so that readers need no lock.
    """

    def __init__(self, most: int = CALLS) -> None:
        self._most = most
        self.known: dict[Key, Any] = {}

    def add(self, key: Key, call: Any) -> None:
        """Keep a call."""
        calls = {**self.known, key: call}
        while len(calls) > self._most:
            del calls[next(iter(calls))]
        self.known = calls

    def inputs(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        """Shapes and dtypes of the inputs that came, the latest at the end."""
        return list(dict.fromkeys(key[:2] for key in self.known))


@dataclass(frozen=True)
class ResidentStep(Step):
    """A step of a loaded layer: workers keep its kernel prepared under this name.

    Attributes:
        layer, version: of the layer.
        index: position in it.
        calls: the compiled calls of the layer's version.
    """

    layer: str = ""
    version: int = 0
    index: int = 0
    calls: CompiledCalls = field(default_factory=CompiledCalls, compare=False, repr=False)


def resident_steps(name: str, version: int, steps: Sequence[Step]) -> tuple[ResidentStep, ...]:
    """The steps of a version as workers know them, with one set of compiled calls. Such steps are returned as given."""
    if all(isinstance(s, ResidentStep) and (s.layer, s.version) == (name, version) for s in steps):
        return tuple(cast("Sequence[ResidentStep]", steps))
    calls = CompiledCalls()
    return tuple(ResidentStep(s.kernel, s.bias, s.spec, name, version, i, calls) for i, s in enumerate(steps))
