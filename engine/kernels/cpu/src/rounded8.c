/* Rows of x to 8-bit integers; engine/kernels/int8.py says how they are rounded. */
#include "rounded8.h"

#define ROUND_GROUPS 16            /* groups that are rounded at a time: none waits for another's largest number */
#define SERIAL_NUMBERS (16 * 1024) /* that are rounded faster than a team of threads is woken */

typedef struct {
    const void *x;
    Rounded rounded;
} Rounding;

/* A group to integers; what their sum begins with, which means nothing where a number is not finite. */
INLINE int32_t round_group(const float numbers[GROUP], float inverse, Quad quads[GROUP_QUADS]) {
    vu sums = (vu)splat_int(0);
    UNROLL
    for (int i = 0; i < GROUP_VECTORS; i++) {
        vi integers = round_vec(load(numbers + i * VL) * inverse);
        store_quads(quads + i * VL / 4, integers);
        sums += (vu)integers;
    }
    UNROLL
    for (int width = VL / 2; width; width /= 2) sums += (vu)partner((vi)sums, width);
    return (int32_t)(0 - WEIGHT_OFFSET * sums[0]);
}

/* Groups [first, last) of row `row` of a tile, ROUND_GROUPS at most. */
INLINE void round_groups(const int dtype, const Rounding *r, RowTile tile, int64_t row, int64_t first, int64_t last) {
    const Rounded *out = &r->rounded;
    const int64_t depth = out->cut.depth, begin = (tile.first + row) * depth;
    ON_LINE float numbers[ROUND_GROUPS][GROUP], largest[ROUND_GROUPS] = {0}, scale[ROUND_GROUPS], inverse[ROUND_GROUPS];
    for (int64_t group = first; group < last; group++) {
        vf vectors[GROUP_VECTORS];
        load_group(dtype, r->x, begin + group * GROUP, min64(GROUP, depth - group * GROUP), 1, vectors);
        largest[group - first] = largest_of(vectors);
        UNROLL
        for (int i = 0; i < GROUP_VECTORS; i++) store(numbers[group - first] + i * VL, vectors[i]);
    }
    for (int i = 0; i < ROUND_GROUPS; i += VL) {
        vf most = load(largest + i);
        store(scale + i, most / LARGEST);
        store(inverse + i, choose(most > splat(TINY), LARGEST / most, splat(0)));
    }
    for (int64_t group = first; group < last; group++) {
        int64_t place = group_place(out, tile, group) + row;
        out->scale[place] = scale[group - first];
        out->start[place] = round_group(numbers[group - first], inverse[group - first], out->quads + place * GROUP_QUADS);
    }
}

INLINE void round_tile(const int dtype, const Rounding *r, RowTile tile) {
    const int64_t num_groups = r->rounded.cut.num_groups;
    for (int64_t group = 0; group < num_groups; group += ROUND_GROUPS) {
        for (int64_t row = 0; row < tile.count; row++)
            round_groups(dtype, r, tile, row, group, min64(num_groups, group + ROUND_GROUPS));
    }
}

static void round_float32(void *context, int64_t i) {
    const Rounding *r = context;
    round_tile(FLOAT32, r, row_tile(i, r->rounded.num_rows, r->rounded.num_tiles));
}

static void round_bfloat16(void *context, int64_t i) {
    const Rounding *r = context;
    round_tile(BFLOAT16, r, row_tile(i, r->rounded.num_rows, r->rounded.num_tiles));
}

void round_rows(int dtype, const void *x, const Rounded *rounded, int num_threads) {
    Rounding rounding = {x, *rounded};
    run_tasks(dtype == FLOAT32 ? round_float32 : round_bfloat16, &rounding, rounded->num_tiles,
              rounded->num_rows * rounded->cut.depth > SERIAL_NUMBERS ? num_threads : 1);
}

Rounded make_room(int64_t num_rows, int64_t depth) {
    Rounded room = {.num_rows = num_rows, .cut = cut_of(depth)};
    /* Products by AMX read AMX_ROWS places of quads and scales, whatever a tile has; of what they find there, nothing is used. */
    size_t places = (size_t)(num_rows * room.cut.num_groups + AMX_ROWS);
    room.quads = make_lines(places * (GROUP_QUADS * sizeof(Quad) + sizeof(float) + sizeof(int32_t)));
    room.scale = (float *)(room.quads + places * GROUP_QUADS);
    room.start = (int32_t *)(room.scale + places);
    return room;
}
