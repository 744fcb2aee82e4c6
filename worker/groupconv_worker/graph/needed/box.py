"""Boxes: parts of a tensor, as a range for each of its axes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class Range(NamedTuple):
    """The indices from `start` to before `stop`. Ranges may reach outside of a tensor, into its padding."""

    start: int
    stop: int

    def joined(self, other: "Range") -> "Range":
        """The smallest range that has both."""
        return Range(min(self.start, other.start), max(self.stop, other.stop))

    def clipped(self, extent: int) -> "Range":
        """The part that lies inside an axis; an empty range at its nearest end if none does.

        Example:
            >>> Range(-2, 5).clipped(4), Range(-3, -1).clipped(4)
            (Range(start=0, stop=4), Range(start=0, stop=0))
        """
        return Range(min(max(self.start, 0), extent), min(max(self.stop, 0), extent))


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor.

    Attributes:
        ranges: one for each axis.

    Example:
        >>> Box.whole((3, 4)).shape, Box.of((0, 2), (1, 3)).joined(Box.of((1, 3), (2, 4))).shape
        ((3, 4), (3, 3))
    """

    ranges: tuple[Range, ...]

    @classmethod
    def of(cls, *ranges: tuple[int, int]) -> Self:
        """A box from pairs (start, stop)."""
        return cls(tuple(Range(*r) for r in ranges))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Self:
        """All of a tensor."""
        return cls(tuple(Range(0, extent) for extent in shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents."""
        return tuple(r.stop - r.start for r in self.ranges)

    @property
    def empty(self) -> bool:
        """Whether it has no elements."""
        return min(self.shape, default=1) <= 0

    @property
    def slices(self) -> tuple[slice, ...]:
        """The index of this part."""
        return tuple(slice(r.start, r.stop) for r in self.ranges)

    def joined(self, other: "Box") -> "Box":
        """The smallest box that has both."""
        return Box(tuple(a.joined(b) for a, b in zip(self.ranges, other.ranges, strict=True)))

    def clipped(self, shape: Iterable[int]) -> "Box":
        """The part that lies inside a tensor of this shape."""
        return Box(tuple(r.clipped(extent) for r, extent in zip(self.ranges, shape, strict=True)))

    def within(self, other: "Box") -> bool:
        """Whether another box has all of this one."""
        return all(o.start <= r.start and r.stop <= o.stop for r, o in zip(self.ranges, other.ranges, strict=True))

    def common(self, other: "Box") -> "Box | None":
        """The part that both have; None if there is none."""
        ranges = [
            Range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(self.ranges, other.ranges, strict=True)
        ]
        return None if any(r.start >= r.stop for r in ranges) else Box(tuple(ranges))

    def without(self, other: "Box") -> "list[Box]":
        """What is left without another box: boxes that do not overlap.

        Example:
            >>> [part.shape for part in Box.whole((4, 4)).without(Box.of((1, 2), (0, 4)))]
            [(1, 4), (2, 4)]
        """
        common = self.common(other)
        if common is None:
            return [self]
        boxes, rest = [], list(self.ranges)
        for axis, taken in enumerate(common.ranges):
            pieces = (Range(rest[axis].start, taken.start), Range(taken.stop, rest[axis].stop))
            boxes += [Box((*rest[:axis], piece, *rest[axis + 1 :])) for piece in pieces if piece.start < piece.stop]
            rest[axis] = taken
        return boxes

    def relative(self, other: "Box") -> "Box":
        """This box as indices into another one that has it."""
        return Box(
            tuple(Range(r.start - o.start, r.stop - o.start) for r, o in zip(self.ranges, other.ranges, strict=True))
        )

    def along(self, axis: int, part: Range) -> "Box":
        """The box with another range of one axis."""
        return Box((*self.ranges[:axis], part, *self.ranges[axis + 1 :]))
