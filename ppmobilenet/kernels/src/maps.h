// Whole maps: between the framework's planes and blocks of channels, and the sums of residual connections.
#pragma once
#include "work.h"

namespace {

void blocks_from_planes(const float* planes, float* blocks, int64_t images, int64_t channels, int64_t pixels, int threads, int t) {
    const Share mine = share(padded(channels) / BLOCK * images, threads, t, 1);
    for (int64_t i = mine.begin; i < mine.end; i++) {
        const int64_t block = i / images, image = i % images;
        for (int64_t c = 0; c < BLOCK; c++) {
            const int64_t channel = block * BLOCK + c;
            for (int64_t p = 0; p < pixels; p++)
                blocks[(i * pixels + p) * BLOCK + c] =
                    channel < channels ? planes[(image * channels + channel) * pixels + p] : 0.0f;
        }
    }
}

template <int ACT>
void planes_from_blocks(const Source& source, float* planes, int64_t images, int64_t channels, int64_t pixels, int threads,
                        int t) {
    const Share mine = share(padded(channels) / BLOCK * images, threads, t, 1);
    for (int64_t i = mine.begin; i < mine.end; i++) {
        const int64_t block = i / images, image = i % images;
        for (int64_t p = 0; p < pixels; p++) {
            alignas(64) float pixel[BLOCK];
            for (int u = 0; u < UNITS; u++) {
                vec s{}, b{};
                if (ACT != IDENTITY)
                    s = load(source.scale + block * BLOCK + u * WIDTH), b = load(source.shift + block * BLOCK + u * WIDTH);
                store(pixel + u * WIDTH, value<ACT>(source.values + (i * pixels + p) * BLOCK + u * WIDTH, s, b));
            }
            for (int64_t c = 0; c < BLOCK && block * BLOCK + c < channels; c++)
                planes[(image * channels + block * BLOCK + c) * pixels + p] = pixel[c];
        }
    }
}

// output = batch norm of the raw map, times the factor of its image and channel if there is one, + residual
template <int OTHER>
void add_residual(const Work& work, int k, const float* factor, const Source& other, int t) {
    const int64_t images = work.run.images, pixels = pixels_out(work.layer(k)), wide = padded(work.layer(k).c_out);
    const Share mine = share(wide / BLOCK * images, work.run.threads, t, 1);
    for (int64_t i = mine.begin; i < mine.end; i++)
        for (int u = 0; u < UNITS; u++) {
            const int64_t block = i / images, image = i % images, c = block * BLOCK + u * WIDTH;
            vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c), s{}, b{};
            if (factor) scale *= load(factor + image * wide + c), shift *= load(factor + image * wide + c);
            if (OTHER != IDENTITY) s = load(other.scale + c), b = load(other.shift + c);
            for (int64_t at = i * pixels * BLOCK + u * WIDTH; at < (i + 1) * pixels * BLOCK; at += BLOCK)
                store(work.made(k) + at, (load(work.raw(k) + at) * scale + shift) + value<OTHER>(other.values + at, s, b));
        }
}

// the gradient that arrives, into blocks, through the last activation and into its batch norm's sums; a channel
// belongs to one thread
template <int ACT>
void enter_gradient(const Work& work, const float* output_grad, int t) {
    const int k = work.run.count - 1;
    const Layer& layer = work.layer(k);
    const int64_t images = work.run.images, pixels = pixels_out(layer), channels = layer.c_out;
    const Share mine = share(padded(channels) / BLOCK, work.run.threads, t, 1);
    for (int64_t block = mine.begin; block < mine.end; block++)
        for (int64_t image = 0; image < images; image++)
            for (int u = 0; u < UNITS; u++) {
                const int64_t c = block * BLOCK + u * WIDTH;
                const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c);
                const vec mean = load(work.statistic(k, 0) + c);
                vec sum{}, product{};
                for (int64_t p = 0; p < pixels; p++) {
                    const int64_t at = ((block * images + image) * pixels + p) * BLOCK + u * WIDTH;
                    vec g{};
                    for (int i = 0; i < WIDTH; i++)
                        if (c + i < channels) g[i] = output_grad[(image * channels + c + i) * pixels + p];
                    if (ACT != IDENTITY) {
                        const vec raw = load(work.raw(k) + at);
                        g = masked<ACT>(g, raw * scale + shift);
                        sum += g;
                        product += g * (raw - mean);
                    }
                    store(work.gradient(k) + at, g);
                    if (p % 8 == 7 || p + 1 == pixels) {
                        add(work.sums(t) + c, sum);
                        add(work.products(t) + c, product);
                        sum = product = vec{};
                    }
                }
            }
}

}  // namespace
