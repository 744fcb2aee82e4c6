// Depthwise convolution: an output plane has one channel and one filter; padding by zeros, no dilation. There is so
// little arithmetic that what counts is how many bytes are on their way at any time. Hence no shared memory and
// no barrier to wait at: a thread owns TW outputs side by side and TH below each other, slides down the input
// rows they need, and has several rows in flight before it uses the first. What its neighbours load, too, is in L1.
//
// K, S: extent and stride. TW: 1 for any map; 4 with loads and stores of whole vectors, where cuda/sliding.py finds
// that rows are made of them.
#include "epilogue.cuh"

namespace groupconv {

// n / divisor = n * multiplier / 2^shift for n < 2^31, in three instructions where `/` takes twenty.
// Source: Granlund and Montgomery, Division by Invariant Integers using Multiplication, 1994, theorem 4.2.
struct Divisor {
    unsigned divisor, multiplier;
    int shift;

    __device__ __forceinline__ unsigned quotient(unsigned n) const {
        return static_cast<unsigned>(static_cast<unsigned long long>(n) * multiplier >> shift);
    }
};

// Mirrored by SLIDING in cuda/sliding.py, where the launch is worked out.
struct Sliding {
    Divisor columns, strips;     // threads side by side and below each other on a plane
    Divisor channels, filters;   // of y; per channel of x
    unsigned threads;
    int in[2], out[2], padding[2];  // padding before the first row and column
};

// What a thread needs of an input row, as it lies in memory: the TW * S columns above its outputs and those
// left and right of them that the kernel reaches, in one load each.
template <class T, int K, int S, int TW> struct Segment {
    static constexpr int BEFORE = K / 2, AFTER = K - BEFORE - S;
    static constexpr int LEFT = BEFORE == 3 ? 4 : BEFORE, RIGHT = AFTER == 3 ? 4 : AFTER ? AFTER : 1;
    static constexpr int REGISTERS = LEFT + TW * S + RIGHT;
    Vec<T, LEFT> left;
    Vec<T, TW * S> middle;
    Vec<T, RIGHT> right;

    // Bits of `columns`: whether left and right are inside the map.
    static __device__ __forceinline__ unsigned inside(int x, int extent) {
        return (x > 0 ? 1u : 0u) | (x + TW * S < extent ? 2u : 0u);
    }

    __device__ __forceinline__ void load(const T* row, bool real, unsigned columns) {
        left = Vec<T, LEFT>(), middle = Vec<T, TW * S>(), right = Vec<T, RIGHT>();
        if (real && columns & 1) left = *reinterpret_cast<const Vec<T, LEFT>*>(row - LEFT);
        if (real) middle = *reinterpret_cast<const Vec<T, TW * S>*>(row);
        if (AFTER && real && columns & 2) right = *reinterpret_cast<const Vec<T, RIGHT>*>(row + TW * S);
    }

    __device__ __forceinline__ T operator[](int i) const {
        if (i < BEFORE) return left.v[LEFT - BEFORE + i];
        return i < BEFORE + TW * S ? middle.v[i - BEFORE] : right.v[i - BEFORE - TW * S];
    }
};

template <class T, int K, int S> struct Segment<T, K, S, 1> {
    static constexpr int REGISTERS = K;
    T column[K];

    static __device__ __forceinline__ unsigned inside(int x, int extent) {
        unsigned columns = 0;
#pragma unroll
        for (int i = 0; i < K; ++i) columns |= static_cast<unsigned>(x + i) < static_cast<unsigned>(extent) ? 1u << i : 0u;
        return columns;
    }

    __device__ __forceinline__ void load(const T* row, bool real, unsigned columns) {
#pragma unroll
        for (int i = 0; i < K; ++i) column[i] = real && columns >> i & 1 ? row[i] : T();
    }

    __device__ __forceinline__ T operator[](int i) const { return column[i]; }
};

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
    const int channel = plane - s.channels.quotient(plane) * s.channels.divisor;

    typedef Segment<T, K, S, TW> Row;
    constexpr int ROWS = (TH - 1) * S + K;
    constexpr int AHEAD = FLIGHT / Row::REGISTERS < ROWS ? FLIGHT / Row::REGISTERS : ROWS;
    const int ix = ox * S - (TW == 1 ? s.padding[1] : 0), iy = oy * S - s.padding[0];
    const unsigned columns = Row::inside(ix, s.in[1]);
    i64 at = (static_cast<i64>(s.filters.quotient(plane)) * s.in[0] + iy) * s.in[1] + ix;
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

    T* const out = y + (static_cast<i64>(plane) * s.out[0] + oy) * s.out[1] + ox;
#pragma unroll
    for (int r = 0; r < TH; ++r) {
        if (oy + r >= s.out[0]) break;
        Vec<T, TW> several;
#pragma unroll
        for (int c = 0; c < TW; ++c) several.v[c] = narrow<T>(sums[r * TW + c]);
        *reinterpret_cast<Vec<T, TW>*>(out + static_cast<i64>(r) * s.out[1]) = several;
    }
}

}  // namespace groupconv
