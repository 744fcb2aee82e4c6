"""What a worker is worth: how fast it computes each class of convolution, and what it costs to reach it.

The time of one shard in an engine is taken to be

    overhead(class) + multiply-adds / rate(class) + bytes / memory

with classes that engines treat alike, told apart by symbols only. `planner.calibrate` measures the numbers.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

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
    """One worker, measured.

    Attributes:
        multiply_adds: per second, for each of `CLASSES`, in the engine alone.
        overhead: seconds of a shard that has next to nothing to compute, for each of `CLASSES`.
        memory: bytes per second that an engine reads and writes without computing.
        link: bytes per second between coordinator and worker; infinite where the worker sees the coordinator's arrays.
        latency: seconds from dispatch to result beyond the engine's, while the coordinator is free.
        dispatch: seconds the coordinator itself is busy with one shard.
        crowding: by how much a shard is slower while every other worker computes too (they share memory, or more).
    """

    multiply_adds: tuple[float, ...] = (2e10, 2e10, 5e9, 2e9, 1e10)
    overhead: tuple[float, ...] = (2e-5,) * 5
    memory: float = 5e9
    link: float = float("inf")
    latency: float = 1e-4
    dispatch: float = 3e-5
    crowding: float = 0.0

    def __str__(self) -> str:
        """In a line, for people.

        Example:
            >>> print(Rates(link=1e9))
            dense 20, pointwise 20, grouped 5, depthwise 2, transposed 10 G multiply-adds/s; memory 5, link 1 GB/s
        """
        rates = ", ".join(f"{name} {rate / 1e9:.3g}" for name, rate in zip(CLASSES, self.multiply_adds, strict=True))
        link = "" if math.isinf(self.link) else f", link {self.link / 1e9:.3g}"
        return f"{rates} G multiply-adds/s; memory {self.memory / 1e9:.3g}{link} GB/s"

    def faster(self, factor: float) -> Self:
        """A worker that computes `factor` times as fast and is as far away."""
        return replace(
            self,
            multiply_adds=tuple(r * factor for r in self.multiply_adds),
            overhead=tuple(o / factor for o in self.overhead),
            memory=self.memory * factor,
        )

    def compute_seconds(self, problem: Problem) -> float:
        """Predicted time of a shard in the engine.

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
        """How much longer a shard takes while `busy` of `workers` compute."""
        return 1 + self.crowding * (busy - 1) / (workers - 1) if workers > 1 else 1.0
