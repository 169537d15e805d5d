// What multiplies a layer's map after its activation, a factor for each image and channel: squeeze-excitation's gate,
// layer scale, drop path. The product is written out (a small map where networks have one); an image belongs to one
// thread, so that a gate is a few dot products without waiting.
#pragma once
#include "maps.h"

namespace {

// values of a layer with a factor, [image][padded channels], or gradients of them
struct Factor {
    float *factor, *pooled, *hidden;  // the gate's means and its inner layer [image][padded squeezed]

    Factor(const Layer& layer, int64_t images, float* memory)
        : factor(memory), pooled(memory + images * padded(layer.c_out)), hidden(pooled + images * padded(layer.c_out)) {}
};
inline Factor factor_of(const Work& work, int k) {
    return Factor(work.layer(k), work.run.images, work.saved + work.layout.layer[k].factor);
}
inline Factor factor_gradient_of(const Work& work, int k) {
    return Factor(work.layer(k), work.run.images, work.scratch + work.layout.factor_gradient);
}

float dot(const float* a, const float* b, int64_t n) {
    vec sum[2] = {};
    int64_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        sum[0] += load_anywhere(a + i) * load_anywhere(b + i);
        sum[1] += load_anywhere(a + i + WIDTH) * load_anywhere(b + i + WIDTH);
    }
    sum[0] += sum[1];
    float found = 0;
    for (int j = 0; j < WIDTH; j++) found += sum[0][j];
    for (; i < n; i++) found += a[i] * b[i];
    return found;
}

void add_times(float* to, float times, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH)
        store_anywhere(to + i, load_anywhere(to + i) + times * load_anywhere(from + i));
    for (; i < n; i++) to[i] += times * from[i];
}

// One image's map of layer k, a block of channels (and register of it) at a time: body(channel, first, end).
template <class Body>
void for_image(const Work& work, int k, int64_t image, const Body& body) {
    const int64_t pixels = pixels_out(work.layer(k));
    for (int64_t block = 0; block < padded(work.layer(k).c_out) / BLOCK; block++)
        for (int u = 0; u < UNITS; u++) {
            const int64_t first = (block * work.run.images + image) * pixels * BLOCK + u * WIDTH;
            body(block * BLOCK + u * WIDTH, first, first + pixels * BLOCK);
        }
}

// sums of term(at) over a map, long ones of short ones
template <class Term>
inline vec long_sum(int64_t first, int64_t end, const Term& term) {
    constexpr int MOST = 4;
    vec sum{};
    while (first < end) {
        const int64_t stop = end - first < 64 * BLOCK ? end : first + 64 * BLOCK;
        vec some[MOST] = {};
        for (; first + (MOST - 1) * BLOCK < stop; first += MOST * BLOCK)
            UNROLL for (int i = 0; i < MOST; i++) some[i] += term(first + i * BLOCK);
        for (; first < stop; first += BLOCK) some[0] += term(first);
        sum += (some[0] + some[1]) + (some[2] + some[3]);
    }
    return sum;
}

template <int ACT>
void forward_gate(const Work& work, int k, int64_t image) {
    const Layer& layer = work.layer(k);
    const int64_t channels = layer.c_out, squeezed = layer.squeezed, wide = padded(channels), narrow = padded(squeezed);
    const Factor all_images = factor_of(work, k);
    float *factor = all_images.factor + image * wide, *pooled = all_images.pooled + image * wide;
    float* hidden = all_images.hidden + image * narrow;
    for_image(work, k, image, [&](int64_t c, int64_t first, int64_t end) {
        const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c);
        const vec sum = long_sum(first, end, [&](int64_t at) { return value<ACT>(work.raw(k) + at, scale, shift); });
        store(pooled + c, sum / float(pixels_out(layer)));
    });
    for (int64_t s = 0; s < squeezed; s++) {
        const float z = dot(pooled, layer.squeeze + s * channels, channels) + layer.squeeze_offset[s];
        hidden[s] = z < 0 ? 0 : z;
    }
    memset(factor, 0, wide * 4);
    for (int64_t c = 0; c < channels; c++) {
        const float z = dot(hidden, layer.excite + c * squeezed, squeezed) + layer.excite_offset[c];
        const float gate = z * layer.slope + 0.5f;
        factor[c] = gate < 0 ? 0 : gate > 1 ? 1 : gate;
    }
}

void forward_scale(const Work& work, int k, int64_t image) {
    const Layer& layer = work.layer(k);
    float* factor = factor_of(work, k).factor + image * padded(layer.c_out);
    const float kept = layer.after & DROP ? layer.kept[image] : 1.0f;
    for (int64_t c = 0; c < padded(layer.c_out); c++)
        factor[c] = c >= layer.c_out ? 0 : layer.after & SCALE ? layer.channel_scale[c] * kept : kept;
}

// this thread's images: their factors, and the product unless a residual follows
template <int ACT>
void forward_factor(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const Share mine = share(work.run.images, work.run.threads, t, 1);
    for (int64_t image = mine.begin; image < mine.end; image++) {
        if (layer.after & GATE) forward_gate<ACT>(work, k, image);
        else forward_scale(work, k, image);
        if (layer.residual >= -1) continue;
        const float* factor = factor_of(work, k).factor + image * padded(layer.c_out);
        for_image(work, k, image, [&](int64_t c, int64_t first, int64_t end) {
            const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c), times = load(factor + c);
            for (int64_t at = first; at < end; at += BLOCK)
                store(work.made(k) + at, value<ACT>(work.raw(k) + at, scale, shift) * times);
        });
    }
}

