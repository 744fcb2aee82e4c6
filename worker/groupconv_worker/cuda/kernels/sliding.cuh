// Convolutions in which a thread slides down the input rows of a few outputs of its own: how threads find them, and
// how a row is loaded. Padding by zeros, no dilation, two axes.
#pragma once

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
    Divisor columns, strips;  // threads side by side and below each other on a plane
    Divisor chunks, per_group;  // parts of the filters, each summed at once: all there are, and those of a group
    unsigned threads;
    int c, m;                       // channels and filters of a group
    int splits;                     // threads that share the channels of an output, in one block
    int in[2], out[2], padding[2];  // padding before the first row and column
};

// What a thread needs of an input row, as it lies in memory: the TW * S columns above its outputs and those
// left and right of them that the kernel reaches, in one load each. `inside` says which loads are inside the map,
// a bit for each; `load` makes zeros of the others, `reload` leaves them as they are.
template <class T, int K, int S, int TW> struct Segment {
    static constexpr int BEFORE = K / 2, AFTER = K - BEFORE - S;
    static constexpr int LEFT = BEFORE == 3 ? 4 : BEFORE, RIGHT = AFTER == 3 ? 4 : AFTER ? AFTER : 1;
    static constexpr int REGISTERS = LEFT + TW * S + RIGHT;
    static constexpr int LOADS = 3;
    Vec<T, LEFT> left;
    Vec<T, RIGHT> right;
    Vec<T, TW * S> middle;

    static __device__ __forceinline__ unsigned inside(int x, int extent) {
        return (x > 0 ? 1u : 0u) | (AFTER && x + TW * S < extent ? 2u : 0u) | 4u;
    }

    __device__ __forceinline__ void reload(const T* row, unsigned columns) {
        if (columns & 1) left = *reinterpret_cast<const Vec<T, LEFT>*>(row - LEFT);
        if (AFTER && columns & 2) right = *reinterpret_cast<const Vec<T, RIGHT>*>(row + TW * S);
        if (columns & 4) middle = *reinterpret_cast<const Vec<T, TW * S>*>(row);
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
    static constexpr int REGISTERS = K, LOADS = K;
    T column[K];

    static __device__ __forceinline__ unsigned inside(int x, int extent) {
        unsigned columns = 0;
#pragma unroll
        for (int i = 0; i < K; ++i) columns |= static_cast<unsigned>(x + i) < static_cast<unsigned>(extent) ? 1u << i : 0u;
        return columns;
    }

    __device__ __forceinline__ void reload(const T* row, unsigned columns) {
#pragma unroll
        for (int i = 0; i < K; ++i)
            if (columns >> i & 1) column[i] = row[i];
    }

    __device__ __forceinline__ void load(const T* row, bool real, unsigned columns) {
        constexpr bool MANY = K > 5;  // more than there are predicate registers: bits are tested one by one
        if (MANY && !real) columns = 0;
#pragma unroll
        for (int i = 0; i < K; ++i) column[i] = (MANY || real) && columns >> i & 1 ? row[i] : T();
    }

    __device__ __forceinline__ T operator[](int i) const { return column[i]; }
};

// The outputs of a thread, TW side by side, as far as the map has rows for them.
template <int TW, class T, int N>
__device__ __forceinline__ void store(T* out, const float (&sums)[N], int pitch, int rows) {
#pragma unroll
    for (int r = 0; r < N / TW; ++r) {
        if (r >= rows) break;
        Vec<T, TW> several;
#pragma unroll
        for (int i = 0; i < TW; ++i) several.v[i] = narrow<T>(sums[r * TW + i]);
        *reinterpret_cast<Vec<T, TW>*>(out + static_cast<i64>(r) * pitch) = several;
    }
}

}  // namespace groupconv
