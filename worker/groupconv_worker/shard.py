"""A shard: the part of a request that one worker runs, without its arrays."""

from dataclasses import dataclass, field
from typing import NamedTuple

from groupconv_worker.contract import Array, Problem
from groupconv_worker.resident import Kept, ResidentKey, of_one_sample


@dataclass(frozen=True, slots=True)
class Stage:
    """One step's part in a shard.

    Attributes:
        problem: of this part, not of the whole step.
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        key: of a resident layer, which part of its weights this is; the worker keeps it prepared.
        one: the problem that a resident kernel is prepared for: of one sample, as it serves any batch.
        kept: that kernel, once this stage was run in this process.
    """

    problem: Problem
    weight: Array
    bias: Array | None = None
    key: ResidentKey | None = None
    one: Problem = field(init=False, repr=False, compare=False)
    kept: Kept | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "one", self.problem if self.key is None else of_one_sample(self.problem))
        object.__setattr__(self, "kept", None)

    def keep(self, kept: Kept | None) -> None:
        """Remember the prepared kernel, so that the next run need not search for it."""
        object.__setattr__(self, "kept", kept)

    def __reduce__(self) -> tuple[type["Stage"], tuple[object, ...]]:
        return Stage, (self.problem, self.weight, self.bias, self.key)  # a prepared kernel stays in its process


class Ran(NamedTuple):
    """What a stage took: the algorithm, its seconds in the engine, and whether a better algorithm is being prepared.

    A GPU runs the stages of a shard as one: the seconds are those of the last stage then, and 0 for the others.
    """

    algorithm: str
    seconds: float
    improving: bool = False


class PartRun(NamedTuple):
    """The run of a worker's part of a network that is cut.

    Attributes:
        seconds: that it took, with what it waited.
        coordinator_bytes: of inputs and outputs that were brought to the worker and back.
    """

    seconds: float
    coordinator_bytes: int
