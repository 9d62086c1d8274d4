/* What a row becomes as 8-bit integers: groups of columns, and panels of rows. engine/kernels/int8.py says how numbers
 * are rounded; here it is done in the same way, so that the integers are the same. */
#ifndef HEADCOUNT_GROUPS8_H
#define HEADCOUNT_GROUPS8_H

#include "dot8.h"
#include "rotate.h"

#define LARGEST 127.0f /* integer */
#define TINY 0x1p-100f /* groups of no larger numbers are 0: the inverse of their scale would be infinite */
#define INFINITY_BITS 0x7f800000
#define PANEL VL /* rows of W in a panel */

/* Rows of W: integers [num_rows, num_quads * 4] and their scales [num_rows, num_groups] in bfloat16. */
typedef struct {
    const int8_t *numbers;
    const uint16_t *scale;
} Weight;

/* How a row of `depth` numbers is cut up. */
typedef struct {
    int64_t depth, num_quads, num_groups;
} Cut;

INLINE Cut cut_of(int64_t depth) { return (Cut){depth, (depth + 3) / 4, (depth + GROUP - 1) / GROUP}; }

INLINE Weight rows_from(Weight w, int64_t row, Cut cut) {
    return (Weight){w.numbers + row * cut.num_quads * 4, w.scale + row * cut.num_groups};
}

/* ---- groups ---- */

/* `count` numbers from `start` on, times `factor` and turned, or filled up with zeros where they are no whole group. */
INLINE void load_group(const int dtype, const void *x, int64_t start, int64_t count, float factor,
                       vf numbers[GROUP_VECTORS]) {
    if (count == GROUP) {
        UNROLL
        for (int i = 0; i < GROUP_VECTORS; i++) numbers[i] = load_vec(x, start + i * VL, dtype) * factor;
        rotate(numbers);
        return;
    }
    float padded[GROUP] = {0};
    for (int64_t i = 0; i < count; i++) padded[i] = load_one(x, start + i, dtype);
    for (int i = 0; i < GROUP_VECTORS; i++) numbers[i] = load(padded + i * VL);
}

/* Lane i gets x[i ^ width]; width is a constant. */
INLINE vi partner(vi x, int width) {
#if VL == 16
    if (width == 8) return PARTNER(x, 8);
#endif
#if VL >= 8
    if (width == 4) return PARTNER(x, 4);
#endif
    return width == 2 ? PARTNER(x, 2) : PARTNER(x, 1);
}

/* The largest magnitude of a group; NaN if one of its numbers is not finite. */
INLINE float largest_of(const vf numbers[GROUP_VECTORS]) {
    /* The bits of magnitudes, read as integers, are in the order of the magnitudes, and infinity and NaN above all. */
    vi most = splat_int(0);
    UNROLL
    for (int i = 0; i < GROUP_VECTORS; i++) most = larger(most, (vi)numbers[i] & 0x7fffffff);
    UNROLL
    for (int width = VL / 2; width; width /= 2) most = larger(most, partner(most, width));
    vf largest = (vf)most;
    return most[0] < INFINITY_BITS ? largest[0] : NAN;
}

/* ---- panels ---- */

INLINE size_t number_bytes(Cut cut) { return (size_t)(PANEL * cut.num_quads * 4); }

INLINE size_t scale_bytes(Cut cut) { return (size_t)(PANEL * cut.num_groups) * sizeof(uint16_t); }

/* Room for the integers of a panel, and behind them its scales; NULL where there is none. */
INLINE int8_t *make_panel(Cut cut) { return calloc(number_bytes(cut) + scale_bytes(cut), 1); }

INLINE Weight panel_in(const int8_t *memory, Cut cut) {
    return (Weight){memory, (const uint16_t *)(memory + number_bytes(cut))};
}

/* `count` rows -> numbers [num_quads, PANEL, 4] and scales [num_groups, PANEL], in the memory of a panel. */
INLINE void arrange(Weight rows, int64_t count, Cut cut, int8_t *panel) {
    uint16_t *scale = (uint16_t *)(panel + number_bytes(cut));
    for (int64_t c = 0; c < count; c++) {
        Weight row = rows_from(rows, c, cut);
        for (int64_t k = 0; k < cut.num_quads * 4; k++)
            panel[k / 4 * PANEL * 4 + c * 4 + k % 4] = (int8_t)(row.numbers[k] + PACKED_OFFSET);
        for (int64_t group = 0; group < cut.num_groups; group++) scale[group * PANEL + c] = row.scale[group];
    }
}

#endif
