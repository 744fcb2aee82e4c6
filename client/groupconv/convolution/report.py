"""Reports: how a server ran the shards of a request."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field

from groupconv.convolution.plan import MOST_SHARDS, Plan, html_of, picture_of, rows_left_out
from groupconv.text import counted, milliseconds, table


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
        improving: whether a better algorithm is being compiled or measured, which later requests get.
    """

    index: int
    worker: str
    algorithm: str
    seconds: float
    compute_seconds: float
    attempts: int = 1
    improving: bool = False


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
        blocks = [
            "\n".join([head, table(rows, left=frozenset({1, 2})), *rows_left_out(len(shards))])
            for (head, rows), shards in zip(self._tables(), self.steps, strict=True)
        ]
        return "\n\n".join([*blocks, f"phases: {self._phases()}"] if self.phases else blocks)

    __str__ = explain

    def __repr__(self) -> str:
        if not self.steps:
            return "Report(none)"
        shards, workers = sum(map(len, self.steps)), len(self.plan.workers)
        seconds = sum(max((ran.seconds for ran in shards), default=0.0) for shards in self.steps)
        return f"Report({counted(shards, 'shard')} on {counted(workers, 'worker')}, {milliseconds(seconds)})"

    def _repr_html_(self) -> str:
        blocks = [
            f"<p>{html.escape(head)}</p>{picture_of(step)}{html_of(rows, step)}"
            for (head, rows), step in zip(self._tables(), self.plan.steps, strict=True)
        ]
        return "".join([*blocks, f"<p>phases: {html.escape(self._phases())}</p>"] if self.phases else blocks)

    def _tables(self) -> list[tuple[str, list[tuple[str, ...]]]]:
        """A heading and a table for each step."""
        tables = []
        for i, (step, shards) in enumerate(zip(self.plan.steps, self.steps, strict=True)):
            rows: list[tuple[str, ...]] = [
                ("shard", "worker", "algorithm", "predicted", "in the engine", "dispatch to result", "attempts")
            ]
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
            tables.append((head, rows))
        return tables

    def _phases(self) -> str:
        return ", ".join(f"{name} {milliseconds(seconds)}" for name, seconds in self.phases.items())
