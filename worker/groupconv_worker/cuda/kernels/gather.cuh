// How a convolution of any kind finds its input: the one place where strides, dilations, padding
// modes and transposition become an index.
//
// Per axis, output cell o = phase + j * out_step reads input cell i = j * in_step + tap. A plain
// convolution has one phase: in_step is the stride, out_step is 1 and tap = k * dilation - padding.
// A transposed one is `stride` phases of a convolution of stride 1: in phase r only the kernel taps k
// with (r + padding - k * dilation) divisible by the stride reach the output, at
// tap = (r + padding - k * dilation) / stride. Every kernel tap belongs to exactly one phase, so no
// multiplication by an inserted zero is made and no two threads ever add to one output.
#pragma once

#include "types.cuh"

namespace groupconv {

enum PaddingMode { ZEROS, REFLECT, REPLICATE, CIRCULAR };

// One row of the reduction: a channel of the group (see Locator) and where its tap lies. 16 bytes, one load.
struct alignas(16) Tap { int c, z, y, x; };

// Mirrored by GATHER in cuda/arguments.py. Axes are depth, height, width;
// a convolution of lower rank has leading extents of 1.
struct Gather {
    i64 x_batch, y_batch;    // elements from one sample to the next: slices of channels need no copy
    i64 rows;                // reduction length over all phases, the row count of the packed weights
    int batch, groups, c, m; // c and m per group
    int in[3], out[3];
    int in_step[3], out_step[3];
    int padding_mode;
    int phases;
    int m_pitch;             // m rounded up to a whole vector: the row length of the packed weights
};

// The outputs of one phase. Cells are counted row by row over the whole batch, so that a small map
// still fills a tile.
struct Phase {
    int origin[3], extent[3];
    i64 plane, cells;

    __device__ __forceinline__ Phase(const Gather& g, int index) {
        for (int axis = 2; axis >= 0; --axis) {
            // A stride wider than the output has no more phases than there are outputs.
            const int phases = g.out_step[axis] < g.out[axis] ? g.out_step[axis] : g.out[axis];
            origin[axis] = index % phases;
            index /= phases;
            extent[axis] = (g.out[axis] - origin[axis] - 1) / g.out_step[axis] + 1;
        }
        plane = static_cast<i64>(extent[0]) * extent[1] * extent[2];
        cells = plane * g.batch;
    }
};

// One cell of a phase, as sample and position.
struct Cell {
    int n, z, y, x;

    __device__ __forceinline__ Cell(const Phase& p, i64 index) {
        n = static_cast<int>(index / p.plane);
        i64 rest = index - n * p.plane;
        const i64 row = rest / p.extent[2];
        x = static_cast<int>(rest - row * p.extent[2]);
        z = static_cast<int>(row / p.extent[1]);
        y = static_cast<int>(row - static_cast<i64>(z) * p.extent[1]);
    }

    // Offset within a sample's channel of the output that the cell writes.
    __device__ __forceinline__ i64 output(const Gather& g, const Phase& p) const {
        const i64 row = static_cast<i64>(p.origin[0] + z * g.out_step[0]) * g.out[1] + p.origin[1] + y * g.out_step[1];
        return row * g.out[2] + p.origin[2] + x * g.out_step[2];
    }
};

// Where padding puts index i, or -1 for a zero. Reflection and wrapping turn once: a specification
// with wider padding than that is refused before it comes here.
__device__ __forceinline__ int place(int i, int extent, int mode) {
    // One unsigned comparison checks both ends.
    if (static_cast<unsigned>(i) < static_cast<unsigned>(extent)) return i;
    if (mode == ZEROS) return -1;
    if (mode == REPLICATE) return i < 0 ? 0 : extent - 1;
    if (mode == CIRCULAR) return i < 0 ? i + extent : i - extent;
    return i < 0 ? -i : 2 * (extent - 1) - i;
}

// Where the taps of a cell lie among the channels of its group, or -1 for a zero. Without branches: the caller works out
// several before it loads from the first, so that the loads overlap.
//
// Near: padding by zeros, and 32 bits are enough; a tap's `c` is then how far it lies from the cell, channel and all
// (is_near and device_taps in cuda/arguments.py). It is the common case, and an index costs a third of the instructions.
template <bool Near> struct Locator {
    const Gather& g;
    const int z, y, x, base;

    __device__ __forceinline__ Locator(const Gather& g, const Cell& cell)
        : g(g), z(cell.z * g.in_step[0]), y(cell.y * g.in_step[1]), x(cell.x * g.in_step[2]),
          base(Near ? (z * g.in[1] + y) * g.in[2] + x : 0) {}

    __device__ __forceinline__ auto operator()(Tap tap) const {
        if constexpr (Near) {
            const bool inside = static_cast<unsigned>(z + tap.z) < static_cast<unsigned>(g.in[0]) &
                                static_cast<unsigned>(y + tap.y) < static_cast<unsigned>(g.in[1]) &
                                static_cast<unsigned>(x + tap.x) < static_cast<unsigned>(g.in[2]);
            return inside ? base + tap.c : -1;
        } else {
            const int iz = place(z + tap.z, g.in[0], g.padding_mode);
            const int iy = place(y + tap.y, g.in[1], g.padding_mode);
            const int ix = place(x + tap.x, g.in[2], g.padding_mode);
            // 64 bits all the way: one 46k x 46k plane, let alone a tensor, has more than 2^31 elements.
            const i64 row = (static_cast<i64>(tap.c) * g.in[0] + iz) * g.in[1] + iy;
            return (iz | iy | ix) < 0 ? -1 : row * g.in[2] + ix;
        }
    }
};

}  // namespace groupconv
