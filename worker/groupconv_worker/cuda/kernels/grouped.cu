// Depthwise and thin grouped convolution: few channels per group, so there is no matrix worth tiling and
// the work is bound by memory. A block owns a tile of outputs of a few groups; every input sample and
// every weight it needs is read from global memory once, into shared memory.
//
// K, S: extent and stride when kernel and stride are square and undilated (the loops unroll and the
// window slides in registers); 0 for any. MB: filters of the group summed at once. R: outputs of a
// thread, one below the other: a row of input in registers serves up to K of them.
#include "epilogue.cuh"
#include "gather.cuh"

namespace groupconv {

// Mirrored by GROUPING in cuda/records.py, where the launch is worked out.
struct Grouping {
    int kernel[3], dilation[3], padding[3];  // padding before the first sample
    int lanes, strips, groups;               // a block: lanes x strips threads for each of `groups` groups
    int tiles_x, tiles_y, filter_chunks, group_blocks;
    int rows, cols;                          // of the input tile
    // Shared memory, in elements. A thread's bank is its lane number: columns of equal parity (in general
    // of equal remainder by the stride) lie together, so that threads `stride` columns apart read
    // neighbouring words; and the distances between strips and between groups are padded to
    // `lanes` and `lanes x strips` modulo the 32 banks.
    int parity, pitch, plane;
};

// Rows that a warp loads at once.
constexpr int LINES = 4;

// Elements of one load: two of 16 bits, wherever a row begins. More would meet in the same banks when they are stored.
template <class T> constexpr int PAIR = sizeof(T) == 2 ? 2 : 1;

// The launch bounds ask for as many blocks per multiprocessor as fit without spilling: what hides the latency
// of memory here is other warps.
template <class T, int K, int S, int MB, int R>
__global__ void __launch_bounds__(256, MB == 1 && sizeof(typename Sum<T>::type) == 4 ? (K == 7 ? 2 : 3) : 2) grouped(
    const T* __restrict__ x,  // (batch, groups * c, *in)
    const T* __restrict__ w,  // (groups, filter_chunks, c, *kernel, MB)
    const Epilogue<typename Sum<T>::type> epilogue,
    T* __restrict__ y,        // (batch, groups * m, *out)
    const Gather g, const Grouping t) {
    typedef typename Sum<T>::type A;
    const int stride_y = S ? S : g.in_step[1], stride_x = S ? S : g.in_step[2];
    const int ky_end = K ? K : t.kernel[1], kx_end = K ? K : t.kernel[2];
    const int taps = ky_end * kx_end;

    // Two buffers: one plane of input is loaded while the last one is used, one barrier per plane.
    GROUPCONV_DYNAMIC_SHARED(memory);
    A* const tiles = reinterpret_cast<A*>(memory);  // [2][groups][plane]
    const int planes = g.c * t.kernel[0];
    const int buffers = planes > 1 ? 2 : 1;
    A* const filters = tiles + buffers * t.groups * t.plane;  // [2][groups][taps][MB]

    int block = blockIdx.x;  // fewer than 2^31: in 64 bits, these divisions took longer than the sums
    const int x0 = block % t.tiles_x * t.lanes;
    block /= t.tiles_x;
    const int y0 = block % t.tiles_y * t.strips * R;
    block /= t.tiles_y;
    const int z0 = block % g.out[0];
    block /= g.out[0];
    const int chunk = block % t.filter_chunks;
    block /= t.filter_chunks;
    const int group0 = block % t.group_blocks * t.groups;
    const int n = block / t.group_blocks;

    const int thread = threadIdx.x;
    const int lane = thread % t.lanes;
    const int strip = thread / t.lanes % t.strips;
    const int local = thread / (t.lanes * t.strips);  // threads that round a warp up have none: they only load

    constexpr int WIDE = PAIR<T>;
    [[maybe_unused]] const i64 odd = static_cast<i64>(reinterpret_cast<unsigned long long>(x) / sizeof(T) & 1);

    auto stage = [&](int index, int buffer) {
        const int c = index / t.kernel[0], kz = index % t.kernel[0];
        const int z = place(z0 * g.in_step[0] + kz * t.dilation[0] - t.padding[0], g.in[0], g.padding_mode);
        // A warp takes rows: its loads are consecutive, and several are on their way before the first is stored.
        const int warps = blockDim.x / 32, lines = t.groups * t.rows;
        for (int line0 = thread / 32; line0 < lines; line0 += warps * LINES) {
            i64 source[LINES];
            int target[LINES];
#pragma unroll
            for (int i = 0; i < LINES; ++i) {
                const int line = line0 + i * warps, slot = line / t.rows, row = line - slot * t.rows, group = group0 + slot;
                const int iy = place(y0 * stride_y + row - t.padding[1], g.in[1], g.padding_mode);
                const bool real = line < lines && group < g.groups && z >= 0 && iy >= 0;
                const i64 channel = static_cast<i64>(group) * g.c + c;
                source[i] = real ? n * g.x_batch + ((channel * g.in[0] + z) * g.in[1] + iy) * g.in[2] : -1;
                target[i] = line < lines ? (buffer * t.groups + slot) * t.plane + row * t.pitch : -1;
            }
            if constexpr (WIDE == 1) {
                for (int col = thread % 32; col < t.cols; col += 32) {
                    const int ix = place(x0 * stride_x + col - t.padding[2], g.in[2], g.padding_mode);
                    T values[LINES];
#pragma unroll
                    for (int i = 0; i < LINES; ++i) values[i] = source[i] >= 0 && ix >= 0 ? x[source[i] + ix] : T();
#pragma unroll
                    for (int i = 0; i < LINES; ++i)
                        if (target[i] >= 0) tiles[target[i] + col % stride_x * t.parity + col / stride_x] = widen(values[i]);
                }
            } else {
                int before[LINES];  // columns before the tile, so that every load is aligned
#pragma unroll
                for (int i = 0; i < LINES; ++i)
                    before[i] = static_cast<int>((odd + source[i] + x0 * stride_x - t.padding[2]) & 1);
                for (int first = thread % 32 * WIDE; first < t.cols + WIDE - 1; first += 32 * WIDE) {
                    Vec<T, WIDE> values[LINES] = {};
#pragma unroll
                    for (int i = 0; i < LINES; ++i) {
                        const int col = first - before[i], ix = x0 * stride_x + col - t.padding[2];
                        if (source[i] >= 0 && ix >= 0 && ix <= g.in[2] - WIDE) {
                            values[i] = *reinterpret_cast<const Vec<T, WIDE>*>(x + source[i] + ix);
                            continue;
                        }
#pragma unroll
                        for (int k = 0; k < WIDE; ++k) {
                            const int at = place(ix + k, g.in[2], g.padding_mode);
                            if (source[i] >= 0 && col + k >= 0 && col + k < t.cols && at >= 0)
                                values[i].v[k] = x[source[i] + at];
                        }
                    }
#pragma unroll
                    for (int i = 0; i < LINES; ++i)
#pragma unroll
                        for (int k = 0; k < WIDE; ++k) {
                            const int col = first - before[i] + k;
                            if (target[i] >= 0 && col >= 0 && col < t.cols)
                                tiles[target[i] + col % stride_x * t.parity + col / stride_x] = widen(values[i].v[k]);
                        }
                }
            }
        }
        constexpr int TAPS = WIDE == 1 ? 1 : MB;  // of one load: those of a tap lie side by side
        const int per_group = taps * MB;
        for (int i = thread * TAPS; i < t.groups * per_group; i += blockDim.x * TAPS) {
            const int group = group0 + i / per_group;
            const i64 from = ((static_cast<i64>(group) * t.filter_chunks + chunk) * planes + index) * per_group;
            A* const to = filters + buffer * t.groups * per_group + i;
            if constexpr (TAPS == 1) {
                *to = group < g.groups ? widen(w[from + i % per_group]) : A(0);
            } else {
                Vec<T, TAPS> some = {};
                if (group < g.groups) some = *reinterpret_cast<const Vec<T, TAPS>*>(w + from + i % per_group);
#pragma unroll
                for (int k = 0; k < TAPS; ++k) to[k] = widen(some.v[k]);
            }
        }
    };

    A sum[R][MB] = {};
    stage(0, 0);
    __syncthreads();
    for (int index = 0, buffer = 0; index < planes; ++index, buffer ^= 1) {
        const bool more = index + 1 < planes;
        if (more) stage(index + 1, buffer ^ 1);
        if (local < t.groups) {
            const A* const tile = tiles + (buffer * t.groups + local) * t.plane + strip * R * stride_y * t.pitch + lane;
            const A* const filter = filters + (buffer * t.groups + local) * taps * MB;
            if (K) {
#pragma unroll
                for (int j = 0; j < (R - 1) * S + K; ++j) {
                    A window[K ? K : 1];
#pragma unroll
                    for (int kx = 0; kx < K; ++kx) window[kx] = tile[j * t.pitch + kx % (S ? S : 1) * t.parity + kx / (S ? S : 1)];
#pragma unroll
                    for (int r = 0; r < R; ++r) {
                        const int ky = j - r * S;
                        if (ky < 0 || ky >= K) continue;  // known when unrolled
#pragma unroll
                        for (int kx = 0; kx < K; ++kx)
#pragma unroll
                            for (int m = 0; m < MB; ++m) sum[r][m] += window[kx] * filter[(ky * K + kx) * MB + m];
                    }
                }
            } else {
                for (int ky = 0; ky < ky_end; ++ky)
                    for (int kx = 0; kx < kx_end; ++kx) {
                        const int col = kx * t.dilation[2];
                        const A* const cell = tile + ky * t.dilation[1] * t.pitch + col % stride_x * t.parity + col / stride_x;
#pragma unroll
                        for (int r = 0; r < R; ++r)
#pragma unroll
                            for (int m = 0; m < MB; ++m)
                                sum[r][m] += cell[r * stride_y * t.pitch] * filter[(ky * kx_end + kx) * MB + m];
                    }
            }
        }
        if (more) __syncthreads();
    }

    const int group = group0 + local, ox = x0 + lane;
    if (local >= t.groups || group >= g.groups || ox >= g.out[2]) return;
#pragma unroll
    for (int m = 0; m < MB; ++m) {
        const int filter = group * g.m + chunk * MB + m;
        if (chunk * MB + m >= g.m) break;
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const int oy = y0 + strip * R + r;
            if (oy >= g.out[1]) break;
            const i64 row = (static_cast<i64>(filter) * g.out[0] + z0) * g.out[1] + oy;
            y[n * g.y_batch + row * g.out[2] + ox] = narrow<T>(finish(sum[r][m], epilogue, filter));
        }
    }
}

}  // namespace groupconv
