"""Plans: how a server cuts a request into shards."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from groupconv.convolution.html import html_table, step_picture
from groupconv.moved import moved_names
from groupconv.text import counted, human_bytes, milliseconds, table

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
        seconds: predicted time, or the measured one.
        measured: whether the cut has run, so that its time was measured.
    """

    cut: str
    shards: int
    seconds: float
    measured: bool = False


@dataclass(frozen=True, slots=True)
class StepPlan:
    """How one step is cut into shards, and why.

    Attributes:
        variant: the kind of convolution, such as "grouped" or "depthwise".
        input_shape, kernel_shape, output_shape, groups: of the step.
        cut: the dimension that is cut. reason: why the planner chose it.
        shards: in order.
        seconds: predicted time from dispatch to merged output, or the measured one; for a joined step, the time that
            it adds.
        alternatives: other cuts that were considered, cheapest first.
        joined: whether each shard continues on its own part of the previous step's output, on the same worker.
        stride, dilation: one per axis. transposed: of the step.
        measured: whether the cut has run, so that its time was measured.
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
    stride: Shape = ()
    dilation: Shape = ()
    transposed: bool = False
    measured: bool = False


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

    def __repr__(self) -> str:
        cuts = ", ".join(f"{s.variant} cut along {s.cut} into {counted(len(s.shards), 'shard')}" for s in self.steps)
        workers = f"{counted(len(self.workers), 'worker')}, predicted {milliseconds(self.seconds)}"
        return f"Plan({cuts or 'no steps'}; {workers})"

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{'<br>'.join(map(html.escape, _headings(i, step)))}</p>{picture_of(step)}{html_of(_rows(step), step)}"
            for i, step in enumerate(self.steps)
        )

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings, lists and dicts, for JSON; a range is [start, stop]."""
        return asdict(self) | {"seconds": self.seconds}

    __str__ = explain


def _chain_seconds(steps: Sequence[StepPlan]) -> float:
    """Predicted time of the first step and the steps joined to it."""
    return steps[0].seconds + sum(step.seconds for step in itertools.takewhile(lambda s: s.joined, steps[1:]))


def _rows(step: StepPlan) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("shard", "worker", "input", "kernel", "output", "bytes in", "bytes out", "multiply-adds", "predicted")
    ]
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
    return rows


def _headings(index: int, step: StepPlan) -> tuple[str, str]:
    shapes = f"{step.input_shape} * {step.kernel_shape} -> {step.output_shape}"
    head = f"step {index}  {step.variant} convolution, g={step.groups}: {shapes}"
    return head, f"cut along {step.cut}: {step.reason}"


def html_of(rows: Sequence[Sequence[str]], step: StepPlan) -> str:
    """A table about the shards of a step, as HTML."""
    return html_table([*rows, *((line,) for line in rows_left_out(len(step.shards)))])


def picture_of(step: StepPlan) -> str:
    """The output of a step with a tile for each shard, as SVG."""
    shards = [(s.index, s.worker, s.output) for s in step.shards[:MOST_SHARDS]]
    return step_picture(step.variant, step.output_shape, shards)


def _step(index: int, step: StepPlan, seconds: float) -> str:
    lines = [
        *_headings(index, step),
        table(_rows(step), left=frozenset({1, 2, 3, 4})),
        *rows_left_out(len(step.shards)),
    ]
    if step.alternatives:
        what = "" if seconds == step.seconds else " with the steps joined to it"
        lines.append(f"{_how(step)} {milliseconds(seconds)}{what}; considered as well:")
        considered = [
            (
                a.cut,
                counted(a.shards, "shard"),
                milliseconds(a.seconds),
                _how(a),
                f"{a.seconds / seconds:.2f} ×" if seconds else "",
            )
            for a in step.alternatives[:MOST_ALTERNATIVES]
        ]
        lines.append(table([("  cut", "", "time", "", ""), *(("  " + c, *r) for c, *r in considered)], frozenset({0})))
    return "\n".join(lines)


def _how(cut: StepPlan | Alternative) -> str:
    """How the time of a cut is known."""
    return "measured" if cut.measured else "predicted"


def rows_left_out(shards: int) -> list[str]:
    """A line for the shards that a table leaves out, or no line."""
    return [f"… and {shards - MOST_SHARDS} more"] if shards > MOST_SHARDS else []


def _ranges(ranges: Sequence[Range]) -> str:
    return f"[{', '.join(map(str, ranges))}]"


__getattr__ = moved_names(__name__, dict.fromkeys(("Report", "ShardReport"), "groupconv.convolution.report"))
