/* How a packed weight lies in memory. W is packed into panels of PANEL rows, column by column, so that a load gives PANEL rows'
 * numbers for one element of x. */
#ifndef HEADCOUNT_PANELS_H
#define HEADCOUNT_PANELS_H

#include "pairs.h"

#define PANEL (2 * VL) /* rows of W in a panel */

/* Where number k of row c of a whole panel stands. A panel is a column of PANEL numbers after the other; in one of
 * bfloat16 two share 32 bits, and the lower halves make up the first vector. Where columns are paired, the two numbers
 * of a row share the 32 bits, and only the last of an odd number of columns is as elsewhere. */
INLINE int64_t place_of(const int dtype, int64_t k, int64_t c, int64_t depth) {
    if (IS_PAIRED(dtype) && (k ^ 1) < depth) return (k & ~1) * PANEL + 2 * c + (k & 1);
    return k * PANEL + (dtype == FLOAT32 ? c : c < VL ? 2 * c : 2 * (c - VL) + 1);
}

/* `count` rows [depth] -> a panel. */
INLINE void fill_panel(const int dtype, const void *rows, int64_t count, int64_t depth, void *panel) {
    for (int64_t c = 0; c < count; c++) {
        for (int64_t k = 0; k < depth; k++)
            memcpy(at_mut(panel, place_of(dtype, k, c, depth), dtype), at(rows, c * depth + k, dtype),
                   (size_t)size_of(dtype));
    }
}

#endif
