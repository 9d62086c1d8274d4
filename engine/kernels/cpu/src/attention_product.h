/* Products of attention: a register tile of sums at a time, each summed in the order of the columns. */
#ifndef HEADCOUNT_ATTENTION_PRODUCT_H
#define HEADCOUNT_ATTENTION_PRODUCT_H

#include "pairs.h"

/* The register tile: rows and, in each, vectors at most. */
#define MAX_ROWS 6
#define VECTORS 4

/* The vectors of a tile of so many rows: the sums, what is added to them and what that is made of stay in registers. */
#if NUM_REGISTERS == 32
#define TILE_VECTORS(rows) VECTORS
#else
#define TILE_VECTORS(rows) ((rows) > 3 ? VECTORS / 2 : VECTORS)
#endif

/* CALL_WITH_ROWS(rows, F, ...): F(rows, ...) with the number of rows as a constant. */
#define CALL_WITH_ROWS(rows, F, ...)        \
    switch (rows) {                         \
    case 1: F(1, __VA_ARGS__); break;       \
    case 2: F(2, __VA_ARGS__); break;       \
    case 3: F(3, __VA_ARGS__); break;       \
    case 4: F(4, __VA_ARGS__); break;       \
    case 5: F(5, __VA_ARGS__); break;       \
    default: F(6, __VA_ARGS__);             \
    }

typedef vf Sums[MAX_ROWS][VECTORS];

/* The second matrix: row j is the one at places[j] of those that lie `stride` numbers from one another, or row j itself
 * where places is NULL. Meanwhile the same columns of the rows at ahead[j] are fetched, where that is not NULL. */
typedef struct {
    const void *numbers;
    int64_t stride;
    const int64_t *places, *ahead;
} Rows;

/* Vector c of a row, widened into the order of split_row. */
INLINE vf vector_of(const int dtype, const void *row, const int c) {
    return c % 2 ? load_odd(row, (c - 1) * VL, dtype) : load_even(row, c * VL, dtype);
}

/* sums[m][c] += a[m * lda] * vector c of `row`, where the sums leave room for a factor of each row and one vector. */
INLINE void add_by_vector(const int rows, const int vectors, const int dtype, const float *a, int64_t lda,
                          const void *row, Sums sums) {
    vf factors[MAX_ROWS];
    UNROLL
    for (int m = 0; m < rows; m++) {
        factors[m] = splat(a[m * lda]);
        HOLD(factors[m]);
    }
    UNROLL
    for (int c = 0; c < vectors; c++) {
        HOLD_POINTER(row); /* or both halves of a vector of bfloat16 would be kept at once */
        vf numbers = vector_of(dtype, row, c);
        HOLD(numbers);
        UNROLL
        for (int m = 0; m < rows; m++) {
            sums[m][c] = vfma(factors[m], numbers, sums[m][c]);
            HOLD(sums[m][c]);
        }
    }
}

/* The same where they leave room for all vectors of `row` and one factor. */
INLINE void add_by_factor(const int rows, const int vectors, const int dtype, const float *a, int64_t lda,
                          const void *row, Sums sums) {
    vf numbers[VECTORS];
    UNROLL
    for (int c = 0; c < vectors; c++) numbers[c] = vector_of(dtype, row, c);
    UNROLL
    for (int m = 0; m < rows; m++) {
        vf factor = splat(a[m * lda]);
        UNROLL
        for (int c = 0; c < vectors; c++) sums[m][c] = vfma(factor, numbers[c], sums[m][c]);
    }
}

/* out[m, :] += sum over j of a[m, j] * b[j, :] in the order of j, for `rows` and `vectors` (constants).
 *
 *   a    [rows, count], rows lda apart
 *   b    rows of vectors * VL numbers of `dtype`; they are widened on their way, into the order of split_row
 *   out  [rows, vectors * VL], rows ldo apart
 */
INLINE void add_product(const int rows, const int vectors, const int dtype, const float *a, int64_t lda, Rows b,
                        int64_t count, int64_t ldo, float *out) {
    Sums sums;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) sums[m][c] = load(out + m * ldo + c * VL);
    }
    for (int64_t j = 0; j < count; j++) {
        const void *row = at(b.numbers, (b.places ? b.places[j] : j) * b.stride, dtype);
        if (b.ahead) prefetch(at(b.numbers, b.ahead[j] * b.stride, dtype), vectors * VL * size_of(dtype));
        if (NUM_REGISTERS == 16 && rows < vectors)
            add_by_vector(rows, vectors, dtype, a + j, lda, row, sums);
        else
            add_by_factor(rows, vectors, dtype, a + j, lda, row, sums);
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) store(out + m * ldo + c * VL, sums[m][c]);
    }
}

