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

int32_t layer_fault(const Run& run, int k) {
    const Layer& layer = run.layers[k];
    if (layer.kind < DENSE3 || layer.kind > DEPTHWISE || layer.activation < LINEAR || layer.activation > RELU6)
        return FAULT_KIND;
    if (layer.stride < 1 || layer.stride > 2 || (layer.kind == POINTWISE && layer.stride != 1)) return FAULT_KIND;
    if (layer.kind == DENSE3 && k > 0) return FAULT_KIND;
    if (layer.c_in < 1 || layer.c_out < 1 || layer.h_in < 1 || layer.w_in < 1) return FAULT_SHAPE;
    if (layer.kind == DEPTHWISE && layer.c_in != layer.c_out) return FAULT_SHAPE;
    if (layer.h_out != (layer.h_in - 1) / layer.stride + 1 || layer.w_out != (layer.w_in - 1) / layer.stride + 1)
        return FAULT_SHAPE;
    if (k > 0) {
        const Layer& before = run.layers[k - 1];
        if (layer.c_in != before.c_out || layer.h_in != before.h_out || layer.w_in != before.w_out) return FAULT_SHAPE;
        // its backward pass takes the sums of the batch norm in front only where it applied that norm itself
        if (layer.kind == DEPTHWISE && before.residual != -2) return FAULT_RESIDUAL;
    }
    const int64_t widest = std::max(padded(depth(layer)), padded(layer.c_out));
    if (pixels_in(layer) > MAX_FLOATS / run.images / widest || widest > MAX_FLOATS / widest) return FAULT_SHAPE;
    if (!layer.weight || !layer.gamma || !layer.beta || !layer.mean || !layer.variance) return FAULT_POINTER;
    return SOUND;
}

// a sum adds one earlier map to a layer without activation; backward joins the two gradients in a matrix product, and
// knows one sum for each map
int32_t residual_fault(const Run& run, int k) {
    const Layer& layer = run.layers[k];
    const int from = layer.residual;
    if (from == -2) return SOUND;
    if (from < -1 || from >= k - 1 || layer.activation != LINEAR) return FAULT_RESIDUAL;
    const Layer& reader = run.layers[from + 1];
    if (reader.kind != POINTWISE) return FAULT_RESIDUAL;
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
        const int32_t fault = layer_fault(run, k);
        if (fault) return fault;
        const int32_t sum = residual_fault(run, k);
        if (sum) return sum;
    }
    return run.input_gradient && run.layers[0].kind == DENSE3 ? FAULT_KIND : SOUND;
}

int32_t gradient_fault(const Run& run, const float* input_grad) {
    if (!run.keep || (run.input_gradient && !input_grad)) return FAULT_POINTER;
    for (int k = 0; k < run.count; k++) {
        const Layer& layer = run.layers[k];
        const float* wanted[] = {layer.weight_grad, layer.gamma_grad, layer.beta_grad};
        for (int i = 0; i < 3; i++)
            if ((layer.needs_gradient >> i & 1) && !wanted[i]) return FAULT_POINTER;
    }
    return SOUND;
}

int bottom_layer(const Run& run) {
    if (run.input_gradient) return 0;
    for (int k = 0; k < run.count; k++)
        if (run.layers[k].needs_gradient) return k;
    return run.count;
}

Layout lay_out(const Run& run, bool with_gradients) {
    Layout out;
    const int n = run.count, end = 2 * n + 2;
    const int64_t images = run.images;
    std::vector<int> last(n + 1);  // step at which the value of layer k - 1 was read for the last time
    for (int k = -1; k < n; k++) last[k + 1] = k + 1;
    for (int k = 0; k < n; k++)
        if (run.layers[k].residual >= -1) last[run.layers[k].residual + 1] = k;

    Shelf maps;
    const Layer& first = run.layers[0];
    out.input = first.kind == DENSE3 ? NOWHERE
                                     : maps.put(padded(first.c_in) * images * pixels_in(first), -1, run.keep ? end : last[0]);
    for (int k = 0; k < n; k++) {
        const Layer& layer = run.layers[k];
        const int64_t size = padded(layer.c_out) * images * pixels_out(layer);
        const bool sum = layer.residual >= -1;
        out.layer[k].raw = maps.put(size, k, run.keep ? end : sum ? k : last[k + 1]);
        out.layer[k].sum = sum ? maps.put(size, k, run.keep ? end : last[k + 1]) : NOWHERE;
        out.layer[k].statistics = maps.put(5 * padded(layer.c_out), -1, end);
        out.layer[k].gradient = NOWHERE;
    }
    out.saved = maps.top();

    Shelf work;
    out.input_gradient = NOWHERE;
    if (with_gradients) {
        // steps count down from the last layer; layer k's gradient is written at step n - 2 - k, read at n - 1 - k
        const int bottom = bottom_layer(run);
        for (int k = std::max(bottom - 1, 0); k < n; k++) {
            const Layer& layer = run.layers[k];
            const int until = n - 1 - (layer.residual >= -1 ? layer.residual + 1 : k);
            out.layer[k].gradient = work.put(padded(layer.c_out) * images * pixels_out(layer), n - 2 - k, until);
        }
        if (bottom == 0 && first.kind != DENSE3)
            out.input_gradient = work.put(padded(first.c_in) * images * pixels_in(first), n - 1, n);
    }
    int64_t weights = 0, panel = 0, channels = 0, row = 0, filter = 0;
    for (int k = 0; k < n; k++) {
        const Layer& layer = run.layers[k];
        const int64_t in = padded(depth(layer)), wide = padded(layer.c_out);
        channels = std::max({channels, wide, padded(layer.c_in)});
        if (layer.kind == DEPTHWISE) {
            row = std::max<int64_t>(row, 3 * (std::max(layer.w_in, layer.w_out) + 3) * BLOCK);
            filter = std::max(filter, 9 * wide * 2);  // doubles
        } else {
            weights = std::max(weights, in * wide);
            panel = std::max(panel, panel_rows(layer) * (in + wide));
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
    out.scratch = work.top();
    return out;
}

Sizes run_sizes(const Run& run) {
    const Layout forward = lay_out(run, false), backward = lay_out(run, true);
    return {forward.saved * 4, forward.scratch * 4, backward.scratch * 4};
}
