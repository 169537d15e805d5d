// Depthwise convolutions, K x K taps at one stride, forward and backward. They work on rows in the first-level cache:
// a ring of K rows (of activated inputs forward, of raw gradients backward) with zeros around them, and backward two
// rows more. Activations and batch norms are applied between, so that the taps' loops know nothing of them.
#pragma once
#include "vec.h"

namespace {

struct Plane {
    int64_t block, image, begin, end;  // rows [begin, end) of the map that is written
};
struct Planes {
    int64_t blocks, images, height, bands;
    Planes(int64_t b, int64_t n, int64_t h, int threads) : blocks(b), images(n), height(h) {
        bands = (4 * threads + b * n - 1) / (b * n);
        if (bands > h / 8) bands = h / 8;
        if (bands < 1) bands = 1;
    }
    int64_t count() const { return blocks * images * bands; }
    Plane at(int64_t i) const {
        const int64_t band = i % bands, plane = i / bands;
        return {plane / images, plane % images, height * band / bands, height * (band + 1) / bands};
    }
};

inline int64_t flush_every(int64_t width) { return width >= 64 ? 1 : 64 / width; }

// Rows one after the other, each with zeros around `width` columns that begin at column `left`.
struct Ring {
    float* rows;
    int64_t size, left, width;
    int count;

