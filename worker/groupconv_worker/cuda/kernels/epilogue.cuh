// What happens to a finished sum before it is stored: bias, then activation.
#pragma once

#include "types.cuh"

namespace groupconv {

// The numbers are those of ACTIVATIONS in cuda/arguments.py.
enum Activation { NONE, RELU, LEAKY_RELU, SIGMOID, TANH, SILU, GELU, GELU_TANH };

template <class A> struct Epilogue {
    const A* bias;    // (M,) or null
    const A* slope;   // (M,) for a PReLU with one slope per channel, (1,) otherwise, null when unused
    int slope_step;   // 1 or 0
    int activation;
};

// The branch is uniform over the grid and taken once per output, so it is not a template argument:
// that would compile every kernel eight times to save nothing that can be measured.
template <class A> __device__ __forceinline__ A activate(A v, int activation, A slope) {
    switch (activation) {
        case RELU: return v < A(0) ? A(0) : v;  // written so that NaN stays NaN
        case LEAKY_RELU: return v < A(0) ? v * slope : v;
        case SIGMOID: return A(0.5) * (A(1) + tanh(A(0.5) * v));  // = 1 / (1 + e^-v), and cannot overflow
        case TANH: return tanh(v);
        case SILU: return v * A(0.5) * (A(1) + tanh(A(0.5) * v));
        case GELU: return A(0.5) * v * (A(1) + erf(v * A(0.70710678118654752)));
        case GELU_TANH: {
            const A inner = A(0.79788456080286536) * (v + A(0.044715) * v * v * v);  // sqrt(2 / pi)
            return A(0.5) * v * (A(1) + tanh(inner));
        }
        default: return v;
    }
}

// Integers know no activation but ReLU; the host refuses the others. The sum has wrapped by now.
__device__ __forceinline__ unsigned activate(unsigned v, int activation, unsigned) {
    return activation == RELU && static_cast<int>(v) < 0 ? 0 : v;
}

// Several values of one channel: here a branch for each would count, so it is taken once for all.
template <class A, int N> __device__ __forceinline__ void activate_all(A (&values)[N], int activation, A slope) {
    auto each = [&](int known) {
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = activate(values[i], known, slope);
    };
    switch (activation) {
        case RELU: return each(RELU);
        case LEAKY_RELU: return each(LEAKY_RELU);
        case SIGMOID: return each(SIGMOID);
        case TANH: return each(TANH);
        case SILU: return each(SILU);
        case GELU: return each(GELU);
        case GELU_TANH: return each(GELU_TANH);
    }
}

template <class A> __device__ __forceinline__ A finish(A sum, const Epilogue<A>& e, int m) {
    if (e.bias) sum += e.bias[m];
    return activate(sum, e.activation, e.slope ? e.slope[m * e.slope_step] : A(0));
}

}  // namespace groupconv
