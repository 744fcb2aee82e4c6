"""Convolution with the lanes over output channels: for groups of many filters, the dense convolution above all.

A block is V vectors of filters × R rows × P pixels of one group. Each step (one tap, one input channel) loads V
vectors of packed weights and broadcasts R·P pixels, so no lane is lost to a row that is no multiple of the vector.
The input is x itself or a padded copy of it (`kernels.layout.spread`), so that a tap is one offset. The block is
transposed in registers on its way out, where a phase of an up-sampled map leaves room for the others.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from groupconv_worker.cpu.kernels import simd
from groupconv_worker.cpu.kernels.atomic import LOOK, array, job, stopped
from groupconv_worker.cpu.kernels.forms import form
from groupconv_worker.cpu.kernels.simd import I64, Simd, i64, pointer


@intrinsic(prefer_literal=True)
def _block(_context, x, w, bias, y, taps, first, last, size, at, relu, C, V, N, R, P, S, T):
    """Compute one block.

    Args:
        x, w, bias, y: flat arrays.
        taps: flat pairs (offset in x, offset in w) of which `first` to `last` are used.
        size: C/g, distances in x of a channel and of an output row, distances in y of a channel and of a row,
            and how many filters and rows of the block exist.
        at: offsets of the block in x, w, bias and y.
        relu: not 0 to clamp.
        C, V, N, R, P, S, T: literals, as in `kernel`.
    """
    literals = [t.literal_value for t in (C, V, N, R, P, S, T)]
    signature = types.void(x, w, bias, y, taps, first, last, size, at, relu, C, V, N, R, P, S, T)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [pointer(context, builder, t, a) for t, a in zip(signature.args[:5], arguments[:5], strict=True)]
        sizes = cgutils.unpack_tuple(builder, arguments[7])
        places = cgutils.unpack_tuple(builder, arguments[8])
        relu = builder.icmp_signed("!=", arguments[9], i64(0))
        _Block(builder, arrays, sizes, places, literals).emit(arguments[5], arguments[6], relu)
        return context.get_dummy_value()

    return signature, generate


class _Block:
    """The emitter of one block; names as in `_block`."""

    def __init__(self, b: Any, arrays: list[Any], sizes: list[Any], places: list[Any], literals: list[int]) -> None:
        self.b, self.simd = b, Simd(b, arrays[0].type.pointee)
        x, w, bias, y, self.taps = arrays
        self.x, self.w, self.bias, self.y = (b.gep(a, [p]) for a, p in zip((x, w, bias, y), places, strict=True))
        self.channels, self.x_channel, self.x_row, self.y_channel, self.y_row = sizes[:5]
        self.filters, self.rows = sizes[5:]
        self.C, self.V, self.N, self.R, self.P, self.S, self.T = literals

    def emit(self, first: Any, last: Any, relu: Any) -> None:
        if self.N == self.V:
            self._emit(self.V, first, last, relu)
            return
        narrow = self.b.icmp_signed("<=", self.filters, i64(self.N * self.simd.lanes))
        with self.b.if_else(narrow) as (then, otherwise):
            with then:
                self._emit(self.N, first, last, relu)
            with otherwise:
                self._emit(self.V, first, last, relu)

    def _emit(self, count: int, first: Any, last: Any, relu: Any) -> None:
        """A block of `count` vectors of filters."""
        b, simd = self.b, self.simd
        sums = {
            (v, r, p): cgutils.alloca_once_value(b, bias)
            for v, bias in enumerate(self._vectors(self.bias, count))
            for r in range(self.R)
            for p in range(self.P)
        }
        with cgutils.for_range_slice(b, first, last, i64(1), intp=I64) as (tap, _):
            pair = b.mul(tap, i64(2))
            x = b.gep(self.x, [b.load(b.gep(self.taps, [pair]))])
            w = b.gep(self.w, [b.load(b.gep(self.taps, [b.add(pair, i64(1))]))])
            for channel in self._each_channel():
                pixels = b.gep(x, [b.mul(channel, self.x_channel)])
                weights = b.gep(w, [b.mul(channel, i64(self.V * simd.lanes))])
                self._step(pixels, self._vectors(weights, count), sums)
        for v in range(count):
            for r in range(self.R):
                with b.if_then(b.icmp_signed("<", i64(r), self.rows)):
                    self._store(v, r, [simd.relu(b.load(sums[v, r, p]), relu) for p in range(self.P)])

    def _each_channel(self) -> Iterator[Any]:
        """The channels' numbers: one after another in the code if C says how many there are, else of a loop."""
        if self.C:
            yield from map(i64, range(self.C))
        else:
            with cgutils.for_range(self.b, self.channels, intp=I64) as loop:
                yield loop.index

    def _vectors(self, address: Any, count: int) -> list[Any]:
        return [self.simd.load(self.b.gep(address, [i64(v * self.simd.lanes)])) for v in range(count)]

    def _step(self, pixels: Any, vectors: list[Any], sums: Any) -> None:
        """One tap of one input channel: every filter of the block times every pixel."""
        b, simd = self.b, self.simd
        for r in range(self.R):
            row = b.gep(pixels, [b.mul(self.x_row, i64(r))])
            for p in range(self.P):
                pixel = simd.splat(b.load(b.gep(row, [i64(p * self.S)])))
                for v, vector in enumerate(vectors):
                    b.store(simd.multiply_add(vector, pixel, b.load(sums[v, r, p])), sums[v, r, p])

    def _store(self, v: int, r: int, pixels: list[Any]) -> None:
        """P pixels × lanes filters -> lanes rows of P pixels."""
        b = self.b
        for lane, row in enumerate(self.simd.transpose(pixels)):
            m = i64(v * self.simd.lanes + lane)
            with b.if_then(b.icmp_signed("<", m, self.filters)):
                place = b.add(b.mul(m, self.y_channel), b.mul(self.y_row, i64(r)))
                self.simd.store_every(row, b.gep(self.y, [place]), self.T, self.P)


