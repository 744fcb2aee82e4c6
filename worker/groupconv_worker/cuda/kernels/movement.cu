// Elements of a network that go elsewhere: transposed, cut out, put together, looked up, interpolated.
#include "strided.cuh"
#include "types.cuh"

namespace groupconv {

// Mirrored by COPY in cuda/network/arguments.py.
struct Copy {
    i64 size;
    i64 extent[AXES];
    i64 from, from_step[AXES];  // elements: the first one, and from one to the next along each axis
    i64 to, to_step[AXES];
    int axes;
};

template <class T>
__global__ void __launch_bounds__(256) copy(const T* __restrict__ x, T* __restrict__ y, const Copy c) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= c.size) return;
    y[c.to + locate(at, c.axes, c.extent, c.to_step)] = x[c.from + locate(at, c.axes, c.extent, c.from_step)];
}

// y (outer, indices, inner) of x (outer, length, inner): along the axis, the elements that the indices say. Negative
// ones count from the end; the host cannot check them, so one beyond either end reads the element there.
template <class T, class I>
__global__ void __launch_bounds__(256) gather(
    const T* __restrict__ x, const I* __restrict__ index, T* __restrict__ y, const i64 size, const i64 length,
    const i64 indices, const i64 inner) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= size) return;
    i64 found = static_cast<i64>(index[at / inner % indices]);
    if (found < 0) found += length;
    found = found < 0 ? 0 : found < length ? found : length - 1;
    y[at] = x[(at / inner / indices * length + found) * inner + at % inner];
}

// y (outer, out, inner) of x (outer, length, inner): along the axis, each element is a sum of `taps` elements by their
// weights. A tap at -1 is `fill`, which lies around x. It interpolates and pads.
__global__ void __launch_bounds__(256) resample(
    const float* __restrict__ x, const int* __restrict__ at_tap, const float* __restrict__ weight,  // both (out, taps)
    float* __restrict__ y, const i64 size, const i64 length, const i64 out, const i64 inner, const int taps,
    const float fill) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= size) return;
    const i64 position = at / inner % out;
    x += at / inner / out * length * inner + at % inner;
    float sum = 0.0f;
    for (int i = 0; i < taps; ++i) {
        const float share = weight[position * taps + i];
        const int source = at_tap[position * taps + i];
        if (share != 0.0f) sum += share * (source < 0 ? fill : x[source * inner]);
    }
    y[at] = sum;
}

}  // namespace groupconv
