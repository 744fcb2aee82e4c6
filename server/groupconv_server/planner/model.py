"""The cost model: predicted time of a chain of steps under a cut.

    time = Σ (dispatch + bytes / link)  +  max (latency + compute)  +  merge

The sum is over all shards: the coordinator is one end of each link and serves them one after another. The maximum is
over the workers, which compute at the same time (`Rates.compute_seconds`, longer while several are busy). Merging costs
time only where partial sums are added: each term is read once, and the sum is written.

`screen` evaluates the model for all candidates at once, on the largest shard of each. `predict` evaluates it for the
pieces of one cut.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groupconv.convolution import cost
from groupconv.convolution.geometry import Geometry
from groupconv_server.planner.cuts import Piece, common_groups
from groupconv_server.planner.rates import Rates, class_of
from groupconv_worker.contract import Problem

Floats = NDArray[np.float64]


class Prediction(NamedTuple):
    """Predicted seconds: of the chain, and of each shard's steps in the engine."""

    seconds: float
    compute: list[tuple[float, ...]]


def predict(shards: Sequence[tuple[Piece, ...]], rates: Sequence[Rates], workers: int) -> Prediction:
    """The predicted time of shards, of which shard i runs on worker i.

    Args:
        shards: of one chain.
        rates: of the worker of each shard.
        workers: the number of all workers.
    """
    known: dict[tuple[int, int], float] = {}
    compute, serial, slowest, merge = [], 0.0, 0.0, 0.0
    for shard, r in zip(shards, rates, strict=True):
        crowd = r.crowded(len(shards), workers)
        steps = []
        for piece in shard:
            key = (id(piece.problem), id(r))  # shards of equal shape share one problem
            if key not in known:
                known[key] = r.compute_seconds(piece.problem) * crowd
            steps.append(known[key])
        compute.append(tuple(steps))
        returned = cost.bytes_out(shard[-1].problem.geometry, shard[-1].problem.types)
        serial += r.dispatch + (shard[0].input_bytes + sum(p.kernel_bytes for p in shard) + returned) / r.link
        slowest = max(slowest, r.latency + sum(steps))
        merge += 2 * returned / r.memory if shard[-1].partial else 0.0
    return Prediction(serial + slowest + merge, compute)


