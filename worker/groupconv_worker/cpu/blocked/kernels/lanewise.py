"""Convolution of blocked channels lane by lane: depthwise, and groups of few channels.

A block is one vector of output channels × up to 14 pixels of a row, whose sums stay in registers. Each step (a tap, or
a row of taps) multiplies vectors of input channels at the pixels by vectors of weights. Where outputs need inputs of
other lanes, a step brings them there first: a group of 4 channels takes 4 steps for each tap.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.blocked.kernels.activation import CLIP, activate, clip
from groupconv_worker.cpu.blocked.kernels.blocks import LANES, PIXELS, cut, keep_rolled
from groupconv_worker.cpu.kernels.atomic import LOOK, array, job, stopped
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.simd import I32, I64, Simd, i64


@intrinsic(prefer_literal=True)
def _block(_context, pixels, places, steps, first, last, sizes, low, high, moves, width, stride):
    """Compute one block.

    Args:
        pixels: of the row; the code has a case for each.
        places: addresses of the first pixel, the weights, the bias, the output, what is added to the sums, and the
            tables of lanes.
        steps: address of pairs (offset of x, offset in the tables of lanes), of which `first` to `last` are summed.
        sizes: elements from pixel to pixel of x, the output and the residual.
        low, high: float32 bounds of the results.
        moves, width, stride: literals, as in `kernel`.
    """
    literals = moves.literal_value, width.literal_value, stride.literal_value
    signature = types.void(pixels, places, steps, first, last, sizes, low, high, moves, width, stride)

    def generate(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        pixels, places, steps, first, last, sizes, low, high = arguments[:8]
        *addresses, lanes = cgutils.unpack_tuple(b, places)
        floats = [b.inttoptr(address, ir.FloatType().as_pointer()) for address in addresses]
        emitter = _Block(b, floats, b.inttoptr(lanes, I32.as_pointer()), cgutils.unpack_tuple(b, sizes), literals)
        done = b.append_basic_block("done")
        choice = b.switch(pixels, done)
        for P in range(1, PIXELS[1] + 1):
            case = b.append_basic_block(f"block{P}")
            choice.add_case(i64(P), case)
            b.position_at_end(case)
            emitter.emit(P, b.inttoptr(steps, I64.as_pointer()), first, last, (low, high))
            b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The emitter of blocks; names as in `_block`."""

    def __init__(self, b: Any, places: list[Any], lanes: Any, sizes: list[Any], literals: tuple[int, int, int]) -> None:
        self.b, self.simd, self.lanes = b, Simd(b, ir.FloatType()), lanes
        self.x, self.w, self.bias, self.y, self.residual = places
        self.x_pixel, self.y_pixel, self.residual_pixel = sizes
        self.moves, self.width, self.stride = literals

    def emit(self, P: int, steps: Any, first: Any, last: Any, bounds: tuple[Any, Any]) -> None:
        b, s = self.b, self.simd
        bias = s.load(self.bias)
        sums = [cgutils.alloca_once(b, s.type) for _ in range(P)]
        for p, total in enumerate(sums):
            b.store(b.fadd(bias, s.load(b.gep(self.residual, [b.mul(self.residual_pixel, i64(p))]))), total)
        weights = cgutils.alloca_once(b, self.w.type)
        b.store(self.w, weights)
        with cgutils.for_range_slice(b, first, last, i64(1), intp=I64) as (number, _):
            entry = b.gep(steps, [b.mul(number, i64(2))])
            x, w = b.gep(self.x, [b.load(entry)]), b.load(weights)
            if self.width > 1:
                self._row(x, w, sums)
            else:
                self._tap(x, w, b.gep(entry, [i64(1)]), sums)
            b.store(b.gep(w, [i64(self.width * s.lanes)]), weights)
            end = b.block
        keep_rolled(b, end)
        low, high = map(s.splat, bounds)
        for p, total in enumerate(sums):
            s.store(clip(s, b.load(total), low, high), b.gep(self.y, [b.mul(self.y_pixel, i64(p))]))

    def _tap(self, x: Any, w: Any, table: Any, sums: list[Any]) -> None:
        """One tap: a vector of weights times each pixel."""
        b, s = self.b, self.simd
        vector, order = s.load(w), None
        if self.moves:
            place = b.gep(self.lanes, [b.load(table)])
            order = b.load(b.bitcast(place, s.index_type.as_pointer()), align=4)
        for p, total in enumerate(sums):
            pixel = s.load(b.gep(x, [b.mul(self.x_pixel, i64(p))]))
            if order is not None:
                pixel = s.permute(pixel, order)
            b.store(s.multiply_add(vector, pixel, b.load(total)), total)

    def _row(self, x: Any, w: Any, sums: list[Any]) -> None:
        """A row of taps that lie next to each other: each pixel is loaded once for all of them."""
        b, s = self.b, self.simd
        vectors = [s.load(b.gep(w, [i64(k * s.lanes)])) for k in range(self.width)]
        for column in range((len(sums) - 1) * self.stride + self.width):
            met = [(k, divmod(column - k, self.stride)) for k in range(self.width)]
            met_sums = [(k, p) for k, (p, rest) in met if not rest and 0 <= p < len(sums)]
            pixel = s.load(b.gep(x, [i64(column * s.lanes)])) if met_sums else None
            for k, p in met_sums:
                b.store(s.multiply_add(vectors[k], pixel, b.load(sums[p])), sums[p])


