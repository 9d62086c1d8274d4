/* y = x W^T (+ bias) (+ residual) with 8-bit integers; engine/kernels/int8.py says what W and x are rounded to.
 *
 * Products are summed exactly, in 32 bits, over a group of columns; each group's sum goes, times its two scales, to a
 * float32 sum, in order. W lies in panels of VL rows, four columns at a time, so that an instruction takes four products
 * of each of VL rows. A task is a few tiles of panels: a tile comes from memory once, and is in a near cache for all rows
 * of x but the first.
 */
#include "epilogue.h"
#include "groups8.h"
#include "kernels.h"

#define TASK_BYTES (256 * 1024)    /* of W in a task at most */
#define AHEAD_BYTES 2048           /* W is fetched that far ahead, in each panel */
#define CHUNK 512                  /* rows of x at a time: bounds the scratch memory */
#define ROUND_ROWS 8               /* rows of x that a task rounds */
#define SERIAL_NUMBERS (16 * 1024) /* that are rounded faster than a team of threads is woken */
#if NUM_REGISTERS == 32
#define TILE_ROWS 6
#define TILE_PANELS 4
#else
#define TILE_ROWS 4
#define TILE_PANELS 2
#endif

#define TILE_WIDTH (TILE_PANELS * PANEL) /* rows of W in a tile */

/* ---- x ---- */

/* Rows of x as integers. */
typedef struct {
    Quad *quads;    /* [num_rows, num_quads] */
    float *scale;   /* [num_rows, num_groups] */
    int32_t *start; /* [num_rows, num_groups]: what a sum begins with, so that the weights' offset is gone at its end */
    Cut cut;
} Rounded;

typedef struct {
    const void *x;
    Rounded rounded;
    int64_t num_rows;
    int dtype;
} Rounding;

/* A group to integers; their sum, which means nothing where a number is not finite. */
INLINE uint32_t round_group(const vf numbers[GROUP_VECTORS], float inverse, int8_t *rounded) {
    vu sums = (vu)splat_int(0);
    UNROLL
    for (int i = 0; i < GROUP_VECTORS; i++) {
        vi integers = round_vec(numbers[i] * inverse);
        vb narrow = __builtin_convertvector(integers, vb);
        memcpy(rounded + i * VL, &narrow, VL);
        sums += (vu)integers;
    }
    UNROLL
    for (int width = VL / 2; width; width /= 2) sums += (vu)fold((vi)sums, width);
    return sums[0];
}

INLINE void round_row(const int dtype, const Rounding *r, int64_t row) {
    const Rounded *out = &r->rounded;
    Cut cut = out->cut;
    for (int64_t group = 0; group < cut.num_groups; group++) {
        vf numbers[GROUP_VECTORS];
        int8_t rounded[GROUP];
        int64_t first = group * GROUP, count = min64(GROUP, cut.depth - first), place = row * cut.num_groups + group;
        load_group(dtype, r->x, row * cut.depth + first, count, 1, numbers);
        float largest = largest_of(numbers);
        uint32_t total = round_group(numbers, largest > TINY ? LARGEST / largest : 0, rounded);
        out->scale[place] = largest / LARGEST;
        out->start[place] = (int32_t)(0 - WEIGHT_OFFSET * total);
        Quad *quads = out->quads + row * cut.num_quads + first / 4;
        if (count == GROUP) {
            UNROLL
            for (int quad = 0; quad < GROUP / 4; quad++) quads[quad] = make_quad(rounded + 4 * quad);
        } else {
            for (int64_t quad = 0; quad < (count + 3) / 4; quad++) quads[quad] = make_quad(rounded + 4 * quad);
        }
    }
}

static void round_rows(void *context, int64_t i) {
    const Rounding *r = context;
    for (int64_t row = i * ROUND_ROWS; row < min64(r->num_rows, (i + 1) * ROUND_ROWS); row++) {
        if (r->dtype == FLOAT32)
            round_row(FLOAT32, r, row);
        else
            round_row(BFLOAT16, r, row);
    }
}

/* ---- the product ---- */

