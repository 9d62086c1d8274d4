/* What becomes of a product's sums, whatever number format W has: + bias + residual, rounded once at most, into y. */
#ifndef HEADCOUNT_EPILOGUE_H
#define HEADCOUNT_EPILOGUE_H

#include "common.h"

typedef struct {
    const void *bias, *residual; /* [width] and [num_rows, width]; NULL: none */
    void *y;                     /* [num_rows, width] of y_dtype: float32, or that of the others */
    int y_dtype;
    int64_t width;
} Epilogue;

/* VL of a row's sums, from column `column` on. `base`: of the row in y and the residual. */
INLINE vf finished(const int dtype, const Epilogue *end, vf sums, int64_t base, int64_t column) {
    if (end->bias) sums += load_vec(end->bias, column, dtype);
    if (end->residual) sums += load_vec(end->residual, base + column, dtype);
    return sums;
}

/* `end` by value: y may be anything that a pointer leads to, and its members would be read again after each store. */
INLINE void finish_columns(const int dtype, const int y_dtype, const Epilogue end, const float *sums, int64_t row,
                           int64_t start, int64_t count) {
    const int64_t base = row * end.width;
    int64_t i = 0;
    for (; i + 2 * VL <= count; i += 2 * VL) {
        vf first = finished(dtype, &end, load(sums + i), base, start + i);
        vf second = finished(dtype, &end, load(sums + i + VL), base, start + i + VL);
        store_two(end.y, base + start + i, first, second, y_dtype);
    }
    for (; i + VL <= count; i += VL)
        store_vec(end.y, base + start + i, finished(dtype, &end, load(sums + i), base, start + i), y_dtype);
    for (; i < count; i++) {
        float sum = sums[i];
        if (end.bias) sum += load_one(end.bias, start + i, dtype);
        if (end.residual) sum += load_one(end.residual, base + start + i, dtype);
        store_one(end.y, base + start + i, sum, y_dtype);
    }
}

/* Fetch the first line of what finish_row is going to write from column `column` on. */
INLINE void prefetch_row(const Epilogue *end, int64_t row, int64_t column) {
    __builtin_prefetch(at(end->y, row * end->width + column, end->y_dtype), 1, 2);
}

/* Columns [start, start + count) of a row. */
INLINE void finish_row(const int dtype, const Epilogue *end, const float *sums, int64_t row, int64_t start,
                       int64_t count) {
    if (end->y_dtype == FLOAT32)
        finish_columns(dtype, FLOAT32, *end, sums, row, start, count);
    else
        finish_columns(dtype, dtype, *end, sums, row, start, count);
}

#endif
