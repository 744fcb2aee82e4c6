"""A shard: the part of a request that one worker runs, without its arrays."""

import functools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from groupconv.errors import ResourceExhaustedError
from groupconv_worker.contract import Array, Chainable, Prepared, Problem
from groupconv_worker.resident import ResidentKernel, ResidentKey, of_one_sample

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step's part in a shard.

    Attributes:
        problem: of the step's part that this shard computes.
        weight: (M, C/g, *kernel), transposed (C, M/g, *kernel).
        bias: (M,) or None.
        key: names the part of a resident layer's weights, under which the worker keeps the kernel prepared; None for
            weights that came with the request.
        one: the problem that a resident kernel is prepared for: with one sample, as the kernel serves any batch.
        kept: the resident kernel, once this stage was run in this process.
    """

    problem: Problem
    weight: Array
    bias: Array | None = None
    key: ResidentKey | None = None
    one: Problem = field(init=False, repr=False, compare=False)
    kept: ResidentKernel | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "one", self.problem if self.key is None else of_one_sample(self.problem))
        object.__setattr__(self, "kept", None)

    def keep(self, kernel: ResidentKernel | None) -> None:
        """Remember the prepared kernel, so that the next run need not search for it."""
        object.__setattr__(self, "kept", kernel)

    def __reduce__(self) -> tuple[type["Stage"], tuple[object, ...]]:
        return Stage, (self.problem, self.weight, self.bias, self.key)  # a prepared kernel stays in its process


class StageRun(NamedTuple):
    """How a worker ran a stage.

    Attributes:
        algorithm: which computed it.
        seconds: in the engine. A GPU runs the stages of a shard as one: the last stage has all seconds, the others 0.
        improving: whether a better kernel is being prepared.
    """

    algorithm: str
    seconds: float
    improving: bool = False


class PartRun(NamedTuple):
    """How a worker ran its part of a network that is cut.

    Attributes:
        seconds: of the part, waits for other parts included.
        coordinator_bytes: of inputs and outputs that were sent to the worker and back.
    """

    seconds: float
    coordinator_bytes: int


def run_chain(kernels: Iterable[Prepared], x: Array, out: Array) -> tuple[StageRun, ...] | None:
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
    return tuple(StageRun(kernel.algorithm, s) for kernel, s in zip(chain, seconds, strict=True))
