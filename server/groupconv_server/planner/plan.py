"""From a convolution and the workers there are to a plan."""

from dataclasses import dataclass
from functools import lru_cache

from groupconv import cost
from groupconv.dtypes import Types
from groupconv.geometry import Geometry
from groupconv.plan import Shard, StepPlan
from groupconv_server.planner.cuts import Piece, pieces
from groupconv_worker.engines.base import Problem


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step's plan with what the workers need to know of each shard.

    Attributes:
        plan: for people and for the wire.
        problems: of the shards, in the plan's order.
    """

    plan: StepPlan
    problems: tuple[Problem, ...]


@lru_cache(maxsize=4096)
def plan_step(problem: Problem, workers: tuple[str, ...]) -> PlannedStep:
    """Cut along groups first, then along the batch, into at most one shard for each worker.

    Args:
        problem: the step.
        workers: ids of the workers, at least one.

    Example:
        >>> import numpy as np
        >>> from groupconv import ConvSpec, resolve
        >>> from groupconv.dtypes import types_of
        >>> g = resolve(ConvSpec(groups=2, padding=2), (1, 96, 27, 27), (256, 48, 5, 5))
        >>> f32 = np.dtype("float32")
        >>> planned = plan_step(Problem(g, types_of(f32, f32)), ("w0", "w1"))
        >>> planned.plan.cut, [(s.worker, str(s.output[1])) for s in planned.plan.shards]
        ('group', [('w0', '0:128'), ('w1', '128:256')])
    """
    g, types = problem.geometry, problem.types
    groups, batch = _parts(g, len(workers))
    parts = list(pieces(g, groups=groups, batch=batch))
    shards = tuple(_shard(i, workers[i], piece, types) for i, piece in enumerate(parts))
    plan = StepPlan(
        variant=g.variant(),
        input_shape=g.input_shape,
        kernel_shape=g.weight_shape,
        output_shape=g.output_shape,
        groups=g.groups,
        cut=" × ".join(name for name, n in (("group", groups), ("batch", batch)) if n > 1) or "nothing",
        reason=_reason(g, groups, batch, len(workers)),
        shards=shards,
    )
    return PlannedStep(plan, tuple(Problem(piece.geometry, types) for piece in parts))


def _parts(g: Geometry, workers: int) -> tuple[int, int]:
    """Parts along groups and batch with the most shards; of equals, the one with more groups (fewer weights)."""
    options = ((p, min(g.batch, workers // p)) for p in range(1, min(g.groups, workers) + 1))
    return max(options, key=lambda parts: (parts[0] * parts[1], parts[0]))


def _reason(g: Geometry, groups: int, batch: int, workers: int) -> str:
    have = f"{g.groups} group{'s' * (g.groups > 1)} and {g.batch} sample{'s' * (g.batch > 1)}"
    on = f"on {workers} worker{'s' * (workers > 1)}"
    shards = groups * batch
    return f"{have} {on}: {shards} shard{'s' * (shards > 1)}, each weight and sample sent where it is needed"


def _shard(index: int, worker: str, piece: Piece, types: Types) -> Shard:
    g = piece.geometry
    return Shard(
        index=index,
        worker=worker,
        input=piece.input,
        kernel=piece.kernel,
        output=piece.output,
        bytes_in=cost.bytes_in(g, types),
        bytes_out=cost.bytes_out(g, types),
        multiply_adds=cost.multiply_adds(g),
    )
