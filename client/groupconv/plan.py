"""How a request is cut, in numbers: the plan that a server made, and what became of it. `explain` puts it in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from groupconv import explain

Shape = tuple[int, ...]


class Range(NamedTuple):
    """Indices from `start` up to, not including, `stop` along one dimension.

    A stop beyond the dimension goes on at its beginning: circular padding makes a shard read from both ends.
    """

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """For indexing an array."""
        return slice(self.start, self.stop)

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of one step that one worker runs.

    Attributes:
        index: position in its step.
        worker: id of the worker it goes to.
        input, kernel, output: a range per dimension of the step's input (N, C, …), kernel and output (N, M, …).
        bytes_in: of input and kernel sent. bytes_out: of output returned.
        multiply_adds: FLOPs are twice that.
        seconds: predicted, in the engine.
        partial: the output is one term of a sum over the shards with the same output range.
    """

    index: int
    worker: str
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]
    bytes_in: int
    bytes_out: int
    multiply_adds: int
    seconds: float = 0.0
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Alternative:
    """Another way to cut that was considered: along what, into how many shards, and its predicted seconds."""

    cut: str
    shards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How one step is cut: along what, why, and into which shards.

    Attributes:
        variant: in the field's words.
        input_shape, kernel_shape, output_shape, groups: of the step.
        cut: along what. reason: why so.
        shards: in order.
        seconds: predicted, from dispatch to merged output; of a joined step, what it adds.
        alternatives: what else was considered, cheapest first.
        joined: each shard goes on from its own part of the step before, on the same worker: nothing meets between.
    """

    variant: str
    input_shape: Shape
    kernel_shape: Shape
    output_shape: Shape
    groups: int
    cut: str
    reason: str
    shards: tuple[Shard, ...]
    seconds: float = 0.0
    alternatives: tuple[Alternative, ...] = ()
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is cut, one `StepPlan` for each of its steps. `print(plan)` shows the tables."""

    steps: tuple[StepPlan, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """Every worker with a shard in it, in order of appearance."""
        return tuple(dict.fromkeys(shard.worker for step in self.steps for shard in step.shards))

    @property
    def seconds(self) -> float:
        """Predicted time of all steps."""
        return sum(step.seconds for step in self.steps)

    def explain(self) -> str:
        """The shards of every step, the alternatives considered and the reason for each cut, as text.

        Example:
            >>> part = Shard(0, "w0", (Range(0, 1), Range(0, 48)), (Range(0, 128),), (Range(0, 1),), 2048, 1024, 9)
            >>> step = StepPlan("grouped", (1, 96), (256, 48), (1, 256), 2, "group", "2 groups", (part,))
            >>> print(Plan((step,)).explain())
            step 0  grouped convolution, g=2: (1, 96) * (256, 48) -> (1, 256)
            cut along group: 2 groups
            shard  worker  input        kernel   output  bytes in  bytes out  multiply-adds  predicted
                0  w0      [0:1, 0:48]  [0:128]  [0:1]      2 KiB      1 KiB              9       0 ms
        """
        return explain.plan(self)

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings, lists and dicts, for JSON; a range is [start, stop]."""
        return asdict(self) | {"seconds": self.seconds}

    __str__ = explain


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What happened to one shard.

    Attributes:
        index: position in its step.
        worker: id of the worker that ran it.
        algorithm: what the worker's engine chose.
        seconds: from dispatch to result, transfer and waiting included; of a joined step, in the engine alone.
        compute_seconds: in the engine alone.
        attempts: how often it was started; more than 1 if a worker was lost.
    """

    index: int
    worker: str
    algorithm: str
    seconds: float
    compute_seconds: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """How an answer was made: the plan, what became of each step's shards, and seconds by phase.

    `print(report)` holds what was measured against what the plan predicted.
    """

    plan: Plan
    steps: tuple[tuple[ShardReport, ...], ...]
    phases: Mapping[str, float] = field(default_factory=dict)

    def explain(self) -> str:
        """Predicted against measured, shard by shard, as text."""
        return explain.report(self)

    __str__ = explain
