"""Routes: the parts of a shard's task that do not change from request to request."""

from collections.abc import Sequence
from dataclasses import dataclass

from groupconv.convolution.plan import Range
from groupconv.convolution.steps import Step
from groupconv_server.coordinator.resident import ResidentStep
from groupconv_server.planner import Piece, PlannedChain
from groupconv_worker.resident import ResidentKey
from groupconv_worker.shard import Stage


@dataclass(frozen=True, slots=True)
class Route:
    """All of a shard's task but its arrays: it is the same for every request.

    Attributes:
        index, worker, stages: as in `Task`.
        read: of the input, as slices; as a list of ranges where one goes on at the beginning of its dimension.
        write: of the output.
        piece: of the last step.
        plain: whether it reads all of the input and writes all of the output.
    """

    index: int
    worker: str
    stages: tuple[Stage, ...]
    read: tuple[slice, ...] | list[Range]
    write: tuple[slice, ...]
    piece: Piece
    plain: bool


def routes_of(chain: PlannedChain, steps: Sequence[Step]) -> tuple[Route, ...]:
    """The routes of a chain's shards.

    Args:
        chain: as planned.
        steps: of the chain, with arrays.
    """
    extents = chain.chain[0].geometry.input_shape
    routes = []
    for index, (pieces, worker) in enumerate(zip(chain.shards, chain.workers, strict=True)):
        stages = tuple(_stage(piece, step) for piece, step in zip(pieces, steps, strict=True))
        ranges = pieces[0].input
        inside = all(r.stop <= extent for r, extent in zip(ranges, extents, strict=True))
        read = tuple(r.slice for r in ranges) if inside else list(ranges)
        last = pieces[-1]
        alone = len(chain.shards) == 1 and not last.partial
        whole = alone and all((r.start, r.stop) == (0, extent) for r, extent in zip(ranges, extents, strict=True))
        routes.append(Route(index, worker, stages, read, tuple(r.slice for r in last.output), last, whole))
    return tuple(routes)


def _stage(piece: Piece, step: Step) -> Stage:
    """A piece with its filters; a term of a sum gets no bias, the sum does."""
    weight = step.kernel[tuple(r.slice for r in piece.kernel)]
    bias = None if step.bias is None or piece.partial else step.bias[piece.output[1].slice]
    if not isinstance(step, ResidentStep):
        return Stage(piece.problem, weight, bias)
    part = tuple((r.start, r.stop) for r in piece.kernel)
    key = ResidentKey(step.layer, step.version, step.index, part, biased=not piece.partial)
    return Stage(piece.problem, weight, bias, key)
