"""Convolution of blocked channels with the lanes over filters: each pixel of each channel times vectors of weights.

A block is one or two vectors of filters × up to 14 pixels of a row, whose sums stay in registers. Each step (one tap of
one channel) loads the weights and broadcasts the pixels. Which channels and taps a block of filters sums is a table of
runs, so one kernel serves every kernel size, dilation, padding and group.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.blocked.kernels.activation import CLIP, activate, clip
from groupconv_worker.cpu.blocked.kernels.blocks import LANES, PIXELS, VECTORS, cut, keep_rolled
from groupconv_worker.cpu.kernels.atomic import LOOK, array, job, stopped
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.simd import I64, Simd, i64


@intrinsic
def _block(_context, vectors, pixels, places, runs, first, last, sizes, low, high):
    """Compute one block.

    Args:
        vectors, pixels: of filters and of the row; the code has a case for each.
        places: addresses of the first pixel, the weights, what the sums begin with, the output, and what is
            added to it: 0 if nothing is, and the sums begin with the same vectors at each pixel.
        runs: address of pairs (offset of x, channels), of which `first` to `last` are summed.
        sizes: elements from vector to vector and from pixel to pixel of what the sums begin with, of the output and of
            the residual, and from pixel to pixel of x.
        low, high: float32 bounds of the results.
    """
    signature = types.void(vectors, pixels, places, runs, first, last, sizes, low, high)

    def generate(context: Any, b: Any, _signature: Any, arguments: Any) -> Any:
        vectors, pixels, places, runs, first, last, sizes, low, high = arguments
        addresses = [b.inttoptr(p, ir.FloatType().as_pointer()) for p in cgutils.unpack_tuple(b, places)]
        distances = cgutils.unpack_tuple(b, sizes)
        emitter = _Block(b, addresses, distances, (low, high))
        table = b.inttoptr(runs, I64.as_pointer())
        done = b.append_basic_block("done")
        choice = b.switch(b.add(b.mul(vectors, i64(32)), pixels), done)
        for V in range(1, VECTORS + 1):
            for P in range(1, PIXELS[V] + 1):
                case = b.append_basic_block(f"block{V}x{P}")
                choice.add_case(i64(32 * V + P), case)
                b.position_at_end(case)
                emitter.emit(V, P, table, first, last)
                b.branch(done)
        b.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The emitter of blocks; names as in `_block`."""

    def __init__(self, b: Any, addresses: list[Any], sizes: list[Any], bounds: tuple[Any, Any]) -> None:
        self.b, self.simd = b, Simd(b, ir.FloatType())
        self.x, self.w, self.start, self.y, self.residual = addresses
        self.start_sizes, self.y_sizes, self.residual_sizes = sizes[0:2], sizes[2:4], sizes[4:6]
        self.step, self.bounds = sizes[6], bounds

    def emit(self, V: int, P: int, runs: Any, first: Any, last: Any) -> None:
        b, s = self.b, self.simd
        cells = [(v, p) for v in range(V) for p in range(P)]
        sums = {cell: cgutils.alloca_once(b, s.type) for cell in cells}
        with b.if_else(b.icmp_signed("==", b.ptrtoint(self.residual, I64), i64(0))) as (alone, more):
            with alone:
                starts = [s.load(self._place(self.start, self.start_sizes, v, 0)) for v in range(V)]
                for (v, _), total in sums.items():
                    b.store(starts[v], total)
            with more:
                for cell, total in sums.items():
                    start = s.load(self._place(self.start, self.start_sizes, *cell))
                    b.store(b.fadd(start, s.load(self._place(self.residual, self.residual_sizes, *cell))), total)
        weights = cgutils.alloca_once(b, self.w.type)
        b.store(self.w, weights)
        with cgutils.for_range_slice(b, first, last, i64(1), intp=I64) as (run, _):
            entry = b.gep(runs, [b.mul(run, i64(2))])
            x = b.gep(self.x, [b.load(entry)])
            ahead = b.gep(self.x, [b.load(b.gep(entry, [i64(2)]))])
            for p in range(P):
                s.prefetch(b.gep(ahead, [b.mul(self.step, i64(p))]))
            with cgutils.for_range(b, b.load(b.gep(entry, [i64(1)])), intp=I64) as loop:
                pixel = b.gep(x, [loop.index])
                w = b.load(weights)
                if P < V:  # what there are fewer of stays in registers
                    values = [s.splat(b.load(b.gep(pixel, [b.mul(self.step, i64(p))]))) for p in range(P)]
                    for v in range(V):
                        vector = s.load(b.gep(w, [i64(v * s.lanes)]))
                        for p, value in enumerate(values):
                            b.store(s.multiply_add(vector, value, b.load(sums[v, p])), sums[v, p])
                else:
                    vectors = [s.load(b.gep(w, [i64(v * s.lanes)])) for v in range(V)]
                    for p in range(P):
                        value = s.splat(b.load(b.gep(pixel, [b.mul(self.step, i64(p))])))
                        for v, vector in enumerate(vectors):
                            b.store(s.multiply_add(vector, value, b.load(sums[v, p])), sums[v, p])
                b.store(b.gep(w, [i64(V * s.lanes)]), weights)
                channel_end = b.block
            keep_rolled(b, channel_end)
            run_end = b.block
        keep_rolled(b, run_end)
        low, high = map(s.splat, self.bounds)
        for cell, total in sums.items():
            s.store(clip(s, b.load(total), low, high), self._place(self.y, self.y_sizes, *cell))

    def _place(self, address: Any, sizes: list[Any], v: int, p: int) -> Any:
        b = self.b
        return b.gep(address, [b.add(b.mul(sizes[0], i64(v)), b.mul(sizes[1], i64(p)))])


