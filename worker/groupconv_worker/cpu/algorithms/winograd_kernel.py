"""Winograd's kernel: a convolution's transformed filters, and which samples are summed directly instead."""

import math
from collections.abc import Callable

import numpy as np

from groupconv_worker.contract import Array, Prepared
from groupconv_worker.cpu.algorithms.plane import Plane
from groupconv_worker.cpu.kernels.winograd_tiles import VARIANTS
from groupconv_worker.cpu.program import Program, address
from groupconv_worker.cpu.workspace import ScratchArray


class WinogradKernel:
    """A convolution's filters, and the program that uses them.

    Args:
        program: of the geometry; it takes the filters and biases as its weights.
        plane: its shapes.
        filters: transformed, unless the program does that.
        biases: (groups, filters of a group filled up to whole blocks).
        direct: makes the direct form, for samples with an output that Winograd does not compute within the bound.
        nbytes: of the program and of a direct form that is kept.
        room: the memory of the filters, which is given back when the kernel goes.
    """

    algorithm = "winograd"

    def __init__(
        self,
        program: Program,
        plane: Plane,
        filters: Array,
        biases: Array,
        direct: Callable[[], Prepared],
        nbytes: int,
        room: ScratchArray | None,
    ) -> None:
        self.program, self.plane, self.direct, self.room = program, plane, direct, room
        self.filters, self.biases = filters, biases
        self.nbytes = filters.nbytes + biases.nbytes + nbytes
        self.weights = address(filters), address(biases)

    def run(self, x: Array, y: Array) -> None:
        """Convolve each sample of x into y, as of `Sampled`."""
        odd = np.array([not steady(sample, self.plane) for sample in x], np.int64)
        if not odd.all():
            self.program.run(x, y, self.weights, odd)
        if odd.any():
            direct = self.direct()
            for n in np.flatnonzero(odd):
                direct.run(x[n : n + 1], y[n : n + 1])


@np.errstate(all="ignore")
def steady(x: Array, plane: Plane) -> bool:
    """Whether no window of a sample (C, H, W) is so dark beside its tile that Winograd's error would show in it.

    The size of a pixel is its root mean square over the channels of a group. The largest one of a tile may be as many
    times that of a window as channels take part: up to there the error was below half the bound of a direct sum
    (docs/convolution.md). Values take part by their energy e = x², of n values as many as 3·(Σe)² / Σe², at most n:
    all if they are Gaussian, few if few of them, or one channel, are much larger than the rest. An output of
    F(2×2, 5×5) depends on its own window alone, so the test is stricter there than it must be.
    """
    grouped = x.reshape(plane.groups, plane.channels, *plane.input)
    squares = np.einsum("gchw,gchw->ghw", grouped, grouped)
    largest, smallest = squares.max(), squares.min()
    if not np.isfinite(largest):
        return False
    energy = np.square(grouped[:, :, ::2]).reshape(plane.groups, -1)
    energy *= 1 / largest  # its square neither overflows nor vanishes
    # Gaussian values have 3 for this quotient, whatever their number
    spread = [3.0 * float(e.sum()) ** 2 / (float(np.dot(e, e)) or np.inf) / e.size for e in energy]
    most = (plane.channels * min(1.0, *spread)) ** 2
    extent, taps = plane.kernel[0], math.prod(plane.kernel)
    if not np.isfinite(largest * most * taps):
        return not x.any()
    if smallest * most >= largest * taps:  # a window at a corner may have one pixel, and padding around it
        return True
    (down, across), (rows, columns), out = plane.dilation, plane.output, VARIANTS[extent].out
    tiles = -(-rows // (out * down)), -(-columns // (out * across))
    # whole tiles, and the reach of the last windows behind them, which is that of so many tiles
    behind = -(-(extent - 1) // out)
    padded = np.zeros((plane.groups, (tiles[0] + behind) * out * down, (tiles[1] + behind) * out * across), np.float32)
    top, left = plane.low
    height, width = min(plane.input[0], padded.shape[1] - top), min(plane.input[1], padded.shape[2] - left)
    padded[:, top : top + height, left : left + width] = squares[:, :height, :width]
    strips = np.add.reduce([padded[:, i * down : i * down + rows] for i in range(extent)])
    windows = np.add.reduce([strips[:, :, j * across : j * across + columns] for j in range(extent)])
    darkest = np.full((plane.groups, tiles[0] * out * down, tiles[1] * out * across), np.inf, np.float32)
    darkest[:, :rows, :columns] = windows
    darkest = darkest.reshape(plane.groups, tiles[0], out * down, tiles[1], out * across).min(axis=(2, 4))
    blocks = padded.reshape(plane.groups, tiles[0] + behind, out * down, tiles[1] + behind, out * across)
    brightest = blocks.max(axis=(2, 4))
    brightest = np.maximum.reduce([brightest[:, i : i + tiles[0]] for i in range(behind + 1)])
    brightest = np.maximum.reduce([brightest[:, :, j : j + tiles[1]] for j in range(behind + 1)])
    return bool((darkest * (most / taps) >= brightest).all())
