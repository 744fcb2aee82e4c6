// Convolution of a small square kernel, undilated and padded by zeros, as depthwise.cu does it, over any channels
// and filters of a group: a thread owns TW outputs side by side and TH below each other of MB filters. What it loads
// of an input channel serves all of them: (TW + 2) (TH + 2) samples and 9 MB taps for 9 TW TH MB products of a 3 x 3.
// No shared memory and no barrier; rows and taps that neighbours load, too, are in L1. For groups too thin for a
// matrix product: nothing is gathered twice, and no tile is padded.
//
// Where outputs are few, a thread would wait for one channel after the other. Then `splits` threads of a block share the
// channels, and their sums meet in shared memory.
#include "sliding.cuh"

namespace groupconv {

template <class T, int K, int S, int TW, int TH, int MB>
__global__ void __launch_bounds__(128, S == 1 && TW > 1 ? 4 : 3) stencil(
    const T* __restrict__ x,      // (batch, groups * c, *in)
    const float* __restrict__ w,  // (groups, chunks of a group, c, K * K, MB)
    const Epilogue<float> epilogue,
    T* __restrict__ y,            // (batch, groups * m, *out)
    const Sliding s) {
    const int places = blockDim.x / s.splits, place = threadIdx.x % places, split = threadIdx.x / places;
    unsigned thread = blockIdx.x * places + place;
    const bool outside = thread >= s.threads;
    if (outside && s.splits == 1) return;
    if (outside) thread = s.threads - 1;  // goes along to the barrier
    const unsigned line = s.columns.quotient(thread), part = s.strips.quotient(line);
    const int ox = (thread - line * s.columns.divisor) * TW;
    const int oy = (line - part * s.strips.divisor) * TH;
    const unsigned chunk = part - s.chunks.quotient(part) * s.chunks.divisor;  // of all filters
    const unsigned group = s.per_group.quotient(part);                         // of all samples' groups
    const int first = (part - group * s.per_group.divisor) * MB;               // filter of the group
    const int filter = s.per_group.quotient(chunk) * s.m + first;

    typedef Segment<T, K, S, TW> Row;
    constexpr int ROWS = (TH - 1) * S + K;
    const int ix = ox * S - (TW == 1 ? s.padding[1] : 0), iy = oy * S - s.padding[0];
    const unsigned columns = Row::inside(ix, s.in[1]);
    const i64 plane = static_cast<i64>(s.in[0]) * s.in[1];
    const T* channel = x + (static_cast<i64>(group) * s.c + split) * plane + (static_cast<i64>(iy) * s.in[1] + ix);
    const Vec<float, MB>* filters =
        reinterpret_cast<const Vec<float, MB>*>(w) + (static_cast<i64>(chunk) * s.c + split) * (K * K);

    Row rows[ROWS] = {};  // what is outside the map stays zero
    unsigned real = 0;
#pragma unroll
    for (int j = 0; j < ROWS; ++j)
        if (static_cast<unsigned>(iy + j) < static_cast<unsigned>(s.in[0])) real |= columns << j * Row::LOADS;
    float sums[MB][TH * TW];
#pragma unroll
    for (int m = 0; m < MB; ++m) {
        const float bias = split == 0 && epilogue.bias && first + m < s.m ? epilogue.bias[filter + m] : 0;
#pragma unroll
        for (int i = 0; i < TH * TW; ++i) sums[m][i] = bias;
    }
#pragma unroll 1
    for (int c = split; c < s.c; c += s.splits) {
        const T* row = channel;
#pragma unroll
        for (int j = 0; j < ROWS; ++j, row += s.in[1])
            rows[j].reload(row, real >> j * Row::LOADS);
        Vec<float, MB> taps[K * K];
#pragma unroll
        for (int i = 0; i < K * K; ++i) taps[i] = filters[i];
        channel += s.splits * plane, filters += s.splits * (K * K);
#pragma unroll
        for (int j = 0; j < ROWS; ++j) {
            float window[(TW - 1) * S + K];
#pragma unroll
            for (int i = 0; i < (TW - 1) * S + K; ++i) window[i] = widen(rows[j][i]);
#pragma unroll
            for (int r = 0; r < TH; ++r) {
                const int ky = j - r * S;
                if (ky < 0 || ky >= K) continue;  // known when unrolled
#pragma unroll
                for (int kx = 0; kx < K; ++kx)
#pragma unroll
                    for (int m = 0; m < MB; ++m)
#pragma unroll
                        for (int i = 0; i < TW; ++i)
                            sums[m][r * TW + i] += window[i * S + kx] * taps[ky * K + kx].v[m];
            }
        }
    }

    const i64 pitch = static_cast<i64>(s.out[0]) * s.out[1];
    T* const out = y + (static_cast<i64>(group) * s.m + first) * pitch + static_cast<i64>(oy) * s.out[1] + ox;
    if (s.splits == 1) {
#pragma unroll
        for (int m = 0; m < MB; ++m) {
            if (first + m >= s.m) break;
            const float slope = epilogue.slope ? epilogue.slope[(filter + m) * epilogue.slope_step] : 0;
            activate_all(sums[m], epilogue.activation, slope);
            store<TW>(out + m * pitch, sums[m], s.out[1], s.out[0] - oy);
        }
        return;
    }

    // Sum i of every thread lies side by side; a thread adds up those of some outputs, in the order of the channels.
    GROUPCONV_DYNAMIC_SHARED(memory);
    float* const parts = reinterpret_cast<float*>(memory);  // [MB][TH * TW][blockDim.x]
#pragma unroll
    for (int m = 0; m < MB; ++m)
#pragma unroll
        for (int i = 0; i < TH * TW; ++i) parts[(m * TH * TW + i) * blockDim.x + threadIdx.x] = sums[m][i];
    __syncthreads();
    for (int row = split; row < MB * TH; row += s.splits) {
        const int m = row / TH, r = row % TH;
        if (outside || first + m >= s.m || oy + r >= s.out[0]) continue;
        float total[TW] = {};
        for (int k = 0; k < s.splits; ++k)
#pragma unroll
            for (int i = 0; i < TW; ++i) total[i] += parts[(row * TW + i) * blockDim.x + k * places + place];
        const float slope = epilogue.slope ? epilogue.slope[(filter + m) * epilogue.slope_step] : 0;
        activate_all(total, epilogue.activation, slope);
        store<TW>(out + m * pitch + static_cast<i64>(r) * s.out[1], total, s.out[1], 1);
    }
}

}  // namespace groupconv
