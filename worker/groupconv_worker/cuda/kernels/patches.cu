// The matrix of input patches (im2col), for a part of the output cells of each sample and group: the
// right-hand side of a matrix product that cuBLAS does on tensor cores.
#include "gather.cuh"

namespace groupconv {

// Rows of the matrix a thread fills: its cell's position is worked out once for all of them.
constexpr int PATCH_ROWS = 8;

// `Bits` is an unsigned integer of the element's size: a copy needs no arithmetic, and zero is zero.
template <class Bits, bool Near>
__global__ void __launch_bounds__(256, 3) patches(
    const Bits* __restrict__ x,   // (batch, groups * c, *in)
    const Tap* __restrict__ taps, // (rows,)
    Bits* __restrict__ cols,      // (batch, groups, rows, count): neighbouring threads, neighbouring cells
    const Gather g, const i64 cell0, const i64 count) {
    const i64 tiles = (count + 255) / 256;
    const int bands = static_cast<int>((g.rows + PATCH_ROWS - 1) / PATCH_ROWS);
    i64 block = blockIdx.x;
    const i64 cell = block % tiles * 256 + threadIdx.x;
    block /= tiles;
    const int row0 = static_cast<int>(block % bands) * PATCH_ROWS;
    block /= bands;
    const int group = static_cast<int>(block % g.groups);
    const i64 n = block / g.groups;
    if (cell >= count) return;

    const Phase phase(g, 0);
    const Cell at(phase, cell0 + cell);
    const Bits* const channels = x + n * g.x_batch + static_cast<i64>(group) * g.c * g.in[0] * g.in[1] * g.in[2];
    Bits* const out = cols + (n * g.groups + group) * g.rows * count + cell;
    const Locator<Near> locate(g, at);
    const int last = static_cast<int>(g.rows) - 1;
    decltype(locate(Tap())) places[PATCH_ROWS];
#pragma unroll
    for (int i = 0; i < PATCH_ROWS; ++i) {
        const int row = row0 + i < last ? row0 + i : last;
        places[i] = locate(taps[row]);
    }
    Bits values[PATCH_ROWS];
#pragma unroll
    for (int i = 0; i < PATCH_ROWS; ++i) values[i] = places[i] < 0 ? Bits(0) : channels[places[i]];
#pragma unroll
    for (int i = 0; i < PATCH_ROWS; ++i)
        if (row0 + i <= last) out[(row0 + i) * count] = values[i];
}

}  // namespace groupconv
