"""What a convolution becomes: stages on tensors whose addresses a program fills in, and what the kernels must know.

Words of a stage that are addresses are relative to four bases: scratch memory, the input, the output, the residual.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from groupconv.convolution.geometry import Geometry
from groupconv_worker.contract import Array
from groupconv_worker.cpu.algorithms.plane import Phase, Plane
from groupconv_worker.cpu.blocked.epilogue import Epilogue
from groupconv_worker.cpu.blocked.layout import Blocked, Plain
from groupconv_worker.cpu.stages import Address, KernelStage

SCRATCH, X, Y, RESIDUAL = 0, 2, 3, 4
"""Bases of the addresses in `Lowered.stages`: each the first byte of its tensor, margins included."""
BAND = 256 * 2**10
"""Bytes of the input that one task reads: they stay in the second cache while the blocks of filters pass."""
TASKS = 16
"""Tasks of a stage at least, if there is work for them: a few for each thread."""


@dataclass(frozen=True, slots=True)
class Lowered:
    """The stages of one convolution of one sample.

    Attributes:
        stages: one after another; their words hold arrays and `Address(base, offset)` of the four bases.
        scratch: bytes of scratch memory, from an address that is a multiple of 64.
    """

    stages: tuple[KernelStage, ...]
    scratch: int = 0


class Grid(NamedTuple):
    """Where the cells of one sample lie.

    Attributes:
        base, first: the base of its addresses, and where its cell (0, 0, 0) lies, in elements.
        plane, row, pixel: elements from block to block of channels (from channel to channel of a plain tensor), from
            row to row, from pixel to pixel.
        size: bytes of the whole.
    """

    base: int
    first: int
    plane: int
    row: int
    pixel: int
    size: int

    @classmethod
    def of(cls, layout: Blocked | Plain, base: int) -> Self:
        """The cells of a tensor that starts at a base."""
        if isinstance(layout, Plain):
            return cls(base, 0, layout.rows * layout.columns, layout.columns, 1, layout.nbytes)
        lanes = layout.lanes
        first = layout.offset(0, 0, 0)
        return cls(base, first, layout.plane * lanes, layout.pitch * lanes, lanes, layout.nbytes)

    def address(self, row: int = 0, column: int = 0) -> Address:
        """The address of a cell of the first block of channels."""
        return Address(self.base, 4 * (self.first + row * self.row + column * self.pixel))


@dataclass(frozen=True, slots=True)
class Pass:
    """One correlation over one sample, and how its tensors lie.

    Attributes:
        phase: the correlation.
        x, y, residual: the tensors; the residual is None if there is none.
    """

    phase: Phase
    x: Grid
    y: Grid
    residual: Grid | None

    @property
    def extents(self) -> tuple[int, int]:
        """Rows and columns of the output that are computed; one long row where nothing tells the rows apart."""
        plane = self.phase.plane
        rows, columns = plane.output
        pointwise = plane.kernel == plane.stride == self.phase.step == (1, 1) and plane.low == (0, 0)
        if pointwise and all(grid.row == columns * grid.pixel for grid in (self.x, self.y, self.residual or self.y)):
            return 1, rows * columns
        return rows, columns

    @property
    def x_pixel(self) -> int:
        """Elements of x from pixel to pixel of the output."""
        return self.phase.plane.stride[1] * self.x.pixel

    def tap_rows(self) -> list[int]:
        """Where each row of the kernel reads for the first output, at its first column, in elements from x's cell."""
        plane = self.phase.plane
        left = plane.low[1] * self.x.pixel
        return [(k * plane.dilation[0] - plane.low[0]) * self.x.row - left for k in range(plane.kernel[0])]

    def taps(self) -> list[int]:
        """Where each tap reads for the first output, in elements from x's cell (0, 0, 0)."""
        plane = self.phase.plane
        columns = [k * plane.dilation[1] * self.x.pixel for k in range(plane.kernel[1])]
        return [row + column for row in self.tap_rows() for column in columns]

    def addresses(self) -> tuple[Address, Address, Address | int]:
        """The first cells of x, y and the residual; 0 for no residual."""
        start = self.phase.start
        residual = 0 if self.residual is None else self.residual.address(*start)
        return self.x.address(), self.y.address(*start), residual

    def distances(self) -> tuple[int, ...]:
        """Elements: rows and pixels of x; planes, rows and pixels of y and of the residual."""
        distances = [self.phase.plane.stride[0] * self.x.row, self.x_pixel]
        down, across = self.phase.step
        for grid in (self.y, self.residual or self.y):
            distances += [grid.plane, down * grid.row, across * grid.pixel]
        return tuple(distances)

    def bands(self, tasks: int) -> int:
        """Into how many bands the map is cut, where the filters make so many tasks."""
        rows, columns = self.extents
        return min(max(-(-self.x.size // BAND), -(-TASKS // tasks)), max(1, rows * columns // 8))


def check(g: Geometry, x: Blocked | Plain, y: Blocked, epilogue: Epilogue) -> None:
    """Refuse layouts that are not those of the geometry.

    Raises:
        ValueError: it says what was expected and what came.
    """
    input_, output = ((1, *shape)[-2:] for shape in (g.input, g.output))
    tensors: list[tuple[str, int, tuple[int, ...], Blocked | Plain | None]] = [
        ("x", g.in_channels, input_, x),
        ("y", g.out_channels, output, y),
        ("residual", g.out_channels, output, epilogue.residual),
    ]
    for name, channels, extents, layout in tensors:
        if layout is not None and (layout.channels, layout.rows, layout.columns) != (channels, *extents):
            raise ValueError(f"{name}: expected the layout of {(channels, *extents)}, got {layout}")


def check_margin(plane: Plane, x: Blocked) -> None:
    """Refuse an input whose margin is narrower than what the taps read.

    Raises:
        ValueError: it says which margin was expected and which came.
    """
    low, high = zip(*(beyond(plane, axis) for axis in (0, 1)), strict=True)
    if any(has < wants for has, wants in zip(x.margin, (*low, *high), strict=True)):
        raise ValueError(f"x: expected a margin of at least {(*low, *high)}, got {x.margin}")


def beyond(plane: Plane, axis: int) -> tuple[int, int]:
    """Cells that taps read before and behind the input along an axis."""
    last = (plane.output[axis] - 1) * plane.stride[axis] + (plane.kernel[axis] - 1) * plane.dilation[axis]
    return max(0, plane.low[axis]), max(0, last - plane.low[axis] - plane.input[axis] + 1)


def padded_bias(bias: Array | None, filters: int, lanes: int) -> Array:
    """The bias of whole vectors of filters, and a vector of zeros behind it."""
    padded = np.zeros((math.ceil(filters / lanes) + 1) * lanes, np.float32)
    if bias is not None:
        padded[:filters] = bias
    return padded
