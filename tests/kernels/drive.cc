// Runs the engine on exactly as much memory as it asked for: for the sanitizers, and to compare instruction sets and
// thread counts with each other.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "run.h"

extern "C" {
int32_t ppm_instruction_set();
int32_t ppm_sizes(const Run*, Sizes*);
int32_t ppm_forward(int32_t, const Run*, const float*, float*, float*, float*);
int32_t ppm_backward(int32_t, const Run*, const float*, float*, float*, const float*, float*);
}

static uint32_t state = 1;
static float random_value() {
    state = state * 1664525u + 1013904223u;
    return float(state >> 8) / float(1 << 23) - 1.0f;
}

struct Memory {  // aligned, its end at the end of the allocation
    float* p;
    explicit Memory(int64_t bytes) : p(static_cast<float*>(aligned_alloc(64, size_t(bytes + 63) / 64 * 64))) {
        memset(p, 0xff, size_t(bytes));  // NaN: what is read before it is written shows
    }
    ~Memory() { free(p); }
};

struct Shape {
    int kind, kernel, c_out, stride, activation, residual, after = 0;
    bool same = false;  // TensorFlow's padding
};

static int before(const Shape& s, int in, int out) {
    const int all = (out - 1) * s.stride + s.kernel - in;
    return s.same ? (all > 0 ? all / 2 : 0) : s.kernel / 2;
}

static std::vector<float> drive(const std::vector<Shape>& shapes, int images, int channels, int h, int w, int set,
                                int threads, bool keep) {
    state = 7;
    std::vector<Layer> layers;
    std::vector<std::vector<float>> store;
    store.reserve(shapes.size() * 20);
    const auto fill = [&](size_t size, float offset, float scale) {
        store.emplace_back(size);
        for (float& v : store.back()) v = offset + scale * random_value();
        return store.back().data();
    };
    const int h0 = h, w0 = w, c0 = channels;
    for (const Shape& s : shapes) {
        Layer layer{};
        layer.kind = s.kind, layer.kernel = s.kernel, layer.c_in = channels, layer.c_out = s.c_out, layer.stride = s.stride;
        layer.h_in = h, layer.w_in = w, layer.activation = s.activation, layer.residual = s.residual;
        h = layer.h_out = (h + s.stride - 1) / s.stride, w = layer.w_out = (w + s.stride - 1) / s.stride;
        layer.before_h = before(s, layer.h_in, h), layer.before_w = before(s, layer.w_in, w);
        const size_t wide = s.c_out, weights = wide * s.kernel * s.kernel * (s.kind == DEPTHWISE ? 1 : channels);
        layer.epsilon = 1e-5f, layer.momentum = 0.9f, layer.after = s.after, layer.squeezed = 5, layer.slope = 0.2f;
        layer.weight = fill(weights, 0, 0.5f), layer.gamma = fill(wide, 1, 0.5f), layer.beta = fill(wide, 0, 1);
        layer.mean = fill(wide, 0, 1), layer.variance = fill(wide, 1, 0.5f);
        layer.needs_gradient = 1 << WEIGHT | 1 << GAMMA | 1 << BETA;
        if (s.after & GATE) {
            layer.squeeze = fill(5 * wide, 0, 1), layer.squeeze_offset = fill(5, 0, 1);
            layer.excite = fill(5 * wide, 0, 1), layer.excite_offset = fill(wide, 0, 1);
            layer.needs_gradient |= 1 << SQUEEZE | 1 << SQUEEZE_OFFSET | 1 << EXCITE | 1 << EXCITE_OFFSET;
        }
        if (s.after & SCALE) layer.channel_scale = fill(wide, 1, 0.5f), layer.needs_gradient |= 1 << CHANNEL_SCALE;
        if (s.after & DROP) layer.kept = fill(images, 1, 1);
        const size_t sizes[TRAINED] = {weights, wide, wide, 5 * wide, 5, 5 * wide, wide, wide};
        for (int i = 0; i < TRAINED; i++)
            if (layer.needs_gradient >> i & 1) layer.gradients[i] = fill(sizes[i], 0, 0);
        layers.push_back(layer);
        channels = s.c_out;
    }
    std::vector<float> input(size_t(images) * c0 * h0 * w0), output(size_t(images) * channels * h * w), gradient(output.size());
    for (float& v : input) v = random_value();
    for (float& v : gradient) v = random_value();
    const bool input_gradient = shapes[0].kind != STEM;
    std::vector<float> input_grad(input_gradient ? input.size() : 0);
    Run run{layers.data(), int32_t(layers.size()), images, threads, keep, keep && input_gradient};
    Sizes sizes;
    ppm_sizes(&run, &sizes);
    Memory saved(sizes.saved);
    {
        Memory scratch(sizes.scratch_forward);
        ppm_forward(set, &run, input.data(), saved.p, scratch.p, output.data());
    }
    std::vector<float> result = output;
    if (!keep) return result;
    Memory scratch(sizes.scratch_backward);
    ppm_backward(set, &run, input.data(), saved.p, scratch.p, gradient.data(), input_grad.data());
    result.insert(result.end(), input_grad.begin(), input_grad.end());
    for (const auto& part : store) result.insert(result.end(), part.begin(), part.end());
    return result;
}

