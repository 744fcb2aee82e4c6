// Convolution of a small square kernel, undilated and padded by zeros, as depthwise.cu does it, over any channels
// and filters of a group: a thread owns TW outputs side by side and TH below each other of MB filters. What it loads
// of an input channel serves all of them: (TW + 2) (TH + 2) samples and 9 MB taps for 9 TW TH MB products of a 3 x 3.
// No shared memory and no barrier; rows and taps that neighbours load, too, are in L1. For groups too thin for a
// matrix product: nothing is gathered twice, and no tile is padded.
#include "sliding.cuh"

namespace groupconv {

template <class T, int K, int S, int TW, int TH, int MB>
__global__ void __launch_bounds__(128, S == 1 && (TW > 1 || sizeof(T) == 4) ? 4 : 3) stencil(
    const T* __restrict__ x,      // (batch, groups * c, *in)
    const float* __restrict__ w,  // (groups, chunks of a group, c, K * K, MB)
    const Epilogue<float> epilogue,
    T* __restrict__ y,            // (batch, groups * m, *out)
    const Sliding s) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= s.threads) return;
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
    const T* channel = x + static_cast<i64>(group) * s.c * plane + (static_cast<i64>(iy) * s.in[1] + ix);
    const Vec<float, MB>* filters =
        reinterpret_cast<const Vec<float, MB>*>(w) + static_cast<i64>(chunk) * s.c * (K * K);

    Row rows[ROWS] = {};  // what is outside the map stays zero
    unsigned real = 0;
#pragma unroll
    for (int j = 0; j < ROWS; ++j)
        if (static_cast<unsigned>(iy + j) < static_cast<unsigned>(s.in[0])) real |= columns << j * Row::LOADS;
    float sums[MB][TH * TW];
#pragma unroll
    for (int m = 0; m < MB; ++m) {
        const float bias = epilogue.bias && first + m < s.m ? epilogue.bias[filter + m] : 0;
#pragma unroll
        for (int i = 0; i < TH * TW; ++i) sums[m][i] = bias;
    }
#pragma unroll 1
    for (int c = 0; c < s.c; ++c) {
        const T* row = channel;
#pragma unroll
        for (int j = 0; j < ROWS; ++j, row += s.in[1])
            rows[j].reload(row, real >> j * Row::LOADS);
        Vec<float, MB> taps[K * K];
#pragma unroll
        for (int i = 0; i < K * K; ++i) taps[i] = filters[i];
        channel += plane, filters += K * K;
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

    T* out = y + ((static_cast<i64>(group) * s.m + first) * s.out[0] + oy) * s.out[1] + ox;
#pragma unroll
    for (int m = 0; m < MB; ++m, out += static_cast<i64>(s.out[0]) * s.out[1]) {
        if (first + m >= s.m) break;
        const float slope = epilogue.slope ? epilogue.slope[(filter + m) * epilogue.slope_step] : 0;
        activate_all(sums[m], epilogue.activation, slope);
        store<TW>(out, sums[m], s.out[1], s.out[0] - oy);
    }
}

}  // namespace groupconv
