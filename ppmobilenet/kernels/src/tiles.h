// What becomes of the tiles of a matrix product (an Epilogue of product.h).
#pragma once
#include "vec.h"

namespace {

// the raw output, and its statistics
struct StoreRaw {
    float* raw;
    int64_t total, first;
    Statistics statistics;

    template <int NB>
    struct State {
        static constexpr int NV = NB * UNITS;
        StoreRaw& o;
        int64_t block, rows = 0;
        vec shift[NV], sum[NV], square[NV];
        bool fresh;

        State(StoreRaw& owner, int64_t b) : o(owner), block(b), fresh(owner.statistics.count[b * BLOCK] == 0) {
            UNROLL for (int j = 0; j < NV; j++) {
                sum[j] = square[j] = vec{};
                shift[j] = fresh ? vec{} : load(o.statistics.shift + block * BLOCK + j * WIDTH);
            }
        }
        inline void tile(int64_t r, int64_t valid, const float* tile) {
            if (fresh) {
                fresh = false;
                UNROLL for (int j = 0; j < NV; j++) {
                    vec all_rows{};
                    for (int64_t i = 0; i < valid; i++) all_rows += load(tile + (i * NV + j) * WIDTH);
                    shift[j] = all_rows / float(valid);
                    store(o.statistics.shift + block * BLOCK + j * WIDTH, shift[j]);
                }
            }
            // sums of a tile first: adding up short sums loses fewer digits
            UNROLL for (int j = 0; j < NV; j++) {
                float* to = o.raw + ((block + j / UNITS) * o.total + o.first + r) * BLOCK + j % UNITS * WIDTH;
                vec s{}, q{};
                for (int64_t i = 0; i < valid; i++) {
                    const vec v = load(tile + (i * NV + j) * WIDTH), d = v - shift[j];
                    store(to + i * BLOCK, v);
                    s += d;
                    q += d * d;
                }
                sum[j] += s;
                square[j] += q;
            }
            rows += valid;
        }
        void finish() {
            for (int j = 0; j < NV; j++) {
                const int64_t c = block * BLOCK + j * WIDTH;
                add(o.statistics.first + c, sum[j]);
                add(o.statistics.second + c, square[j]);
            }
            for (int j = 0; j < NB; j++) o.statistics.count[(block + j) * BLOCK] += rows;
        }
    };
};

// gradient of a map, through the activation and into the sums of the batch norm that produced it
template <int ACT, bool SKIP>
struct StoreGradient {
    float* gradient;
    const float* skip;  // gradient that reaches the map past the layers between
    Source source;
    int64_t total, first, step;  // pixels of the map, pixel of the panel's first row, pixels from row to row
    double *sum, *product;

    template <int NB>
    struct State {
        static constexpr int NV = NB * UNITS;
        StoreGradient& o;
        int64_t block;
        vec sum[NV], product[NV], mean[NV], scale[NV], shift[NV];

        State(StoreGradient& owner, int64_t b) : o(owner), block(b) {
            UNROLL for (int j = 0; j < NV; j++) {
                const int64_t c = block * BLOCK + j * WIDTH;
                sum[j] = product[j] = vec{};
                if (ACT != IDENTITY)
                    mean[j] = load(o.source.mean + c), scale[j] = load(o.source.raw_scale + c),
                    shift[j] = load(o.source.raw_shift + c);
            }
        }
        inline void tile(int64_t r, int64_t valid, const float* tile) {
            UNROLL for (int j = 0; j < NV; j++) {
                int64_t at = ((block + j / UNITS) * o.total + o.first + r * o.step) * BLOCK + j % UNITS * WIDTH;
                vec s{}, q{};
                for (int64_t i = 0; i < valid; i++, at += o.step * BLOCK) {
                    vec g = load(tile + (i * NV + j) * WIDTH);
                    if (SKIP) g += load(o.skip + at);
                    if (ACT != IDENTITY) {
                        const vec raw = load(o.source.raw + at);
                        g = masked<ACT>(g, raw * scale[j] + shift[j]);
                        s += g;
                        q += g * (raw - mean[j]);
                    }
                    store(o.gradient + at, g);
                }
                sum[j] += s;
                product[j] += q;
            }
        }
        void finish() {
            if (ACT != IDENTITY)
                for (int j = 0; j < NV; j++) {
                    const int64_t c = block * BLOCK + j * WIDTH;
                    add(o.sum + c, sum[j]);
                    add(o.product + c, product[j]);
                }
        }
    };
};

}  // namespace