int main() {
    const std::vector<std::vector<Shape>> runs = {
        {{STEM, 3, 20, 2, RELU6, -2}, {POINTWISE, 1, 33, 1, RELU6, -2}, {DEPTHWISE, 3, 33, 1, RELU6, -2},
         {POINTWISE, 1, 20, 1, LINEAR, 0}, {POINTWISE, 1, 50, 1, RELU6, -2}, {DEPTHWISE, 3, 50, 2, RELU6, -2},
         {POINTWISE, 1, 3, 1, LINEAR, -2}},
        {{DEPTHWISE, 3, 17, 2, RELU, -2}, {POINTWISE, 1, 70, 1, RELU, -2}},
        {{POINTWISE, 1, 96, 1, RELU6, -2}, {DEPTHWISE, 3, 96, 1, RELU6, -2}, {POINTWISE, 1, 17, 1, LINEAR, -1}},
        {{POINTWISE, 1, 33, 1, HARDSWISH, -2}, {DEPTHWISE, 5, 33, 1, HARDSWISH, -2, GATE}, {POINTWISE, 1, 17, 1, LINEAR, -1},
         {DEPTHWISE, 5, 17, 2, LINEAR, -2, 0, true}, {DEPTHWISE, 3, 17, 2, RELU, -2, GATE, true}},
        {{DEPTHWISE, 5, 17, 1, LINEAR, -2}, {POINTWISE, 1, 40, 1, RELU, -2}, {POINTWISE, 1, 17, 1, LINEAR, -1, SCALE | DROP},
         {DEPTHWISE, 3, 17, 1, LINEAR, -2}, {POINTWISE, 1, 17, 1, LINEAR, 2, DROP}, {DENSE, 3, 35, 2, RELU, -2, 0, true},
         {POINTWISE, 1, 9, 1, LINEAR, -2, SCALE}},
        {{STEM, 5, 18, 2, HARDSWISH, -2, DROP, true}, {DENSE, 5, 33, 2, RELU, -2}, {POINTWISE, 1, 17, 1, RELU, -2},
         {DENSE, 3, 20, 1, RELU, -2}, {POINTWISE, 1, 17, 1, LINEAR, 2}},
    };
    const int sizes[][3] = {{1, 7, 5}, {3, 12, 9}, {2, 1, 2}, {1, 33, 34}};
    int count = 0;
    for (const auto& shapes : runs)
        for (const auto& size : sizes) {
            const int channels = shapes[0].kind == STEM ? 3 : 17;
            const std::vector<float> reference = drive(shapes, size[0], channels, size[1], size[2], 0, 1, true);
            for (int set = 0; set <= ppm_instruction_set(); set++)
                for (int threads = 1; threads <= 3; threads++)
                    for (int keep = 0; keep <= 1; keep++) {
                        const std::vector<float> got = drive(shapes, size[0], channels, size[1], size[2], set, threads, keep);
                        for (size_t i = 0; i < got.size(); i++)
                            if (!(std::fabs(got[i] - reference[i]) <= 2e-3f * (1 + std::fabs(reference[i])))) {
                                printf("set %d, %d threads: value %zu is %g, expected %g\n", set, threads, i, got[i], reference[i]);
                                return 1;
                            }
                        count++;
                    }
        }
    printf("%d runs agree\n", count);
}
