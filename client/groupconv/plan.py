"""How a request is cut, in words and numbers: the plan that a server made, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

Shape = tuple[int, ...]


class Range(NamedTuple):
    """Indices from `start` up to, not including, `stop` along one dimension."""

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
    """

    index: int
    worker: str
    input: tuple[Range, ...]
    kernel: tuple[Range, ...]
    output: tuple[Range, ...]
    bytes_in: int
    bytes_out: int
    multiply_adds: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How one step is cut: along what, why, and into which shards."""

    variant: str
    input_shape: Shape
    kernel_shape: Shape
    output_shape: Shape
    groups: int
    cut: str
    reason: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is cut, one `StepPlan` for each of its steps. `print(plan)` shows the table."""

    steps: tuple[StepPlan, ...]

    @property
    def workers(self) -> tuple[str, ...]:
        """Every worker with a shard in it, in order of appearance."""
        return tuple(dict.fromkeys(shard.worker for step in self.steps for shard in step.shards))

    def explain(self) -> str:
        """A table of the shards of every step, with the reason for each cut.

        Example:
            >>> part = Shard(0, "w0", (Range(0, 1), Range(0, 48)), (Range(0, 128),), (Range(0, 1),), 2048, 1024, 9)
            >>> step = StepPlan("grouped", (1, 96), (256, 48), (1, 256), 2, "group", "2 groups", (part,))
            >>> print(Plan((step,)).explain())
            step 0  grouped convolution, g=2: (1, 96) * (256, 48) -> (1, 256)
            cut along group: 2 groups
            shard  worker  input        kernel  output  bytes in  bytes out  multiply-adds
                0  w0      [0:1, 0:48]  0:128   [0:1]      2 KiB      1 KiB              9
        """
        return "\n\n".join(_explain_step(i, step) for i, step in enumerate(self.steps))

    __str__ = explain


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What happened to one shard.

    Attributes:
        index: position in its step.
        worker: id of the worker that ran it.
        algorithm: what the worker's engine chose.
        seconds: from dispatch to result, transfer and waiting included.
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
    """How an answer was made: the plan, what became of each step's shards, and seconds by phase."""

    plan: Plan
    steps: tuple[tuple[ShardReport, ...], ...]
    phases: dict[str, float]


def table(rows: Sequence[Sequence[str]], left: frozenset[int] = frozenset()) -> str:
    """Rows of cells as aligned text, the first row being the heading; columns in `left` are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def human_bytes(count: int) -> str:
    """Bytes for people.

    Example:
        >>> human_bytes(1536), human_bytes(3 * 2**20)
        ('1.5 KiB', '3 MiB')
    """
    size, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while size >= 1024 and unit != "TiB":
        size, unit = size / 1024, next(units)
    return f"{size:.0f} {unit}" if size >= 100 or size == int(size) else f"{size:.1f} {unit}"


def _explain_step(index: int, step: StepPlan) -> str:
    rows = [("shard", "worker", "input", "kernel", "output", "bytes in", "bytes out", "multiply-adds")]
    rows += [
        (
            str(s.index),
            s.worker,
            _ranges(s.input),
            str(s.kernel[0]),
            _ranges(s.output),
            human_bytes(s.bytes_in),
            human_bytes(s.bytes_out),
            f"{s.multiply_adds:,}",
        )
        for s in step.shards
    ]
    shapes = f"{step.input_shape} * {step.kernel_shape} -> {step.output_shape}"
    return (
        f"step {index}  {step.variant} convolution, g={step.groups}: {shapes}\n"
        f"cut along {step.cut}: {step.reason}\n{table(rows, left=frozenset({1, 2, 3, 4}))}"
    )


def _ranges(ranges: Sequence[Range]) -> str:
    return f"[{', '.join(map(str, ranges))}]"
