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
    int kind, c_out, stride, activation, residual;
};

static std::vector<float> drive(const std::vector<Shape>& shapes, int images, int channels, int h, int w, int set,
                                int threads, bool keep) {
    state = 7;
    std::vector<Layer> layers;
    std::vector<std::vector<float>> store;
    store.reserve(shapes.size() * 8);
    const auto fill = [&](size_t size, float offset, float scale) {
        store.emplace_back(size);
        for (float& v : store.back()) v = offset + scale * random_value();
        return store.back().data();
    };
    const int h0 = h, w0 = w, c0 = channels;
    for (const Shape& s : shapes) {
        Layer layer{};
        layer.kind = s.kind, layer.c_in = channels, layer.c_out = s.c_out, layer.stride = s.stride;
        layer.h_in = h, layer.w_in = w, layer.activation = s.activation, layer.residual = s.residual;
        h = layer.h_out = (h + s.stride - 1) / s.stride, w = layer.w_out = (w + s.stride - 1) / s.stride;
        const size_t weights = size_t(s.c_out) * (s.kind == DEPTHWISE ? 9 : s.kind == DENSE3 ? 9 * channels : channels);
        layer.needs_gradient = 7, layer.epsilon = 1e-5f, layer.momentum = 0.9f;
        layer.weight = fill(weights, 0, 0.5f), layer.gamma = fill(s.c_out, 1, 0.5f), layer.beta = fill(s.c_out, 0, 1);
        layer.mean = fill(s.c_out, 0, 1), layer.variance = fill(s.c_out, 1, 0.5f);
        layer.weight_grad = fill(weights, 0, 0), layer.gamma_grad = fill(s.c_out, 0, 0), layer.beta_grad = fill(s.c_out, 0, 0);
        layers.push_back(layer);
        channels = s.c_out;
    }
    std::vector<float> input(size_t(images) * c0 * h0 * w0), output(size_t(images) * channels * h * w), gradient(output.size());
    for (float& v : input) v = random_value();
    for (float& v : gradient) v = random_value();
    const bool input_gradient = shapes[0].kind != DENSE3;
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
        {{DENSE3, 20, 2, RELU6, -2}, {POINTWISE, 33, 1, RELU6, -2}, {DEPTHWISE, 33, 1, RELU6, -2}, {POINTWISE, 20, 1, LINEAR, 0},
         {POINTWISE, 50, 1, RELU6, -2}, {DEPTHWISE, 50, 2, RELU6, -2}, {POINTWISE, 3, 1, LINEAR, -2}},
        {{DEPTHWISE, 17, 2, RELU, -2}, {POINTWISE, 70, 1, RELU, -2}},
        {{POINTWISE, 96, 1, RELU6, -2}, {DEPTHWISE, 96, 1, RELU6, -2}, {POINTWISE, 17, 1, LINEAR, -1}},
    };
    const int sizes[][3] = {{1, 7, 5}, {3, 12, 9}, {2, 1, 2}, {1, 33, 34}};
    int count = 0;
    for (const auto& shapes : runs)
        for (const auto& size : sizes) {
            const int channels = shapes[0].kind == DENSE3 ? 3 : 17;
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
