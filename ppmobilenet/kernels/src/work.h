// A run with its memory: where each layer's maps, statistics and gradients are.
#pragma once
#include "vec.h"

namespace {

struct Work {
    const Run& run;
    const Layout layout;
    const float* input;
    float *saved, *scratch;

    const Layer& layer(int k) const { return run.layers[k]; }
    int64_t total(int k) const { return run.images * pixels_out(layer(k)); }
    float* raw(int k) const { return saved + layout.layer[k].raw; }
    float* made(int k) const { return saved + layout.layer[k].made; }
    // gradient of the layer's output, and of its batch norm's
    float* gradient(int k) const { return scratch + layout.layer[k].gradient; }
    float* norm_gradient(int k) const {
        return layer(k).after ? scratch + layout.layer[k].inner : gradient(k);
    }
    // 0 mean, 1 inverse deviation, 2 scale, 3 shift, 4 what rounding took from the mean
    float* statistic(int k, int which) const {
        return saved + layout.layer[k].statistics + which * padded(layer(k).c_out);
    }
    int64_t wide() const { return layout.sums_size / 4; }  // channels of the widest layer
    double* sums(int t) const { return reinterpret_cast<double*>(scratch + layout.sums + t * layout.sums_size); }
    double* products(int t) const { return sums(t) + wide(); }
    void clear_sums(int t) const { memset(sums(t), 0, layout.sums_size * 4); }
    float* weights() const { return scratch + layout.weights; }
    float* panel(int t) const { return scratch + layout.panels + t * layout.panel_size; }
    float* rows(int t) const { return scratch + layout.rows + t * layout.rows_size; }
    float* filter(int t) const { return scratch + layout.filters + t * layout.filter_size; }

    Source value_of(int k) const {
        Source s{};
        if (k < 0) {
            s.values = layout.input == NOWHERE ? nullptr : saved + layout.input;
            s.activation = s.raw_activation = IDENTITY;
            return s;
        }
        s.raw = raw(k), s.mean = statistic(k, 0), s.raw_scale = statistic(k, 2), s.raw_shift = statistic(k, 3);
        s.raw_activation = layer(k).after ? IDENTITY : layer(k).activation;
        if (layout.layer[k].made != NOWHERE) {
            s.values = made(k), s.activation = IDENTITY;
        } else {
            s.values = s.raw, s.scale = s.raw_scale, s.shift = s.raw_shift, s.activation = s.raw_activation;
        }
        return s;
    }
    Statistics statistics(int t) const {
        float* shifts = scratch + layout.shifts + t * wide() * 2;
        return {sums(t), products(t), shifts, shifts + wide()};
    }
    void clear_statistics(int t) const {
        clear_sums(t);
        memset(statistics(t).shift, 0, wide() * 2 * 4);
    }
};

}  // namespace
