// Storage types, the type sums are kept in, and vectors of one memory transaction.
//
// No toolkit header is included: NVRTC then needs nothing but this folder, and the 16-bit types cost
// no compile time where they are not used. GROUPCONV_HOST is set by the emulation in tests/ alone.
#pragma once

#ifdef GROUPCONV_HOST
#define GROUPCONV_DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_shared()
#else
#define GROUPCONV_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace groupconv {

typedef long long i64;  // anything that counts elements of a whole tensor

struct half { unsigned short bits; };
struct bfloat16 { unsigned short bits; };

// Sums of 16-bit floats are kept in float; float and double keep their own. Integers are summed modulo
// 2^32, as unsigned: the same bits as int32, but C++ lets only unsigned numbers wrap.
template <class T> struct Sum { typedef T type; };
template <> struct Sum<half> { typedef float type; };
template <> struct Sum<bfloat16> { typedef float type; };
template <> struct Sum<int> { typedef unsigned type; };
template <> struct Sum<signed char> { typedef unsigned type; };
template <> struct Sum<unsigned char> { typedef unsigned type; };

// N elements moved by one load or store of up to 16 bytes.
template <class T, int N> struct alignas(sizeof(T) * N <= 16 ? sizeof(T) * N : 16) Vec { T v[N]; };

template <class T> __device__ __forceinline__ typename Sum<T>::type widen(T value) {
    return static_cast<typename Sum<T>::type>(value);
}

__device__ __forceinline__ float widen(half value) {
#ifdef GROUPCONV_HOST
    return emulation::half_to_float(value.bits);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#endif
}

__device__ __forceinline__ float widen(bfloat16 value) {
    // A bfloat16 is the upper half of a float.
    union { unsigned int bits; float wide; } both;
    both.bits = static_cast<unsigned int>(value.bits) << 16;
    return both.wide;
}

template <class T> struct Narrow {
    template <class A> static __device__ __forceinline__ T from(A sum) { return static_cast<T>(sum); }
};

template <> struct Narrow<half> {
    static __device__ __forceinline__ half from(float sum) {
        half narrow;
#ifdef GROUPCONV_HOST
        narrow.bits = emulation::float_to_half(sum);
#else
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(sum));
#endif
        return narrow;
    }
};

template <> struct Narrow<bfloat16> {
    static __device__ __forceinline__ bfloat16 from(float sum) {
        // Round to nearest even in integers: sm_75 has no cvt.rn.bf16, and the result is the same.
        union { unsigned int bits; float wide; } both;
        both.wide = sum;
        bfloat16 narrow;
        narrow.bits = sum != sum ? 0x7fc0
                                 : static_cast<unsigned short>((both.bits + 0x7fff + ((both.bits >> 16) & 1)) >> 16);
        return narrow;
    }
};

template <class T, class A> __device__ __forceinline__ T narrow(A sum) { return Narrow<T>::from(sum); }

}  // namespace groupconv
