// Where an element of a tensor lies, by its position in another: what the kernels of a network's operators share.
#pragma once

#include "types.cuh"

namespace groupconv {

constexpr int AXES = 6;  // that a kernel counts, once neighbors are merged where they can be; AXES in network/arguments.py

// The offset of element `at` of a tensor with these extents, whose axes are so many elements apart.
// I: a 32-bit type where the tensor is small, as a division of 64 bits takes a hundred instructions.
template <class I>
__device__ __forceinline__ i64 offset_of(I at, int axes, const i64* extent, const i64* step) {
    i64 offset = 0;
    for (int axis = axes - 1; axis > 0; --axis) {
        const I rest = at / static_cast<I>(extent[axis]);
        offset += static_cast<i64>(at - rest * static_cast<I>(extent[axis])) * step[axis];
        at = rest;
    }
    return axes ? offset + static_cast<i64>(at) * step[0] : 0;
}

__device__ __forceinline__ i64 locate(i64 at, int axes, const i64* extent, const i64* step) {
    return at < (1LL << 31) ? offset_of(static_cast<unsigned>(at), axes, extent, step)
                            : offset_of(at, axes, extent, step);
}

}  // namespace groupconv
