#include "layout.h"

#include <algorithm>
#include <vector>

namespace {

// Places maps that live from one step to another in as little memory as first-fit finds.
class Shelf {
   public:
    int64_t put(int64_t size, int first, int last) {
        size = round_up(size, BLOCK);
        int64_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (const Item& item : items_)
                if (item.first <= last && first <= item.last && at < item.end && item.start < at + size) {
                    at = item.end;
                    moved = true;
                }
        }
        items_.push_back({at, at + size, first, last});
        top_ = std::max(top_, at + size);
        return at;
    }
    int64_t top() const { return top_; }

   private:
    struct Item {
        int64_t start, end;
        int first, last;
    };
    std::vector<Item> items_;
    int64_t top_ = 0;
};

}  // namespace

namespace {

// zeros in front of a map: those of a symmetric padding, or of TensorFlow's, which depends on the size
bool before_fits(const Layer& layer, int64_t before, int64_t in, int64_t out) {
    const int64_t all = (out - 1) * layer.stride + layer.kernel - in;
    return before == layer.kernel / 2 || before == (all > 0 ? all / 2 : 0);
}

int32_t kind_fault(const Run& run, int k) {
    const Layer& layer = run.layers[k];
    if (layer.kind < STEM || layer.kind > DENSE || layer.activation < LINEAR || layer.activation > HARDSWISH)
        return FAULT_KIND;
    if (layer.kind == POINTWISE ? layer.kernel != 1 || layer.stride != 1
                                : (layer.kernel != 3 && layer.kernel != 5) || layer.stride < 1 || layer.stride > 2)
        return FAULT_KIND;
    if (layer.kind == STEM && k > 0) return FAULT_KIND;
    if (layer.after < 0 || layer.after > (SCALE | DROP) || (layer.after & GATE && layer.after != GATE)) return FAULT_KIND;
    return SOUND;
}

int32_t shape_fault(const Run& run, int k) {
    const Layer& layer = run.layers[k];
    if (layer.c_in < 1 || layer.c_out < 1 || layer.h_in < 1 || layer.w_in < 1) return FAULT_SHAPE;
    if (layer.kind == DEPTHWISE && layer.c_in != layer.c_out) return FAULT_SHAPE;
    if (layer.h_out != (layer.h_in - 1) / layer.stride + 1 || layer.w_out != (layer.w_in - 1) / layer.stride + 1)
        return FAULT_SHAPE;
    if (!before_fits(layer, layer.before_h, layer.h_in, layer.h_out)) return FAULT_SHAPE;
    if (!before_fits(layer, layer.before_w, layer.w_in, layer.w_out)) return FAULT_SHAPE;
    if (k > 0) {
        const Layer& before = run.layers[k - 1];
        if (layer.c_in != before.c_out || layer.h_in != before.h_out || layer.w_in != before.w_out) return FAULT_SHAPE;
    }
    if (layer.after & GATE && (layer.squeezed < 1 || layer.squeezed > MAX_FLOATS / run.images / 1024)) return FAULT_SHAPE;
    const int64_t taps = int64_t(layer.kernel) * layer.kernel;
    const int64_t widest = taps * std::max(padded(layer.c_in), padded(layer.c_out));
    if (pixels_in(layer) > MAX_FLOATS / run.images / widest || widest > MAX_FLOATS / widest) return FAULT_SHAPE;
    return SOUND;
}

int32_t pointer_fault(const Layer& layer) {
    if (!layer.weight || !layer.gamma || !layer.beta || !layer.mean || !layer.variance) return FAULT_POINTER;
    if (layer.after & SCALE && !layer.channel_scale) return FAULT_POINTER;
    if (layer.after & GATE && !(layer.squeeze && layer.squeeze_offset && layer.excite && layer.excite_offset))
        return FAULT_POINTER;
    return SOUND;
}

// a sum adds one earlier map to a layer without activation; backward joins the two gradients where the map is read
// first, and knows one sum for each map
int32_t residual_fault(const Run& run, int k) {
    const Layer& layer = run.layers[k];
    const int from = layer.residual;
    if (from == -2) return SOUND;
    if (from < -1 || from >= k - 1 || layer.activation != LINEAR || layer.after & GATE) return FAULT_RESIDUAL;
    const Layer& reader = run.layers[from + 1];
    if (reader.kind == STEM) return FAULT_RESIDUAL;
    if (reader.c_in != layer.c_out || reader.h_in != layer.h_out || reader.w_in != layer.w_out) return FAULT_RESIDUAL;
    for (int other = 0; other < k; other++)
        if (run.layers[other].residual == from) return FAULT_RESIDUAL;
    return SOUND;
}

}  // namespace

int32_t run_fault(const Run& run) {
    if (!run.layers) return FAULT_POINTER;
    if (run.count < 1 || run.count > MAX_LAYERS || run.images < 1) return FAULT_COUNT;
    if (run.threads < 1 || run.threads > MAX_THREADS) return FAULT_COUNT;
    for (int k = 0; k < run.count; k++) {
        int32_t fault = kind_fault(run, k);
        if (!fault) fault = shape_fault(run, k);
        if (!fault) fault = pointer_fault(run.layers[k]);
        if (!fault) fault = residual_fault(run, k);
        if (fault) return fault;
    }
    return run.input_gradient && run.layers[0].kind == STEM ? FAULT_KIND : SOUND;
}

int32_t forward_fault(const Run& run) {
    for (int k = 0; k < run.count; k++)
        if (run.layers[k].after & DROP && !run.layers[k].kept) return FAULT_POINTER;
    return SOUND;
}

