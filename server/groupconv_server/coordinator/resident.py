"""Steps of a loaded layer, as the coordinator and the workers know them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groupconv.wire.requests import Step


@dataclass(frozen=True)
class ResidentStep(Step):
    """A step of a loaded layer: workers keep its kernel prepared under this name.

    Attributes:
        layer, version: of the layer.
        index: position in it.
        routes: how the steps from this one on were dispatched; see `dispatch`.
    """

    layer: str = ""
    version: int = 0
    index: int = 0
    routes: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)


def resident_steps(name: str, version: int, steps: Sequence[Step]) -> tuple[ResidentStep, ...]:
    """The steps of a version as workers know them."""
    return tuple(ResidentStep(s.kernel, s.bias, s.spec, name, version, i) for i, s in enumerate(steps))