def screen(chain: Sequence[Problem], grids: NDArray[np.int64], rates: Sequence[Rates], *, reordering: bool) -> Floats:
    """Predicted seconds of each candidate; infinite if it is impossible.

    Args:
        chain: the steps.
        grids: the candidates, from `candidates.grids`.
        rates: of the workers, fastest first; n shards go to the first n.
        reordering: whether the order of sums may change, so that channels may be cut.
    """
    groups = common_groups([p.geometry for p in chain])
    first, last = chain[0], chain[-1]
    parts = grids.astype(np.float64)
    group, batch, filters, *space, channel = parts.T
    shards = parts.prod(axis=1)
    groups_each = np.ceil(groups / group)  # of the largest shard, in common groups
    samples = np.ceil(first.geometry.batch / batch)
    legal = _legal(chain, groups, parts, reordering=reordering) & (shards <= len(rates))
    mean = _Means(rates, shards, legal)
    outs = [_longest_part(last.geometry, k, n) for k, n in enumerate(space)]
    compute: Any = 0.0
    moved: Any = 0.0
    for i, problem in reversed(list(enumerate(chain))):
        g, types = problem.geometry, problem.types
        ins = [_longest_input(g, k, length, space[k]) for k, length in enumerate(outs)]
        depth = np.ceil(g.in_channels // g.groups / channel)
        c = groups_each * np.where(channel > 1, depth, g.in_channels // groups)
        m = groups_each * np.where(filters > 1, np.ceil(g.out_channels // g.groups / filters), g.out_channels // groups)
        weights = math.prod(g.kernel) * c * m / (groups_each * (g.groups // groups))
        area_in, area_out = _product(ins), _product(outs)
        adds = samples * weights * (area_in if g.transposed else area_out)
        out_size = np.where(channel > 1, types.accumulate.itemsize, types.output.itemsize)
        kernel_bytes = weights * types.weight.itemsize
        in_bytes, out_bytes = samples * c * area_in * types.input.itemsize, samples * m * area_out * out_size
        k = class_of(g)
        compute = compute + mean.overhead[k] + adds / mean.multiply_adds[k]
        compute = compute + (in_bytes + kernel_bytes + out_bytes) / mean.memory
        moved = moved + kernel_bytes + in_bytes * (i == 0) + out_bytes * (i == len(chain) - 1)
        if i == len(chain) - 1:
            merge = np.where(channel > 1, 2 * shards * out_bytes / rates[0].memory, 0.0)
        outs = ins
    crowd = 1 + mean.crowding * (shards - 1) / max(1, len(rates) - 1)
    seconds = shards * (mean.dispatch + moved / mean.link) + mean.latency + compute * crowd + merge
    return np.where(legal, seconds, np.inf)


class _Means:
    """For each candidate of n shards, the mean rates of the first n workers."""

    def __init__(self, rates: Sequence[Rates], shards: Floats, legal: NDArray[np.bool_]) -> None:
        count = np.where(legal, shards, 1).astype(np.int64) - 1
        alike = all(r is rates[0] or r == rates[0] for r in rates)

        def mean(values: Sequence[float]) -> Any:
            if alike:
                return values[0]
            return (np.cumsum(values) / np.arange(1, len(values) + 1))[count]

        each = range(len(rates[0].multiply_adds))
        self.multiply_adds = [mean([r.multiply_adds[k] for r in rates[: 1 if alike else None]]) for k in each]
        self.overhead = [mean([r.overhead[k] for r in rates[: 1 if alike else None]]) for k in each]
        self.memory, self.latency, self.dispatch, self.crowding = (
            mean([getattr(r, name) for r in rates[: 1 if alike else None]])
            for name in ("memory", "latency", "dispatch", "crowding")
        )
        links = [1 / r.link for r in rates[: 1 if alike else None]]
        with np.errstate(divide="ignore"):
            self.link = 1 / np.asarray(mean(links))


def _legal(chain: Sequence[Problem], groups: int, parts: Floats, *, reordering: bool) -> NDArray[np.bool_]:
    first, last = chain[0].geometry, chain[-1].geometry
    group, batch, filters, *space, channel = parts.T
    within = (filters > 1) | (channel > 1)
    legal = (group <= groups) & (batch <= first.batch)
    legal &= (filters <= last.out_channels // last.groups) & (channel <= first.in_channels // first.groups)
    legal &= ~within if len(chain) > 1 else ~within | (group == groups)
    if not reordering:
        legal &= channel == 1
    for k, n in enumerate(space):
        legal &= n <= _blocks(last, k)
    result: NDArray[np.bool_] = legal
    return result


def _blocks(g: Geometry, k: int) -> int:
    """The most parts along axis k: its outputs or, in a transposed convolution, its inputs."""
    if not g.transposed or g.stride[k] == 1:
        return g.output[k]
    return -(-(g.output[k] + g.padding[k][0] % g.stride[k]) // g.stride[k])


def _longest_part(g: Geometry, k: int, parts: Floats) -> Floats:
    step = g.stride[k] if g.transposed else 1
    longest: Floats = np.minimum(g.output[k], np.ceil(_blocks(g, k) / parts) * step)
    return longest


def _longest_input(g: Geometry, k: int, outputs: Floats, parts: Floats) -> Floats:
    """Input cells of `outputs` neighboring cells, by formulas (1) and (2) of `planner.halo` without padding."""
    e, s = g.effective_kernel[k], g.stride[k]
    cells = (outputs + e - 2) // s + 1 if g.transposed else (outputs - 1) * s + e
    return np.where(parts > 1, np.minimum(g.input[k], cells), g.input[k])


def _product(lengths: Sequence[Floats]) -> Any:
    total: Any = 1.0
    for length in lengths:
        total = total * length
    return total
