"""Plans: how a server cuts a request into shards."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from groupconv.convolution.html import html_table, step_picture
from groupconv.convolution.plan_picture import draw
from groupconv.convolution.shards import Alternative, Range, Shape, Shard, StepPlan
from groupconv.convolution.totals import Window, field_of, stride_of, words
from groupconv.moved import moved_names
from groupconv.pictures import save
from groupconv.text import counted, human_bytes, milliseconds, table

__all__ = ["Alternative", "Plan", "Range", "Shard", "StepPlan"]

MOST_SHARDS = 64
"""Most rows in a table."""
MOST_ALTERNATIVES = 6
"""Most alternatives listed below a table."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is cut, one `StepPlan` for each of its steps.

    `print(plan)` shows tables, `plan.picture("plan.svg")` draws them.
    """

    steps: tuple[StepPlan, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """The window of each step, for `groupconv.receptive_field`."""
        return tuple(window for step in self.steps for window in step.windows)

    @property
    def weights(self) -> int:
        """Number of kernel weights of all steps, without biases."""
        return sum(step.weights for step in self.steps)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all steps; their shards may repeat some, for halos."""
        return sum(step.multiply_adds for step in self.steps)

    @property
    def receptive_field(self) -> Shape:
        """Input elements per axis that one output of the last step depends on, from the first to the last."""
        return field_of(self.windows)

    @property
    def stride(self) -> tuple[int | Fraction, ...]:
        """Input elements per axis between two neighboring outputs of the last step."""
        return stride_of(self.windows)

    @property
    def workers(self) -> tuple[str, ...]:
        """All workers that run a shard, in order of appearance."""
        return tuple(dict.fromkeys(shard.worker for step in self.steps for shard in step.shards))

    @property
    def seconds(self) -> float:
        """Time of all steps together, of each as in `StepPlan.seconds`."""
        return sum(step.seconds for step in self.steps)

    def explain(self) -> str:
        """Text with the shards of every step, the reason for each cut, and the alternatives.

        Example:
            >>> part = Shard(0, "w0", (Range(0, 1), Range(0, 2), Range(0, 9)), (Range(0, 4), Range(0, 2), Range(0, 3)),
            ...              (Range(0, 1), Range(0, 4), Range(0, 7)), 2048, 1024, 9)
            >>> step = StepPlan("grouped", (1, 4, 9), (8, 2, 3), (1, 8, 7), 2, "group", "2 groups", (part,), 0.0, (),
            ...                 stride=(1,), dilation=(1,))
            >>> print(Plan((step,)).explain())
            step 0  grouped convolution, g=2: (1, 4, 9) * (8, 2, 3) -> (1, 8, 7)
            48 weights, 336 multiply-adds, receptive field 3, stride 1
            cut along group: 2 groups
            shard  worker  input         kernel    output       bytes in  bytes out  multiply-adds  predicted
                0  w0      [:, 0:2, :]   [0:4, :]  [:, 0:4, :]     2 KiB      1 KiB              9       0 ms
        """
        text = "\n\n".join(_step(i, step, _chain_seconds(self.steps[i:])) for i, step in enumerate(self.steps))
        if len(self.steps) < 2:
            return text
        seconds = f"predicted: {milliseconds(self.seconds)} for {len(self.steps)} steps"
        return f"{text}\n\n{seconds}; {_numbers(self)}"

    def __repr__(self) -> str:
        cuts = ", ".join(f"{s.variant} cut along {s.cut} into {counted(len(s.shards), 'shard')}" for s in self.steps)
        workers = f"{counted(len(self.workers), 'worker')}, predicted {milliseconds(self.seconds)}"
        return f"Plan({cuts or 'no steps'}; {workers})"

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{'<br>'.join(map(html.escape, _headings(i, step)))}</p>{picture_of(step)}{html_of(_rows(step), step)}"
            for i, step in enumerate(self.steps)
        )

    def picture(self, path: str | Path) -> None:
        """Draw the plan: the input, kernel and output of each step, in tiles with the color and name of their worker.

        Args:
            path: of the picture, .png, .svg or .pdf.

        Raises:
            InvalidArgumentError: another suffix.
            FailedPreconditionError: matplotlib is not installed (`pip install 'groupconv[pictures]'`).
        """
        save(draw(self.steps, self.workers), path)

    def as_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings, lists and dicts, for JSON; a range is [start, stop]."""
        totals: dict[str, Any] = {"seconds": self.seconds, "weights": self.weights, "multiply_adds": self.multiply_adds}
        if self.windows:
            totals |= {"receptive_field": self.receptive_field, "stride": tuple(map(float, self.stride))}
        return asdict(self) | totals

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
            slices_of(s.input, step.input_shape),
            slices_of(s.kernel[:2], step.kernel_shape[:2]),
            slices_of(s.output, step.output_shape) + (" (summed)" if s.partial else ""),
            human_bytes(s.bytes_in),
            human_bytes(s.bytes_out),
            f"{s.multiply_adds:,}",
            milliseconds(s.seconds),
        )
        for s in step.shards[:MOST_SHARDS]
    ]
    return rows


def _numbers(of: StepPlan | Plan) -> str:
    """Weights, multiply-adds, receptive field and stride, for people."""
    numbers = f"{of.weights:,} weights, {of.multiply_adds:,} multiply-adds"
    return f"{numbers}, {words(of.windows)}" if of.windows else numbers


def _headings(index: int, step: StepPlan) -> tuple[str, str, str]:
    shapes = f"{step.input_shape} * {step.kernel_shape} -> {step.output_shape}"
    head = f"step {index}  {step.variant} convolution, g={step.groups}: {shapes}"
    return head, _numbers(step), f"cut along {step.cut}: {step.reason}"


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


def slices_of(ranges: Sequence[Range], shape: Sequence[int]) -> str:
    """Ranges as NumPy slices; a whole axis is a colon.

    Example:
        >>> slices_of((Range(0, 1), Range(48, 96), Range(0, 27)), (1, 96, 27))
        '[:, 48:96, :]'
    """
    whole = {(axis, 0, extent) for axis, extent in enumerate(shape)}
    return f"[{', '.join(':' if (axis, *r) in whole else str(r) for axis, r in enumerate(ranges))}]"


__getattr__ = moved_names(__name__, dict.fromkeys(("Report", "ShardReport"), "groupconv.convolution.report"))