typedef struct {
    Rounded x;
    Weight weight;
    Epilogue end;
    int64_t num_rows, num_tiles, num_shares;
    int failed;
} Job;

/* Quads [first, last) of `rows` rows of x times those of `panels` panels. */
INLINE void add_products(const int rows, const int panels, const Quad *x, const int8_t *w, int64_t num_quads,
                         int64_t first, int64_t last, vi acc[TILE_ROWS][TILE_PANELS]) {
    /* What follows the end of a panel is the next one of the same tile; it is the next tile's that is fetched. */
    int64_t panel_bytes = num_quads * PANEL * 4;
    int64_t ahead = AHEAD_BYTES + (first * PANEL * 4 + AHEAD_BYTES < panel_bytes ? 0 : (panels - 1) * panel_bytes);
    for (int64_t k = first; k < last; k++) {
        vq column[TILE_PANELS];
        UNROLL
        for (int n = 0; n < panels; n++) {
            const int8_t *numbers = w + (n * num_quads + k) * PANEL * 4;
            __builtin_prefetch(numbers + ahead, 0, 2);
            column[n] = load_weights(numbers);
        }
        UNROLL
        for (int m = 0; m < rows; m++) {
            Quad quad = x[m * num_quads + k];
            UNROLL
            for (int n = 0; n < panels; n++) acc[m][n] = dot(acc[m][n], column[n], quad);
        }
    }
}

/* Rows [row, row + rows) of x times `panels` panels that lie one after the other (rows and panels are constants) ->
 * out [rows, panels * PANEL]. */
INLINE void tile(const int rows, const int panels, const Rounded *x, int64_t row, Weight w, float *out) {
    Cut cut = x->cut;
    vf sums[TILE_ROWS][TILE_PANELS];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) sums[m][n] = splat(0);
    }
    for (int64_t group = 0; group < cut.num_groups; group++) {
        vi acc[TILE_ROWS][TILE_PANELS];
        int64_t place = row * cut.num_groups + group, first = group * (GROUP / 4);
        UNROLL
        for (int m = 0; m < rows; m++) {
            UNROLL
            for (int n = 0; n < panels; n++) acc[m][n] = splat_int(x->start[place + m * cut.num_groups]);
        }
        add_products(rows, panels, x->quads + row * cut.num_quads, w.numbers, cut.num_quads, first,
                     min64(first + GROUP / 4, cut.num_quads), acc);
        UNROLL
        for (int n = 0; n < panels; n++) {
            vf scale = load_vec(w.scale, (n * cut.num_groups + group) * PANEL, BFLOAT16);
            UNROLL
            for (int m = 0; m < rows; m++)
                sums[m][n] = vfma(x->scale[place + m * cut.num_groups] * scale, __builtin_convertvector(acc[m][n], vf),
                                  sums[m][n]);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) store(out + (m * panels + n) * VL, sums[m][n]);
    }
}

/* `rows` and `panels` are constants; `count` columns of them are W's, the rest is padding. */
INLINE void strip(const int rows, const int panels, const int dtype, const Job *job, Weight w, int64_t row,
                  int64_t start, int64_t count) {
    float sums[TILE_ROWS * TILE_PANELS * PANEL];
    tile(rows, panels, &job->x, row, w, sums);
    for (int m = 0; m < rows; m++) finish_row(dtype, &job->end, sums + m * panels * PANEL, row + m, start, count);
}

#if TILE_ROWS == 6
#define CASES CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#else
#define CASES CASE(1) CASE(2) CASE(3) CASE(4)
#endif

/* All rows of x against `panels` (a constant) panels at w, W's rows from `start` on, `count` of them. */
INLINE void all_rows(const int panels, const int dtype, const Job *job, Weight w, int64_t start, int64_t count) {
    for (int64_t row = 0; row < job->num_rows;) {
        int64_t rows = next_rows(job->num_rows - row, TILE_ROWS);
        switch (rows) {
#define CASE(R)                                                     \
        case R:                                                     \
            strip(R, panels, dtype, job, w, row, start, count);     \
            break;
            CASES
#undef CASE
        }
        row += rows;
    }
}

