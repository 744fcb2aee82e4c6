// Bias and activation after the sums were made elsewhere: in place after cuBLAS and cuDNN, on the way out of the padded
// result after cuFFT, on the sum of the parts after direct.cu.
#include "epilogue.cuh"
#include "types.cuh"

namespace groupconv {

// V: elements per load and store, 4 where the planes are whole quads.
template <class T, int V>
__global__ void __launch_bounds__(256) finish_in_place(
    T* __restrict__ y,  // (batch, channels, plane)
    const Epilogue<typename Sum<T>::type> epilogue, const i64 plane, const int channels) {
    const i64 tiles = (plane / V + 255) / 256;
    const i64 at = blockIdx.x % tiles * 256 + threadIdx.x;
    const i64 row = blockIdx.x / tiles;
    if (at >= plane / V) return;
    Vec<T, V>* const place = reinterpret_cast<Vec<T, V>*>(y + row * plane) + at;
    Vec<T, V> values = *place;
#pragma unroll
    for (int i = 0; i < V; ++i)
        values.v[i] = narrow<T>(finish(widen(values.v[i]), epilogue, static_cast<int>(row % channels)));
    *place = values;
}

// V: elements per load and store, 4 where there are whole quads of channels.
template <class T, int V>
__global__ void __launch_bounds__(256) finish_channels_last(
    T* __restrict__ y,  // (batch, plane, channels), of `size` elements
    const Epilogue<typename Sum<T>::type> epilogue, const i64 size, const int channels) {
    const i64 at = (static_cast<i64>(blockIdx.x) * 256 + threadIdx.x) * V;
    if (at >= size) return;
    Vec<T, V>* const place = reinterpret_cast<Vec<T, V>*>(y + at);
    const int channel = static_cast<int>(at % channels);
    Vec<T, V> values = *place;
#pragma unroll
    for (int i = 0; i < V; ++i) values.v[i] = narrow<T>(finish(widen(values.v[i]), epilogue, channel + i));
    *place = values;
}

template <class A, class T>
__global__ void __launch_bounds__(256) combine(
    const A* __restrict__ partial,  // (splits, size)
    const Epilogue<A> epilogue,
    T* __restrict__ y,              // (batch, channels, plane), of `size` elements
    const i64 size, const i64 plane, const int channels, const int splits) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= size) return;
    A sum = partial[at];
#pragma unroll 8
    for (int i = 1; i < splits; ++i) sum += partial[i * size + at];
    y[at] = narrow<T>(finish(sum, epilogue, static_cast<int>(at / plane % channels)));
}

// Mirrored by CROP in cuda/records.py.
struct Crop {
    i64 y_batch;           // elements from one sample of y to the next
    int channels;
    int from[3], out[3];   // extents of the padded result and of y
    int step[3], shift[3]; // y[o] is from[(o * step + shift) mod from]
};

template <class A, class T>
__global__ void __launch_bounds__(256) crop(
    const A* __restrict__ padded,  // (batch, channels, *from)
    const Epilogue<A> epilogue,
    T* __restrict__ y,             // (batch, channels, *out)
    const Crop c) {
    const i64 plane = static_cast<i64>(c.out[0]) * c.out[1] * c.out[2];
    const i64 tiles = (plane + 255) / 256;
    const i64 at = blockIdx.x % tiles * 256 + threadIdx.x;
    const i64 row = blockIdx.x / tiles;  // sample and channel
    if (at >= plane) return;
    int position[3];
    i64 rest = at;
    for (int axis = 2; axis >= 0; --axis) {
        const int o = static_cast<int>(rest % c.out[axis]);
        rest /= c.out[axis];
        // In 64 bits: o * step may pass 2^31 on the way to its remainder.
        const i64 shifted = (static_cast<i64>(o) * c.step[axis] + c.shift[axis]) % c.from[axis];
        position[axis] = static_cast<int>(shifted < 0 ? shifted + c.from[axis] : shifted);
    }
    const i64 source = ((row * c.from[0] + position[0]) * c.from[1] + position[1]) * c.from[2] + position[2];
    const int channel = static_cast<int>(row % c.channels);
    y[row / c.channels * c.y_batch + channel * plane + at] = narrow<T>(finish(padded[source], epilogue, channel));
}

}  // namespace groupconv
