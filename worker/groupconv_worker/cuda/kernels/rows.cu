// What is computed of whole rows of a tensor: reductions, softmax, normalizations. A block takes a row.
//
// A row is what lies along some axes, for one position on the others.
#include "extremes.cuh"
#include "strided.cuh"
#include "types.cuh"

namespace groupconv {

// The numbers are positions in REDUCTIONS of cuda/network/rows.py.
enum Reduction { SUM, MEAN, LARGEST, SMALLEST, PRODUCT, L1, L2, SUM_OF_SQUARES, LOG_OF_SUM };

// Mirrored by ROWS in cuda/network/arguments.py.
struct Rows {
    i64 rows, count;                      // and elements of a row
    i64 outer[AXES], outer_step[AXES];    // axes on which rows differ
    i64 inner[AXES], inner_step[AXES];    // axes of a row
    int outer_axes, inner_axes;
};

// The threads' values in one; every thread gets it. `shared` has an element for each thread, a power of two.
template <class F> __device__ __forceinline__ float together(float value, float* shared, const F& join) {
    __syncthreads();  // of an earlier use
    shared[threadIdx.x] = value;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
    return shared[0];
}

__global__ void __launch_bounds__(256) reduce(
    const float* __restrict__ x, float* __restrict__ y,  // (rows,)
    const Rows r, const int reduction) {
    GROUPCONV_DYNAMIC_SHARED(memory);
    float* const shared = reinterpret_cast<float*>(memory);
    const float* const row = x + locate(blockIdx.x, r.outer_axes, r.outer, r.outer_step);
    float found = reduction == PRODUCT ? 1.0f : 0.0f;
    if (reduction == LARGEST || reduction == SMALLEST) found = reduction == LARGEST ? -infinity() : infinity();
    for (i64 i = threadIdx.x; i < r.count; i += blockDim.x) {
        const float v = row[locate(i, r.inner_axes, r.inner, r.inner_step)];
        switch (reduction) {
            case LARGEST: found = larger(found, v); break;
            case SMALLEST: found = smaller(found, v); break;
            case PRODUCT: found *= v; break;
            case L1: found += v < 0.0f ? -v : v; break;
            case L2: case SUM_OF_SQUARES: found += v * v; break;
            default: found += v;
        }
    }
    found = together(found, shared, [reduction](float a, float b) {
        switch (reduction) {
            case LARGEST: return larger(a, b);
            case SMALLEST: return smaller(a, b);
            case PRODUCT: return a * b;
            default: return a + b;
        }
    });
    if (threadIdx.x) return;
    switch (reduction) {
        case MEAN: found /= static_cast<float>(r.count); break;
        case L2: found = sqrtf(found); break;
        case LOG_OF_SUM: found = logf(found); break;
    }
    y[blockIdx.x] = found;
}

// y lies as x does.
__global__ void __launch_bounds__(256) softmax(
    const float* __restrict__ x, float* __restrict__ y, const Rows r, const int logarithm) {
    GROUPCONV_DYNAMIC_SHARED(memory);
    float* const shared = reinterpret_cast<float*>(memory);
    const i64 start = locate(blockIdx.x, r.outer_axes, r.outer, r.outer_step), step = r.inner_step[0];
    float most = -infinity(), sum = 0.0f;
    for (i64 i = threadIdx.x; i < r.count; i += blockDim.x) most = larger(most, x[start + i * step]);
    most = together(most, shared, [](float a, float b) { return larger(a, b); });
    for (i64 i = threadIdx.x; i < r.count; i += blockDim.x) sum += expf(x[start + i * step] - most);
    sum = together(sum, shared, [](float a, float b) { return a + b; });
    const float log_of_sum = logf(sum);
    for (i64 i = threadIdx.x; i < r.count; i += blockDim.x) {
        const float v = x[start + i * step] - most;
        y[start + i * step] = logarithm ? v - log_of_sum : expf(v) / sum;
    }
}

// Rows that lie one behind another, each to mean 0 and variance 1, then · scale + shift. An element's own of these is
// number at / plane % channels, where `at` counts the elements of x.
__global__ void __launch_bounds__(256) normalize(
    const float* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift, float* __restrict__ y,
    const i64 count, const i64 plane, const i64 channels, const float epsilon) {
    GROUPCONV_DYNAMIC_SHARED(memory);
    float* const shared = reinterpret_cast<float*>(memory);
    const i64 start = static_cast<i64>(blockIdx.x) * count;
    const auto add = [](float a, float b) { return a + b; };
    float sum = 0.0f, squares = 0.0f;
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) sum += x[start + i];
    const float mean = together(sum, shared, add) / static_cast<float>(count);
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) squares += (x[start + i] - mean) * (x[start + i] - mean);
    const float deviation = sqrtf(together(squares, shared, add) / static_cast<float>(count) + epsilon);
    for (i64 i = threadIdx.x; i < count; i += blockDim.x) {
        const i64 channel = (start + i) / plane % channels;
        y[start + i] = (x[start + i] - mean) / deviation * scale[channel] + shift[channel];
    }
}

// The position of the largest or smallest element of each row, the first or the last of equal ones. A thread takes a row.
__global__ void __launch_bounds__(256) where_largest(
    const float* __restrict__ x, i64* __restrict__ y,  // (rows,)
    const Rows r, const int smallest, const int last) {
    const i64 row = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (row >= r.rows) return;
    x += locate(row, r.outer_axes, r.outer, r.outer_step);
    float best = x[0];
    i64 found = 0;
    for (i64 i = 1; i < r.count; ++i) {
        const float v = x[i * r.inner_step[0]];
        const bool better = smallest ? v < best : v > best;
        if (best == best && (better || v != v || (last && v == best))) best = v, found = i;  // the first NaN is it
    }
    y[row] = found;
}

}  // namespace groupconv
