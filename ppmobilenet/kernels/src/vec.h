// A vector register's worth of floats, the activations, and how a map is read. Everything below this file is included
// by engine.cc alone, once for each instruction set: WIDTH is the number of floats in a register.
#pragma once
#include <math.h>
#include <string.h>

#include "layout.h"
#include "team.h"

namespace {

typedef float vec __attribute__((vector_size(WIDTH * 4)));
typedef float vec_anywhere __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
constexpr int UNITS = BLOCK / WIDTH;
#define UNROLL _Pragma("GCC unroll 32")
#define OWN_FUNCTION __attribute__((noinline))  // its registers are its own

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec load_anywhere(const float* p) { return *reinterpret_cast<const vec_anywhere*>(p); }
inline void store_anywhere(float* p, vec v) { *reinterpret_cast<vec_anywhere*>(p) = v; }
// four rows of four, whatever the registers are: to matrices as the framework stores them, and back
typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int four_places __attribute__((vector_size(16)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, four_places{__VA_ARGS__})
#endif
inline void store_transposed(four a, four b, four c, four d, float* to, int64_t stride) {
    const four ab = SHUFFLE(a, b, 0, 4, 1, 5), cd = SHUFFLE(c, d, 0, 4, 1, 5);
    const four ab_high = SHUFFLE(a, b, 2, 6, 3, 7), cd_high = SHUFFLE(c, d, 2, 6, 3, 7);
    *reinterpret_cast<four*>(to) = SHUFFLE(ab, cd, 0, 1, 4, 5);
    *reinterpret_cast<four*>(to + stride) = SHUFFLE(ab, cd, 2, 3, 6, 7);
    *reinterpret_cast<four*>(to + 2 * stride) = SHUFFLE(ab_high, cd_high, 0, 1, 4, 5);
    *reinterpret_cast<four*>(to + 3 * stride) = SHUFFLE(ab_high, cd_high, 2, 3, 6, 7);
}
inline four load_four(const float* p) { return *reinterpret_cast<const four*>(p); }
inline vec all(float x) { return x - vec{}; }

constexpr int IDENTITY = 4;  // beside the activations: a map that needs no batch norm

// comparisons are written so that NaN stays NaN: a diverged run has to be seen in the loss
template <int ACT>
inline vec activate(vec z) {
    if (ACT == RELU || ACT == RELU6) z = z < 0.0f ? vec{} : z;
    if (ACT == RELU6) z = z > 6.0f ? all(6.0f) : z;
    if (ACT == HARDSWISH) {
        vec gate = z + 3.0f;
        gate = gate < 0.0f ? vec{} : gate;
        gate = gate > 6.0f ? all(6.0f) : gate;
        z = z * gate * (1.0f / 6.0f);
    }
    return z;
}
// the gradient of z where its activation gets `gradient`
template <int ACT>
inline vec masked(vec gradient, vec z) {
    if (ACT == RELU) return z <= 0.0f ? vec{} : gradient;
    if (ACT == RELU6) return (z <= 0.0f) | (z >= 6.0f) ? vec{} : gradient;
    if (ACT == HARDSWISH) {
        vec slope = z * (1.0f / 3.0f) + 0.5f;
        slope = z <= -3.0f ? vec{} : slope;
        slope = z >= 3.0f ? all(1.0f) : slope;
        return gradient * slope;
    }
    return gradient;
}

#define FOR_ACTIVATION(act, CALL)                 \
    switch (act) {                                \
        case LINEAR: CALL(LINEAR); break;         \
        case RELU: CALL(RELU); break;             \
        case RELU6: CALL(RELU6); break;           \
        case HARDSWISH: CALL(HARDSWISH); break;   \
        default: CALL(IDENTITY); break;           \
    }

// What a layer reads. value(p) = activation(scale * values + shift); for backward, the batch norm that produced it.
struct Source {
    const float *values, *scale, *shift;
    int activation;  // IDENTITY: values as they are
    const float *raw, *mean, *raw_scale, *raw_shift;
    int raw_activation;  // IDENTITY: what is in front is no batch norm, or a factor stands between
};

template <int ACT>
inline vec value(const float* p, vec scale, vec shift) {
    return ACT == IDENTITY ? load(p) : activate<ACT>(load(p) * scale + shift);
}

// gradient of the raw output: a * gradient + b * (raw - mean) + c
struct Coefficients {
    const float *a, *b, *c, *mean;
};
inline vec raw_gradient(const float* gradient, const float* raw, vec a, vec b, vec c, vec mean) {
    return a * load(gradient) + (b * (load(raw) - mean) + c);
}

// body(t) on every thread
template <class Body>
void parallel(int threads, const Body& body) {
    const auto job = [](void* context, int t) { (*static_cast<const Body*>(context))(t); };
    team_run(threads, job, const_cast<Body*>(&body));
}

struct Share {
    int64_t begin, end;
};
// thread t's part, the same for the same number of threads
Share share(int64_t total, int threads, int t, int64_t step) {
    const int64_t size = round_up((total + threads - 1) / threads, step), begin = t * size;
    return {begin < total ? begin : total, begin + size < total ? begin + size : total};
}

// A thread's sums for each channel: doubles, fed with sums of some hundred floats.
inline void add(double* out, vec v) {
    for (int i = 0; i < WIDTH; i++) out[i] += v[i];
}

// statistics are taken of differences to the first value that a thread sees, so that a large mean costs no digits
struct Statistics {
    double *first, *second;  // sums of the differences and of their squares
    float *shift, *count;
};

}  // namespace
