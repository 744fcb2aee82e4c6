"""Cuts: which worker holds which box of a tensor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from groupconv_worker.graph.needed.box import Box, Range

AXES = ("samples", "channels", "rows", "columns")
"""Names of the axes of a map."""
NAMES = {2: ("samples", "features"), 4: AXES}
"""Names of the axes of a tensor, by how many it has."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The box of a tensor that each worker makes.

    Boxes of different workers are disjoint, or the same where several workers make the same elements.

    Attributes:
        boxes: one for each worker; None for a worker that makes nothing of the tensor.

    Example:
        >>> cut = Cut.along((1, 8, 6, 6), 2, (0, 2, 6))
        >>> cut.boxes[1].shape, cut.axes, str(cut)
        ((1, 8, 4, 6), (2,), 'rows 2|4')
        >>> str(Cut.replicated((1, 8), 2)), str(Cut.on((1, 8), 2, worker=1))
        ('every worker', 'worker 1')
    """

    boxes: tuple[Box | None, ...]

    @classmethod
    def replicated(cls, shape: Sequence[int], workers: int) -> Self:
        """All of the tensor on every worker."""
        return cls((Box.whole(shape),) * workers)

    @classmethod
    def on(cls, shape: Sequence[int], workers: int, worker: int = 0) -> Self:
        """All of the tensor on one worker."""
        return cls(tuple(Box.whole(shape) if w == worker else None for w in range(workers)))

    @classmethod
    def along(cls, shape: Sequence[int], axis: int, bounds: Sequence[int]) -> Self:
        """Consecutive ranges of one axis.

        Args:
            shape: of the tensor.
            axis: that is cut.
            bounds: worker w has the indices from bounds[w] to before bounds[w + 1]; none if they are equal.
        """
        whole = Box.whole(shape)
        return cls(tuple(whole.along(axis, Range(a, b)) if a < b else None for a, b in pairwise(bounds)))

    @property
    def workers(self) -> tuple[int, ...]:
        """The workers that make a part."""
        return tuple(w for w, box in enumerate(self.boxes) if box is not None)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the workers' boxes differ."""
        held = [box.ranges for box in self.boxes if box is not None]
        return tuple(axis for axis, ranges in enumerate(zip(*held, strict=True)) if len(set(ranges)) > 1)

    def over(self, workers: int) -> Self:
        """The same boxes among more workers; those that come after make nothing."""
        return replace(self, boxes=self.boxes + (None,) * (workers - len(self.boxes)))

    def missing(self, shape: Sequence[int]) -> Box | None:
        """A part of the tensor that no worker makes; None if all of it is made.

        Example:
            >>> Cut((Box.of((0, 3)), Box.of((4, 9)))).missing((9,)).ranges
            (Range(start=3, stop=4),)
        """
        rest = [Box.whole(shape)]
        for box in self.boxes:
            if box is not None:
                rest = [part for piece in rest for part in piece.without(box)]
        return rest[0] if rest else None

    def __str__(self) -> str:
        if len(self.workers) == 1:
            return f"worker {self.workers[0]}"
        if not self.axes:
            return "every worker" if len(self.workers) == len(self.boxes) else f"workers {self.workers}"
        rank = len(next(box for box in self.boxes if box is not None).ranges)
        words = []
        for axis in self.axes:
            extents = [0 if box is None else box.shape[axis] for box in self.boxes]
            name = NAMES[rank][axis] if rank in NAMES else f"axis {axis}"
            words.append(f"{name} {'|'.join(map(str, extents))}")
        return ", ".join(words)


def even(extent: int, workers: int, step: int = 1) -> tuple[int, ...]:
    """Bounds of nearly equal ranges.

    Args:
        extent: of the axis.
        workers: how many ranges; the last ones are empty if the axis is too short.
        step: bounds are its multiples, but for the last.

    Example:
        >>> even(10, 3), even(10, 3, step=2), even(2, 3)
        ((0, 4, 7, 10), (0, 4, 8, 10), (0, 1, 2, 2))
    """
    units = -(-extent // step)
    return tuple(min(extent, -(-w * units // workers) * step) for w in range(workers + 1))
