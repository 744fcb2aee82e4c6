"""The channel-blocked layout of a feature map: a vector's lanes hold neighboring channels of one pixel.

Kernels read and write whole vectors, so no element is ever moved between lanes. Lanes beyond the last channel hold
anything; no reader lets them into a result. Margins around the map hold what its reader wants, zeros for convolutions,
so padding costs no copy.
"""

import math
from dataclasses import dataclass

import numpy as np

from groupconv_worker.contract import Array
from groupconv_worker.cpu.blocked.kernels.blocks import LANES

ALIGNMENT = 64
"""A tensor takes a multiple of so many bytes."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """How one sample (channels, rows, columns) of float32 lies in memory.

    Attributes:
        channels, rows, columns: extents of the map.
        lanes: channels of a block.
        margin: cells above, left of, below and right of each block's map.

    Example:
        >>> x = Blocked(24, 7, 7, lanes=16, margin=(1, 1, 1, 1))
        >>> x.blocks, x.pitch, x.plane, x.offset(0, 0, 0), x.offset(17, 0, 1), x.nbytes
        (2, 9, 81, 160, 1473, 10368)
    """

    channels: int
    rows: int
    columns: int
    lanes: int = LANES
    margin: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.channels // self.lanes)

    @property
    def pitch(self) -> int:
        """Cells from row to row."""
        return self.margin[1] + self.columns + self.margin[3]

    @property
    def plane(self) -> int:
        """Cells from block to block."""
        return (self.margin[0] + self.rows + self.margin[2]) * self.pitch

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor with its margins."""
        return -(-self.blocks * self.plane * self.lanes * 4 // ALIGNMENT) * ALIGNMENT

    def within(self, top: int, bottom: int, left: int, right: int) -> "Blocked":
        """The rows from `top` to before `bottom` and the columns from `left` to before `right`; the rest is margin.

        Example:
            >>> Blocked(3, 8, 8, lanes=4, margin=(1, 1, 1, 1)).within(2, 8, 0, 8)
            Blocked(channels=3, rows=6, columns=8, lanes=4, margin=(3, 1, 1, 1))
        """
        above, before, below, behind = self.margin
        margin = (above + top, before + left, below + self.rows - bottom, behind + self.columns - right)
        return Blocked(self.channels, bottom - top, right - left, self.lanes, margin)

    def offset(self, channel: int, row: int, column: int) -> int:
        """Where an element lies, in elements from the start; rows and columns of the margin are negative or beyond."""
        top, left = self.margin[:2]
        cell = channel // self.lanes * self.plane + (row + top) * self.pitch + column + left
        return cell * self.lanes + channel % self.lanes


@dataclass(frozen=True, slots=True)
class Plain:
    """One sample (channels, rows, columns) of float32 in C order, without margins: what a network is given."""

    channels: int
    rows: int
    columns: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return -(-math.prod((self.channels, self.rows, self.columns)) * 4 // ALIGNMENT) * ALIGNMENT


def blocked(x: Array, layout: Blocked, fill: float = 0.0) -> Array:
    """A sample (channels, rows, columns) in this layout, flat; margins and unused lanes hold `fill`.

    Example:
        >>> layout = Blocked(3, 1, 2, lanes=4)
        >>> blocked(np.arange(6, dtype=np.float32).reshape(3, 1, 2), layout)[:8]
        array([0., 2., 4., 0., 1., 3., 5., 0.], dtype=float32)
    """
    out = aligned(layout.nbytes // 4)
    out[:] = fill
    grid = cells(out, layout)
    for channel in range(layout.channels):
        grid[channel // layout.lanes, :, :, channel % layout.lanes] = x[channel]
    return out


def plain(flat: Array, layout: Blocked) -> Array:
    """The sample (channels, rows, columns) that lies in `flat` in this layout, a copy."""
    channels = cells(flat, layout).transpose(0, 3, 1, 2).reshape(-1, layout.rows, layout.columns)
    return np.ascontiguousarray(channels[: layout.channels])


def cells(flat: Array, layout: Blocked) -> Array:
    """The map in `flat` as a view (blocks, rows, columns, lanes), without its margins."""
    top, left = layout.margin[:2]
    grid = flat[: layout.blocks * layout.plane * layout.lanes].reshape(layout.blocks, -1, layout.pitch, layout.lanes)
    return grid[:, top : top + layout.rows, left : left + layout.columns]


def aligned(count: int) -> Array:
    """So many float32, not initialized, from the start of a cache line on."""
    room = np.empty(count * 4 + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + count * 4].view(np.float32)
