/* Rows of x times panels of W, both in bfloat16, by AMX: AMX_ROWS rows of x and of W, and AMX_STEP columns at a time. x is read as it
 * lies, and a panel, packed for products of pairs, is two operands side by side. However many rows x has, they are
 * multiplied so: a row's sums are taken in the same order.
 */
#ifndef HEADCOUNT_LINEAR_AMX_H
#define HEADCOUNT_LINEAR_AMX_H

#include "ahead.h"
#include "amx.h"
#include "epilogue.h"
#include "panels.h"

#define PAIRS_BYTES (2 * AMX_BYTES) /* of a panel's numbers in two columns */
#define ROWS_AT_ONCE (2 * AMX_ROWS) /* of x, in two tiles, so that each load serves two products */
#define LINEAR_ROW_REGISTERS 6      /* 0 to 3 are sums, 4 and 5 tiles of x; 6 and 7 are a panel's */

_Static_assert(!HAS_AMX || PANEL == 2 * AMX_ROWS, "a panel is two operands");

INLINE int linear_by_amx(const int dtype, int64_t depth) {
    return HAS_AMX && IS_PAIRED(dtype) && depth && depth % AMX_STEP == 0;
}

/* A tile of x, or two (`tiles` is a constant), times a panel -> out [tiles * AMX_ROWS, PANEL].
 *
 *   x     where each tile begins; `row_bytes` from a row to the next
 *   line  number of the panel's first column among the part's
 */
INLINE void multiply_panel(const int tiles, const char *const x[2], int64_t row_bytes, const Part *part, const Ahead *ahead,
                           int64_t line, int64_t depth, float *out) {
    const char *w = part->begin + line * part->line_bytes;
    AMX_ZERO_SUMS();
    for (int64_t k = 0; k < depth; k += AMX_STEP) {
        fetch_lines(part, ahead, line + k, AMX_STEP);
        AMX_STREAM(6, w + k * part->line_bytes, PAIRS_BYTES);
        AMX_LOAD(4, x[0] + 2 * k, row_bytes);
        AMX_DOT_PAIRS(0, 4, 6);
        AMX_STREAM(7, w + k * part->line_bytes + AMX_BYTES, PAIRS_BYTES);
        AMX_DOT_PAIRS(1, 4, 7);
        if (tiles == 1) continue;
        AMX_LOAD(5, x[1] + 2 * k, row_bytes);
        AMX_DOT_PAIRS(2, 5, 6);
        AMX_DOT_PAIRS(3, 5, 7);
    }
    AMX_STORE(0, out, PANEL * sizeof(float));
    AMX_STORE(1, out + AMX_ROWS, PANEL * sizeof(float));
    if (tiles == 1) return;
    AMX_STORE(2, out + AMX_ROWS * PANEL, PANEL * sizeof(float));
    AMX_STORE(3, out + AMX_ROWS * PANEL + AMX_ROWS, PANEL * sizeof(float));
}

/* All `num_rows` rows of x, ROWS_AT_ONCE at a time, against all panels of a part; its first column is y's column `start`, and `count`
 * columns are W's. */
INLINE void multiply_part(const void *x, int64_t num_rows, int64_t depth, const Part *part, const Epilogue *end,
                          int64_t start, int64_t count) {
    const int64_t row_bytes = depth * size_of(BFLOAT16), num_turns = num_row_tiles(num_rows, ROWS_AT_ONCE);
    ON_LINE float sums[ROWS_AT_ONCE * PANEL];
    for (int64_t i = 0; i < num_turns; i++) {
        const int64_t first = i * ROWS_AT_ONCE, last = min64(num_rows, first + ROWS_AT_ONCE);
        const int64_t begin[2] = {tile_begin(first, num_rows), tile_begin(first + AMX_ROWS, num_rows)};
        const char *tiles[2] = {(const char *)x + begin[0] * row_bytes, (const char *)x + begin[1] * row_bytes};
        const Ahead ahead = ahead_of(part, i, num_turns);
        for (int64_t row = first; row < last; row++) prefetch_row(end, row, start);
        for (int64_t column = 0; column < count; column += PANEL) {
            const int64_t line = column / PANEL * depth;
            if (last - first > AMX_ROWS)
                multiply_panel(2, tiles, row_bytes, part, &ahead, line, depth, sums);
            else
                multiply_panel(1, tiles, row_bytes, part, &ahead, line, depth, sums);
            for (int64_t row = first; row < last; row++) {
                const int64_t tile = (row - first) / AMX_ROWS;
                finish_row(BFLOAT16, end, sums + (tile * AMX_ROWS + row - begin[tile]) * PANEL, row, start + column,
                           min64(PANEL, count - column));
            }
        }
    }
}

#endif
