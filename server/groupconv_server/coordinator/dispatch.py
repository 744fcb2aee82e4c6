"""From the routes of a plan and a request's arrays to tasks, and from their results to one output.

Inputs are views of the request's input, and results are written into views of its output, so neither is copied. Two
cuts need more: circular padding reads from both ends of an axis, which takes a concatenation, and a cut along input
channels returns terms of a sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groupconv.convolution.plan import Range
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.routes import Route
from groupconv_server.executors.task import Task
from groupconv_server.planner import Piece, PlannedChain
from groupconv_worker.contract import Array, Problem
from groupconv_worker.epilogue import add_bias
from groupconv_worker.pieces import apply, blocks, copy


@dataclass(slots=True)
class ChainTasks:
    """The tasks of a chain and the output that they fill.

    Attributes:
        tasks: one for each shard.
        output: of the chain's last step; complete once the tasks ran and the sums, if there are any, are added.
        sums: None unless input channels are cut.
    """

    tasks: list[Task]
    output: Array
    sums: "Sums | None" = None


class Sums:
    """The terms of sums whose input channels were cut.

    Args:
        last: the last step of the chain.
        bias: of that step, (M,) or None; a sum is given it once.
        output: where the sums go.
    """

    def __init__(self, last: Problem, bias: Array | None, output: Array) -> None:
        self._activation, self._bias, self._output = last.geometry.activation, bias, output
        self._terms: dict[tuple[Range, ...], list[Array]] = {}

    def term(self, piece: Piece) -> Array:
        """An array for the result of a piece, which is one term of the sum of its output range."""
        term = np.empty(piece.problem.geometry.output_shape, dtype=piece.problem.types.output)
        self._terms.setdefault(piece.output, []).append(term)
        return term

    def add(self) -> None:
        """Add the terms of every sum, then bias and activation, into the output."""
        for ranges, terms in self._terms.items():
            total = terms[0]
            channels = ranges[1]
            with np.errstate(all="ignore"):
                for term in terms[1:]:
                    for at in blocks(total.shape):
                        total[at] += term[at]  # in the accumulator's dtype; int32 wraps as it does in the engines
                add_bias(total, None if self._bias is None else self._bias[channels.slice])
                apply(total, self._activation and self._activation.channels(*channels))
                copy(total, self._output[tuple(r.slice for r in ranges)])


def dispatch(chain: PlannedChain, routes: Sequence[Route], step: Step, x: Array, output: Array) -> ChainTasks:
    """The tasks of a chain.

    Args:
        chain: as planned.
        routes: of its shards.
        step: its last one, whose bias a sum of terms is given.
        x: (N, C, *spatial) of its first step.
        output: of its last step, to be filled.
    """
    sums = Sums(chain.chain[-1], step.bias, output) if any(route.piece.partial for route in routes) else None
    tasks = []
    for route in routes:
        shard_input = x[route.read] if isinstance(route.read, tuple) else taken(x, route.read)
        into = sums.term(route.piece) if sums is not None and route.piece.partial else output[route.write]
        tasks.append(Task(route.index, route.worker, route.stages, shard_input, into))
    return ChainTasks(tasks, output, sums)


def taken(x: Array, ranges: Sequence[Range]) -> Array:
    """The cells of `x` in `ranges`: a view, unless a range goes on at the beginning of its dimension.

    Example:
        >>> taken(np.arange(5), [Range(1, 3)]).tolist(), taken(np.arange(5), [Range(3, 7)]).tolist()
        ([1, 2], [3, 4, 0, 1])
    """
    for axis, r in enumerate(ranges):
        along = (slice(None),) * axis
        if r.stop <= x.shape[axis]:
            x = x[(*along, r.slice)]
        else:
            x = np.concatenate([x[(*along, slice(r.start, None))], x[(*along, slice(r.stop - x.shape[axis]))]], axis)
    return x
