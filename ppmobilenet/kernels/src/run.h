// A run: a chain of convolution + batch norm + activation layers, trained forward and backward without ever storing
// a normalised activation. Shared by every instruction set's engine and by the callers (ctypes, the C++ test).
#pragma once
#include <cstddef>
#include <cstdint>

// Channels are stored in blocks of 16: element (channel c, image n, pixel p) of a map lies at
// ((c / 16) * images * pixels + n * pixels + p) * 16 + c % 16. Channels past the last are zero.
constexpr int64_t BLOCK = 16;

enum Kind : int32_t {
    DENSE3 = 0,     // 3x3 over all channels, padding 1, only as the first layer: reads the NCHW input
    POINTWISE = 1,  // 1x1, stride 1
    DEPTHWISE = 2,  // 3x3, padding 1
};
enum Activation : int32_t { LINEAR = 0, RELU = 1, RELU6 = 2 };

// One layer as the caller describes it; the arrays are the framework's own, dense, float32.
struct Layer {
    int32_t kind, c_in, c_out, stride, h_in, w_in, h_out, w_out, activation;
    int32_t residual;       // output of this layer (index, -1: the run's input) added to this one's; -2: none
    int32_t running;        // 1: normalise with the running statistics and leave them alone
    int32_t needs_gradient; // bits: 1 weight, 2 gamma, 4 beta
    float epsilon, momentum;
    const float *weight, *gamma, *beta;          // weight [c_out, c_in / groups, k, k]
    float *mean, *variance;                      // running statistics, updated in training
    float *weight_grad, *gamma_grad, *beta_grad; // written by backward where needed
};

struct Run {
    const Layer* layers;
    int32_t count, images, threads;
    int32_t keep;           // 1: backward will follow; 0: maps are dropped as soon as they are used
    int32_t input_gradient; // 1: backward also writes the gradient of the input
};

struct Sizes {
    int64_t saved, scratch_forward, scratch_backward; // bytes
};

struct Engine {
    void (*forward)(const Run&, const float* input, float* saved, float* scratch, float* output);
    void (*backward)(const Run&, const float* input, float* saved, float* scratch, const float* output_grad,
                     float* input_grad);
};

Sizes run_sizes(const Run&);

// What is wrong with a run. The engine trusts what passed: it indexes memory by these numbers.
enum Fault : int32_t {
    SOUND = 0,
    FAULT_POINTER = 1,   // memory that was not given
    FAULT_COUNT = 2,     // of layers, images or threads
    FAULT_KIND = 3,      // a kind, activation or stride that is none
    FAULT_SHAPE = 4,     // a map that is not what the layer before it wrote, or too large
    FAULT_RESIDUAL = 5,  // a sum that the engine does not know
};
int32_t run_fault(const Run&);
// what backward needs besides: somewhere to write
int32_t gradient_fault(const Run&, const float* input_grad);

extern const Engine engine_baseline, engine_avx2, engine_avx512;
