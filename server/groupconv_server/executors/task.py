"""A task: a shard with its arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

from groupconv.convolution.report import ShardReport
from groupconv_worker.contract import Array
from groupconv_worker.shard import Ran, Stage


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

    def reports(self, worker: str, ran: Sequence[Ran], seconds: float, attempts: int = 1) -> tuple[ShardReport, ...]:
        """What each stage took.

        Args:
            worker: that ran the task.
            ran: algorithm and seconds of each stage.
            seconds: from dispatch to result.
            attempts: times that the task was sent.
        """
        return tuple(
            [
                ShardReport(
                    self.index, worker, r.algorithm, r.seconds if i else seconds, r.seconds, attempts, r.improving
                )
                for i, r in enumerate(ran)
            ]
        )