/* The same for any width that is a multiple of VL, or of VECTORS * VL where numbers are widened. */
INLINE void add_wide_product(const int rows, const int dtype, const float *a, int64_t lda, Rows b, int64_t count,
                             int64_t width, int64_t ldo, float *out) {
    const int vectors = TILE_VECTORS(rows);
    int64_t c = 0;
    for (; c + vectors * VL <= width; c += vectors * VL) {
        Rows from = {at(b.numbers, c, dtype), b.stride, b.places, b.ahead};
        add_product(rows, vectors, dtype, a, lda, from, count, ldo, out + c);
    }
    for (; c < width; c += VL) {
        Rows from = {at(b.numbers, c, dtype), b.stride, b.places, b.ahead};
        add_product(rows, 1, dtype, a, lda, from, count, ldo, out + c);
    }
}

/* The same for float32 and any number of rows, all b's one after the other: b [count, stride], out [num_rows, stride], of
 * which `width` columns are computed. */
INLINE void add_products(const float *a, int64_t lda, const float *b, int64_t stride, int64_t num_rows, int64_t count,
                         int64_t width, float *out) {
    const int64_t num_tiles = num_row_tiles(num_rows, MAX_ROWS);
    for (int64_t i = 0; i < num_tiles; i++) {
        const RowTile tile = row_tile(i, num_rows, num_tiles);
        Rows all = {b, stride, NULL, NULL};
        CALL_WITH_ROWS(tile.count, add_wide_product, FLOAT32, a + tile.first * lda, lda, all, count, width, stride,
                       out + tile.first * stride);
    }
}

/* out[m, :] = scale * the sum over i of q[m, pair i] * keys[i, :], for `rows` and `vectors` (constants).
 *
 *   q     [rows, 2 * num_pairs] bfloat16, rows 2 * num_pairs apart
 *   keys  [num_pairs, vectors * VL] pairs of bfloat16, rows ldk apart
 *   out   [rows, vectors * VL], rows ldk apart
 */
INLINE void multiply_pairs(const int rows, const int vectors, const uint16_t *q, const vu_mem *keys, int64_t num_pairs,
                           int64_t ldk, float scale, float *out) {
    Sums sums;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) sums[m][c] = splat(0);
    }
    for (int64_t i = 0; i < num_pairs; i++) {
        vu columns[VECTORS];
        UNROLL
        for (int c = 0; c < vectors; c++) columns[c] = keys[i * ldk / VL + c];
        UNROLL
        for (int m = 0; m < rows; m++) {
            vu pair = splat_pair(q + 2 * (m * num_pairs + i));
            UNROLL
            for (int c = 0; c < vectors; c++) sums[m][c] = DOT_PAIRS(sums[m][c], columns[c], pair);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) store(out + m * ldk + c * VL, sums[m][c] * scale);
    }
}

/* The same for any number of vectors. */
INLINE void multiply_wide_pairs(const int rows, const uint16_t *q, const vu_mem *keys, int64_t num_pairs, int64_t ldk,
                                int64_t num_vectors, float scale, float *out) {
    const int vectors = TILE_VECTORS(rows);
    int64_t c = 0;
    for (; c + vectors <= num_vectors; c += vectors)
        multiply_pairs(rows, vectors, q, keys + c, num_pairs, ldk, scale, out + c * VL);
    for (; c < num_vectors; c++) multiply_pairs(rows, 1, q, keys + c, num_pairs, ldk, scale, out + c * VL);
}

/* And for any number of rows. */
INLINE void multiply_all_pairs(const uint16_t *q, const vu_mem *keys, int64_t num_rows, int64_t num_pairs, int64_t ldk,
                               int64_t num_vectors, float scale, float *out) {
    const int64_t num_tiles = num_row_tiles(num_rows, MAX_ROWS);
    for (int64_t i = 0; i < num_tiles; i++) {
        const RowTile tile = row_tile(i, num_rows, num_tiles);
        CALL_WITH_ROWS(tile.count, multiply_wide_pairs, q + 2 * tile.first * num_pairs, keys, num_pairs, ldk, num_vectors,
                       scale, out + tile.first * ldk);
    }
}

#endif
