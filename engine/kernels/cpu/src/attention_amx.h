/* Attention's products by AMX, out of a cache in bfloat16: 16 rows of a run at a time, however many there are, so that a row's
 * sums are taken in the same order.
 *
 * Scores are products of queries and keys as they are. The values' weights are float32; each is the sum of three bfloat16,
 * which are multiplied one by one: so nothing above 2^-126 is lost, and this takes a fifth of the time of products in float32.
 */
#ifndef HEADCOUNT_ATTENTION_AMX_H
#define HEADCOUNT_ATTENTION_AMX_H

#include "attention_tile.h"

#define NUM_TERMS 3       /* bfloat16 numbers whose sum a weight is */
#define FETCHED_ROWS 4    /* of the next tile, with each tile of keys or values */
#define VALUE_COLUMNS 64  /* that are computed together; the last ones may be half as many */
#define PAIRED_COLUMNS 32 /* that pair_columns takes */
#define ATTENTION_ROW_REGISTERS 7 /* 0 to 3 are sums, 4 to 6 rows of the run; 7 is keys or values */

INLINE int attention_by_amx(const int kv_dtype, const Attention *a) {
    return HAS_AMX && is_scored_in_pairs(kv_dtype, a) && a->k_head_dim % AMX_STEP == 0 && a->v_head_dim % PAIRED_COLUMNS == 0;
}

/* The sums side by side, in rows `stride` numbers apart. */
#define STORE_SUMS(out, stride)                                          \
    do {                                                                 \
        AMX_STORE(0, (out), (stride) * sizeof(float));                   \
        AMX_STORE(1, (out) + AMX_ROWS, (stride) * sizeof(float));        \
        AMX_STORE(2, (out) + 2 * AMX_ROWS, (stride) * sizeof(float));    \
        AMX_STORE(3, (out) + 3 * AMX_ROWS, (stride) * sizeof(float));    \
    } while (0)

#define ADD_SCORES(c, pairs, a, next)                \
    do {                                             \
        fetch_rows(BFLOAT16, a, next, FETCHED_ROWS); \
        AMX_LOAD(7, pairs, TILE * sizeof(float));    \
        AMX_DOT_PAIRS(c, 4, 7);                      \
    } while (0)

/* scores [num_rows, TILE] = softmax_scale * q k^T.
 *
 *   q     [num_rows, depth] bfloat16
 *   keys  [depth / 2, TILE] pairs of bfloat16
 */
INLINE void score_by_amx(const Attention *a, const uint16_t *q, const float *keys, int64_t num_rows, NextRows *next,
                         float *scores) {
    const int64_t depth = a->k_head_dim;
    for (int64_t row = 0; row < num_rows; row += AMX_ROWS) {
        const int64_t begin = tile_begin(row, num_rows);
        AMX_ZERO_SUMS();
        for (int64_t k = 0; k < depth; k += AMX_STEP) {
            const float *pairs = keys + k / 2 * TILE;
            AMX_LOAD(4, q + begin * depth + k, depth * sizeof(uint16_t));
            ADD_SCORES(0, pairs, a, next);
            ADD_SCORES(1, pairs + AMX_ROWS, a, next);
            ADD_SCORES(2, pairs + 2 * AMX_ROWS, a, next);
            ADD_SCORES(3, pairs + 3 * AMX_ROWS, a, next);
        }
        STORE_SUMS(scores + begin * TILE, TILE);
    }
    for (int64_t i = 0; i < num_rows * TILE; i += VL) store(scores + i, load(scores + i) * a->softmax_scale);
}

/* Pairs of the numbers of two keys in PAIRED_COLUMNS columns. Of each eight the first four come first: halves of 128 bits are
 * interleaved on their own. */
INLINE void pair_columns(const void *even, const void *odd, float *pairs) {
#if VL == 16
    __m512i first = _mm512_loadu_si512(even), second = _mm512_loadu_si512(odd);
    store(pairs, (vf)_mm512_unpacklo_epi16(first, second));
    store(pairs + VL, (vf)_mm512_unpackhi_epi16(first, second));
#else
    (void)even, (void)odd, (void)pairs; /* there is no AMX without AVX-512 */
#endif
}

/* The way back, of sums times scale. */
INLINE void write_columns(void *dst, int64_t idx, const float *src, float scale) {
#if VL == 16
    vf first = load(src) * scale, second = load(src + VL) * scale;
    store_two(dst, idx, __builtin_shufflevector(first, second, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23),
              __builtin_shufflevector(first, second, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31), BFLOAT16);
#else
    (void)dst, (void)idx, (void)src, (void)scale;
#endif
}

