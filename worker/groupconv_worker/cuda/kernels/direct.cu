// Direct convolution as an implicit GEMM: the matrix of input patches is never stored, its tiles are
// gathered into shared memory when they are needed. Takes every parameter, plain and transposed
// (gather.cuh), sums every output in one fixed order.
//
// Per group and phase:  y (m, cells) = w (m, rows) @ patches (rows, cells),  rows = (channel, tap).
// A block computes BM filters x BN cells; a thread computes TM x TN of them in registers.
//
// Where that makes too few blocks to fill the device, each takes some of the rows and leaves its sums in
// `partial`, and `combine` (finish.cu) adds them up, first to last.
#include "epilogue.cuh"
#include "gather.cuh"

namespace groupconv {

// Grid: one dimension (only x takes more than 65,535 blocks). Tiles of filters turn fastest, so that
// the blocks at work together read the same input and find it in L2; then cells, groups, phases, splits.
template <class T, class W, class Out, int BM, int BN, int BK, int TM, int TN, bool Near>
__global__ void __launch_bounds__((BM / TM) * (BN / TN), sizeof(typename Sum<T>::type) == 8 ? 1 : 2) direct(
    const T* __restrict__ x,        // (batch, groups * c, *in)
    const W* __restrict__ w,        // (groups, rows, m_pitch): filters last, so that loads coalesce
    const Tap* __restrict__ taps,   // (rows,)
    const int* __restrict__ starts, // (phases + 1,): first row of each phase
    const Epilogue<typename Sum<T>::type> epilogue,
    Out* __restrict__ y,            // (batch, groups * m, *out)
    typename Sum<T>::type* __restrict__ partial,  // (splits, batch, groups * m, *out) where splits > 1
    const int splits, const Gather g) {
    typedef typename Sum<T>::type A;
    constexpr int THREADS = (BM / TM) * (BN / TN);
    constexpr int WIDE = 16 / sizeof(W);  // weights per 16-byte load
    constexpr int QUAD = 4;               // neighbouring outputs of a thread
    constexpr int W_LOADS = (BM * BK / WIDE + THREADS - 1) / THREADS;
    constexpr int X_ROWS = THREADS / BN;  // rows of the patch tile filled in one sweep of the block
    constexpr int X_LOADS = BK / X_ROWS;
    static_assert(THREADS % BN == 0 && BK % X_ROWS == 0 && BM % WIDE == 0, "tile does not fit the block");
    static_assert(TM % QUAD == 0 && TN % QUAD == 0, "threads own quads of outputs");

    // Two buffers: the next tile is written while the present one is read, so one barrier per tile is
    // enough. No conflicts: both are written by neighbouring threads to neighbouring words; in the
    // inner loop a warp reads whole consecutive quads of x_tile and the same few quads of w_tile
    // (a broadcast).
    alignas(16) __shared__ A memory[2 * BK * (BM + BN)];
    A(*const w_tile)[BK][BM] = reinterpret_cast<A(*)[BK][BM]>(memory);
    A(*const x_tile)[BK][BN] = reinterpret_cast<A(*)[BK][BN]>(memory + 2 * BK * BM);

    const int thread = threadIdx.x;
    const int m_tiles = (g.m + BM - 1) / BM;
    // The first phase has the most cells; the blocks a smaller phase does not need return at once.
    const i64 cell_tiles = (Phase(g, 0).cells + BN - 1) / BN;
    i64 block = blockIdx.x;
    const int m0 = static_cast<int>(block % m_tiles) * BM;
    block /= m_tiles;
    const i64 cell0 = block % cell_tiles * BN;
    block /= cell_tiles;
    const int group = static_cast<int>(block % g.groups);
    block /= g.groups;
    const int phase_index = static_cast<int>(block % g.phases);
    const int split = static_cast<int>(block / g.phases);
    const Phase phase(g, phase_index);
    if (cell0 >= phase.cells) return;

    const int begin = starts[phase_index], end = starts[phase_index + 1];
    const int share = ((end - begin + splits - 1) / splits + BK - 1) / BK * BK;  // the last ones may have less, or none
    const i64 skipped = static_cast<i64>(split) * share;
    const int first = skipped < end - begin ? begin + static_cast<int>(skipped) : end;
    const int rows = end - first < share ? end - first : share;
    const W* const weights = w + (group * g.rows + first) * g.m_pitch + m0;
    taps += first;

    // A thread gathers always for the same cell, so its position is worked out once.
    const int x_col = thread % BN;
    const int x_row = thread / BN;
    const bool inside = cell0 + x_col < phase.cells;
    const Cell cell(phase, inside ? cell0 + x_col : 0);
    const T* const channels =
        x + cell.n * g.x_batch + static_cast<i64>(group) * g.c * g.in[0] * g.in[1] * g.in[2];
    const Locator<Near> locate(g, cell);

    Vec<W, WIDE> w_next[W_LOADS];
    T x_next[X_LOADS];

    auto load = [&](int row0) {
#pragma unroll
        for (int i = 0; i < W_LOADS; ++i) {
            const int item = thread + i * THREADS;
            const int row = row0 + item / (BM / WIDE), m = item % (BM / WIDE) * WIDE;
            w_next[i] = Vec<W, WIDE>();
            if (item < BM * BK / WIDE && row < rows && m0 + m < g.m_pitch)
                w_next[i] = *reinterpret_cast<const Vec<W, WIDE>*>(weights + static_cast<i64>(row) * g.m_pitch + m);
        }
        decltype(locate(Tap())) places[X_LOADS];
#pragma unroll
        for (int i = 0; i < X_LOADS; ++i) {
            const int row = row0 + x_row + i * X_ROWS;
            places[i] = locate(taps[row < rows ? row : rows - 1]);
            if (!inside || row >= rows) places[i] = -1;
        }
#pragma unroll
        for (int i = 0; i < X_LOADS; ++i) x_next[i] = places[i] < 0 ? T() : channels[places[i]];
    };
    auto store = [&](int buffer) {
#pragma unroll
        for (int i = 0; i < W_LOADS; ++i) {
            const int item = thread + i * THREADS;
            if (item < BM * BK / WIDE)
#pragma unroll
                for (int v = 0; v < WIDE; ++v)
                    w_tile[buffer][item / (BM / WIDE)][item % (BM / WIDE) * WIDE + v] = widen(w_next[i].v[v]);
        }
#pragma unroll
        for (int i = 0; i < X_LOADS; ++i) x_tile[buffer][x_row + i * X_ROWS][x_col] = widen(x_next[i]);
    };

    // Quad q of a thread lies q * (block width / QUAD quads) further on, not next to the last one:
    // side by side, lanes would read 32 bytes apart and meet in the same banks.
    constexpr int COLS = BN / TN, LINES = BM / TM;
    const int col = thread % COLS * QUAD;
    const int line = thread / COLS * QUAD;
    A sum[TM][TN] = {};

    if (rows > 0) {
        load(0);
        store(0);
        __syncthreads();
    }
    for (int row0 = 0, buffer = 0; row0 < rows; row0 += BK, buffer ^= 1) {
        const bool more = row0 + BK < rows;
        if (more) load(row0 + BK);  // in flight while the sums below are made
#pragma unroll
        for (int k = 0; k < BK; ++k) {
            Vec<A, QUAD> a[TM / QUAD], b[TN / QUAD];
#pragma unroll
            for (int q = 0; q < TM / QUAD; ++q)
                a[q] = *reinterpret_cast<const Vec<A, QUAD>*>(&w_tile[buffer][k][line + q * LINES * QUAD]);
#pragma unroll
            for (int q = 0; q < TN / QUAD; ++q)
                b[q] = *reinterpret_cast<const Vec<A, QUAD>*>(&x_tile[buffer][k][col + q * COLS * QUAD]);
#pragma unroll
            for (int i = 0; i < TM; ++i)
#pragma unroll
                for (int j = 0; j < TN; ++j) sum[i][j] += a[i / QUAD].v[i % QUAD] * b[j / QUAD].v[j % QUAD];
        }
        if (more) {
            store(buffer ^ 1);
            __syncthreads();
        }
    }

    // The sums go through shared memory once more, one line of filters at a time, so that neighbouring
    // threads store neighbouring cells whatever the output looks like. A thread meets again the cell it
    // gathered for. Two lines in turn: one barrier each.
    A(*const lines)[LINES][BN] = reinterpret_cast<A(*)[LINES][BN]>(memory);
    static_assert(2 * LINES * BN <= 2 * BK * (BM + BN), "the lines must fit the tiles' memory");
    const i64 plane = static_cast<i64>(g.out[0]) * g.out[1] * g.out[2];
    const i64 place = cell.n * g.y_batch + cell.output(g, phase);
    Out* const out = y + place;
    A* const sums = partial + split * g.batch * g.y_batch + place;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TM; ++i) {
#pragma unroll
        for (int q = 0; q < TN / QUAD; ++q) {
            Vec<A, QUAD> four;
#pragma unroll
            for (int j = 0; j < QUAD; ++j) four.v[j] = sum[i][q * QUAD + j];
            *reinterpret_cast<Vec<A, QUAD>*>(&lines[i % 2][line / QUAD][col + q * COLS * QUAD]) = four;
        }
        __syncthreads();
        const int m1 = m0 + i / QUAD * LINES * QUAD + i % QUAD;
#pragma unroll 1
        for (int r = x_row; r < LINES; r += X_ROWS) {
            const int m = m1 + r * QUAD;
            if (!inside || m >= g.m) continue;
            const i64 at = (group * g.m + m) * plane;
            if (splits > 1)
                sums[at] = lines[i % 2][r][x_col];
            else
                out[at] = narrow<Out>(finish(lines[i % 2][r][x_col], epilogue, group * g.m + m));
        }
    }
}

}  // namespace groupconv
