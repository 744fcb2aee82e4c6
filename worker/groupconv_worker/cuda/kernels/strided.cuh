// Where an element of a tensor lies, by its position in another: what the kernels of a network's operators share.
#pragma once

#include "types.cuh"

namespace groupconv {

// NVRTC knows no INFINITY without the toolkit's headers.
__device__ __forceinline__ float infinity() {
    union { unsigned int bits; float value; } both;
    both.bits = 0x7f800000;
    return both.value;
}

constexpr int AXES = 6;  // that are left once those that lie one behind another are one; AXES in network/arguments.py

// The offset of element `at` of a tensor with these extents, whose axes are so many elements apart.
// I: a 32-bit type where the tensor is small, as a division of 64 bits takes a hundred instructions.
template <class I, class S> __device__ __forceinline__ i64 offset_of(I at, int axes, const S& extent, const i64* step) {
    i64 offset = 0;
    for (int axis = axes - 1; axis > 0; --axis) {
        const I rest = at / static_cast<I>(extent[axis]);
        offset += static_cast<i64>(at - rest * static_cast<I>(extent[axis])) * step[axis];
        at = rest;
    }
    return axes ? offset + static_cast<i64>(at) * step[0] : 0;
}

template <class S> __device__ __forceinline__ i64 locate(i64 at, int axes, const S& extent, const i64* step) {
    return at < (1LL << 31) ? offset_of(static_cast<unsigned>(at), axes, extent, step)
                            : offset_of(at, axes, extent, step);
}

}  // namespace groupconv
