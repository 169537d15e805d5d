// The run's forward and backward pass, compiled once for each instruction set: ENGINE names the result, WIDTH is the
// number of floats in a vector register. Everything else here is static, so that no linker can mix the sets up.
//
// What the pass over memory costs decides here as much as the arithmetic: a MobileNet does about four multiply-adds for
// each byte it moves. So a layer reads its producer's raw convolution output and normalises and clips it while it packs
// it into a cache-sized panel, takes its own statistics from registers, and its backward pass forms the gradient of the
// batch norm's input the same way. Each map is written once forward, read twice and its gradient written once backward.
//
// Read vec.h first, then product.h, tiles.h and panels.h (convolutions as matrix products), depthwise.h, and of whole maps
// work.h, maps.h and factor.h.
#include "depthwise.h"
#include "factor.h"
#include "panels.h"
#include "product.h"
#include "tiles.h"

namespace {

// ---------------------------------------------------------------- forward

// batch statistics of the threads' parts together (Chan et al. 1979), and what forward and backward need of them
void finish_statistics(const Work& work, int k) {
    const Layer& layer = work.layer(k);
    const int64_t channels = padded(layer.c_out);
    float *means = work.statistic(k, 0), *inverses = work.statistic(k, 1);
    float *scales = work.statistic(k, 2), *shifts = work.statistic(k, 3), *rests = work.statistic(k, 4);
    for (int64_t c = 0; c < channels; c++) {
        if (c >= layer.c_out) {
            means[c] = inverses[c] = scales[c] = shifts[c] = rests[c] = 0.0f;
            continue;
        }
        double mean = layer.mean[c], variance = layer.variance[c];
        if (!layer.running) {
            double count = 0, squares = 0;
            mean = 0;
            for (int t = 0; t < work.run.threads; t++) {
                const Statistics s = work.statistics(t);
                const double n = s.count[c / BLOCK * BLOCK];
                if (n == 0) continue;
                const double m = s.shift[c] + s.first[c] / n, q = s.second[c] - s.first[c] * s.first[c] / n;
                const double apart = m - mean;
                squares += q + apart * apart * count * n / (count + n);
                mean += apart * n / (count + n);
                count += n;
            }
            variance = squares / count;
            layer.mean[c] = layer.mean[c] * layer.momentum + float(mean) * (1.0f - layer.momentum);
            layer.variance[c] = layer.variance[c] * layer.momentum + float(variance) * (1.0f - layer.momentum);
        }
        const double inverse = 1.0 / sqrt(variance + layer.epsilon);
        inverses[c] = float(inverse), scales[c] = float(layer.gamma[c] * inverse);
        shifts[c] = float(layer.beta[c] - mean * double(scales[c]));
        means[c] = float(mean), rests[c] = float(mean - double(means[c]));
    }
}

void forward_product(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t total = work.total(k), room = panel_rows(layer), ks = depth(layer);
    const Share mine = share(total, work.run.threads, t, 8);
    const Source source = work.value_of(k - 1);
    if (layer.kind == DENSE) {
        const int64_t taps = layer.kernel * layer.kernel, wide = padded(layer.c_in);
        const auto element = [&](int64_t row, int64_t column) {
            const int64_t tap = row / wide, c = row % wide;
            return c < layer.c_in ? layer.weight[(column * layer.c_in + c) * taps + tap] : 0.0f;
        };
        pack_elements(element, ks, layer.c_out, work.weights(), work.run.threads, t);
    } else {
        pack(layer.weight, true, ks, layer.c_out, work.weights(), work.run.threads, t);
    }
    team_barrier();
    StoreRaw store_raw{work.raw(k), total, 0, work.statistics(t)};
    for (int64_t first = mine.begin; first < mine.end; first += room) {
        const int64_t rows = mine.end - first < room ? mine.end - first : room;
        pack_source(layer, source, work.input, work.run.images, first, rows, room, work.panel(t));
        store_raw.first = first;
        product(work.panel(t), room * BLOCK, rows, ks, work.weights(), layer.c_out, store_raw);
    }
}

// layer k's factor and residual, once its statistics are known
void forward_after(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    team_barrier();
    if (layer.after) {
#define CALL(ACT) forward_factor<ACT>(work, k, t)
        FOR_ACTIVATION(layer.activation, CALL)
#undef CALL
    }
    if (layer.residual < -1) return;
    if (layer.after) team_barrier();
    const Source other = work.value_of(layer.residual);
    const float* factor = layer.after ? factor_of(work, k).factor : nullptr;
#define CALL(ACT) add_residual<ACT>(work, k, factor, other, t)
    FOR_ACTIVATION(other.activation, CALL)
#undef CALL
}

void forward(const Run& run, const float* input, float* saved, float* scratch, float* output) {
    const Work work{run, lay_out(run, false), input, saved, scratch};
    const int threads = run.threads, last = run.count - 1;
    const Layer& first = run.layers[0];
    if (work.layout.input != NOWHERE) {
        parallel(threads, [&](int t) {
            blocks_from_planes(input, saved + work.layout.input, run.images, first.c_in, pixels_in(first), threads, t);
        });
    }
    for (int k = 0; k <= last; k++) {
        const Layer& layer = work.layer(k);
        const Source source = work.value_of(k - 1);
        parallel(threads, [&](int t) {
            work.clear_statistics(t);
            if (layer.kind == DEPTHWISE) {
#define CALL(K, STRIDE)     depthwise_forward<K, STRIDE>(layer, source, run.images, work.raw(k), work.rows(t), work.statistics(t), threads, t)
                FOR_FILTER(layer, CALL);
#undef CALL
            } else {
                forward_product(work, k, t);
            }
            team_barrier();
            if (t == 0) finish_statistics(work, k);
            if (work.layout.layer[k].made != NOWHERE) forward_after(work, k, t);
        });
    }
    const Source result = work.value_of(last);
    parallel(threads, [&](int t) {
#define CALL(ACT)     planes_from_blocks<ACT>(result, output, run.images, work.layer(last).c_out, pixels_out(work.layer(last)), threads, t)
        FOR_ACTIVATION(result.activation, CALL)
#undef CALL
    });
}

// ---------------------------------------------------------------- backward

// gradients of gamma and beta, and the coefficients of the raw output's gradient
void finish_gradient(const Work& work, int k) {
    const Layer& layer = work.layer(k);
    const int64_t channels = padded(layer.c_out);
    float *a = work.scratch + work.layout.coefficients, *b = a + work.wide(), *c = b + work.wide();
    const double count = double(work.total(k));
    for (int64_t i = 0; i < channels; i++) {
        double sum = 0, product = 0;
        for (int t = 0; t < work.run.threads; t++) sum += work.sums(t)[i], product += work.products(t)[i];
        // gamma as it is by now: an optimizer may have stepped since forward, and stock operators see that too
        const double inverse = work.statistic(k, 1)[i];
        const double scale = i < layer.c_out ? float(layer.gamma[i] * inverse) : 0.0f;
        const double rest = work.statistic(k, 4)[i];
        product -= sum * rest;
        if (i < layer.c_out) {
            if (layer.needs_gradient >> GAMMA & 1) layer.gradients[GAMMA][i] = float(product * inverse);
            if (layer.needs_gradient >> BETA & 1) layer.gradients[BETA][i] = float(sum);
        }
        // c makes the mean of the result zero for the a, b and mean that are left after rounding
        a[i] = float(scale);
        b[i] = layer.running ? 0.0f : float(-scale * inverse * inverse * product / count);
        c[i] = layer.running ? 0.0f : float(-scale * sum / count - double(b[i]) * rest);
    }
}

// What the backward pass of one layer works on.
struct Back {
    int k;
    Coefficients coefficients;
    bool filter;
    const float* skip;    // gradient that reaches the input past the layers between; may be null
    float* out_gradient;  // of the input; null where nothing needs it
};

// gradients of the values, pixels one after the other, by a product with the transposed weights; the filter's
template <int ACT, bool SKIP>
void backward_product(const Work& work, const Back& back, int t) {
    const int k = back.k;
    const Layer& layer = work.layer(k);
    const int64_t total = work.total(k), room = panel_rows(layer), ks = depth(layer);
    const Share mine = share(total, work.run.threads, t, 8);
    const Source source = work.value_of(k - 1);
    float *gradients = work.panel(t), *values = gradients + padded(layer.c_out) * room;
    const bool further = back.out_gradient && layer.kind == POINTWISE;
    StoreGradient<ACT, SKIP> store_gradient{back.out_gradient, back.skip, source, total, 0, 1, work.sums(t), work.products(t)};
    if (further) {
        pack(layer.weight, false, layer.c_out, layer.c_in, work.weights(), work.run.threads, t);
        team_barrier();
    }
    if (back.filter) memset(work.filter(t), 0, padded(ks) * padded(layer.c_out) * 4);
    for (int64_t first = mine.begin; first < mine.end; first += room) {
        const int64_t rows = mine.end - first < room ? mine.end - first : room;
        pack_gradients(work.norm_gradient(k), work.raw(k), back.coefficients, total, first, rows, room, layer.c_out, gradients);
        if (back.filter) {
            pack_source(layer, source, work.input, work.run.images, first, rows, room, values);
            filter_product(values, gradients, room * BLOCK, rows, padded(ks), work.filter(t), layer.c_out);
        }
        if (further) {
            store_gradient.first = first;
            product(gradients, room * BLOCK, rows, layer.c_out, work.weights(), layer.c_in, store_gradient);
        }
    }
}

// gradients of a dense convolution's values: pixels of each parity are products with the taps that read them
template <int ACT, bool SKIP>
void backward_dense(const Work& work, const Back& back, int t) {
    const int k = back.k;
    const Layer& layer = work.layer(k);
    const int64_t room = panel_rows(layer), taps = layer.kernel * layer.kernel, wide = padded(layer.c_out);
    const int64_t total = work.run.images * pixels_in(layer);
    const Share mine = share(work.run.images * layer.h_in, work.run.threads, t, 1);
    StoreGradient<ACT, SKIP> store_gradient{
        back.out_gradient, back.skip, work.value_of(k - 1), total, 0, layer.stride, work.sums(t), work.products(t)};
    for (int row = 0; row < layer.stride; row++)
        for (int column = 0; column < layer.stride; column++) {
            const Parity any(layer, 0, row - layer.before_h + layer.stride * layer.kernel, column);
            const auto element = [&](int64_t r, int64_t c) {
                const int64_t tap = r / wide, out = r % wide;
                const int64_t i = row + layer.stride * (tap / any.taps_across), j = column + layer.stride * (tap % any.taps_across);
                return out < layer.c_out ? layer.weight[(out * layer.c_in + c) * taps + i * layer.kernel + j] : 0.0f;
            };
            team_barrier();
            pack_elements(element, any.taps() * wide, layer.c_in, work.weights(), work.run.threads, t);
            team_barrier();
            for (int64_t i = mine.begin; i < mine.end; i++) {
                const int64_t image = i / layer.h_in, y = i % layer.h_in;
                const Parity at(layer, image, y, column);
                if (at.row != row) continue;
                const int64_t end = at.end_q(layer);
                for (int64_t q = at.first_q(layer); q < end; q += room) {
                    const int64_t rows = end - q < room ? end - q : room;
                    pack_gradients_around(layer, work.norm_gradient(k), work.raw(k), back.coefficients, work.run.images, at, q,
                                          rows, room, work.panel(t));
                    store_gradient.first = i * layer.w_in + layer.stride * q + column - layer.before_w;
                    product(work.panel(t), room * BLOCK, rows, at.taps() * wide, work.weights(), layer.c_in, store_gradient);
                }
            }
        }
}

// the threads' filters together, into the framework's [c_out, c_in, k, k]
void finish_filter(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t taps = layer.kernel * layer.kernel, ks = taps * layer.c_in;
    const auto row = [&](int64_t i) { return layer.kind == DENSE ? i % taps * padded(layer.c_in) + i / taps : i; };
    for_groups(padded(depth(layer)), layer.c_out, work.filter(0), work.run.threads, t,
               [&](int64_t first, int64_t wide, const float* filter) {
        const int64_t valid = layer.c_out - first < wide ? layer.c_out - first : wide;
        const auto sum = [&](int64_t i, int64_t c) {
            four found{};
            for (int other = 0; other < work.run.threads; other++)
                found += load_four(filter + other * work.layout.filter_size + row(i) * wide + c);
            return found;
        };
        constexpr int64_t SOME = 64;  // rows of the filter at once, so that they stay in the first-level cache
        for (int64_t i0 = 0; i0 < ks; i0 += SOME)
            for (int64_t c = 0; c < valid; c += 4) {
                float* out = layer.gradients[WEIGHT] + (first + c) * ks;
                const int64_t end = i0 + SOME < ks ? i0 + SOME : ks;
                int64_t i = i0;
                if (c + 4 <= valid)
                    for (; i + 4 <= end; i += 4)
                        store_transposed(sum(i, c), sum(i + 1, c), sum(i + 2, c), sum(i + 3, c), out + i, ks);
                for (; i < end; i++) {
                    const four last = sum(i, c);
                    for (int64_t j = 0; j < 4 && c + j < valid; j++) out[j * ks + i] = last[j];
                }
            }
    });
}

void backward_convolution(const Work& work, const Back& back, int t) {
    const Layer& layer = work.layer(back.k);
    const Source source = work.value_of(back.k - 1);
    work.clear_sums(t);
    if (layer.kind == DEPTHWISE) {
        double* filters = reinterpret_cast<double*>(work.filter(t));
        memset(filters, 0, layer.kernel * layer.kernel * padded(layer.c_out) * 8);
#define CALL(K, STRIDE)                                                                                               depthwise_backward<K, STRIDE>(layer, source, work.run.images, work.norm_gradient(back.k), work.raw(back.k),                                     back.coefficients, back.skip, work.rows(t), back.out_gradient, filters,                                           work.sums(t), work.products(t), work.run.threads, t)
        FOR_FILTER(layer, CALL);
#undef CALL
        team_barrier();
        if (back.filter && t == 0) finish_depthwise(layer, [&](int other) { return work.filter(other); }, work.run.threads);
        return;
    }
#define CALL(ACT) back.skip ? backward_product<ACT, true>(work, back, t) : backward_product<ACT, false>(work, back, t)
    FOR_ACTIVATION(source.raw_activation, CALL)
#undef CALL
    if (back.out_gradient && layer.kind == DENSE) {
#define CALL(ACT) back.skip ? backward_dense<ACT, true>(work, back, t) : backward_dense<ACT, false>(work, back, t)
        FOR_ACTIVATION(source.raw_activation, CALL)
#undef CALL
    }
    team_barrier();
    if (back.filter) finish_filter(work, back.k, t);
}

void backward(const Run& run, const float* input, float* saved, float* scratch, const float* output_grad,
              float* input_grad) {
    const Work work{run, lay_out(run, true), input, saved, scratch};
    const int threads = run.threads, last = run.count - 1, bottom = bottom_layer(run);
    float* coefficient = scratch + work.layout.coefficients;
    if (bottom > last) return;
    parallel(threads, [&](int t) {
        work.clear_sums(t);
#define CALL(ACT) enter_gradient<ACT>(work, output_grad, t)
        FOR_ACTIVATION(work.value_of(last).raw_activation, CALL)
#undef CALL
    });
    for (int k = last; k >= bottom; k--) {
        const Layer& layer = work.layer(k);
        if (layer.after) {
            parallel(threads, [&](int t) {
                work.clear_sums(t);
#define CALL(ACT) backward_factor<ACT>(work, k, t)
                FOR_ACTIVATION(layer.activation, CALL)
#undef CALL
                team_barrier();
                finish_factor(work, k, t);
            });
        }
        finish_gradient(work, k);
        const bool filter = layer.needs_gradient >> WEIGHT & 1;
        const bool further = k > bottom || (run.input_gradient && layer.kind != STEM);
        if (!filter && !further) continue;
        Back back{k, {coefficient, coefficient + work.wide(), coefficient + 2 * work.wide(), work.statistic(k, 0)},
                  filter, nullptr, nullptr};
        for (int later = k; later <= last; later++)
            if (run.layers[later].residual == k - 1) back.skip = work.gradient(later);
        // a depthwise filter's gradient comes with that of its input
        if (further || layer.kind == DEPTHWISE)
            back.out_gradient = k > 0 ? work.gradient(k - 1) : scratch + work.layout.input_gradient;
        parallel(threads, [&](int t) { backward_convolution(work, back, t); });
    }
    if (run.input_gradient && work.layout.input_gradient != NOWHERE) {
        Source gradient{};
        gradient.values = scratch + work.layout.input_gradient;
        const Layer& first = run.layers[0];
        parallel(threads, [&](int t) {
            planes_from_blocks<IDENTITY>(gradient, input_grad, run.images, first.c_in, pixels_in(first), threads, t);
        });
    }
}

}  // namespace

extern const Engine ENGINE = {forward, backward};
