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

INLINE void finish_columns(const int dtype, const int y_dtype, const Epilogue *end, const float *sums, int64_t row,
                           int64_t start, int64_t count) {
    int64_t base = row * end->width + start, i = 0;
    for (; i + VL <= count; i += VL) {
        vf sum = load(sums + i);
        if (end->bias) sum += load_vec(end->bias, start + i, dtype);
        if (end->residual) sum += load_vec(end->residual, base + i, dtype);
        store_vec(end->y, base + i, sum, y_dtype);
    }
    for (; i < count; i++) {
        float sum = sums[i];
        if (end->bias) sum += load_one(end->bias, start + i, dtype);
        if (end->residual) sum += load_one(end->residual, base + i, dtype);
        store_one(end->y, base + i, sum, y_dtype);
    }
}

/* Columns [start, start + count) of a row. */
INLINE void finish_row(const int dtype, const Epilogue *end, const float *sums, int64_t row, int64_t start,
                       int64_t count) {
    if (end->y_dtype == FLOAT32)
        finish_columns(dtype, FLOAT32, end, sums, row, start, count);
    else
        finish_columns(dtype, dtype, end, sums, row, start, count);
}

#endif
