"""From the routes of a plan and a request's arrays to tasks, and from their results to one output.

Slices are views and results land in theirs, so neither costs a copy. Two cuts need more: circular padding reads from
both ends of an axis, which is one concatenation, and a cut along input channels returns terms of a sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from groupconv.convolution.plan import Range
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.routes import Route
from groupconv_server.executors.base import Task
from groupconv_server.planner import Piece, PlannedChain
from groupconv_worker.contract import Array, beside
from groupconv_worker.epilogue import add_bias
from groupconv_worker.pieces import apply, blocks, copy


@dataclass(slots=True)
class Dispatch:
    """The tasks of a chain and where their results go.

    Attributes:
        tasks: one for each shard.
        output: of the chain's last step; complete when `merge` returns.
        sums: for each output range the terms that are its sum; empty unless input channels are cut.
    """

    tasks: list[Task]
    output: Array
    chain: PlannedChain
    step: Step
    sums: dict[tuple[Range, ...], list[Array]] = field(default_factory=dict)

    def merge(self) -> None:
        """Add the terms of every sum, then bias and activation, once."""
        whole = self.chain.chain[-1]
        for ranges, terms in self.sums.items():
            total = terms[0]
            channels = ranges[1]
            with np.errstate(all="ignore"):
                for term in terms[1:]:
                    for at in blocks(total.shape):
                        total[at] += term[at]  # in the accumulator's dtype; int32 wraps as it does in the engines
                add_bias(total, None if self.step.bias is None else self.step.bias[channels.slice])
                activation = whole.geometry.activation
                apply(total, activation and activation.channels(*channels))
                copy(total, self.output[tuple(r.slice for r in ranges)])


def dispatch(
    chain: PlannedChain, routes: Sequence[Route], step: Step, x: Array, output: Array | None = None
) -> Dispatch:
    """The tasks of a chain.

    Args:
        chain: as planned.
        routes: of its shards.
        step: its last one, whose bias a sum of terms is given.
        x: (N, C, *spatial) of its first step.
        output: of its last step, to be filled; None allocates it.
    """
    if output is None:
        last = chain.chain[-1]
        output = beside(x, last.geometry.output_shape, last.types.output)
    made = Dispatch([], output, chain, step)
    for route in routes:
        there = x[route.read] if isinstance(route.read, tuple) else taken(x, route.read)
        into = _term(made, route.piece) if route.piece.partial else output[route.write]
        made.tasks.append(Task(route.index, route.worker, route.stages, there, into))
    return made


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


def _term(made: Dispatch, piece: Piece) -> Array:
    """Where a piece's result goes that is a term of a sum."""
    term = np.empty(piece.problem.geometry.output_shape, dtype=piece.problem.types.output)
    made.sums.setdefault(piece.output, []).append(term)
    return term
