"""A shard: the part of a request that one worker runs, without its arrays."""

import functools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from groupconv.errors import ResourceExhaustedError
from groupconv_worker.contract import Array, Chainable, Prepared, Problem
from groupconv_worker.resident import Kept, ResidentKey, of_one_sample

log = logging.getLogger(__name__)


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


def run_chain(kernels: Iterable[Prepared], x: Array, out: Array) -> tuple[Ran, ...] | None:
    """Run kernels of a GPU as one, between which nothing returns to the host. All seconds are those of the last one.

    Args:
        kernels: `Chainable`, each for the output of the one before. They are prepared as they are read.
        x: (N, C, *input) of the first.
        out: (N, M, *output) of the last, to be filled.

    Returns:
        None if the device has no memory for all of them at once; then they are run one by one.
    """
    start = time.perf_counter()
    try:
        chain = [cast("Chainable", kernel) for kernel in kernels]
        functools.reduce(lambda first, kernel: first.then(kernel), chain).run(x, out)
    except ResourceExhaustedError as error:
        log.debug("the steps are run one by one: %s", error)  # with less between them
        return None
    seconds = [*(0.0,) * (len(chain) - 1), time.perf_counter() - start]
    return tuple(Ran(kernel.algorithm, s) for kernel, s in zip(chain, seconds, strict=True))
