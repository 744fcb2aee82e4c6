// Depthwise convolution: an output plane has one channel and one filter; padding by zeros, no dilation. There is so
// little arithmetic that what counts is how many bytes are on their way at any time. Hence no shared memory and
// no barrier to wait at: a thread owns TW outputs side by side and TH below each other, slides down the input
// rows they need, and has several rows in flight before it uses the first. What its neighbours load, too, is in L1.
//
// K, S: extent and stride. TW: 1 for any map; 2 or 4 with loads and stores of whole vectors, where cuda/sliding.py
// finds that rows are made of them.
#include "sliding.cuh"

namespace groupconv {

// Registers of the rows in flight. More leave fewer threads, and as many bytes under way.
constexpr int FLIGHT = 48;

template <class T, int K, int S, int TW, int TH>
__global__ void __launch_bounds__(128, K == 3 ? (S == 1 ? 8 : 6) : K == 5 ? 4 : 3) depthwise(
    const T* __restrict__ x,      // (batch, channels / filters, *in)
    const float* __restrict__ w,  // (channels, K * K filled up to whole vectors)
    const Epilogue<float> epilogue,
    T* __restrict__ y,            // (batch, channels, *out)
    const Sliding s) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= s.threads) return;
    const unsigned line = s.columns.quotient(thread), plane = s.strips.quotient(line);
    const int ox = (thread - line * s.columns.divisor) * TW;
    const int oy = (line - plane * s.strips.divisor) * TH;
    const int channel = plane - s.chunks.quotient(plane) * s.chunks.divisor;

    typedef Segment<T, K, S, TW> Row;
    constexpr int ROWS = (TH - 1) * S + K;
    constexpr int AHEAD = FLIGHT / Row::REGISTERS < ROWS ? FLIGHT / Row::REGISTERS : ROWS;
    const int ix = ox * S - (TW == 1 ? s.padding[1] : 0), iy = oy * S - s.padding[0];
    const unsigned columns = Row::inside(ix, s.in[1]);
    i64 at = (static_cast<i64>(s.per_group.quotient(plane)) * s.in[0] + iy) * s.in[1] + ix;
    Row rows[AHEAD];
    auto load = [&](int j) {
        rows[j % AHEAD].load(x + at, static_cast<unsigned>(iy + j) < static_cast<unsigned>(s.in[0]), columns);
        at += s.in[1];
    };
#pragma unroll
    for (int j = 0; j < AHEAD; ++j) load(j);

    constexpr int TAPS = (K * K + 3) / 4;
    Vec<float, 4> taps[TAPS];
#pragma unroll
    for (int i = 0; i < TAPS; ++i) taps[i] = reinterpret_cast<const Vec<float, 4>*>(w)[channel * TAPS + i];
    // Bias and slope are on their way with the rest: asked for at the end, they would be waited for once more.
    const float bias = epilogue.bias ? epilogue.bias[channel] : 0;
    const float slope = epilogue.slope ? epilogue.slope[channel * epilogue.slope_step] : 0;

    float sums[TH * TW];
#pragma unroll
    for (int i = 0; i < TH * TW; ++i) sums[i] = bias;
#pragma unroll
    for (int j = 0; j < ROWS; ++j) {
        float window[(TW - 1) * S + K];
#pragma unroll
        for (int i = 0; i < (TW - 1) * S + K; ++i) window[i] = widen(rows[j % AHEAD][i]);
        if (j + AHEAD < ROWS) load(j + AHEAD);
#pragma unroll
        for (int r = 0; r < TH; ++r) {
            const int ky = j - r * S;
            if (ky < 0 || ky >= K) continue;  // known when unrolled
#pragma unroll
            for (int kx = 0; kx < K; ++kx) {
                const int tap = ky * K + kx;
#pragma unroll
                for (int c = 0; c < TW; ++c) sums[r * TW + c] += window[c * S + kx] * taps[tap / 4].v[tap % 4];
            }
        }
    }
    activate_all(sums, epilogue.activation, slope);

    store<TW>(y + (static_cast<i64>(plane) * s.out[0] + oy) * s.out[1] + ox, sums, s.out[1], s.out[0] - oy);
}

}  // namespace groupconv