/* A tile's values, for the run's head number `head`: pairs [TILE / 2, v_head_dim], each of two keys' numbers in a column. Behind
 * the last key it is repeated; its weight is 0 there. */
INLINE void pair_values(const Attention *a, const Tile *tile, int64_t head, NextRows *next, float *pairs) {
    const int64_t width = a->v_head_dim;
    for (int64_t j = 0; j < round_up(tile->count, AMX_STEP); j += 2) {
        const void *even = row_of(BFLOAT16, a->v_cache, tile->heads[j] + head, width);
        const void *odd = row_of(BFLOAT16, a->v_cache, tile->heads[j + 1] + head, width);
        fetch_rows(BFLOAT16, a, next, 1);
        for (int64_t i = 0; i < width; i += PAIRED_COLUMNS)
            pair_columns(at(even, i, BFLOAT16), at(odd, i, BFLOAT16), pairs + j / 2 * width + i);
    }
}

/* weights [num_rows, TILE] -> terms [num_rows, NUM_TERMS, TILE] bfloat16 whose sums they are. */
INLINE void split_weights(const float *weights, int64_t num_rows, uint16_t *terms) {
    for (int64_t row = 0; row < num_rows; row++) {
        for (int64_t j = 0; j < TILE; j += VL) {
            vf rest = load(weights + row * TILE + j);
            UNROLL
            for (int n = 0; n < NUM_TERMS; n++) {
                uint16_t *term = terms + (row * NUM_TERMS + n) * TILE + j;
                store_vec(term, 0, rest, BFLOAT16);
                rest -= load_vec(term, 0, BFLOAT16);
            }
        }
    }
}

#define ADD_TERMS(c, pairs, a, next)                        \
    do {                                                    \
        fetch_rows(BFLOAT16, a, next, FETCHED_ROWS);        \
        AMX_LOAD(7, pairs, (a)->v_head_dim * sizeof(float)); \
        AMX_DOT_PAIRS(c, 4, 7);                             \
        AMX_DOT_PAIRS(c, 5, 7);                             \
        AMX_DOT_PAIRS(c, 6, 7);                             \
    } while (0)

/* A tile of rows times `columns` columns of the values -> out [AMX_ROWS, VALUE_COLUMNS].
 *
 *   terms  as split_weights makes them, of the rows
 *   pairs  as pair_values makes them, of the columns
 */
INLINE void multiply_values(const Attention *a, const uint16_t *terms, const float *pairs, int64_t count, int64_t columns,
                            NextRows *next, float *out) {
    const int64_t row_bytes = NUM_TERMS * TILE * sizeof(uint16_t);
    AMX_ZERO_SUMS();
    for (int64_t j = 0; j < count; j += AMX_STEP) {
        const float *from = pairs + j / 2 * a->v_head_dim;
        AMX_LOAD(4, terms + j, row_bytes);
        AMX_LOAD(5, terms + TILE + j, row_bytes);
        AMX_LOAD(6, terms + 2 * TILE + j, row_bytes);
        ADD_TERMS(0, from, a, next);
        ADD_TERMS(1, from + AMX_ROWS, a, next);
        if (columns < VALUE_COLUMNS) continue;
        ADD_TERMS(2, from + 2 * AMX_ROWS, a, next);
        ADD_TERMS(3, from + 3 * AMX_ROWS, a, next);
    }
    STORE_SUMS(out, VALUE_COLUMNS);
}

/* acc [num_rows, v_head_dim] = acc * shrink + the tile's values by their weights. */
INLINE void add_by_amx(const Attention *a, const uint16_t *terms, const float *pairs, int64_t count, int64_t num_rows,
                       const float *shrink, NextRows *next, float *acc) {
    const int64_t width = a->v_head_dim;
    ON_LINE float sums[AMX_ROWS * VALUE_COLUMNS];
    for (int64_t row = 0; row < num_rows; row += AMX_ROWS) {
        const int64_t begin = tile_begin(row, num_rows);
        for (int64_t column = 0; column < width; column += VALUE_COLUMNS) {
            const int64_t columns = min64(VALUE_COLUMNS, width - column);
            multiply_values(a, terms + begin * NUM_TERMS * TILE, pairs + column, count, columns, next, sums);
            for (int64_t m = row; m < min64(num_rows, row + AMX_ROWS); m++) {
                float *into = acc + m * width + column;
                const float *from = sums + (m - begin) * VALUE_COLUMNS;
                for (int64_t i = 0; i < columns; i += VL)
                    store(into + i, vfma(load(into + i), splat(shrink[m]), load(from + i)));
            }
        }
    }
}

#endif