    Ring(float* memory, int64_t columns, int64_t l, int64_t w, int n) : rows(memory), size(columns * BLOCK), left(l), width(w), count(n) {
        memset(rows, 0, count * size * 4);
    }
    // row y, y >= -count, from its first column with zeros
    float* row(int64_t y) const { return rows + (y + count) % count * size; }
    float* inside(int64_t y) const { return row(y) + left * BLOCK; }
    void clear(int64_t y) const { memset(inside(y), 0, width * BLOCK * 4); }
    float* end() const { return rows + count * size; }
};

template <int ACT>
void fill_row(float* out, const float* in, int64_t width, const float* scale, const float* shift) {
    for (int u = 0; u < UNITS; u++) {
        vec s{}, b{};
        if (ACT != IDENTITY) s = load(scale + u * WIDTH), b = load(shift + u * WIDTH);
        for (int64_t x = 0; x < width; x++)
            store(out + x * BLOCK + u * WIDTH, value<ACT>(in + x * BLOCK + u * WIDTH, s, b));
    }
}
// values of one row of channels c0 and on
void fill_values(float* out, const Source& source, const float* in, int64_t width, int64_t c0) {
#define CALL(ACT) fill_row<ACT>(out, in, width, source.scale + c0, source.shift + c0)
    FOR_ACTIVATION(source.activation, CALL)
#undef CALL
}

// the filter of 16 channels: [tap][channel]
template <int K>
void load_taps(const Layer& layer, int64_t c0, float (*taps)[BLOCK]) {
    for (int k = 0; k < K * K; k++)
        for (int64_t c = 0; c < BLOCK; c++) taps[k][c] = c0 + c < layer.c_out ? layer.weight[(c0 + c) * K * K + k] : 0.0f;
}

// COLUMNS outputs of one row: row[i] points at the first column that the first of them reads
template <int K, int STRIDE, int COLUMNS>
inline void filter_columns(const float* const row[K], int64_t x0, const float* taps, vec acc[COLUMNS]) {
    UNROLL for (int c = 0; c < COLUMNS; c++) acc[c] = vec{};
    UNROLL for (int i = 0; i < K; i++) {
        const float* in = row[i] + x0 * STRIDE * BLOCK;
        UNROLL for (int x = 0; x < (COLUMNS - 1) * STRIDE + K; x++) {
            const vec v = load(in + x * BLOCK);
            UNROLL for (int c = 0; c < COLUMNS; c++)
                if (x >= c * STRIDE && x < c * STRIDE + K) acc[c] += v * load(taps + (i * K + x - c * STRIDE) * BLOCK);
        }
    }
}

constexpr int MANY = WIDTH == 16 ? 8 : WIDTH == 8 ? 4 : 2;  // columns at once

// one row of outputs, and its sums for the statistics
template <int K, int STRIDE>
OWN_FUNCTION void filter_row(const float* const row[K], const float* taps, int64_t width, float* out, vec shift, vec& sum,
                             vec& square) {
    int64_t x = 0;
    for (; x + MANY <= width; x += MANY) {
        vec acc[MANY], s{}, q{};
        filter_columns<K, STRIDE, MANY>(row, x, taps, acc);
        UNROLL for (int c = 0; c < MANY; c++) {
            store(out + (x + c) * BLOCK, acc[c]);
            const vec d = acc[c] - shift;
            s += d;
            q += d * d;
        }
        sum += s;
        square += q;
    }
    for (; x < width; x++) {
        vec acc[1];
        filter_columns<K, STRIDE, 1>(row, x, taps, acc);
        store(out + x * BLOCK, acc[0]);
        const vec d = acc[0] - shift;
        sum += d;
        square += d * d;
    }
}

template <int K, int STRIDE>
void depthwise_forward(const Layer& layer, const Source& source, int64_t images, float* raw, float* rows,
                       Statistics statistics, int threads, int t) {
    const int64_t h_in = layer.h_in, w_in = layer.w_in, h_out = layer.h_out, w_out = layer.w_out;
    const Planes planes(padded(layer.c_out) / BLOCK, images, h_out, threads);
    const Share mine = share(planes.count(), threads, t, 1);
    const Ring ring(rows, w_in + K, layer.before_w, w_in, K);
    for (int64_t item = mine.begin; item < mine.end; item++) {
        const Plane plane = planes.at(item);
        const int64_t c0 = plane.block * BLOCK;
        const float* in = source.values + (plane.block * images + plane.image) * h_in * w_in * BLOCK;
        float* out = raw + (plane.block * images + plane.image) * h_out * w_out * BLOCK;
        alignas(64) float taps[K * K][BLOCK];
        load_taps<K>(layer, c0, taps);
        const auto fill = [&](int64_t y) {
            if (y < 0 || y >= h_in) ring.clear(y);
            else fill_values(ring.inside(y), source, in + y * w_in * BLOCK, w_in, c0);
        };
        vec sum[UNITS] = {}, square[UNITS] = {};
        const auto filter = [&](int64_t y, float* to, int u) {
            const float* row[K];
            for (int i = 0; i < K; i++) row[i] = ring.row(y * STRIDE - layer.before_h + i) + u * WIDTH;
            filter_row<K, STRIDE>(row, taps[0] + u * WIDTH, w_out, to + u * WIDTH,
                                  load(statistics.shift + c0 + u * WIDTH), sum[u], square[u]);
        };
        if (statistics.count[c0] == 0) {  // the shift: the mean of a row from the middle, away from the zero border
            const int64_t middle = (plane.begin + plane.end) / 2;
            for (int i = 0; i < K; i++) fill(middle * STRIDE - layer.before_h + i);
            for (int u = 0; u < UNITS; u++) {
                filter(middle, out + middle * w_out * BLOCK, u);  // the shift is still zero
                store(statistics.shift + c0 + u * WIDTH, sum[u] / float(w_out));
                sum[u] = square[u] = vec{};
            }
        }
        int64_t filled = plane.begin * STRIDE - layer.before_h;
        for (int64_t y = plane.begin; y < plane.end; y++) {
            for (; filled < y * STRIDE - layer.before_h + K; filled++) fill(filled);
            for (int u = 0; u < UNITS; u++) filter(y, out + y * w_out * BLOCK, u);
            if ((y - plane.begin + 1) % flush_every(w_out) == 0 || y + 1 == plane.end)
                for (int u = 0; u < UNITS; u++) {
                    add(statistics.first + c0 + u * WIDTH, sum[u]);
                    add(statistics.second + c0 + u * WIDTH, square[u]);
                    sum[u] = square[u] = vec{};
                }
        }
        statistics.count[c0] += (plane.end - plane.begin) * w_out;
    }
}

// An input pixel x in a row Y = y + before_h was read by the taps (row PI + STRIDE m, column PJ + STRIDE n) of the
// outputs (Y / STRIDE - m, q - n), where PI = Y % STRIDE and x + before_w = STRIDE q + PJ.
template <int K, int STRIDE>
constexpr int taps_of(int parity) {
    return (K - parity + STRIDE - 1) / STRIDE;
}

// gradients of COLUMNS pixels of one parity; row[m] points at column q of the raw gradient
template <int K, int STRIDE, int PI, int PJ, int COLUMNS>
inline void spread_columns(const float* const* row, int64_t q, const float* taps, vec acc[COLUMNS]) {
    constexpr int DOWN = taps_of<K, STRIDE>(PI), ACROSS = taps_of<K, STRIDE>(PJ);
    UNROLL for (int c = 0; c < COLUMNS; c++) acc[c] = vec{};
    UNROLL for (int m = 0; m < DOWN; m++) UNROLL for (int e = 1 - ACROSS; e < COLUMNS; e++) {
        const vec d = load(row[m] + (q + e) * BLOCK);
        UNROLL for (int c = 0; c < COLUMNS; c++)
            if (c >= e && c - e < ACROSS)
                acc[c] += d * load(taps + ((PI + STRIDE * m) * K + PJ + STRIDE * (c - e)) * BLOCK);
    }
}

// gradients of the pixels of one parity in one row of the input
template <int K, int STRIDE, int PI, int PJ>
OWN_FUNCTION void spread_row(const float* const* row, int64_t before, int64_t width, const float* taps, float* gradient) {
    const int64_t end = (width + before - PJ + STRIDE - 1) / STRIDE;
    int64_t q = (before - PJ + STRIDE - 1) / STRIDE;
    float* out = gradient + (STRIDE * q + PJ - before) * BLOCK;
    for (; q + MANY <= end; q += MANY, out += MANY * STRIDE * BLOCK) {
        vec acc[MANY];
        spread_columns<K, STRIDE, PI, PJ, MANY>(row, q, taps, acc);
        UNROLL for (int c = 0; c < MANY; c++) store(out + c * STRIDE * BLOCK, acc[c]);
    }
    for (; q < end; q++, out += STRIDE * BLOCK) {
        vec acc[1];
        spread_columns<K, STRIDE, PI, PJ, 1>(row, q, taps, acc);
        store(out, acc[0]);
    }
}

// one row of the filter's gradient: `gradient` at the first output, `values` at the first column that it reads
template <int K, int STRIDE>
OWN_FUNCTION void filter_gradient(const float* gradient, const float* values, int64_t width, vec* filter) {
    vec even[K], odd[K];
    UNROLL for (int j = 0; j < K; j++) even[j] = filter[j], odd[j] = vec{};
    int64_t x = 0;
    for (; x + 2 <= width; x += 2, gradient += 2 * BLOCK, values += 2 * STRIDE * BLOCK) {
        const vec d = load(gradient), e = load(gradient + BLOCK);
        UNROLL for (int j = 0; j < K; j++) {
            even[j] += d * load(values + j * BLOCK);
            odd[j] += e * load(values + (j + STRIDE) * BLOCK);
        }
    }
    if (x < width) UNROLL for (int j = 0; j < K; j++) even[j] += load(gradient) * load(values + j * BLOCK);
    UNROLL for (int j = 0; j < K; j++) filter[j] = even[j] + odd[j];
}

// What is known of a pixel's gradient besides the taps: what skipped the layers between, and the norm in front.
struct Finish {
    const float *skip, *raw;  // of the row; skip may be null
    vec scale, shift, mean;
};

// a row of gradients into the map, through the activation and into the sums of the batch norm that produced the input
template <int ACT>
void finish_row(const float* row, const Finish& f, int64_t width, float* out, vec& sum, vec& product) {
    for (int64_t x = 0; x < width * BLOCK; x += BLOCK) {
        vec g = load(row + x);
        if (f.skip) g += load(f.skip + x);
        if (ACT != IDENTITY) {
            const vec raw = load(f.raw + x);
            g = masked<ACT>(g, raw * f.scale + f.shift);
            sum += g;
            product += g * (raw - f.mean);
        }
        store(out + x, g);
    }
}

template <int K>
struct DepthwiseSums {
    vec filter[K * K], sum, product;
};

// filter: this thread's [taps][channels] in doubles
template <int K, int STRIDE>
void depthwise_backward(const Layer& layer, const Source& source, int64_t images, const float* gradient, const float* raw,
                        const Coefficients& k, const float* skip, float* rows, float* out_gradient, double* filter,
                        double* sum, double* product, int threads, int t) {
    const int64_t h_in = layer.h_in, w_in = layer.w_in, h_out = layer.h_out, w_out = layer.w_out;
    const int64_t channels = padded(layer.c_out);
    const Planes planes(channels / BLOCK, images, h_in, threads);
    const Share mine = share(planes.count(), threads, t, 1);
    const Ring ring(rows, w_in + 2 * K, K, w_out, K);
    const Ring values(ring.end(), w_in + K, layer.before_w, w_in, 1);
    float* spread = values.end();
    for (int64_t item = mine.begin; item < mine.end; item++) {
        const Plane plane = planes.at(item);
        const int64_t c0 = plane.block * BLOCK, base = plane.block * images + plane.image, at_plane = base * h_in * w_in * BLOCK;
        const float *dz = gradient + base * h_out * w_out * BLOCK, *y = raw + base * h_out * w_out * BLOCK;
        alignas(64) float taps[K * K][BLOCK];
        load_taps<K>(layer, c0, taps);
        DepthwiseSums<K> sums[UNITS];
        memset(static_cast<void*>(sums), 0, sizeof sums);
        const auto fill = [&](int64_t o) {
            if (o < 0 || o >= h_out) return ring.clear(o);
            for (int u = 0; u < UNITS; u++) {
                const int64_t c = c0 + u * WIDTH, at = o * w_out * BLOCK + u * WIDTH;
                const vec ka = load(k.a + c), kb = load(k.b + c), kc = load(k.c + c), mean = load(k.mean + c);
                float* to = ring.inside(o) + u * WIDTH;
                for (int64_t x = 0; x < w_out * BLOCK; x += BLOCK)
                    store(to + x, raw_gradient(dz + at + x, y + at + x, ka, kb, kc, mean));
            }
        };
        int64_t filled = (plane.begin + layer.before_h) / STRIDE - taps_of<K, STRIDE>(0) + 1;
        for (int64_t row = plane.begin; row < plane.end; row++) {
            const int64_t above = row + layer.before_h, last = above / STRIDE, parity = above % STRIDE;
            const int64_t at = at_plane + row * w_in * BLOCK;
            for (; filled <= last; filled++) fill(filled);
            fill_values(values.inside(0), source, source.values + at, w_in, c0);
            for (int u = 0; u < UNITS; u++) {
                const float* gradients[K];
                for (int m = 0; m < taps_of<K, STRIDE>(0); m++) gradients[m] = ring.inside(last - m) + u * WIDTH;
                const float* unit_taps = taps[0] + u * WIDTH;
#define SPREAD(PI, PJ) \
    spread_row<K, STRIDE, (PI) % STRIDE, (PJ) % STRIDE>(gradients, layer.before_w, w_in, unit_taps, spread + u * WIDTH)
                if (parity == 0) SPREAD(0, 0); else SPREAD(1, 0);
                if (STRIDE == 2) {
                    if (parity == 0) SPREAD(0, 1); else SPREAD(1, 1);
                }
#undef SPREAD
                for (int64_t m = 0, i = parity; i < K; m++, i += STRIDE)
                    if (last - m >= 0 && last - m < h_out)
                        filter_gradient<K, STRIDE>(gradients[m], values.row(0) + u * WIDTH, w_out, sums[u].filter + i * K);
                const int64_t c = c0 + u * WIDTH;
                Finish finish{skip ? skip + at + u * WIDTH : nullptr, nullptr, vec{}, vec{}, vec{}};
                if (source.raw_activation != IDENTITY)
                    finish = {finish.skip, source.raw + at + u * WIDTH, load(source.raw_scale + c),
                              load(source.raw_shift + c), load(source.mean + c)};
#define CALL(ACT) \
    finish_row<ACT>(spread + u * WIDTH, finish, w_in, out_gradient + at + u * WIDTH, sums[u].sum, sums[u].product)
                FOR_ACTIVATION(source.raw_activation, CALL)
#undef CALL
            }
            if ((row - plane.begin + 1) % flush_every(w_in) == 0 || row + 1 == plane.end)
                for (int u = 0; u < UNITS; u++) {
                    const int64_t c = c0 + u * WIDTH;
                    for (int i = 0; i < K * K; i++) add(filter + i * channels + c, sums[u].filter[i]);
                    if (source.raw_activation != IDENTITY) add(sum + c, sums[u].sum), add(product + c, sums[u].product);
                    memset(static_cast<void*>(&sums[u]), 0, sizeof sums[u]);
                }
        }
    }
}

#define FOR_FILTER(layer, CALL)                                     \
    (layer.kernel == 3 ? layer.stride == 1 ? CALL(3, 1) : CALL(3, 2) \
                       : layer.stride == 1 ? CALL(5, 1) : CALL(5, 2))

// the threads' filters together, into the framework's [channels, 1, k, k]
template <class FilterOf>
void finish_depthwise(const Layer& layer, const FilterOf& filter_of, int threads) {
    const int64_t taps = layer.kernel * layer.kernel, channels = padded(layer.c_out);
    for (int64_t c = 0; c < layer.c_out; c++)
        for (int64_t i = 0; i < taps; i++) {
            double sum = 0;
            for (int t = 0; t < threads; t++) sum += reinterpret_cast<const double*>(filter_of(t))[i * channels + c];
            layer.gradients[WEIGHT][c * taps + i] = float(sum);
        }
}

}  // namespace
