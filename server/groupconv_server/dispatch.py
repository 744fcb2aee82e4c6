"""From pieces of a plan and a request's arrays to tasks, and from their results to one output.

Slices are views and results land in theirs, so neither costs a copy. Two cuts need more: circular padding reads from
both ends of an axis, which is one concatenation, and a cut along input channels returns terms of a sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.special

from groupconv.plan import Range
from groupconv.requests import Step
from groupconv_server.executors.base import Task
from groupconv_server.layers import ResidentStep
from groupconv_server.planner import Piece, PlannedChain
from groupconv_worker.engines.base import Array
from groupconv_worker.epilogue import activate, add_bias
from groupconv_worker.resident import ResidentKey
from groupconv_worker.shard import Stage


@dataclass(frozen=True)
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
                    total += term  # in the accumulator's dtype; int32 wraps as it does in the engines
                add_bias(total, None if self.step.bias is None else self.step.bias[channels.slice])
                activation = whole.geometry.activation
                activate(total, activation and activation.channels(*channels), np, scipy.special.erf)
                self.output[tuple(r.slice for r in ranges)] = total


def dispatch(chain: PlannedChain, x: Array, steps: Sequence[Step], output: Array | None = None) -> Dispatch:
    """The tasks of a chain.

    Args:
        chain: as planned.
        x: (N, C, *spatial) of its first step.
        steps: of the chain, with arrays.
        output: of its last step, to be filled; None allocates it.
    """
    last = chain.chain[-1]
    if output is None:
        output = np.empty(last.geometry.output_shape, dtype=last.types.output)
    made = Dispatch([], output, chain, steps[-1])
    for index, (pieces, worker) in enumerate(zip(chain.shards, chain.workers, strict=True)):
        stages = tuple(_stage(piece, step) for piece, step in zip(pieces, steps, strict=True))
        made.tasks.append(Task(index, worker, stages, taken(x, pieces[0].input), _into(made, pieces[-1])))
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


def _stage(piece: Piece, step: Step) -> Stage:
    """A piece with its filters; a term of a sum gets no bias, the sum does."""
    weight = step.kernel[tuple(r.slice for r in piece.kernel)]
    bias = None if step.bias is None or piece.partial else step.bias[piece.output[1].slice]
    if not isinstance(step, ResidentStep):
        return Stage(piece.problem, weight, bias)
    part = tuple((r.start, r.stop) for r in piece.kernel)
    key = ResidentKey(step.layer, step.version, step.index, part, biased=not piece.partial)
    return Stage(piece.problem, weight, bias, key)


def _into(made: Dispatch, piece: Piece) -> Array:
    """Where a piece's result goes: its slice of the output, or a term of the sum that will."""
    if not piece.partial:
        view: Array = made.output[tuple(r.slice for r in piece.output)]
        return view
    term = np.empty(piece.problem.geometry.output_shape, dtype=piece.problem.types.output)
    made.sums.setdefault(piece.output, []).append(term)
    return term
