// The product in the frequency domain: correlation is a product with the conjugate, summed over the
// channels of the group. Bound by memory: every thread owns one frequency, so all loads coalesce, and
// sums MB filters at once, so each input spectrum is read once for all of them.
#include "types.cuh"

namespace groupconv {

template <class A> struct alignas(2 * sizeof(A)) Complex { A re, im; };

template <class A, int MB>
__global__ void __launch_bounds__(256) spectral(
    const Complex<A>* __restrict__ x,  // (batch, groups * c, frequencies)
    const Complex<A>* __restrict__ w,  // (groups * m, c, frequencies)
    Complex<A>* __restrict__ y,        // (batch, groups * m, frequencies)
    const i64 frequencies, const int groups, const int c, const int m) {
    const i64 tiles = (frequencies + 255) / 256;
    const int chunks = (m + MB - 1) / MB;
    i64 block = blockIdx.x;
    const i64 f = block % tiles * 256 + threadIdx.x;
    block /= tiles;
    const int m0 = static_cast<int>(block % chunks) * MB;
    block /= chunks;
    const int group = static_cast<int>(block % groups);
    const i64 n = block / groups;
    if (f >= frequencies) return;

    Complex<A> sum[MB] = {};
    for (int k = 0; k < c; ++k) {
        const Complex<A> a = x[((n * groups + group) * c + k) * frequencies + f];
#pragma unroll
        for (int i = 0; i < MB; ++i) {
            if (m0 + i >= m) break;
            const Complex<A> b = w[((static_cast<i64>(group) * m + m0 + i) * c + k) * frequencies + f];
            sum[i].re += a.re * b.re + a.im * b.im;
            sum[i].im += a.im * b.re - a.re * b.im;
        }
    }
#pragma unroll
    for (int i = 0; i < MB; ++i)
        if (m0 + i < m) y[((n * groups + group) * m + m0 + i) * frequencies + f] = sum[i];
}

}  // namespace groupconv
