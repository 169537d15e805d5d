// Rows of a map into a panel that fits the cache: normalised and activated values, and gradients of raw outputs.
#pragma once
#include "vec.h"

namespace {

template <int ACT>
void pack_values(const Source& source, int64_t total, int64_t first, int64_t rows, int64_t room, int64_t channels,
                 float* panel) {
    for (int64_t block = 0; block < padded(channels) / BLOCK; block++) {
        const float* in = source.values + (block * total + first) * BLOCK;
        float* out = panel + block * room * BLOCK;
        for (int u = 0; u < UNITS; u++) {
            vec scale{}, shift{};
            if (ACT != IDENTITY)
                scale = load(source.scale + block * BLOCK + u * WIDTH), shift = load(source.shift + block * BLOCK + u * WIDTH);
            for (int64_t r = 0; r < rows; r++)
                store(out + r * BLOCK + u * WIDTH, value<ACT>(in + r * BLOCK + u * WIDTH, scale, shift));
        }
        memset(out + rows * BLOCK, 0, (room - rows) * BLOCK * 4);
    }
}

// where the filter begins for one output pixel
struct Corner {
    int64_t image, y, x;
};
inline Corner corner(const Layer& layer, int64_t pixel) {
    const int64_t p = pixel % pixels_out(layer);
    return {pixel / pixels_out(layer), p / layer.w_out * layer.stride - layer.before_h,
            p % layer.w_out * layer.stride - layer.before_w};
}

// neighbourhoods of the NCHW input, k = (channel, row, column) as the weight has it; pixels of one row together
void pack_image(const Layer& layer, const float* input, int64_t first, int64_t rows, int64_t room, float* panel) {
    const int64_t h = layer.h_in, w = layer.w_in, stride = layer.stride;
    memset(panel, 0, padded(depth(layer)) * room * 4);
    for (int64_t r = 0, many; r < rows; r += many) {
        const Corner at = corner(layer, first + r);
        const int64_t left = layer.w_out - (first + r) % layer.w_out;
        many = rows - r < left ? rows - r : left;
        for (int64_t k = 0; k < depth(layer); k++) {
            const int64_t tap = k % (layer.kernel * layer.kernel), y = at.y + tap / layer.kernel;
            if (y < 0 || y >= h) continue;
            const int64_t x = at.x + tap % layer.kernel;
            const float* in = input + ((at.image * layer.c_in + k / (layer.kernel * layer.kernel)) * h + y) * w + x;
            float* out = panel + k / BLOCK * room * BLOCK + r * BLOCK + k % BLOCK;
            const int64_t begin = x < 0 ? (-x + stride - 1) / stride : 0;
            const int64_t fitting = w > x ? (w - x + stride - 1) / stride : 0, end = many < fitting ? many : fitting;
            for (int64_t i = begin; i < end; i++) out[i * BLOCK] = in[i * stride];
        }
    }
}

// neighbourhoods of a map in blocks, k = (row, column, padded channel)
template <int ACT>
void pack_neighbourhoods(const Layer& layer, const Source& source, int64_t images, int64_t first, int64_t rows, int64_t room,
                         float* panel) {
    const int64_t h = layer.h_in, w = layer.w_in, blocks = padded(layer.c_in) / BLOCK;
    for (int64_t r = 0; r < room; r++) {
        const bool real = r < rows;
        const Corner at = real ? corner(layer, first + r) : Corner{0, 0, 0};
        float* out = panel + r * BLOCK;
        for (int64_t i = 0; i < layer.kernel; i++)
            for (int64_t j = 0; j < layer.kernel; j++) {
                const int64_t y = at.y + i, x = at.x + j;
                const bool inside = real && y >= 0 && y < h && x >= 0 && x < w;
                for (int64_t block = 0; block < blocks; block++, out += room * BLOCK) {
                    const float* in = source.values + ((block * images + at.image) * h * w + y * w + x) * BLOCK;
                    for (int u = 0; u < UNITS; u++) {
                        vec v{};
                        if (inside && ACT == IDENTITY) v = load(in + u * WIDTH);
                        if (inside && ACT != IDENTITY) {
                            const int64_t c = block * BLOCK + u * WIDTH;
                            v = value<ACT>(in + u * WIDTH, load(source.scale + c), load(source.shift + c));
                        }
                        store(out + u * WIDTH, v);
                    }
                }
            }
    }
}

void pack_source(const Layer& layer, const Source& source, const float* input, int64_t images, int64_t first, int64_t rows,
                 int64_t room, float* panel) {
    if (layer.kind == STEM) return pack_image(layer, input, first, rows, room, panel);
#define CALL(ACT)                                                                         \
    layer.kind == DENSE                                                                   \
        ? pack_neighbourhoods<ACT>(layer, source, images, first, rows, room, panel)       \
        : pack_values<ACT>(source, images * pixels_out(layer), first, rows, room, layer.c_in, panel)
    FOR_ACTIVATION(source.activation, CALL)
#undef CALL
}

void pack_gradients(const float* gradient, const float* raw, const Coefficients& k, int64_t total, int64_t first,
                    int64_t rows, int64_t room, int64_t channels, float* panel) {
    for (int64_t block = 0; block < padded(channels) / BLOCK; block++) {
        const int64_t at = (block * total + first) * BLOCK;
        float* out = panel + block * room * BLOCK;
        for (int u = 0; u < UNITS; u++) {
            const int64_t c = block * BLOCK + u * WIDTH;
            const vec ka = load(k.a + c), kb = load(k.b + c), kc = load(k.c + c), mean = load(k.mean + c);
            for (int64_t r = 0; r < rows; r++) {
                const int64_t o = r * BLOCK + u * WIDTH;
                store(out + o, raw_gradient(gradient + at + o, raw + at + o, ka, kb, kc, mean));
            }
        }
        memset(out + rows * BLOCK, 0, (room - rows) * BLOCK * 4);
    }
}

// Pixels of one row of a dense convolution's input that were read by the same taps: every stride-th one, in columns
// `stride * q + column - before_w` of row `y`. Their outputs are those of rows y0 - m and columns q - n.
struct Parity {
    int64_t image, y, row, column, taps_down, taps_across;

