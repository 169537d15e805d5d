// A run: a chain of convolution + batch norm + activation layers, trained forward and backward without ever storing
// a normalised activation. Shared by every instruction set's engine and by the callers (ctypes, the C++ test).
#pragma once
#include <cstddef>
#include <cstdint>

// Channels are stored in blocks of 16: element (channel c, image n, pixel p) of a map lies at
// ((c / 16) * images * pixels + n * pixels + p) * 16 + c % 16. Channels past the last are zero.
constexpr int64_t BLOCK = 16;

enum Kind : int32_t {
    STEM = 0,       // 3x3 or 5x5 over all channels, only as the first layer: reads the NCHW input
    POINTWISE = 1,  // 1x1, stride 1
    DEPTHWISE = 2,  // 3x3 or 5x5
    DENSE = 3,      // 3x3 or 5x5 over all channels
};
enum Activation : int32_t { LINEAR = 0, RELU = 1, RELU6 = 2, HARDSWISH = 3 };

// What multiplies a layer's map after its activation, a factor for each image and channel (bits).
enum After : int32_t {
    GATE = 1,   // squeeze-excitation; excludes the others
    SCALE = 2,  // layer scale
    DROP = 4,   // drop path: the caller's factor of each image
};

// Bits of needs_gradient; `gradients` has one pointer for each, in this order.
enum Trained : int32_t { WEIGHT, GAMMA, BETA, SQUEEZE, SQUEEZE_OFFSET, EXCITE, EXCITE_OFFSET, CHANNEL_SCALE, TRAINED };

// One layer as the caller describes it; the arrays are the framework's own, dense, float32.
struct Layer {
    int32_t kind, c_in, c_out, kernel, stride;
    int32_t before_h, before_w;  // zeros above and to the left of the map; those behind follow from the size
    int32_t h_in, w_in, h_out, w_out, activation;
    int32_t residual;        // output of this layer (index, -1: the run's input) added to this one's; -2: none
    int32_t running;         // 1: normalise with the running statistics and leave them alone
    int32_t needs_gradient;  // bits
    int32_t after;           // bits
    int32_t squeezed;        // channels inside the gate
    float slope;             // of the gate's hard sigmoid around 0.5
    float epsilon, momentum;
    const float *weight, *gamma, *beta;  // weight [c_out, c_in / groups, k, k]
    float *mean, *variance;              // running statistics, updated in training
    const float *squeeze, *squeeze_offset, *excite, *excite_offset;  // [squeezed, c_out], ..., [c_out, squeezed], ...
    const float *channel_scale, *kept;   // [c_out], [images]
    float* gradients[TRAINED];           // written by backward where needed
};

struct Run {
    const Layer* layers;
    int32_t count, images, threads;
    int32_t keep;            // 1: backward will follow; 0: maps are dropped as soon as they are used
    int32_t input_gradient;  // 1: backward also writes the gradient of the input
};

struct Sizes {
    int64_t saved, scratch_forward, scratch_backward;  // bytes
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
    FAULT_KIND = 3,      // a kind, kernel, activation, stride or factor that is none
    FAULT_SHAPE = 4,     // a map that is not what the layer before it wrote, or too large
    FAULT_RESIDUAL = 5,  // a sum that the engine does not know
};
int32_t run_fault(const Run&);
// what forward needs besides: factors that are drawn for each pass
int32_t forward_fault(const Run&);
// what backward needs besides: somewhere to write
int32_t gradient_fault(const Run&, const float* input_grad);

extern const Engine engine_baseline, engine_avx2, engine_avx512;
