// Infinity, and the larger and the smaller of two numbers, where NaN stays NaN.
#pragma once

namespace groupconv {

// NVRTC knows no INFINITY without the toolkit's headers.
__device__ __forceinline__ float infinity() {
    union { unsigned int bits; float value; } both;
    both.bits = 0x7f800000;
    return both.value;
}

__device__ __forceinline__ float larger(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float smaller(float a, float b) { return a < b || a != a ? a : b; }

}  // namespace groupconv