    Parity(const Layer& layer, int64_t i, int64_t y_, int64_t column_)
        : image(i), y(y_), row((y_ + layer.before_h) % layer.stride), column(column_),
          taps_down((layer.kernel - row + layer.stride - 1) / layer.stride),
          taps_across((layer.kernel - column + layer.stride - 1) / layer.stride) {}
    int64_t taps() const { return taps_down * taps_across; }
    int64_t first_q(const Layer& layer) const {
        return (layer.before_w - column + layer.stride - 1) / layer.stride;
    }
    int64_t end_q(const Layer& layer) const {
        return (layer.w_in + layer.before_w - column + layer.stride - 1) / layer.stride;
    }
};

// gradients of the raw outputs around the pixels q, q + 1, ...: k = (m, n, padded channel out)
void pack_gradients_around(const Layer& layer, const float* gradient, const float* raw, const Coefficients& k,
                           int64_t images, const Parity& at, int64_t q, int64_t rows, int64_t room, float* panel) {
    const int64_t w = layer.w_out, y0 = (at.y + layer.before_h) / layer.stride;
    float* out = panel;
    for (int64_t m = 0; m < at.taps_down; m++)
        for (int64_t n = 0; n < at.taps_across; n++)
            for (int64_t block = 0; block < padded(layer.c_out) / BLOCK; block++, out += room * BLOCK) {
                const int64_t y = y0 - m, row = ((block * images + at.image) * layer.h_out + y) * w;
                for (int u = 0; u < UNITS; u++) {
                    const int64_t c = block * BLOCK + u * WIDTH;
                    const vec ka = load(k.a + c), kb = load(k.b + c), kc = load(k.c + c), mean = load(k.mean + c);
                    for (int64_t r = 0; r < room; r++) {
                        const int64_t x = q + r - n, o = (row + x) * BLOCK + u * WIDTH;
                        const bool inside = r < rows && y >= 0 && y < layer.h_out && x >= 0 && x < w;
                        store(out + r * BLOCK + u * WIDTH,
                              inside ? raw_gradient(gradient + o, raw + o, ka, kb, kc, mean) : vec{});
                    }
                }
            }
}

}  // namespace