@form
def kernel(moves: int, width: int, stride: int) -> Any:
    """The compiled loop over blocks.

    Args:
        moves: 1 if steps move inputs to other lanes, else 0.
        width: taps of a step, which lie next to each other in a row of x; 1 serves every kernel.
        stride: along a row, if a step has several taps, else 0.

    Returns:
        A job with the words (x, w, bias, y, residual, parameters, steps, spans, lanes, x block, vectors, rows, columns,
        bands, code, x row, x pixel, y plane, y row, y pixel, residual plane, residual row, residual pixel): addresses
        of the first cells, then tables and extents of the output, then distances in elements. Residual is 0 if there
        is none. `steps` has pairs (offset in x, offset in `lanes`), `spans` for each vector of outputs (first step,
        last step, offset in w), `lanes` vectors of int32: from which lane of x each lane of the output takes its input.
        x block is the distance in x from vector to vector of the outputs. There are bands · vectors tasks.
    """

    @job(moves, width, stride)
    def lanewise(at, first, last):
        words = array(at, np.int64)
        x, w, bias, y, residual = words[0], words[1], words[2], words[3], words[4]
        parameters, steps, spans, lanes = array(words[5], np.float32), words[6], array(words[7], np.int64), words[8]
        x_block, vectors, rows, columns, bands, code = words[9], words[10], words[11], words[12], words[13], words[14]
        x_row, x_pixel, y_plane, y_row, y_pixel = words[15], words[16], words[17], words[18], words[19]
        r_plane, r_row, r_pixel = words[20], words[21], words[22]
        in_row, size, whole = cut(columns, PIXELS[1])
        low, high = np.float32(-np.inf), np.float32(np.inf)
        if code == CLIP:
            low, high = parameters[0], parameters[1]
        unseen = 0
        for task in range(first, last):
            block, band = divmod(task, bands)
            first_step, last_step, w_at = spans[3 * block], spans[3 * block + 1], w + 4 * spans[3 * block + 2]
            start, end = rows * in_row * band // bands, rows * in_row * (band + 1) // bands
            row, place = divmod(start, in_row)
            column = place * size - max(0, place - whole)
            for _ in range(start, end):
                unseen -= 1
                if unseen <= 0:
                    if stopped(at):
                        return
                    unseen = 1 + LOOK // (last_step - first_step + 1)
                pixels = size if place < whole else size - 1
                y_at = y + 4 * (block * y_plane + row * y_row + column * y_pixel)
                other_at, other_pixel = bias + 4 * vectors * LANES, 0  # zeros
                if residual != 0:
                    other_pixel = r_pixel
                    other_at = residual + 4 * (block * r_plane + row * r_row + column * r_pixel)
                x_at = x + 4 * (block * x_block + row * x_row + column * x_pixel)
                places = (x_at, w_at, bias + 4 * block * LANES, y_at, other_at, lanes)
                sizes = (x_pixel, y_pixel, other_pixel)
                _block(pixels, places, steps, first_step, last_step, sizes, low, high, moves, width, stride)
                if code != CLIP:
                    for p in range(pixels):
                        activate(y_at + 4 * p * y_pixel, code, parameters[0], parameters[1])
                place, column = place + 1, column + pixels
                if place == in_row:
                    row, place, column = row + 1, 0, 0

    return lanewise.address
