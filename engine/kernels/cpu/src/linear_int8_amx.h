/* Rows of x times a panel of W, both as 8-bit integers, by AMX: 16 rows of x, the 16 of a panel, and a group of columns at a time.
 * The sums of a group are the same integers as elsewhere, and go to the same sums of groups.
 */
#ifndef HEADCOUNT_LINEAR_INT8_AMX_H
#define HEADCOUNT_LINEAR_INT8_AMX_H

#include "ahead.h"
#include "epilogue.h"
#include "rounded8.h"

#define AMX_PANELS 4 /* whose sums are finished together */
#define FEWEST_ROWS 16 /* of x: fewer are faster by vectors */

_Static_assert(!HAS_AMX || (sizeof(Quad) == 4 && PANEL == AMX_ROWS && GROUP == AMX_BYTES), "AMX reads operands as they lie");

/* Either way gives the same numbers, so it may depend on how many rows there are. */
INLINE int int8_by_amx(Cut cut, int64_t num_rows) {
    return HAS_AMX && num_rows >= FEWEST_ROWS && cut.depth && cut.depth % GROUP == 0;
}

typedef int32_t Counts[AMX_ROWS][PANEL]; /* sums over a group */

#define COUNT_GROUP(c, a, b, x, w) \
    do {                           \
        AMX_ZERO(c);               \
        AMX_LOAD(a, x, AMX_BYTES); \
        AMX_LOAD(b, w, AMX_BYTES); \
        AMX_DOT_QUADS(c, a, b);    \
    } while (0)

/* Two sets of registers take turns. */
INLINE void count_group(int64_t turn, const Quad *x, const int8_t *w) {
    if (turn % 2)
        COUNT_GROUP(1, 3, 5, x, w);
    else
        COUNT_GROUP(0, 2, 4, x, w);
}

INLINE void store_counts(int64_t turn, Counts counts) {
    if (turn % 2)
        AMX_STORE(1, counts, AMX_BYTES);
    else
        AMX_STORE(0, counts, AMX_BYTES);
}

INLINE void add_counts(const Counts counts, const float *x_scale, vf scale, vf sums[AMX_ROWS]) {
    UNROLL
    for (int m = 0; m < AMX_ROWS; m++)
        sums[m] = vfma(x_scale[m] * scale, __builtin_convertvector(*(const vi_mem *)counts[m], vf), sums[m]);
}

/* A tile of x's rows times a panel -> out [AMX_ROWS, `stride`]; only the tile's rows mean something. In a turn a group is counted, the
 * counts of the one before are stored, and those of the one before that added: none waits for another. A function, and not
 * inlined: its sums take half of the registers.
 *
 *   line  number of the panel's first quads among the part's
 */
NOINLINE void multiply_quads(const Rounded *x, RowTile tile, Weight w, const Part *part, const Ahead *ahead, int64_t line,
                             float *out, int64_t stride) {
    const int64_t place = group_place(x, tile, 0), num_groups = x->cut.num_groups;
    ON_LINE Counts counts[2];
    vf sums[AMX_ROWS];
    UNROLL
    for (int m = 0; m < AMX_ROWS; m++) sums[m] = splat(0);
    for (int64_t turn = 0; turn < num_groups + 2; turn++) {
        if (turn < num_groups) {
            const int64_t first = turn * GROUP_QUADS;
            fetch_lines(part, ahead, line + first, GROUP_QUADS);
            count_group(turn, x->quads + (place + turn * tile.count) * GROUP_QUADS, w.numbers + first * AMX_BYTES);
        }
        if (turn >= 1 && turn <= num_groups) store_counts(turn - 1, counts[(turn - 1) % 2]);
        if (turn >= 2) {
            const int64_t group = turn - 2;
            add_counts(counts[turn % 2], x->scale + place + group * tile.count,
                       load_vec(w.scale, group * PANEL, BFLOAT16), sums);
        }
    }
    UNROLL
    for (int m = 0; m < AMX_ROWS; m++) store(out + m * stride, sums[m]);
}

/* All rows of x against AMX_PANELS panels at most; the first column of w is y's column `start`, and `count` are W's. */
INLINE void multiply_panels(const int dtype, const Rounded *x, Weight w, Weight next, const Epilogue *end, int64_t start,
                            int64_t count) {
    ON_LINE float sums[AMX_ROWS * AMX_PANELS * PANEL];
    const Cut cut = x->cut;
    const int64_t panels = (count + PANEL - 1) / PANEL, stride = panels * PANEL;
    const Part part = {(const char *)w.numbers, (const char *)next.numbers, 1, panels * cut.num_quads * AMX_BYTES, AMX_BYTES,
                       GROUP_QUADS * AMX_BYTES};
    const int64_t scale_bytes = stride * cut.num_groups * (int64_t)sizeof(uint16_t) / x->num_tiles + 1; /* a tile's share */
    for (int64_t i = 0; i < x->num_tiles; i++) {
        const RowTile tile = row_tile(i, x->num_rows, x->num_tiles);
        const Ahead ahead = ahead_of(&part, i, x->num_tiles);
        prefetch((const char *)next.scale + i * scale_bytes, scale_bytes);
        for (int64_t m = 0; m < tile.count; m++) prefetch_row(end, tile.first + m, start);
        for (int64_t p = 0; p < panels; p++)
            multiply_quads(x, tile, rows_from(w, p * PANEL, cut), &part, &ahead, p * cut.num_quads, sums + p * PANEL, stride);
        for (int64_t m = 0; m < tile.count; m++) finish_row(dtype, end, sums + m * stride, tile.first + m, start, count);
    }
}

#endif