@form
def kernel() -> Any:
    """The compiled loop over blocks.

    Returns:
        A job with the words (x, w, bias, y, residual, parameters, runs, spans, chunks, bias vector, groups, vectors,
        rows, columns, bands, code, x row, x pixel, y plane, y row, y pixel, residual plane, residual row, residual
        pixel): addresses of the first cells, then tables and extents of the output, then distances in elements.
        Residual is 0 if there is none. `runs` has pairs (offset in x, channels that follow each other) and one more:
        pixels are fetched a run ahead; `spans` has, for each block of filters and each chunk of its sum, (first run,
        last run, offset in w); the sums of a chunk wait in y for the next. Filters are in `groups` of as many vectors,
        of which no block has parts of two. The bias has one for each, `bias vector` elements apart (0 if all are one of
        zeros), and a vector of zeros behind them. There are bands · groups · ceil(vectors / VECTORS) tasks.
    """

    @job()
    def dense(at, first, last):
        words = array(at, np.int64)
        x, w, bias, y, residual = words[0], words[1], words[2], words[3], words[4]
        parameters, runs, spans = array(words[5], np.float32), words[6], array(words[7], np.int64)
        chunks, bias_vector, groups, vectors = words[8], words[9], words[10], words[11]
        rows, columns, bands, code = words[12], words[13], words[14], words[15]
        x_row, x_pixel, y_plane, y_row, y_pixel = words[16], words[17], words[18], words[19], words[20]
        r_plane, r_row, r_pixel = words[21], words[22], words[23]
        blocks = (vectors + VECTORS - 1) // VECTORS
        none, every = np.float32(-np.inf), np.float32(np.inf)
        unseen = 0
        for task in range(first, last):
            band, block = divmod(task, groups * blocks)
            group, part = divmod(block, blocks)
            count = min(VECTORS, vectors - part * VECTORS)
            vector = group * vectors + part * VECTORS
            most = PIXELS[count]
            in_row, size, whole = cut(columns, most)
            start, end = rows * in_row * band // bands, rows * in_row * (band + 1) // bands
            for chunk in range(chunks):
                entry = 3 * (block * chunks + chunk)
                first_run, last_run, w_at = spans[entry], spans[entry + 1], w + 4 * spans[entry + 2]
                final = chunk == chunks - 1
                low = parameters[0] if final and code == CLIP else none
                high = parameters[1] if final and code == CLIP else every
                row, place = divmod(start, in_row)
                column = place * size - max(0, place - whole)
                for _ in range(start, end):
                    unseen -= 1
                    if unseen <= 0:
                        if stopped(at):
                            return
                        unseen = 1 + LOOK // (LANES * (last_run - first_run) + 1)
                    pixels = size if place < whole else size - 1
                    y_at = y + 4 * (vector * y_plane + row * y_row + column * y_pixel)
                    other_at, other_plane, other_pixel = 0, 0, 0
                    if chunk != 0:
                        other_at = bias + 4 * groups * vectors * bias_vector  # zeros
                    if residual != 0 and final:
                        other_plane, other_pixel = r_plane, r_pixel
                        other_at = residual + 4 * (vector * r_plane + row * r_row + column * r_pixel)
                    from_at, from_plane, from_pixel = y_at, y_plane, y_pixel
                    if chunk == 0:
                        from_at, from_plane, from_pixel = bias + 4 * vector * bias_vector, bias_vector, 0
                    places = (x + 4 * (row * x_row + column * x_pixel), w_at, from_at, y_at, other_at)
                    sizes = (from_plane, from_pixel, y_plane, y_pixel, other_plane, other_pixel, x_pixel)
                    _block(count, pixels, places, runs, first_run, last_run, sizes, low, high)
                    if final and code != CLIP:
                        for v in range(count):
                            for p in range(pixels):
                                activate(y_at + 4 * (v * y_plane + p * y_pixel), code, parameters[0], parameters[1])
                    place, column = place + 1, column + pixels
                    if place == in_row:
                        row, place, column = row + 1, 0, 0

    return dense.address
