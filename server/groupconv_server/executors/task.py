"""A task: a shard with its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

from groupconv.convolution.report import ShardReport
from groupconv_worker.contract import Array
from groupconv_worker.shard import Stage, StageRun


@dataclass(slots=True)
class Task:
    """A shard with its arrays.

    Attributes:
        index: position in its plan.
        worker: id of the worker the plan gave it; another one may run it if that one is lost.
        stages: its part of one step, or of several that run on one worker without meeting.
        x: the slice of the first step's input, not copied.
        out: the slice of the last step's output that the result lands in.
    """

    index: int
    worker: str
    stages: tuple[Stage, ...]
    x: Array
    out: Array

    def reports(
        self, worker: str, ran: Sequence[StageRun], seconds: float, attempts: int = 1
    ) -> tuple[ShardReport, ...]:
        """A report of each stage.

        Args:
            worker: that ran the task.
            ran: how it ran each stage.
            seconds: from dispatch to result.
            attempts: times that the task was sent.
        """
        reports = []  # the time between dispatch and result is the first stage's
        for i, (algorithm, compute, improving) in enumerate(ran):
            wall = compute if i else seconds
            reports.append(ShardReport(self.index, worker, algorithm, wall, compute, attempts, improving))
        return tuple(reports)
