// Pools, and the sums over neighboring channels of LRN.
#include "extremes.cuh"
#include "types.cuh"

namespace groupconv {

// Mirrored by POOL in cuda/network/arguments.py. Axes are depth, height, width.
struct Pool {
    i64 size;                       // elements of y
    int in[3], out[3], kernel[3], stride[3], dilation[3];
    int low[3], stop[3];            // padding before, and where that behind ends, counted as the input is
    int average;                    // or the largest
    int count_padding;              // whether the mean counts padding, too
};

__global__ void __launch_bounds__(256) pool(const float* __restrict__ x, float* __restrict__ y, const Pool p) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= p.size) return;
    int o[3];
    i64 plane = at;  // sample and channel
    for (int axis = 2; axis >= 0; --axis) {
        o[axis] = static_cast<int>(plane % p.out[axis]) * p.stride[axis] - p.low[axis];
        plane /= p.out[axis];
    }
    x += plane * p.in[0] * p.in[1] * p.in[2];
    float found = p.average ? 0.0f : -infinity();
    int count = 0;
    for (int a = 0; a < p.kernel[0]; ++a) {
        const int d = o[0] + a * p.dilation[0];
        for (int b = 0; b < p.kernel[1]; ++b) {
            const int h = o[1] + b * p.dilation[1];
            for (int c = 0; c < p.kernel[2]; ++c) {
                const int w = o[2] + c * p.dilation[2];
                // what lies behind the padding, where the last window is cut off, is never counted
                if (d >= p.stop[0] || h >= p.stop[1] || w >= p.stop[2]) continue;
                const bool inside = d >= 0 && h >= 0 && w >= 0 && d < p.in[0] && h < p.in[1] && w < p.in[2];
                count += inside || p.count_padding;
                if (!inside) continue;
                const float v = x[(static_cast<i64>(d) * p.in[1] + h) * p.in[2] + w];
                if (p.average) found += v;
                else found = larger(v, found);
            }
        }
    }
    y[at] = p.average ? found / static_cast<float>(count) : found;
}

// y = x / (bias + alpha · Σ x²)^beta, the sum over channels from `before` ahead to `after` behind.
__global__ void __launch_bounds__(256) normalize_neighbors(
    const float* __restrict__ x, float* __restrict__ y,  // (batch, channels, plane)
    const i64 size, const i64 plane, const int channels, const int before, const int after, const float alpha,
    const float beta, const float bias) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= size) return;
    const int channel = static_cast<int>(at / plane % channels);
    const int first = channel < before ? -channel : -before;
    const int last = channel + after < channels ? after : channels - 1 - channel;
    float sum = 0.0f;
    for (int i = first; i <= last; ++i) sum += x[at + i * plane] * x[at + i * plane];
    y[at] = x[at] * powf(bias + alpha * sum, -beta);
}

}  // namespace groupconv
