// The run's forward and backward pass, compiled once for each instruction set: ENGINE names the result, WIDTH is the
// number of floats in a vector register. Everything else here is static, so that no linker can mix the sets up.
//
// What the pass over memory costs decides here, not the arithmetic: a MobileNet does about four multiply-adds for each
// byte it moves. So a layer reads its producer's raw convolution output and normalises and clips it while it packs it
// into a cache-sized panel, takes its own statistics from registers, and its backward pass forms the gradient of the
// batch norm's input the same way. Each map is written once forward, read twice and its gradient written once backward.
#include <math.h>
#include <string.h>

#include "layout.h"
#include "team.h"

namespace {

typedef float vec __attribute__((vector_size(WIDTH * 4)));
typedef float vec_unaligned __attribute__((vector_size(WIDTH * 4), aligned(4)));
constexpr int UNITS = BLOCK / WIDTH;
#define UNROLL _Pragma("GCC unroll 32")

inline vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
inline void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
inline vec all(float x) { return x - vec{}; }

// comparisons are written so that NaN stays NaN: a diverged run has to be seen in the loss
template <int ACT>
inline vec activate(vec z) {
    if (ACT == RELU || ACT == RELU6) z = z < 0.0f ? vec{} : z;
    if (ACT == RELU6) z = z > 6.0f ? all(6.0f) : z;
    return z;
}
template <int ACT>
inline vec masked(vec gradient, vec z) {
    if (ACT == RELU) return z <= 0.0f ? vec{} : gradient;
    if (ACT == RELU6) return (z <= 0.0f) | (z >= 6.0f) ? vec{} : gradient;
    return gradient;
}

constexpr int IDENTITY = 3;  // beside the three activations: a map that needs no batch norm

// What a layer reads. value(p) = activation(scale * values + shift); for backward, the batch norm that produced it.
struct Source {
    const float *values, *scale, *shift;
    int activation;  // IDENTITY: values as they are
    const float *raw, *mean, *raw_scale, *raw_shift;
    int raw_activation;  // IDENTITY: the run's input, no batch norm in front
};

template <int ACT>
inline vec value(const float* p, vec scale, vec shift) {
    return ACT == IDENTITY ? load(p) : activate<ACT>(load(p) * scale + shift);
}

#define FOR_ACTIVATION(act, CALL)                 \
    switch (act) {                                \
        case LINEAR: CALL(LINEAR); break;         \
        case RELU: CALL(RELU); break;             \
        case RELU6: CALL(RELU6); break;           \
        default: CALL(IDENTITY); break;           \
    }

// body(t) on every thread
template <class Body>
void parallel(int threads, const Body& body) {
    const auto job = [](void* context, int t) { (*static_cast<const Body*>(context))(t); };
    team_run(threads, job, const_cast<Body*>(&body));
}

struct Share {
    int64_t begin, end;
};
// thread t's part, the same for the same number of threads
Share share(int64_t total, int threads, int t, int64_t step) {
    const int64_t size = round_up((total + threads - 1) / threads, step), begin = t * size;
    return {begin < total ? begin : total, begin + size < total ? begin + size : total};
}

// ---------------------------------------------------------------- matrix products

// register tile: ROWS<NB> rows by NB blocks of 16 columns
#if WIDTH == 16
constexpr int MOST_BLOCKS = 2;
template <int NB> struct Tile { static constexpr int rows = NB == 1 ? 24 : NB == 2 ? 12 : 8; };
constexpr int FILTER_ROWS = 8;
#else
constexpr int MOST_BLOCKS = 1;
template <int NB> struct Tile { static constexpr int rows = WIDTH == 8 ? 6 : 3; };
constexpr int FILTER_ROWS = WIDTH == 8 ? 4 : 2;
#endif

// blocks of columns taken together: pairs, and a triple where an odd number would leave one alone
inline int group(int64_t block, int64_t blocks) {
    if (MOST_BLOCKS == 1) return 1;
    const int64_t left = blocks - block;
    return left == 3 ? 3 : left == 1 ? 1 : 2;
}

#if WIDTH == 16
#define FOR_GROUP(size, CALL)        \
    switch (size) {                  \
        case 1: CALL(1); break;      \
        case 2: CALL(2); break;      \
        default: CALL(3); break;     \
    }
#else
#define FOR_GROUP(size, CALL) CALL(1);
#endif

// element (k, column) of the left-hand matrix W or its transpose, as the framework stores it, into groups of columns:
// [group][k][columns of the group], zeros past the last column
void pack(const float* weight, int64_t stride_k, int64_t stride_column, int64_t ks, int64_t columns, float* packed,
          int threads, int t) {
    const int64_t blocks = padded(columns) / BLOCK;
    int64_t turn = 0;
    for (int64_t block = 0; block < blocks;) {
        const int size = group(block, blocks);
        if (turn++ % threads == t) {
            float* out = packed + block * BLOCK * ks;
            const int64_t wide = size * BLOCK, first = block * BLOCK;
            const int64_t valid = columns - first < wide ? columns - first : wide;
            if (stride_column == 1) {
                for (int64_t k = 0; k < ks; k++) {
                    memcpy(out + k * wide, weight + k * stride_k + first, valid * 4);
                    memset(out + k * wide + valid, 0, (wide - valid) * 4);
                }
            } else {
                for (int64_t k0 = 0; k0 < ks; k0 += 16)
                    for (int64_t c = 0; c < wide; c++)
                        for (int64_t k = k0; k < ks && k < k0 + 16; k++)
                            out[k * wide + c] = c < valid ? weight[k * stride_k + (first + c) * stride_column] : 0.0f;
            }
        }
        block += size;
    }
}

// panel: [block of k][rows of the panel][16]
template <int NB, class Epilogue>
inline void product_group(const float* panel, int64_t panel_stride, int64_t rows, int64_t ks, const float* packed,
                          int64_t block, Epilogue& epilogue) {
    constexpr int MR = Tile<NB>::rows, NV = NB * UNITS;
    typename Epilogue::template State<NB> state(epilogue, block);
    for (int64_t r = 0; r < rows; r += MR) {
        vec acc[MR][NV];
        UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vec{};
        const float *b = packed, *a = panel + r * BLOCK;
        for (int64_t k = 0; k < ks; k += BLOCK, a += panel_stride) {
            const int64_t some = ks - k < BLOCK ? ks - k : BLOCK;
            for (int64_t kk = 0; kk < some; kk++, b += NB * BLOCK) {
                vec right[NV];
                UNROLL for (int j = 0; j < NV; j++) right[j] = load(b + j * WIDTH);
                UNROLL for (int i = 0; i < MR; i++) {
                    const vec left = all(a[i * BLOCK + kk]);
                    UNROLL for (int j = 0; j < NV; j++) acc[i][j] += left * right[j];
                }
            }
        }
        if (r + MR <= rows) state.template tile<MR>(r, MR, acc);
        else state.template tile<MR>(r, rows - r, acc);
    }
    state.finish();
}

template <class Epilogue>
void product(const float* panel, int64_t panel_stride, int64_t rows, int64_t ks, const float* packed, int64_t columns,
             Epilogue& epilogue) {
    const int64_t blocks = padded(columns) / BLOCK;
    for (int64_t block = 0; block < blocks;) {
        const int size = group(block, blocks);
#define CALL(NB) product_group<NB>(panel, panel_stride, rows, ks, packed + block * BLOCK * ks, block, epilogue)
        FOR_GROUP(size, CALL)
#undef CALL
        block += size;
    }
}

// filter[k][column] += left^T right over the panel's rows
template <int NB>
inline void filter_group(const float* left, const float* right, int64_t panel_stride, int64_t rows, int64_t ks,
                         float* filter, int64_t columns) {
    constexpr int NV = NB * UNITS;
    for (int64_t k = 0; k < ks; k += FILTER_ROWS) {
        const float* a = left + k / BLOCK * panel_stride + k % BLOCK;
        vec acc[FILTER_ROWS][NV];
        UNROLL for (int i = 0; i < FILTER_ROWS; i++) UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vec{};
        for (int64_t r = 0; r < rows; r++) {
            vec b[NV];
            UNROLL for (int j = 0; j < NV; j++)
                b[j] = load(right + j / UNITS * panel_stride + r * BLOCK + j % UNITS * WIDTH);
            UNROLL for (int i = 0; i < FILTER_ROWS; i++) {
                const vec x = all(a[r * BLOCK + i]);
                UNROLL for (int j = 0; j < NV; j++) acc[i][j] += x * b[j];
            }
        }
        UNROLL for (int i = 0; i < FILTER_ROWS; i++) {
            float* out = filter + (k + i) * columns;
            UNROLL for (int j = 0; j < NV; j++) store(out + j * WIDTH, load(out + j * WIDTH) + acc[i][j]);
        }
    }
}

void filter_product(const float* left, const float* right, int64_t panel_stride, int64_t rows, int64_t ks,
                    float* filter, int64_t columns) {
    const int64_t blocks = padded(columns) / BLOCK;
    for (int64_t block = 0; block < blocks;) {
        const int size = group(block, blocks);
#define CALL(NB)                                                                                            \
    filter_group<NB>(left, right + block * panel_stride, panel_stride, rows, ks, filter + block * BLOCK, \
                     blocks * BLOCK)
        FOR_GROUP(size, CALL)
#undef CALL
        block += size;
    }
}

// ---------------------------------------------------------------- panels

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

// 3x3 neighbourhoods of the NCHW input, k = (channel, row, column) as the weight has it
void pack_neighbourhoods(const Layer& layer, const float* input, int64_t first, int64_t rows, int64_t room, float* panel) {
    const int64_t pixels = pixels_out(layer), h = layer.h_in, w = layer.w_in, ks = depth(layer);
    memset(panel, 0, padded(ks) * room * 4);
    for (int64_t r = 0; r < rows; r++) {
        const int64_t image = (first + r) / pixels, p = (first + r) % pixels;
        const int64_t y0 = p / layer.w_out * layer.stride - 1, x0 = p % layer.w_out * layer.stride - 1;
        for (int64_t c = 0, k = 0; c < layer.c_in; c++) {
            const float* plane = input + (image * layer.c_in + c) * h * w;
            for (int64_t i = 0; i < 3; i++)
                for (int64_t j = 0; j < 3; j++, k++) {
                    const int64_t y = y0 + i, x = x0 + j;
                    if (y >= 0 && y < h && x >= 0 && x < w)
                        panel[k / BLOCK * room * BLOCK + r * BLOCK + k % BLOCK] = plane[y * w + x];
                }
        }
    }
}

void pack_source(const Layer& layer, const Source& source, const float* input, int64_t total, int64_t first,
                 int64_t rows, int64_t room, float* panel) {
    if (layer.kind == DENSE3) return pack_neighbourhoods(layer, input, first, rows, room, panel);
#define CALL(ACT) pack_values<ACT>(source, total, first, rows, room, layer.c_in, panel)
    FOR_ACTIVATION(source.activation, CALL)
#undef CALL
}

// gradient of the raw output: a * gradient + b * (raw - mean) + c
struct Coefficients {
    const float *a, *b, *c, *mean;
};
inline vec raw_gradient(const float* gradient, const float* raw, vec a, vec b, vec c, vec mean) {
    return a * load(gradient) + (b * (load(raw) - mean) + c);
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

// ---------------------------------------------------------------- sums over a map

// A thread's sums for each channel: doubles, fed with sums of some hundred floats.
inline void add(double* out, vec v) {
    for (int i = 0; i < WIDTH; i++) out[i] += v[i];
}

// statistics are taken of differences to the first value that a thread sees, so that a large mean costs no digits
struct Statistics {
    double *first, *second;  // sums of the differences and of their squares
    float *shift, *count;
};

// ---------------------------------------------------------------- pointwise

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
        template <int MR>
        inline void tile(int64_t r, int64_t valid, const vec (&acc)[MR][NV]) {
            if (fresh) {
                fresh = false;
                UNROLL for (int j = 0; j < NV; j++) {
                    vec all_rows{};
                    for (int64_t i = 0; i < valid; i++) all_rows += acc[i][j];
                    shift[j] = all_rows / float(valid);
                    store(o.statistics.shift + block * BLOCK + j * WIDTH, shift[j]);
                }
            }
            // sums of a tile first: adding up short sums loses fewer digits
            UNROLL for (int j = 0; j < NV; j++) {
                float* to = o.raw + ((block + j / UNITS) * o.total + o.first + r) * BLOCK + j % UNITS * WIDTH;
                vec s{}, q{};
                UNROLL for (int i = 0; i < MR; i++)
                    if (i < valid) {
                        store(to + i * BLOCK, acc[i][j]);
                        const vec d = acc[i][j] - shift[j];
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
    int64_t total, first;
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
        template <int MR>
        inline void tile(int64_t r, int64_t valid, const vec (&acc)[MR][NV]) {
            UNROLL for (int j = 0; j < NV; j++) {
                const int64_t start = ((block + j / UNITS) * o.total + o.first + r) * BLOCK + j % UNITS * WIDTH;
                vec s{}, q{};
                UNROLL for (int i = 0; i < MR; i++)
                    if (i < valid) {
                        const int64_t at = start + i * BLOCK;
                        vec g = acc[i][j];
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

// ---------------------------------------------------------------- depthwise

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

template <int ACT>
void fill_row(float* out, const float* in, int64_t width, const float* scale, const float* shift) {
    for (int u = 0; u < UNITS; u++) {
        vec s{}, b{};
        if (ACT != IDENTITY) s = load(scale + u * WIDTH), b = load(shift + u * WIDTH);
        for (int64_t x = 0; x < width; x++)
            store(out + (x + 1) * BLOCK + u * WIDTH, value<ACT>(in + x * BLOCK + u * WIDTH, s, b));
    }
}

// COLUMNS outputs of one row: row[i] points at the left neighbour of the first
template <int STRIDE, int COLUMNS>
inline void depthwise_columns(const float* const row[3], const vec weight[9], vec acc[COLUMNS]) {
    UNROLL for (int c = 0; c < COLUMNS; c++) acc[c] = vec{};
    UNROLL for (int i = 0; i < 3; i++) UNROLL for (int x = 0; x < (COLUMNS - 1) * STRIDE + 3; x++) {
        const vec in = load(row[i] + x * BLOCK);
        UNROLL for (int c = 0; c < COLUMNS; c++)
            if (x >= c * STRIDE && x < c * STRIDE + 3) acc[c] += in * weight[3 * i + x - c * STRIDE];
    }
}

template <int STRIDE, int ACT>
void depthwise_forward(const Layer& layer, const Source& source, int64_t images, float* raw, float* rows,
                       Statistics statistics, int threads, int t) {
    const int64_t h_in = layer.h_in, w_in = layer.w_in, h_out = layer.h_out, w_out = layer.w_out;
    const int64_t row_size = (w_in + 2) * BLOCK;
    const Planes planes(padded(layer.c_out) / BLOCK, images, h_out, threads);
    const Share mine = share(planes.count(), threads, t, 1);
    for (int i = 0; i < 3; i++) {
        memset(rows + i * row_size, 0, BLOCK * 4);
        memset(rows + i * row_size + (w_in + 1) * BLOCK, 0, BLOCK * 4);
    }
    for (int64_t item = mine.begin; item < mine.end; item++) {
        const Plane plane = planes.at(item);
        const int64_t c0 = plane.block * BLOCK;
        const float* in = source.values + (plane.block * images + plane.image) * h_in * w_in * BLOCK;
        float* out = raw + (plane.block * images + plane.image) * h_out * w_out * BLOCK;
        alignas(64) float taps[9][BLOCK];
        for (int k = 0; k < 9; k++)
            for (int64_t c = 0; c < BLOCK; c++) taps[k][c] = c0 + c < layer.c_out ? layer.weight[(c0 + c) * 9 + k] : 0.0f;
        vec sum[UNITS] = {}, square[UNITS] = {};
        const auto fill = [&](int64_t y) {
            float* row = rows + (y + 3) % 3 * row_size;
            if (y < 0 || y >= h_in) memset(row + BLOCK, 0, w_in * BLOCK * 4);
            else fill_row<ACT>(row, in + y * w_in * BLOCK, w_in, source.scale + c0, source.shift + c0);
        };
        if (statistics.count[c0] == 0) {  // the shift: the mean of a row from the middle, away from the zero border
            const int64_t middle = (plane.begin + plane.end) / 2 * STRIDE;
            for (int64_t y = middle - 1; y <= middle + 1; y++) fill(y);
            for (int u = 0; u < UNITS; u++) {
                vec weight[9], whole_row{}, acc[1];
                UNROLL for (int k = 0; k < 9; k++) weight[k] = load(taps[k] + u * WIDTH);
                for (int64_t x = 0; x < w_out; x++) {
                    const float* row[3];
                    for (int i = 0; i < 3; i++)
                        row[i] = rows + (middle + 2 + i) % 3 * row_size + x * STRIDE * BLOCK + u * WIDTH;
                    depthwise_columns<STRIDE, 1>(row, weight, acc);
                    whole_row += acc[0];
                }
                store(statistics.shift + c0 + u * WIDTH, whole_row / float(w_out));
            }
        }
        int64_t filled = plane.begin * STRIDE - 1;
        for (int64_t y = plane.begin; y < plane.end; y++) {
            for (; filled <= y * STRIDE + 1; filled++) fill(filled);
            for (int u = 0; u < UNITS; u++) {
                const float* row[3];
                vec weight[9];
                for (int i = 0; i < 3; i++) row[i] = rows + (y * STRIDE - 1 + i + 3) % 3 * row_size + u * WIDTH;
                UNROLL for (int k = 0; k < 9; k++) weight[k] = load(taps[k] + u * WIDTH);
                float* to = out + y * w_out * BLOCK + u * WIDTH;
                const vec shift = load(statistics.shift + c0 + u * WIDTH);
                int64_t x = 0;
                constexpr int MANY = WIDTH == 16 ? 4 : 2;
                for (; x + MANY <= w_out; x += MANY) {
                    vec acc[MANY];
                    depthwise_columns<STRIDE, MANY>(row, weight, acc);
                    vec s{}, q{};
                    UNROLL for (int c = 0; c < MANY; c++) {
                        store(to + (x + c) * BLOCK, acc[c]);
                        const vec d = acc[c] - shift;
                        s += d;
                        q += d * d;
                    }
                    sum[u] += s;
                    square[u] += q;
                    UNROLL for (int i = 0; i < 3; i++) row[i] += MANY * STRIDE * BLOCK;
                }
                for (; x < w_out; x++) {
                    vec acc[1];
                    depthwise_columns<STRIDE, 1>(row, weight, acc);
                    store(to + x * BLOCK, acc[0]);
                    const vec d = acc[0] - shift;
                    sum[u] += d;
                    square[u] += d * d;
                    for (int i = 0; i < 3; i++) row[i] += STRIDE * BLOCK;
                }
            }
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

struct DepthwiseSums {
    vec filter[9], sum, product;
};

// One pixel of the input: its gradient from the TAPS (row, filter index) that used it, and its part in the filter's.
template <int ACT, int TAPS>
inline void depthwise_pixel(const float* const at[TAPS], const int (&tap)[TAPS], const vec weight[9], const float* raw,
                            float* gradient, vec scale, vec shift, vec mean, DepthwiseSums& sums) {
    const vec x = load(raw);
    vec z = x;
    if (ACT != IDENTITY) z = x * scale + shift;
    const vec a = ACT == IDENTITY ? x : activate<ACT>(z);
    vec g = vec{}, h = vec{};
    UNROLL for (int k = 0; k < TAPS; k++) {
        const vec d = load(at[k]);
        if (k % 2) h += d * weight[tap[k]];
        else g += d * weight[tap[k]];
        sums.filter[tap[k]] += d * a;
    }
    g += h;
    if (ACT != IDENTITY) {
        g = masked<ACT>(g, z);
        sums.sum += g;
        sums.product += g * (x - mean);
    }
    store(gradient, g);
}

// one row of the input; up, mid, down: rows of the raw gradient with a zero column on each side
template <int ACT>
inline void depthwise_row1(const float* const rows[3], int64_t width, const vec weight[9], const float* raw, float* gradient,
                           vec scale, vec shift, vec mean, DepthwiseSums& sums) {
    // the output above saw this row through the filter's last row, and so on
    constexpr int tap[9] = {8, 7, 6, 5, 4, 3, 2, 1, 0};
    const float *r0 = rows[0], *r1 = rows[1], *r2 = rows[2];
    for (int64_t x = 0; x < width; x++, r0 += BLOCK, r1 += BLOCK, r2 += BLOCK) {
        const float* at[9] = {r0, r0 + BLOCK, r0 + 2 * BLOCK, r1, r1 + BLOCK, r1 + 2 * BLOCK, r2, r2 + BLOCK, r2 + 2 * BLOCK};
        depthwise_pixel<ACT, 9>(at, tap, weight, raw + x * BLOCK, gradient + x * BLOCK, scale, shift, mean, sums);
    }
}

// stride 2: an odd row was seen by two rows of outputs, an even one by one; columns likewise
template <int ACT, bool ODD>
inline void depthwise_row2(const float* upper, const float* lower, int64_t width, const vec weight[9], const float* raw,
                           float* gradient, vec scale, vec shift, vec mean, DepthwiseSums& sums) {
    for (int64_t x = 0; x < width; x += 2, upper += BLOCK, lower += BLOCK, raw += 2 * BLOCK, gradient += 2 * BLOCK) {
        const bool pair = x + 1 < width;
        if (ODD) {
            constexpr int even[2] = {7, 1}, odd[4] = {8, 6, 2, 0};
            const float* one[2] = {upper + BLOCK, lower + BLOCK};
            depthwise_pixel<ACT, 2>(one, even, weight, raw, gradient, scale, shift, mean, sums);
            const float* two[4] = {upper + BLOCK, upper + 2 * BLOCK, lower + BLOCK, lower + 2 * BLOCK};
            if (pair) depthwise_pixel<ACT, 4>(two, odd, weight, raw + BLOCK, gradient + BLOCK, scale, shift, mean, sums);
        } else {
            constexpr int even[1] = {4}, odd[2] = {5, 3};
            const float* one[1] = {upper + BLOCK};
            depthwise_pixel<ACT, 1>(one, even, weight, raw, gradient, scale, shift, mean, sums);
            const float* two[2] = {upper + BLOCK, upper + 2 * BLOCK};
            if (pair) depthwise_pixel<ACT, 2>(two, odd, weight, raw + BLOCK, gradient + BLOCK, scale, shift, mean, sums);
        }
    }
}

// filter: this thread's [9][channels] in doubles
template <int STRIDE, int ACT>
void depthwise_backward(const Layer& layer, const Source& source, int64_t images, const float* gradient, const float* raw,
                        const Coefficients& k, float* rows, float* out_gradient, double* filter, double* sum,
                        double* product, int threads, int t) {
    const int64_t h_in = layer.h_in, w_in = layer.w_in, h_out = layer.h_out, w_out = layer.w_out;
    const int64_t row_size = (w_out + 2) * BLOCK, channels = padded(layer.c_out);
    const Planes planes(channels / BLOCK, images, h_in, threads);
    const Share mine = share(planes.count(), threads, t, 1);
    for (int i = 0; i < 3; i++) {
        memset(rows + i * row_size, 0, BLOCK * 4);
        memset(rows + i * row_size + (w_out + 1) * BLOCK, 0, BLOCK * 4);
    }
    for (int64_t item = mine.begin; item < mine.end; item++) {
        const Plane plane = planes.at(item);
        const int64_t c0 = plane.block * BLOCK, base = plane.block * images + plane.image;
        const float *dz = gradient + base * h_out * w_out * BLOCK, *y = raw + base * h_out * w_out * BLOCK;
        const float* in = source.values + base * h_in * w_in * BLOCK;
        float* dx = out_gradient + base * h_in * w_in * BLOCK;
        alignas(64) float taps[9][BLOCK];
        for (int i = 0; i < 9; i++)
            for (int64_t c = 0; c < BLOCK; c++) taps[i][c] = c0 + c < layer.c_out ? layer.weight[(c0 + c) * 9 + i] : 0.0f;
        DepthwiseSums sums[UNITS];
        memset(static_cast<void*>(sums), 0, sizeof sums);
        int64_t filled = STRIDE == 1 ? plane.begin - 1 : plane.begin / 2;
        for (int64_t row = plane.begin; row < plane.end; row++) {
            const int64_t needed = STRIDE == 1 ? row + 1 : (row + 1) / 2;
            for (; filled <= needed; filled++) {
                float* to = rows + (filled + 3) % 3 * row_size;
                if (filled < 0 || filled >= h_out) {
                    memset(to + BLOCK, 0, w_out * BLOCK * 4);
                    continue;
                }
                for (int u = 0; u < UNITS; u++) {
                    const int64_t c = c0 + u * WIDTH;
                    const vec ka = load(k.a + c), kb = load(k.b + c), kc = load(k.c + c), mean = load(k.mean + c);
                    for (int64_t x = 0; x < w_out; x++) {
                        const int64_t at = (filled * w_out + x) * BLOCK + u * WIDTH;
                        store(to + (x + 1) * BLOCK + u * WIDTH, raw_gradient(dz + at, y + at, ka, kb, kc, mean));
                    }
                }
            }
            for (int u = 0; u < UNITS; u++) {
                const int64_t c = c0 + u * WIDTH, at = row * w_in * BLOCK + u * WIDTH;
                vec weight[9], scale{}, shift{}, mean{};
                UNROLL for (int i = 0; i < 9; i++) weight[i] = load(taps[i] + u * WIDTH);
                if (ACT != IDENTITY) scale = load(source.scale + c), shift = load(source.shift + c), mean = load(source.mean + c);
                DepthwiseSums mine_now = sums[u];
                if (STRIDE == 1) {
                    const float* three[3];
                    for (int i = 0; i < 3; i++) three[i] = rows + (row - 1 + i + 3) % 3 * row_size + u * WIDTH;
                    depthwise_row1<ACT>(three, w_in, weight, in + at, dx + at, scale, shift, mean, mine_now);
                } else {
                    const float* upper = rows + row / 2 % 3 * row_size + u * WIDTH;
                    const float* lower = rows + (row / 2 + 1) % 3 * row_size + u * WIDTH;
                    if (row % 2) depthwise_row2<ACT, true>(upper, lower, w_in, weight, in + at, dx + at, scale, shift, mean, mine_now);
                    else depthwise_row2<ACT, false>(upper, upper, w_in, weight, in + at, dx + at, scale, shift, mean, mine_now);
                }
                sums[u] = mine_now;
            }
            if ((row - plane.begin + 1) % flush_every(w_in) == 0 || row + 1 == plane.end)
                for (int u = 0; u < UNITS; u++) {
                    const int64_t c = c0 + u * WIDTH;
                    for (int i = 0; i < 9; i++) add(filter + i * channels + c, sums[u].filter[i]);
                    if (ACT != IDENTITY) add(sum + c, sums[u].sum), add(product + c, sums[u].product);
                    memset(static_cast<void*>(&sums[u]), 0, sizeof sums[u]);
                }
        }
    }
}

// ---------------------------------------------------------------- the run

struct Work {
    const Run& run;
    const Layout layout;
    const float* input;
    float *saved, *scratch;

    const Layer& layer(int k) const { return run.layers[k]; }
    int64_t total(int k) const { return run.images * pixels_out(layer(k)); }
    float* raw(int k) const { return saved + layout.layer[k].raw; }
    float* gradient(int k) const { return scratch + layout.layer[k].gradient; }
    // 0 mean, 1 inverse deviation, 2 scale, 3 shift, 4 what rounding took from the mean
    float* statistic(int k, int which) const {
        return saved + layout.layer[k].statistics + which * padded(layer(k).c_out);
    }
    double* sums(int t) const { return reinterpret_cast<double*>(scratch + layout.sums + t * layout.sums_size); }
    float* panel(int t) const { return scratch + layout.panels + t * layout.panel_size; }
    float* rows(int t) const { return scratch + layout.rows + t * layout.rows_size; }
    float* filter(int t) const { return scratch + layout.filters + t * layout.filter_size; }

    Source value_of(int k) const {
        Source s{};
        if (k < 0) {
            s.values = layout.input == NOWHERE ? nullptr : saved + layout.input;
            s.activation = s.raw_activation = IDENTITY;
            return s;
        }
        s.raw = raw(k), s.mean = statistic(k, 0), s.raw_scale = statistic(k, 2), s.raw_shift = statistic(k, 3);
        s.raw_activation = layer(k).activation;
        if (layout.layer[k].sum != NOWHERE) {
            s.values = saved + layout.layer[k].sum, s.activation = IDENTITY;
        } else {
            s.values = s.raw, s.scale = s.raw_scale, s.shift = s.raw_shift, s.activation = s.raw_activation;
        }
        return s;
    }
    Statistics statistics(int t) const {
        const int64_t channels = layout.sums_size / 4;
        float* shifts = scratch + layout.shifts + t * channels * 2;
        return {sums(t), sums(t) + channels, shifts, shifts + channels};
    }
};

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

void clear_statistics(const Work& work, int t) {
    memset(work.sums(t), 0, work.layout.sums_size * 4);
    memset(work.statistics(t).shift, 0, work.layout.sums_size / 4 * 2 * 4);
}

void forward_product(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t total = work.total(k), room = panel_rows(layer), ks = depth(layer);
    const Share mine = share(total, work.run.threads, t, 8);
    const Source source = work.value_of(k - 1);
    StoreRaw store_raw{work.raw(k), total, 0, work.statistics(t)};
    for (int64_t first = mine.begin; first < mine.end; first += room) {
        const int64_t rows = mine.end - first < room ? mine.end - first : room;
        pack_source(layer, source, work.input, total, first, rows, room, work.panel(t));
        store_raw.first = first;
        product(work.panel(t), room * BLOCK, rows, ks, work.scratch + work.layout.weights, layer.c_out, store_raw);
    }
}

// output = batch norm of the raw map + residual
template <int ACT>
void add_residual(const Work& work, int k, const Source& other, int t) {
    const int64_t total = work.total(k), blocks = padded(work.layer(k).c_out) / BLOCK;
    float* sum = work.saved + work.layout.layer[k].sum;
    const Share mine = share(blocks * total, work.run.threads, t, 8);
    for (int64_t at = mine.begin; at < mine.end;) {
        const int64_t block = at / total, stop = (block + 1) * total < mine.end ? (block + 1) * total : mine.end;
        for (int u = 0; u < UNITS; u++) {
            const int64_t c = block * BLOCK + u * WIDTH;
            const vec scale = load(work.statistic(k, 2) + c), shift = load(work.statistic(k, 3) + c);
            vec s{}, b{};
            if (ACT != IDENTITY) s = load(other.scale + c), b = load(other.shift + c);
            for (int64_t i = at; i < stop; i++) {
                const int64_t o = i * BLOCK + u * WIDTH;
                store(sum + o, (load(work.raw(k) + o) * scale + shift) + value<ACT>(other.values + o, s, b));
            }
        }
        at = stop;
    }
}

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
            clear_statistics(work, t);
            if (layer.kind == DEPTHWISE) {
#define CALL(ACT)                                                                                              \
    layer.stride == 1                                                                                          \
        ? depthwise_forward<1, ACT>(layer, source, run.images, work.raw(k), work.rows(t), work.statistics(t), threads, t) \
        : depthwise_forward<2, ACT>(layer, source, run.images, work.raw(k), work.rows(t), work.statistics(t), threads, t)
                FOR_ACTIVATION(source.activation, CALL)
#undef CALL
            } else {
                const int64_t ks = depth(layer);
                pack(layer.weight, 1, ks, ks, layer.c_out, scratch + work.layout.weights, threads, t);
                team_barrier();
                forward_product(work, k, t);
            }
            team_barrier();
            if (t == 0) finish_statistics(work, k);
            if (layer.residual >= -1) {
                team_barrier();
                const Source other = work.value_of(layer.residual);
#define CALL(ACT) add_residual<ACT>(work, k, other, t)
                FOR_ACTIVATION(other.activation, CALL)
#undef CALL
            }
        });
    }
    const Source result = work.value_of(last);
    parallel(threads, [&](int t) {
#define CALL(ACT) \
    planes_from_blocks<ACT>(result, output, run.images, work.layer(last).c_out, pixels_out(work.layer(last)), threads, t)
        FOR_ACTIVATION(result.activation, CALL)
#undef CALL
    });
}

// the gradient that arrives, into blocks, through the last activation and into its batch norm's sums; a channel
// belongs to one thread
template <int ACT>
void enter_gradient(const Work& work, const float* output_grad, int t) {
    const int k = work.run.count - 1;
    const Layer& layer = work.layer(k);
    const int64_t images = work.run.images, pixels = pixels_out(layer), channels = layer.c_out;
    const Share mine = share(padded(channels) / BLOCK, work.run.threads, t, 1);
    const int64_t wide = work.layout.sums_size / 4;
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
                    const vec raw = load(work.raw(k) + at);
                    g = masked<ACT>(g, raw * scale + shift);
                    sum += g;
                    product += g * (raw - mean);
                    store(work.gradient(k) + at, g);
                    if (p % 64 == 63 || p + 1 == pixels) {
                        add(work.sums(t) + c, sum);
                        add(work.sums(t) + wide + c, product);
                        sum = product = vec{};
                    }
                }
            }
}

// gradients of gamma and beta, and the coefficients of the raw output's gradient
void finish_gradient(const Work& work, int k) {
    const Layer& layer = work.layer(k);
    const int64_t channels = padded(layer.c_out), wide = work.layout.sums_size / 4;
    float *a = work.scratch + work.layout.coefficients, *b = a + wide, *c = b + wide;
    const double count = double(work.total(k));
    for (int64_t i = 0; i < channels; i++) {
        double sum = 0, product = 0;
        for (int t = 0; t < work.run.threads; t++) sum += work.sums(t)[i], product += work.sums(t)[wide + i];
        const double inverse = work.statistic(k, 1)[i], scale = work.statistic(k, 2)[i];
        const double rest = work.statistic(k, 4)[i];
        product -= sum * rest;
        if (i < layer.c_out) {
            if (layer.needs_gradient & 2) layer.gamma_grad[i] = float(product * inverse);
            if (layer.needs_gradient & 4) layer.beta_grad[i] = float(sum);
        }
        // c makes the mean of the result zero for the a, b and mean that are left after rounding
        a[i] = float(scale);
        b[i] = layer.running ? 0.0f : float(-scale * inverse * inverse * product / count);
        c[i] = layer.running ? 0.0f : float(-scale * sum / count - double(b[i]) * rest);
    }
}

template <int ACT, bool SKIP>
void backward_product(const Work& work, int k, const Coefficients& coefficients, bool filter, float* out_gradient,
                      const float* skip, int t) {
    const Layer& layer = work.layer(k);
    const int64_t total = work.total(k), room = panel_rows(layer), ks = depth(layer);
    const int64_t wide = work.layout.sums_size / 4;
    const Share mine = share(total, work.run.threads, t, 8);
    const Source source = work.value_of(k - 1);
    float *gradients = work.panel(t), *values = gradients + padded(layer.c_out) * room;
    StoreGradient<ACT, SKIP> store_gradient{out_gradient, skip, source, total, 0, work.sums(t), work.sums(t) + wide};
    if (filter) memset(work.filter(t), 0, padded(ks) * padded(layer.c_out) * 4);
    for (int64_t first = mine.begin; first < mine.end; first += room) {
        const int64_t rows = mine.end - first < room ? mine.end - first : room;
        pack_gradients(work.gradient(k), work.raw(k), coefficients, total, first, rows, room, layer.c_out, gradients);
        if (filter) {
            pack_source(layer, source, work.input, total, first, rows, room, values);
            filter_product(values, gradients, room * BLOCK, rows, padded(ks), work.filter(t), layer.c_out);
        }
        if (out_gradient) {
            store_gradient.first = first;
            product(gradients, room * BLOCK, rows, layer.c_out, work.scratch + work.layout.weights, layer.c_in, store_gradient);
        }
    }
}

// the threads' filters together, into the framework's [c_out, ks]
void finish_filter(const Work& work, int k, int t) {
    const Layer& layer = work.layer(k);
    const int64_t ks = depth(layer), wide = padded(layer.c_out);
    const Share mine = share(layer.c_out, work.run.threads, t, 16);
    for (int64_t c0 = mine.begin; c0 < mine.end; c0 += 16)
        for (int64_t i = 0; i < ks; i++)
            for (int64_t c = c0; c < mine.end && c < c0 + 16; c++) {
                float sum = 0;
                for (int other = 0; other < work.run.threads; other++) sum += work.filter(other)[i * wide + c];
                layer.weight_grad[c * ks + i] = sum;
            }
}

void backward(const Run& run, const float* input, float* saved, float* scratch, const float* output_grad,
              float* input_grad) {
    const Work work{run, lay_out(run, true), input, saved, scratch};
    const int threads = run.threads, last = run.count - 1, bottom = bottom_layer(run);
    const int64_t wide = work.layout.sums_size / 4;
    float* coefficient = scratch + work.layout.coefficients;
    if (bottom > last) return;
    parallel(threads, [&](int t) {
        memset(work.sums(t), 0, work.layout.sums_size * 4);
#define CALL(ACT) enter_gradient<ACT>(work, output_grad, t)
        FOR_ACTIVATION(work.layer(last).activation, CALL)
#undef CALL
    });
    for (int k = last; k >= bottom; k--) {
        const Layer& layer = work.layer(k);
        finish_gradient(work, k);
        const bool filter = layer.needs_gradient & 1;
        const bool further = k > bottom || (run.input_gradient && layer.kind != DENSE3);
        if (!filter && !further) continue;
        const Source source = work.value_of(k - 1);
        const Coefficients coefficients{coefficient, coefficient + wide, coefficient + 2 * wide, work.statistic(k, 0)};
        // gradients that skipped the layers between a map and the residual sum
        const float* skip = nullptr;
        for (int later = k; later <= last; later++)
            if (run.layers[later].residual == k - 1) skip = work.gradient(later);
        float* out_gradient = !further && layer.kind != DEPTHWISE ? nullptr
                              : k > 0                             ? work.gradient(k - 1)
                                                                  : scratch + work.layout.input_gradient;
        parallel(threads, [&](int t) {
            memset(work.sums(t), 0, work.layout.sums_size * 4);
            if (layer.kind == DEPTHWISE) {
                double* filters = reinterpret_cast<double*>(work.filter(t));
                const int64_t channels = padded(layer.c_out);
                memset(filters, 0, 9 * channels * 8);
#define ARGUMENTS                                                                                             \
    (layer, source, run.images, work.gradient(k), work.raw(k), coefficients, work.rows(t), out_gradient, filters, \
     work.sums(t), work.sums(t) + wide, threads, t)
#define CALL(ACT) layer.stride == 1 ? depthwise_backward<1, ACT> ARGUMENTS : depthwise_backward<2, ACT> ARGUMENTS
                FOR_ACTIVATION(source.activation, CALL)
#undef CALL
#undef ARGUMENTS
                team_barrier();
                if (filter && t == 0)
                    for (int64_t c = 0; c < layer.c_out; c++)
                        for (int i = 0; i < 9; i++) {
                            double sum = 0;
                            for (int other = 0; other < threads; other++)
                                sum += reinterpret_cast<double*>(work.filter(other))[i * channels + c];
                            layer.weight_grad[c * 9 + i] = float(sum);
                        }
            } else {
                if (out_gradient) {
                    pack(layer.weight, layer.c_in, 1, layer.c_out, layer.c_in, scratch + work.layout.weights, threads, t);
                    team_barrier();
                }
#define CALL(ACT)                                                                                       \
    skip ? backward_product<ACT, true>(work, k, coefficients, filter, out_gradient, skip, t)            \
         : backward_product<ACT, false>(work, k, coefficients, filter, out_gradient, skip, t)
                FOR_ACTIVATION(source.raw_activation, CALL)
#undef CALL
                team_barrier();
                if (filter) finish_filter(work, k, t);
            }
        });
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
