"""Plans and reports: how a server cuts a request into shards, and how it ran them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from groupconv.text import human_bytes, milliseconds, table

Shape = tuple[int, ...]
MOST_SHARDS = 64
"""Most rows in a table."""
MOST_ALTERNATIVES = 6
"""Most alternatives listed below a table."""


class Range(NamedTuple):
    """Indices from `start` to `stop` (exclusive) along one dimension.

    A stop beyond the dimension wraps around: with circular padding a shard reads from both ends.
    """

    start: int
    stop: int

    @property
    def slice(self) -> slice:
        """The range as a slice."""
        return slice(self.start, self.stop)

    @property
    def length(self) -> int:
        """The number of indices."""
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True, slots=True)
class Shard:
    """The part of one step that one worker runs.

    Attributes:
        index: position in its step.
        worker: id of the worker that runs it.
        input, kernel, output: a range per dimension of the step's input (N, C, …), kernel and output (N, M, …).
        bytes_in: input and kernel sent to the worker. bytes_out: output returned.
        multiply_adds: of this shard.
        seconds: predicted time in the engine.
        partial: whether the output is one term of a sum over the shards with the same output range.
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
    """Another cut that the planner considered.

    Attributes:
        cut: the dimension to cut along.
        shards: number of shards.
        seconds: predicted time.
    """

    cut: str
    shards: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How one step is cut into shards, and why.

    Attributes:
        variant: the kind of convolution, such as "grouped" or "depthwise".
        input_shape, kernel_shape, output_shape, groups: of the step.
        cut: the dimension that is cut. reason: why the planner chose it.
        shards: in order.
        seconds: predicted time from dispatch to merged output; for a joined step, the time that it adds.
        alternatives: other cuts that were considered, cheapest first.
        joined: whether each shard continues on its own part of the previous step's output, on the same worker.
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
        """All workers that run a shard, in order of appearance."""
        return tuple(dict.fromkeys(shard.worker for step in self.steps for shard in step.shards))

    @property
    def seconds(self) -> float:
        """Predicted time of all steps together."""
        return sum(step.seconds for step in self.steps)

    def explain(self) -> str:
        """Text with the shards of every step, the reason for each cut, and the alternatives.

        Example:
            >>> part = Shard(0, "w0", (Range(0, 1), Range(0, 48)), (Range(0, 128),), (Range(0, 1),), 2048, 1024, 9)
            >>> step = StepPlan("grouped", (1, 96), (256, 48), (1, 256), 2, "group", "2 groups", (part,))
            >>> print(Plan((step,)).explain())
            step 0  grouped convolution, g=2: (1, 96) * (256, 48) -> (1, 256)
            cut along group: 2 groups
            shard  worker  input        kernel   output  bytes in  bytes out  multiply-adds  predicted
                0  w0      [0:1, 0:48]  [0:128]  [0:1]      2 KiB      1 KiB              9       0 ms
        """
        text = "\n\n".join(_step(i, step, _chain_seconds(self.steps[i:])) for i, step in enumerate(self.steps))
        if len(self.steps) < 2:
            return text
        return f"{text}\n\npredicted: {milliseconds(self.seconds)} for {len(self.steps)} steps"

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings, lists and dicts, for JSON; a range is [start, stop]."""
        return asdict(self) | {"seconds": self.seconds}

    __str__ = explain


@dataclass(frozen=True, slots=True)
class ShardReport:
    """How one shard ran.

    Attributes:
        index: position in its step.
        worker: id of the worker that ran it.
        algorithm: the algorithm that the engine chose.
        seconds: from dispatch to result, with transfer and waiting; for a joined step, time in the engine.
        compute_seconds: time in the engine.
        attempts: number of starts; more than 1 if a worker was lost.
    """

    index: int
    worker: str
    algorithm: str
    seconds: float
    compute_seconds: float
    attempts: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """How a request ran: its plan, each step's shards, and the seconds of each phase.

    `print(report)` compares measured with predicted times.
    """

    plan: Plan
    steps: tuple[tuple[ShardReport, ...], ...]
    phases: Mapping[str, float] = field(default_factory=dict)

    def explain(self) -> str:
        """Text with the predicted and measured times of each shard."""
        blocks = []
        for i, (step, shards) in enumerate(zip(self.plan.steps, self.steps, strict=True)):
            rows = [("shard", "worker", "algorithm", "predicted", "in the engine", "dispatch to result", "attempts")]
            rows += [
                (
                    str(ran.index),
                    ran.worker,
                    ran.algorithm,
                    milliseconds(planned.seconds),
                    milliseconds(ran.compute_seconds),
                    milliseconds(ran.seconds),
                    str(ran.attempts),
                )
                for planned, ran in list(zip(step.shards, shards, strict=True))[:MOST_SHARDS]
            ]
            measured = max(ran.seconds for ran in shards)
            head = f"step {i}  cut along {step.cut}{', joined to the step before' if step.joined else ''}: "
            head += f"predicted {milliseconds(step.seconds)}, measured {milliseconds(measured)}"
            blocks.append("\n".join([head, table(rows, left=frozenset({1, 2})), *_more(len(shards))]))
        phases = ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in self.phases.items())
        return "\n\n".join([*blocks, f"phases: {phases}"] if phases else blocks)

    __str__ = explain


def _chain_seconds(steps: Sequence[StepPlan]) -> float:
    """Predicted time of the first step and the steps joined to it."""
    return steps[0].seconds + sum(step.seconds for step in itertools.takewhile(lambda s: s.joined, steps[1:]))


def _step(index: int, step: StepPlan, seconds: float) -> str:
    rows = [("shard", "worker", "input", "kernel", "output", "bytes in", "bytes out", "multiply-adds", "predicted")]
    rows += [
        (
            str(s.index),
            s.worker,
            _ranges(s.input),
            _ranges(s.kernel[:2]),
            _ranges(s.output) + (" (summed)" if s.partial else ""),
            human_bytes(s.bytes_in),
            human_bytes(s.bytes_out),
            f"{s.multiply_adds:,}",
            milliseconds(s.seconds),
        )
        for s in step.shards[:MOST_SHARDS]
    ]
    shapes = f"{step.input_shape} * {step.kernel_shape} -> {step.output_shape}"
    lines = [
        f"step {index}  {step.variant} convolution, g={step.groups}: {shapes}",
        f"cut along {step.cut}: {step.reason}",
        table(rows, left=frozenset({1, 2, 3, 4})),
        *_more(len(step.shards)),
    ]
    if step.alternatives:
        what = "" if seconds == step.seconds else " with the steps joined to it"
        lines.append(f"predicted {milliseconds(seconds)}{what}; considered as well:")
        considered = [
            (a.cut, f"{a.shards} shard{'s' * (a.shards > 1)}", milliseconds(a.seconds), _times(a.seconds, seconds))
            for a in step.alternatives[:MOST_ALTERNATIVES]
        ]
        lines.append(table([("  cut", "", "predicted", ""), *(("  " + c, *r) for c, *r in considered)], frozenset({0})))
    return "\n".join(lines)


def _times(seconds: float, best: float) -> str:
    return f"{seconds / best:.2f} ×" if best else ""


def _more(shards: int) -> list[str]:
    return [f"… and {shards - MOST_SHARDS} more"] if shards > MOST_SHARDS else []


def _ranges(ranges: Sequence[Range]) -> str:
    return f"[{', '.join(map(str, ranges))}]"
