// Where a run's maps, statistics and work areas lie. Offsets and sizes count floats and are multiples of 16.
#pragma once
#include "run.h"

constexpr int MAX_LAYERS = 512, MAX_THREADS = 1024;
constexpr int64_t MAX_FLOATS = int64_t(1) << 38;  // of one map: sizes of a whole run still fit 63 bits
constexpr int64_t NOWHERE = -1;

struct Place {
    int64_t raw;         // convolution output, the batch norm's input
    int64_t sum;         // output of a layer with a residual, materialised; NOWHERE otherwise
    int64_t statistics;  // five rows of padded channels, see Work::statistic
    int64_t gradient;    // in the backward scratch: gradient of the batch norm's output
};

struct Layout {
    Place layer[MAX_LAYERS];
    int64_t input, input_gradient;        // the run's input in blocks (NOWHERE when the first layer reads NCHW), its gradient
    int64_t saved;                        // floats
    int64_t weights, panels, panel_size, sums, sums_size, shifts, rows, rows_size, filters, filter_size, coefficients;
    int64_t scratch;                      // floats
};

static inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
static inline int64_t padded(int64_t channels) { return round_up(channels, BLOCK); }
static inline int64_t pixels_in(const Layer& layer) { return int64_t(layer.h_in) * layer.w_in; }
static inline int64_t pixels_out(const Layer& layer) { return int64_t(layer.h_out) * layer.w_out; }
static inline int64_t depth(const Layer& layer) { return layer.kind == DENSE3 ? 9 * layer.c_in : layer.c_in; }

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