int32_t gradient_fault(const Run& run, const float* input_grad) {
    if (!run.keep || (run.input_gradient && !input_grad)) return FAULT_POINTER;
    for (int k = 0; k < run.count; k++)
        for (int i = 0; i < TRAINED; i++)
            if ((run.layers[k].needs_gradient >> i & 1) && !run.layers[k].gradients[i]) return FAULT_POINTER;
    return forward_fault(run);
}

int bottom_layer(const Run& run) {
    if (run.input_gradient) return 0;
    for (int k = 0; k < run.count; k++)
        if (run.layers[k].needs_gradient) return k;
    return run.count;
}

namespace {

// maps and statistics, which live from forward to backward; last: step at which layer k - 1 was read for the last time
void lay_out_maps(const Run& run, const std::vector<int>& last, Layout& out) {
    const int n = run.count, end = 2 * n + 2;
    const int64_t images = run.images;
    Shelf maps;
    const Layer& first = run.layers[0];
    out.input = first.kind == STEM ? NOWHERE
                                   : maps.put(padded(first.c_in) * images * pixels_in(first), -1, run.keep ? end : last[0]);
    for (int k = 0; k < n; k++) {
        const Layer& layer = run.layers[k];
        const int64_t size = padded(layer.c_out) * images * pixels_out(layer);
        const bool made = layer.residual >= -1 || layer.after;
        out.layer[k].raw = maps.put(size, k, run.keep ? end : made ? k : last[k + 1]);
        out.layer[k].made = made ? maps.put(size, k, run.keep ? end : last[k + 1]) : NOWHERE;
        out.layer[k].statistics = maps.put(5 * padded(layer.c_out), -1, end);
        out.layer[k].factor = layer.after ? maps.put(factor_size(layer, images), k, run.keep ? end : k) : NOWHERE;
        out.layer[k].gradient = out.layer[k].inner = NOWHERE;
    }
    out.saved = maps.top();
}

// steps count down from the last layer; layer k's gradient is written at step n - 2 - k, read at n - 1 - k
void lay_out_gradients(const Run& run, Shelf& work, Layout& out) {
    const int n = run.count, bottom = bottom_layer(run);
    const int64_t images = run.images;
    for (int k = std::max(bottom - 1, 0); k < n; k++) {
        const Layer& layer = run.layers[k];
        const int64_t size = padded(layer.c_out) * images * pixels_out(layer);
        const int until = n - 1 - (layer.residual >= -1 ? layer.residual + 1 : k);
        out.layer[k].gradient = work.put(size, n - 2 - k, until);
        if (layer.after) out.layer[k].inner = work.put(size, n - 1 - k, n - 1 - k);
    }
    const Layer& first = run.layers[0];
    if (bottom == 0 && first.kind != STEM)
        out.input_gradient = work.put(padded(first.c_in) * images * pixels_in(first), n - 1, n);
}

}  // namespace

Layout lay_out(const Run& run, bool with_gradients) {
    Layout out;
    const int n = run.count, end = 2 * n + 2;
    std::vector<int> last(n + 1);
    for (int k = -1; k < n; k++) last[k + 1] = k + 1;
    for (int k = 0; k < n; k++)
        if (run.layers[k].residual >= -1) last[run.layers[k].residual + 1] = k;
    lay_out_maps(run, last, out);

    Shelf work;
    out.input_gradient = NOWHERE;
    if (with_gradients) lay_out_gradients(run, work, out);
    int64_t weights = 0, panel = 0, channels = 0, row = 0, filter = 0, factor = 0;
    for (int k = 0; k < n; k++) {
        const Layer& layer = run.layers[k];
        const int64_t in = padded(depth(layer)), wide = padded(layer.c_out), size = layer.kernel;
        channels = std::max({channels, wide, padded(layer.c_in)});
        if (layer.after) factor = std::max(factor, factor_size(layer, run.images));
        if (layer.kind == DEPTHWISE) {
            row = std::max(row, (size + 2) * (layer.w_in + 2 * size) * BLOCK);  // see depthwise.h
            filter = std::max(filter, size * size * wide * 2);                  // doubles
        } else {
            const int64_t back = layer.kind == DENSE ? taps_back(layer) * wide : 0;
            weights = std::max(weights, in * wide);
            panel = std::max(panel, panel_rows(layer) * std::max(in + wide, back));
            filter = std::max(filter, in * wide);
        }
    }
    const int threads = run.threads;
    out.panel_size = round_up(panel, BLOCK);
    out.sums_size = 2 * channels * 2;  // doubles
    out.rows_size = round_up(row, BLOCK);
    out.filter_size = with_gradients ? round_up(filter, BLOCK) : 0;
    out.weights = work.put(weights, -1, end);
    out.panels = work.put(threads * out.panel_size, -1, end);
    out.sums = work.put(threads * out.sums_size, -1, end);
    out.shifts = work.put(threads * channels * 2, -1, end);  // a shift and a count for each channel
    out.rows = work.put(threads * out.rows_size, -1, end);
    out.filters = work.put(threads * out.filter_size, -1, end);
    out.coefficients = work.put(3 * channels, -1, end);
    out.factor_gradient = with_gradients ? work.put(factor, -1, end) : NOWHERE;
    out.scratch = work.top();
    return out;
}

Sizes run_sizes(const Run& run) {
    const Layout forward = lay_out(run, false), backward = lay_out(run, true);
    return {forward.saved * 4, forward.scratch * 4, backward.scratch * 4};
}