@form
def kernel(dtype: np.dtype, C: int, V: int, N: int, R: int, P: int, Q: int, S: int, T: int) -> Any:
    """The compiled loop over blocks, for one block shape; every kernel size and dilation.

    Args:
        dtype: of all arrays.
        C: channels of a group if they are so few that a loop over them costs more than its steps, else 0.
        V, R, P: vectors of filters, rows and pixels of a block.
        N: vectors of filters that a group's last block has of those.
        Q: pixels of the last blocks of a row: P - 1 of as many as make the row end with a block, or P, where the last
            block overlaps its neighbour.
        S: the stride along a row.
        T: how far apart neighbours of a row are in y: more than 1 for a phase of an up-sampled map.

    Returns:
        A job with the words (x, w, bias, y, taps, starts, entries of starts, *size, relu): x is the input, which
        no tap leaves, w (g, blocks, taps, C/g, V·lanes) and bias (g, blocks, V·lanes) are packed, all flat and of
        `dtype`. The block at row block i and pixel block j uses the taps starts[2·k] to starts[2·k + 1],
        k = i·ceil(W'/P) + j, or k = 0 if there is one pair. size is (C/g, M/g, blocks of filters per group, taps, H',
        W', distances in x of a channel, a group, an output row, distances in y of a channel and a row); W' is at least
        P. There are g · blocks · ceil(H'/R) tasks.
    """
    lanes = simd.lanes(dtype.itemsize)
    block = V * lanes

    @job(dtype, C, V, N, R, P, Q, S, T)
    def filters(at, first, last):
        words = array(at, np.int64)
        x, w, bias, y = array(words[0], dtype), array(words[1], dtype), array(words[2], dtype), array(words[3], dtype)
        taps, starts, shared = array(words[4], np.int64), array(words[5], np.int64), words[6] == 2
        channels, per_group, blocks, tap_count, out_height, out_width = (
            words[7],
            words[8],
            words[9],
            words[10],
            words[11],
            words[12],
        )
        x_channel, x_group, x_row = words[13], words[14], words[15]
        y_channel, y_row, relu = words[16], words[17], words[18]
        row_blocks = (out_height + R - 1) // R
        pixel_blocks = (out_width + P - 1) // P
        whole = pixel_blocks if Q == P else out_width - pixel_blocks * Q  # blocks of P pixels
        unseen = every = 1 + LOOK // (channels * tap_count)
        for task in range(first, last):
            # rows innermost: a block of weights stays in the cache while the map passes
            place, i = divmod(task, row_blocks)
            group, m = divmod(place, blocks)
            row = i * R
            for j in range(pixel_blocks):
                unseen -= 1
                if unseen <= 0:
                    if stopped(at):
                        return
                    unseen = every
                k = 0 if shared else 2 * (i * pixel_blocks + j)
                column = min(j * P, out_width - P) if j < whole else whole * P + (j - whole) * Q
                where = (
                    group * x_group + row * x_row + column * S,
                    place * tap_count * channels * block,
                    place * block,
                    (group * per_group + m * block) * y_channel + row * y_row + column * T,
                )
                there = (min(block, per_group - m * block), min(R, out_height - row))
                extents = (channels, x_channel, x_row, y_channel, y_row, there[0], there[1])
                if Q == P or j < whole:
                    _block(x, w, bias, y, taps, starts[k], starts[k + 1], extents, where, relu, C, V, N, R, P, S, T)
                else:
                    _block(x, w, bias, y, taps, starts[k], starts[k + 1], extents, where, relu, C, V, N, R, Q, S, T)

    return filters.address
