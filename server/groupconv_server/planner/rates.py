"""A worker's speed for each class of convolution, and the cost of reaching it.

The model of the time of a shard in an engine is

    overhead(class) + multiply-adds / rate(class) + bytes / memory

The classes are convolutions that engines treat alike. `planner.calibrate` measures the numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from groupconv.convolution import cost
from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Problem

CLASSES = ("dense", "pointwise", "grouped", "depthwise", "transposed")


def class_of(g: Geometry) -> int:
    """Index in `CLASSES` of a convolution.

    Example:
        >>> from groupconv import ConvSpec, resolve
        >>> CLASSES[class_of(resolve(ConvSpec(groups=8), (1, 8, 9, 9), (8, 1, 3, 3)))]
        'depthwise'
    """
    if g.transposed:
        return 4
    if g.in_channels == g.groups:
        return 3
    if all(k == 1 for k in g.kernel):
        return 1
    return 2 if g.groups > 1 and g.in_channels // g.groups <= 16 else 0


@dataclass(frozen=True, slots=True)
class Rates:
    """The measured rates of a worker.

    Attributes:
        multiply_adds: per second in the engine, for each of `CLASSES`.
        overhead: seconds of a shard with almost nothing to compute, for each of `CLASSES`.
        memory: bytes per second that the engine reads and writes.
        link: bytes per second between coordinator and worker; infinite if they share memory.
        latency: seconds from dispatch to result, without those in the engine.
        dispatch: seconds that the coordinator is busy with one shard.
        crowding: relative slowdown of a shard while all other workers compute, since they share memory.
    """

    multiply_adds: tuple[float, ...] = (2e10, 2e10, 5e9, 2e9, 1e10)
    overhead: tuple[float, ...] = (2e-5,) * 5
    memory: float = 5e9
    link: float = float("inf")
    latency: float = 1e-4
    dispatch: float = 3e-5
    crowding: float = 0.0

    def __str__(self) -> str:
        """The rates in one line, for people.

        Example:
            >>> print(Rates(link=1e9))
            dense 20, pointwise 20, grouped 5, depthwise 2, transposed 10 G multiply-adds/s; memory 5, link 1 GB/s
        """
        rates = ", ".join(f"{name} {rate / 1e9:.3g}" for name, rate in zip(CLASSES, self.multiply_adds, strict=True))
        link = "" if math.isinf(self.link) else f", link {self.link / 1e9:.3g}"
        return f"{rates} G multiply-adds/s; memory {self.memory / 1e9:.3g}{link} GB/s"

    def faster(self, factor: float) -> Self:
        """A worker that computes `factor` times as fast, with the same link."""
        return replace(
            self,
            multiply_adds=tuple(r * factor for r in self.multiply_adds),
            overhead=tuple(o / factor for o in self.overhead),
            memory=self.memory * factor,
        )

    def compute_seconds(self, problem: Problem) -> float:
        """Predicted seconds of a shard in the engine.

        Example:
            >>> import numpy as np
            >>> from groupconv import ConvSpec, resolve
            >>> from groupconv.convolution.dtypes import types_of
            >>> f32 = np.dtype("float32")
            >>> g = resolve(ConvSpec(padding=1), (1, 64, 56, 56), (64, 64, 3, 3))
            >>> f"{Rates().compute_seconds(Problem(g, types_of(f32, f32))) * 1e3:.2f} ms"
            '6.15 ms'
        """
        g, types = problem.geometry, problem.types
        k = class_of(g)
        moved = cost.bytes_in(g, types) + cost.bytes_out(g, types)
        return self.overhead[k] + cost.multiply_adds(g) / self.multiply_adds[k] + moved / self.memory

    def crowded(self, busy: int, workers: int) -> float:
        """The factor by which a shard takes longer while `busy` of `workers` compute."""
        return 1 + self.crowding * (busy - 1) / (workers - 1) if workers > 1 else 1.0


def median(rates: Sequence[Rates]) -> Rates:
    """Each number's median over the workers."""

    def number(name: str) -> float:
        return float(np.median([getattr(r, name) for r in rates]))

    def of_classes(name: str) -> tuple[float, ...]:
        return tuple(float(m) for m in np.median([getattr(r, name) for r in rates], axis=0))

    return Rates(
        multiply_adds=of_classes("multiply_adds"),
        overhead=of_classes("overhead"),
        memory=number("memory"),
        link=number("link"),
        latency=number("latency"),
        dispatch=number("dispatch"),
        crowding=number("crowding"),
    )
