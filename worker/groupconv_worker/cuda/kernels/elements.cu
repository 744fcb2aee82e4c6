// Elementwise operators of a network, with broadcasting: a chain of them is one launch.
//
// A chain starts with an element of the first operand; every step makes a new value of it, and of an element of one
// other operand where the step takes two. What a step does is a number, not a template argument: all threads take the
// same branch, and no network has to wait for a kernel of its own to be compiled.
#include "extremes.cuh"
#include "strided.cuh"
#include "types.cuh"

namespace groupconv {

// The numbers are positions in CODES of cuda/network/elements.py.
enum Code {
    ABS, ACOS, ACOSH, ASIN, ASINH, ATAN, ATANH, CEIL, CLIP, COS, COSH, ELU, ERF, EXP, FLOOR, GELU, GELU_TANH,
    HARD_SIGMOID, HARD_SWISH, IS_INF, IS_NAN, LEAKY_RELU, LOG, MISH, NEG, NOT, RECIPROCAL, ROUND, SELU, SHRINK, SIGMOID,
    SIGN, SILU, SIN, SINH, SOFTPLUS, SOFTSIGN, SQRT, SQUARE, SWISH, TAN, TANH, THRESHOLDED_RELU, TRUNCATE,
    ADD, AND, DIV, EQUAL, GREATER, GREATER_OR_EQUAL, LESS, LESS_OR_EQUAL, MAX, MIN, MOD, FMOD, MUL, OR, POW, PRELU,
    SUB, SUB_FROM, DIV_INTO, XOR, WHERE
};

// The numbers are those of TYPES in cuda/network/arguments.py.
enum Type { FLOAT, BOOL, UINT8, INT8, INT16, UINT16, INT32, INT64 };

constexpr int OPERANDS = 4, STEPS = 8;

// The second value of a step is an element of operand `b`; `c` is a third one, of WHERE. p and q are parameters.
struct Step { int code, b, c; float p, q; };

// Mirrored by ELEMENTS in cuda/network/arguments.py.
struct Elements {
    const void* operand[OPERANDS];
    i64 size;                      // elements of the output
    i64 extent[AXES];              // of the output, row by row
    i64 step[OPERANDS][AXES];      // 0 where an operand is broadcast
    int type[OPERANDS], to;        // of the operands, and of the output
    int axes, steps;
    Step chain[STEPS];
};

__device__ __forceinline__ float load(const void* from, i64 at, int type) {
    switch (type) {
        case FLOAT: return static_cast<const float*>(from)[at];
        case INT8: return static_cast<const signed char*>(from)[at];
        case INT16: return static_cast<const short*>(from)[at];
        case UINT16: return static_cast<const unsigned short*>(from)[at];
        case INT32: return static_cast<float>(static_cast<const int*>(from)[at]);
        case INT64: return static_cast<float>(static_cast<const i64*>(from)[at]);
        default: return static_cast<const unsigned char*>(from)[at];
    }
}

__device__ __forceinline__ void store(void* to, i64 at, float value, int type) {
    switch (type) {
        case FLOAT: static_cast<float*>(to)[at] = value; return;
        case BOOL: static_cast<unsigned char*>(to)[at] = value != 0.0f; return;
        case UINT8: static_cast<unsigned char*>(to)[at] = static_cast<unsigned char>(static_cast<int>(value)); return;
        case INT8: static_cast<signed char*>(to)[at] = static_cast<signed char>(static_cast<int>(value)); return;
        case INT16: static_cast<short*>(to)[at] = static_cast<short>(static_cast<int>(value)); return;
        case UINT16: static_cast<unsigned short*>(to)[at] = static_cast<unsigned short>(static_cast<int>(value)); return;
        case INT32: static_cast<int*>(to)[at] = static_cast<int>(value); return;
        case INT64: static_cast<i64*>(to)[at] = static_cast<i64>(value); return;
    }
}

__device__ __forceinline__ float sigmoid(float v) { return 0.5f * (1.0f + tanhf(0.5f * v)); }  // cannot overflow

// log(1 + e^v), which cannot overflow.
__device__ __forceinline__ float softplus(float v) { return fmaxf(v, 0.0f) + log1pf(expf(-fabsf(v))); }

__device__ __forceinline__ float clip(float v, float low, float high) {  // written so that NaN stays NaN
    v = v < low ? low : v;
    return v > high ? high : v;
}

__device__ __forceinline__ float modulo(float a, float b) {  // with the sign of b
    const float rest = fmodf(a, b);
    return rest != 0.0f && (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}

__device__ __forceinline__ float one(int code, float v, float p, float q) {
    switch (code) {
        case ABS: return fabsf(v);
        case ACOS: return acosf(v);
        case ACOSH: return acoshf(v);
        case ASIN: return asinf(v);
        case ASINH: return asinhf(v);
        case ATAN: return atanf(v);
        case ATANH: return atanhf(v);
        case CEIL: return ceilf(v);
        case CLIP: return clip(v, p, q);
        case COS: return cosf(v);
        case COSH: return coshf(v);
        case ELU: return v > 0.0f ? v : q * expm1f(v / p);  // Celu has q = p
        case ERF: return erff(v);
        case EXP: return expf(v);
        case FLOOR: return floorf(v);
        case GELU: return 0.5f * v * (1.0f + erff(v * 0.70710678f));
        case GELU_TANH: return 0.5f * v * (1.0f + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
        case HARD_SIGMOID: return clip(p * v + q, 0.0f, 1.0f);
        case HARD_SWISH: return v * clip(v / 6.0f + 0.5f, 0.0f, 1.0f);
        case IS_INF: return (p != 0.0f && v > 3.4028235e38f) || (q != 0.0f && v < -3.4028235e38f);
        case IS_NAN: return v != v;
        case LEAKY_RELU: return v < 0.0f ? v * p : v;
        case LOG: return logf(v);
        case MISH: return v * tanhf(softplus(v));
        case NEG: return -v;
        case NOT: return v == 0.0f;
        case RECIPROCAL: return 1.0f / v;
        case ROUND: return rintf(v);  // halves to even
        case SELU: return v > 0.0f ? q * v : q * p * expm1f(v);
        case SHRINK: return v < -p ? v + q : v > p ? v - q : 0.0f;
        case SIGMOID: return sigmoid(v);
        case SIGN: return v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : v;
        case SILU: return v * sigmoid(v);
        case SIN: return sinf(v);
        case SINH: return sinhf(v);
        case SOFTPLUS: return softplus(v);
        case SOFTSIGN: return v / (1.0f + fabsf(v));
        case SQRT: return sqrtf(v);
        case SQUARE: return v * v;
        case SWISH: return v * sigmoid(p * v);
        case TAN: return tanf(v);
        case TANH: return tanhf(v);
        case THRESHOLDED_RELU: return v > p ? v : 0.0f;
        case TRUNCATE: return truncf(v);
        default: return v;
    }
}

__device__ __forceinline__ float two(int code, float a, float b) {
    switch (code) {
        case ADD: return a + b;
        case AND: return a != 0.0f && b != 0.0f;
        case DIV: return a / b;
        case DIV_INTO: return b / a;
        case EQUAL: return a == b;
        case GREATER: return a > b;
        case GREATER_OR_EQUAL: return a >= b;
        case LESS: return a < b;
        case LESS_OR_EQUAL: return a <= b;
        case MAX: return larger(a, b);
        case MIN: return smaller(a, b);
        case MOD: return modulo(a, b);
        case FMOD: return fmodf(a, b);
        case MUL: return a * b;
        case OR: return a != 0.0f || b != 0.0f;
        case POW: return powf(a, b);
        case PRELU: return a < 0.0f ? a * b : a;
        case SUB: return a - b;
        case SUB_FROM: return b - a;
        case XOR: return (a != 0.0f) != (b != 0.0f);
        default: return a;
    }
}

__global__ void __launch_bounds__(256) elements(void* __restrict__ y, const Elements e) {
    const i64 at = static_cast<i64>(blockIdx.x) * 256 + threadIdx.x;
    if (at >= e.size) return;
    const auto operand = [&](int number) {
        return load(e.operand[number], locate(at, e.axes, e.extent, e.step[number]), e.type[number]);
    };
    float value = operand(0);
    for (int i = 0; i < e.steps; ++i) {
        const Step& step = e.chain[i];
        if (step.code < ADD) value = one(step.code, value, step.p, step.q);
        else if (step.code == WHERE) value = value != 0.0f ? operand(step.b) : operand(step.c);
        else value = two(step.code, value, operand(step.b));
    }
    store(y, at, value, e.to);
}

}  // namespace groupconv
