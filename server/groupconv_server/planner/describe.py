"""Plans of steps, for people and for answers, from planned chains."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from groupconv.convolution import cost
from groupconv.convolution.plan import Alternative, Shard, StepPlan
from groupconv_server.planner import reasons
from groupconv_server.planner.cuts import Piece
from groupconv_server.planner.search import PlannedChain


def described(
    chains: Sequence[PlannedChain],
    considered: Mapping[int, Sequence[Alternative]],
    workers: int,
    tried: frozenset[int] = frozenset(),
    *,
    requested: bool = False,
) -> tuple[PlannedChain, ...]:
    """The chains with the plans of their steps.

    Args:
        chains: of a request.
        considered: other cuts of each chain, by its first step.
        workers: how many there are.
        tried: first steps of the chains that are cut like this only to measure the cut.
        requested: whether the caller requested the cut.
    """
    done = []
    before: PlannedChain | None = None
    for c in chains:
        if tried and c.first not in tried:
            before = c
            done.append(c)
            continue
        alternatives = considered.get(c.first, [])
        added = [max(steps[i] for steps in c.prediction.compute) for i in range(1, len(c.chain))]
        plans = []
        for i, problem in enumerate(c.chain):
            g = problem.geometry
            reason = reasons.joined(c, i) if i else reasons.first(c, before, alternatives, workers)
            if requested and not i:
                reason = f"as requested; {reason}"
            if c.first in tried:
                reason = f"tried once to measure its time; {reason}"
            plans.append(
                StepPlan(
                    variant=g.variant(),
                    input_shape=g.input_shape,
                    kernel_shape=g.weight_shape,
                    output_shape=g.output_shape,
                    groups=g.groups,
                    cut=c.cut.words(g.rank),
                    reason=reason,
                    shards=_shards(c, i),
                    seconds=added[i - 1] if i else c.prediction.seconds - sum(added),
                    alternatives=() if i else tuple(alternatives),
                    joined=i > 0,
                    stride=g.stride,
                    dilation=g.dilation,
                    transposed=g.transposed,
                    measured=c.measured,
                )
            )
        before = replace(c, plans=tuple(plans))
        done.append(before)
    return tuple(done)


def _shards(c: PlannedChain, i: int) -> tuple[Shard, ...]:
    """The shards of step i of a chain. Bytes that stay on a worker do not count."""
    last = len(c.chain) - 1
    numbers: dict[int, tuple[int, int, int]] = {}
    shards = []
    for n, (shard, worker, compute) in enumerate(zip(c.shards, c.workers, c.prediction.compute, strict=True)):
        piece = shard[i]
        if id(piece.problem) not in numbers:
            numbers[id(piece.problem)] = _numbers(piece, first=i == 0, last=i == last)
        shards.append(
            Shard(
                n,
                worker,
                piece.input,
                piece.kernel,
                piece.output,
                *numbers[id(piece.problem)],
                compute[i],
                piece.partial,
            )
        )
    return tuple(shards)


def _numbers(piece: Piece, *, first: bool, last: bool) -> tuple[int, int, int]:
    """Bytes in, bytes out and multiply-adds of a piece."""
    g, types = piece.problem.geometry, piece.problem.types
    bytes_in = piece.kernel_bytes + (piece.input_bytes if first else 0)
    return bytes_in, cost.bytes_out(g, types) if last else 0, cost.multiply_adds(g)