/* Rows of W that make up no panel, as one that is filled up with zeros. */
INLINE void rest(const int dtype, Job *job) {
    int64_t start = job->end.width / PANEL * PANEL, count = job->end.width - start;
    int8_t *panel = make_panel(job->x.cut);
    if (!panel) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    arrange(rows_from(job->weight, start, job->x.cut), count, job->x.cut, panel);
    all_rows(1, dtype, job, panel_in(panel, job->x.cut), start, count);
    free(panel);
}

INLINE void block(const int dtype, Job *job, int64_t i) {
    if (i == job->num_shares) {
        rest(dtype, job);
        return;
    }
    int64_t row = share_begin(i, job->num_tiles, job->num_shares) * TILE_WIDTH;
    int64_t end = share_begin(i + 1, job->num_tiles, job->num_shares) * TILE_WIDTH;
    int64_t last = min64(end, job->end.width / PANEL * PANEL);
    for (; row + TILE_WIDTH <= last; row += TILE_WIDTH)
        all_rows(TILE_PANELS, dtype, job, rows_from(job->weight, row, job->x.cut), row, TILE_WIDTH);
    for (; row < last; row += PANEL) all_rows(1, dtype, job, rows_from(job->weight, row, job->x.cut), row, PANEL);
}

static void block_float32(void *job, int64_t i) { block(FLOAT32, job, i); }

static void block_bfloat16(void *job, int64_t i) { block(BFLOAT16, job, i); }

/* Room for `num_rows` rows as integers, to be freed by their quads; these are NULL where there is no memory. */
static Rounded make_room(int64_t num_rows, int64_t depth) {
    Rounded room = {.cut = cut_of(depth)};
    size_t places = (size_t)(num_rows * room.cut.num_groups), quads = (size_t)(num_rows * room.cut.num_quads);
    room.quads = malloc(quads * sizeof(Quad) + places * (sizeof(float) + sizeof(int32_t)) + 1);
    room.scale = (float *)(room.quads + quads);
    room.start = (int32_t *)(room.scale + places);
    return room;
}

/* All tensors are contiguous, and of `dtype` where nothing else is said.
 *
 *   x              [num_rows, depth]
 *   weight, scale  packed, see hc_pack_int8
 *   bias           [width], or NULL
 *   residual       [num_rows, width], or NULL; may be y
 *   y              [num_rows, width]
 *
 * Returns 0, or -1 where there is no memory for the scratch.
 */
EXPORT int hc_linear_int8(int dtype, const void *x, const int8_t *weight, const uint16_t *scale, const void *bias,
                          const void *residual, void *y, int64_t num_rows, int64_t width, int64_t depth,
                          int num_threads) {
    Rounded room = make_room(min64(num_rows, CHUNK), depth);
    if (!room.quads) return -1;
    int failed = 0;
    int64_t num_tiles = (width / PANEL + TILE_PANELS - 1) / TILE_PANELS;
    int64_t fits = TASK_BYTES / (TILE_WIDTH * room.cut.num_quads * 4 + 1);
    int64_t shares = num_shares(num_tiles, 1, max64(1, fits), num_threads), num_tasks = shares + (width % PANEL > 0);
    for (int64_t row = 0; row < num_rows; row += CHUNK) {
        int64_t rows = min64(CHUNK, num_rows - row);
        Rounding rounding = {at(x, row * depth, dtype), room, rows, dtype};
        run_tasks(round_rows, &rounding, (rows + ROUND_ROWS - 1) / ROUND_ROWS,
                  rows * depth > SERIAL_NUMBERS ? num_threads : 1);
        Job job = {
            .x = room,
            .weight = {weight, scale},
            .end = {bias, residual ? at(residual, row * width, dtype) : NULL, at_mut(y, row * width, dtype), width},
            .num_rows = rows,
            .num_tiles = num_tiles,
            .num_shares = shares,
        };
        run_tasks(dtype == FLOAT32 ? block_float32 : block_bfloat16, &job, num_tasks, num_threads);
        failed |= job.failed;
    }
    free(room.quads);
    return failed ? -1 : 0;
}
