// Where a run's maps, statistics and work areas lie. Offsets and sizes count floats and are multiples of 16.
#pragma once
#include "run.h"

constexpr int MAX_LAYERS = 512, MAX_THREADS = 1024;
constexpr int64_t MAX_FLOATS = int64_t(1) << 38;  // of one map: sizes of a whole run still fit 63 bits
constexpr int64_t NOWHERE = -1;

struct Place {
    int64_t raw;         // convolution output, the batch norm's input
    int64_t made;        // output of a layer with a factor or a residual, materialised; NOWHERE otherwise
    int64_t statistics;  // five rows of padded channels, see Work::statistic
    int64_t factor;      // of a layer with one: see Factor in outcome.h
    int64_t gradient;    // in the backward scratch: gradient of the layer's output, without a factor of the norm's
    int64_t inner;       // likewise, of a layer with a factor: gradient of the batch norm's output
};

struct Layout {
    Place layer[MAX_LAYERS];
    int64_t input, input_gradient;  // the run's input in blocks (NOWHERE when the first layer reads NCHW), its gradient
    int64_t saved;                  // floats
    int64_t weights, panels, panel_size, sums, sums_size, shifts, rows, rows_size, filters, filter_size;
    int64_t coefficients, factor_gradient;
    int64_t scratch;  // floats
};

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t padded(int64_t channels) { return round_up(channels, BLOCK); }
static inline int64_t pixels_in(const Layer& layer) { return int64_t(layer.h_in) * layer.w_in; }
static inline int64_t pixels_out(const Layer& layer) { return int64_t(layer.h_out) * layer.w_out; }
// rows of the convolution as a matrix: (channel, tap) of the NCHW input, (tap, padded channel) of blocks
static inline int64_t depth(const Layer& layer) {
    const int64_t taps = int64_t(layer.kernel) * layer.kernel;
    return layer.kind == STEM ? taps * layer.c_in : layer.kind == DENSE ? taps * padded(layer.c_in) : layer.c_in;
}
// taps that one pixel of the input may have been read by
static inline int64_t taps_back(const Layer& layer) {
    const int64_t side = (layer.kernel + layer.stride - 1) / layer.stride;
    return side * side;
}
// floats of the factor's and the gate's values, for all images
static inline int64_t factor_size(const Layer& layer, int64_t images) {
    const int64_t wide = padded(layer.c_out);
    return images * (layer.after & GATE ? 2 * wide + padded(layer.squeezed) : wide);
}

// rows of a matrix that are worked on at once: what of both sides fits the second-level cache, a multiple of every
// register tile's height
static inline int64_t panel_rows(const Layer& layer) {
    int64_t rows = 131072 / (padded(depth(layer)) + padded(layer.c_out)) / 24 * 24;
    return rows < 48 ? 48 : rows > 192 ? 192 : rows;
}

// first layer that backward has to reach
int bottom_layer(const Run&);
// with_gradients: the scratch of backward, otherwise of forward
Layout lay_out(const Run&, bool with_gradients);