// From the factor's gradient (in place: that of the gate before its sigmoid) to that of the means, divided by the pixels.
void backward_gate(const Work& work, int k, int64_t image) {
    const Layer& layer = work.layer(k);
    const int64_t channels = layer.c_out, squeezed = layer.squeezed, wide = padded(channels), narrow = padded(squeezed);
    const Factor values = factor_of(work, k), gradients = factor_gradient_of(work, k);
    float *gate = gradients.factor + image * wide, *pooled = gradients.pooled + image * wide;
    float* hidden = gradients.hidden + image * narrow;
    memset(hidden, 0, narrow * 4);
    for (int64_t c = 0; c < channels; c++) {
        const float open = values.factor[image * wide + c];
        gate[c] = open > 0 && open < 1 ? gate[c] * layer.slope : 0;
        add_times(hidden, gate[c], layer.excite + c * squeezed, squeezed);
    }
    memset(pooled, 0, wide * 4);
    for (int64_t s = 0; s < squeezed; s++) {
        if (!(values.hidden[image * narrow + s] > 0)) hidden[s] = 0;
        add_times(pooled, hidden[s] / float(pixels_out(layer)), layer.squeeze + s * channels, channels);
    }
}

// From the gradient of layer k's output to that of its batch norm's, with its sums: of this thread's images.
template <int ACT>
void backward_factor(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t wide = padded(layer.c_out);
    const Share mine = share(work.run.images, work.run.threads, t, 1);
    const Factor values = factor_of(work, k), gradients = factor_gradient_of(work, k);
    const float *raw = work.raw(k), *gradient = work.gradient(k);
    float* inner = work.norm_gradient(k);
    for (int64_t image = mine.begin; image < mine.end; image++) {
        if (!(layer.after & GATE)) forward_scale(work, k, image);  // by the layer scale as it is by now
        for_image(work, k, image, [&](int64_t c, int64_t first, int64_t end) {
            const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c);
            store(gradients.factor + image * wide + c, long_sum(first, end, [&](int64_t at) {
                return load(gradient + at) * value<ACT>(raw + at, scale, shift);
            }));
        });
        if (layer.after & GATE) backward_gate(work, k, image);
        for_image(work, k, image, [&](int64_t c, int64_t first, int64_t end) {
            const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c);
            const vec mean = load(work.statistic(k, 0) + c), times = load(values.factor + image * wide + c);
            const vec more = layer.after & GATE ? load(gradients.pooled + image * wide + c) : vec{};
            for (int64_t at = first; at < end;) {
                vec sum{}, product{};
                for (const int64_t stop = end - at < 64 * BLOCK ? end : at + 64 * BLOCK; at < stop; at += BLOCK) {
                    const vec x = load(raw + at), g = masked<ACT>(load(gradient + at) * times + more, x * scale + shift);
                    store(inner + at, g);
                    sum += g;
                    product += g * (x - mean);
                }
                add(work.sums(t) + c, sum);
                add(work.products(t) + c, product);
            }
        });
    }
}

// gradients of the gate's weights and of the layer scale, all images together; rows of a matrix belong to one thread
void finish_factor(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t images = work.run.images, channels = layer.c_out, squeezed = layer.squeezed;
    const int64_t wide = padded(channels), narrow = padded(squeezed);
    const Factor values = factor_of(work, k), gradients = factor_gradient_of(work, k);
    const auto outer = [&](int weight, int offset, int64_t rows, int64_t row_room, const float* left, int64_t columns,
                           int64_t column_room, const float* right) {
        const Share mine = share(rows, work.run.threads, t, 1);
        for (int64_t r = mine.begin; r < mine.end; r++) {
            float *row = layer.gradients[weight] + r * columns, sum = 0;
            if (layer.needs_gradient >> weight & 1) {
                memset(row, 0, columns * 4);
                for (int64_t n = 0; n < images; n++) add_times(row, left[n * row_room + r], right + n * column_room, columns);
            }
            for (int64_t n = 0; n < images; n++) sum += left[n * row_room + r];
            if (layer.needs_gradient >> offset & 1) layer.gradients[offset][r] = sum;
        }
    };
    if (layer.after & GATE) {
        outer(SQUEEZE, SQUEEZE_OFFSET, squeezed, narrow, gradients.hidden, channels, wide, values.pooled);
        outer(EXCITE, EXCITE_OFFSET, channels, wide, gradients.factor, squeezed, narrow, values.hidden);
    }
    if (layer.needs_gradient >> CHANNEL_SCALE & 1 && t == 0)
        for (int64_t c = 0; c < channels; c++) {
            double sum = 0;
            for (int64_t n = 0; n < images; n++)
                sum += double(gradients.factor[n * wide + c]) * (layer.after & DROP ? layer.kept[n] : 1.0f);
            layer.gradients[CHANNEL_SCALE][c] = float(sum);
        }
}

}  // namespace
