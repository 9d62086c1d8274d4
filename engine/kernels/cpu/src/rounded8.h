/* Rows of x as 8-bit integers, as linear_int8.c multiplies them. */
#ifndef HEADCOUNT_ROUNDED8_H
#define HEADCOUNT_ROUNDED8_H

#include "groups8.h"

#define GROUP_QUADS (GROUP / 4)

/* Tile by tile of rows, and of a tile group by group: what a tile needs at a time lies together. A group of a row has a
 * place, see group_place. */
typedef struct {
    Quad *quads;    /* GROUP_QUADS of each place */
    float *scale;   /* of each place */
    int32_t *start; /* of each place: what a sum begins with, so that the weights' offset is gone at its end */
    int64_t num_rows, num_tiles;
    Cut cut;
} Rounded;

/* The place of a group of a tile's first row; those of its other rows follow. */
INLINE int64_t group_place(const Rounded *x, RowTile tile, int64_t group) {
    return tile.first * x->cut.num_groups + group * tile.count;
}

/* Room for `num_rows` rows, to be freed by their quads; these are NULL where there is no memory. */
HIDDEN Rounded make_room(int64_t num_rows, int64_t depth);

/* x [num_rows, depth] of `dtype` -> `rounded`, whose rows and tiles say how many there are. */
HIDDEN void round_rows(int dtype, const void *x, const Rounded *rounded, int num_threads);

#endif
