// Matrix products of a panel, [block of k][rows of the panel][16], with packed weights. What becomes of a tile of the
// result is up to an Epilogue; the tile itself goes through the first-level cache, so that the innermost loop has all
// registers to itself (an accumulator that is spilled there halves its speed).
#pragma once
#include "vec.h"

namespace {

// register tile: Tile<NB>::rows rows by NB blocks of 16 columns; rows of the filter's gradient at once
#if WIDTH == 16
constexpr int MOST_BLOCKS = 2;
template <int NB> struct Tile { static constexpr int rows = NB == 1 ? 24 : NB == 2 ? 12 : 8; };
constexpr int FILTER_ROWS = 8;
#else
constexpr int MOST_BLOCKS = 1;
template <int NB> struct Tile { static constexpr int rows = WIDTH == 8 ? 6 : 3; };
constexpr int FILTER_ROWS = WIDTH == 8 ? 6 : 2;
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

// body(first column, columns, where) for each of thread t's groups of columns of the packed matrix
template <class Body>
void for_groups(int64_t ks, int64_t columns, float* packed, int threads, int t, const Body& body) {
    const int64_t blocks = padded(columns) / BLOCK;
    int64_t turn = 0;
    for (int64_t block = 0; block < blocks;) {
        const int size = group(block, blocks);
        if (turn++ % threads == t) body(block * BLOCK, size * BLOCK, packed + block * BLOCK * ks);
        block += size;
    }
}

// out[k * wide + c] = rows[c * ks + k] of `valid` rows, zero for the others
inline void transpose(const float* rows, int64_t valid, int64_t ks, float* out, int64_t wide) {
    constexpr int64_t SOME = 64;  // of a row at once: what is read next to it arrives by itself
    for (int64_t k0 = 0; k0 < ks; k0 += SOME) {
        const int64_t end = k0 + SOME < ks ? k0 + SOME : ks;
        for (int64_t c = 0; c < wide; c += 4) {
            const float* row = rows + c * ks;
            int64_t k = k0;
            if (c + 4 <= valid)
                for (; k + 4 <= end; k += 4)
                    store_transposed(load_four(row + k), load_four(row + ks + k), load_four(row + 2 * ks + k),
                                     load_four(row + 3 * ks + k), out + k * wide + c, wide);
            for (; k < end; k++)
                for (int64_t i = 0; i < 4; i++) out[k * wide + c + i] = c + i < valid ? row[i * ks + k] : 0.0f;
        }
    }
}

// a matrix of the framework's, [k][column] or, transposed, [column][k], into groups of columns:
// [group][k][columns of the group], zeros past the last column
void pack(const float* weight, bool transposed, int64_t ks, int64_t columns, float* packed, int threads, int t) {
    for_groups(ks, columns, packed, threads, t, [&](int64_t first, int64_t wide, float* out) {
        const int64_t valid = columns - first < wide ? columns - first : wide;
        if (transposed) return transpose(weight + first * ks, valid, ks, out, wide);
        for (int64_t k = 0; k < ks; k++) {
            memcpy(out + k * wide, weight + k * columns + first, valid * 4);
            memset(out + k * wide + valid, 0, (wide - valid) * 4);
        }
    });
}

// the same of a matrix that is element(k, column)
template <class Element>
void pack_elements(const Element& element, int64_t ks, int64_t columns, float* packed, int threads, int t) {
    for_groups(ks, columns, packed, threads, t, [&](int64_t first, int64_t wide, float* out) {
        for (int64_t k = 0; k < ks; k++)
            for (int64_t c = 0; c < wide; c++) out[k * wide + c] = first + c < columns ? element(k, first + c) : 0.0f;
    });
}

// tile = panel x packed, or (ADD) that much more
template <int NB, bool ADD>
OWN_FUNCTION void tile_product(const float* panel, int64_t panel_stride, int64_t ks, const float* packed, float* tile) {
    constexpr int MR = Tile<NB>::rows, NV = NB * UNITS;
    vec acc[MR][NV];
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vec{};
    for (int64_t k = 0; k < ks; k += BLOCK, panel += panel_stride) {
        const int64_t some = ks - k < BLOCK ? ks - k : BLOCK;
        for (int64_t kk = 0; kk < some; kk++, packed += NB * BLOCK) {
            vec right[NV];
            UNROLL for (int j = 0; j < NV; j++) right[j] = load(packed + j * WIDTH);
            UNROLL for (int i = 0; i < MR; i++) {
                const vec left = all(panel[i * BLOCK + kk]);
                UNROLL for (int j = 0; j < NV; j++) acc[i][j] += left * right[j];
            }
        }
    }
    UNROLL for (int i = 0; i < MR; i++) UNROLL for (int j = 0; j < NV; j++) {
        float* out = tile + (i * NV + j) * WIDTH;
        store(out, ADD ? load(out) + acc[i][j] : acc[i][j]);
    }
}

constexpr int64_t SUMMED = 256;  // products in one sum: a long one in float32 loses digits

template <int NB, class Epilogue>
inline void product_group(const float* panel, int64_t panel_stride, int64_t rows, int64_t ks, const float* packed,
                          int64_t block, Epilogue& epilogue) {
    constexpr int MR = Tile<NB>::rows;
    alignas(64) float tile[MR * NB * BLOCK];
    typename Epilogue::template State<NB> state(epilogue, block);
    for (int64_t r = 0; r < rows; r += MR) {
        const float* left = panel + r * BLOCK;
        tile_product<NB, false>(left, panel_stride, ks < SUMMED ? ks : SUMMED, packed, tile);
        for (int64_t k = SUMMED; k < ks; k += SUMMED)
            tile_product<NB, true>(left + k / BLOCK * panel_stride, panel_stride, ks - k < SUMMED ? ks - k : SUMMED,
                                   packed + k * NB * BLOCK, tile);
        state.tile(r, r + MR <= rows ? MR : rows - r, tile);
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

template <int NB, int ROWS>
OWN_FUNCTION void filter_tile(const float* left, const float* right, int64_t panel_stride, int64_t rows, float* filter) {
    constexpr int NV = NB * UNITS;
    vec acc[ROWS][NV];
    UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < NV; j++) acc[i][j] = vec{};
    for (int64_t r = 0; r < rows; r++, left += BLOCK, right += BLOCK) {
        vec b[NV];
        UNROLL for (int j = 0; j < NV; j++) b[j] = load(right + j / UNITS * panel_stride + j % UNITS * WIDTH);
        UNROLL for (int i = 0; i < ROWS; i++) {
            const vec x = all(left[i]);
            UNROLL for (int j = 0; j < NV; j++) acc[i][j] += x * b[j];
        }
    }
    UNROLL for (int i = 0; i < ROWS; i++) {
        float* out = filter + i * NB * BLOCK;
        UNROLL for (int j = 0; j < NV; j++) store(out + j * WIDTH, load(out + j * WIDTH) + acc[i][j]);
    }
}

// filter += left^T right over the panel's rows; the filter lies as packed weights do, so that a tile is in one piece
void filter_product(const float* left, const float* right, int64_t panel_stride, int64_t rows, int64_t ks,
                    float* filter, int64_t columns) {
    constexpr int REST = BLOCK % FILTER_ROWS ? BLOCK % FILTER_ROWS : FILTER_ROWS;
    const int64_t blocks = padded(columns) / BLOCK;
    for (int64_t block = 0; block < blocks;) {
        const int size = group(block, blocks);
        for (int64_t k = 0; k < ks; k += BLOCK) {
            const float *a = left + k / BLOCK * panel_stride, *b = right + block * panel_stride;
            float* out = filter + (block * ks + k * size) * BLOCK;
            int i = 0;
#define CALL(NB)                                                                                  \
    for (; i + FILTER_ROWS <= BLOCK; i += FILTER_ROWS)                                            \
        filter_tile<NB, FILTER_ROWS>(a + i, b, panel_stride, rows, out + i * NB * BLOCK);         \
    if (i < BLOCK) filter_tile<NB, REST>(a + i, b, panel_stride, rows, out + i * NB * BLOCK);
            FOR_GROUP(size, CALL)
#undef CALL
        }
        block += size;
    }
}

}  // namespace
