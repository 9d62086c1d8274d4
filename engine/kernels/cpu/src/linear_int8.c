/* y = x W^T (+ bias) (+ residual) with 8-bit integers; engine/kernels/int8.py says what W and x are rounded to.
 *
 * Products are summed exactly, in 32 bits, over a group of columns; each group's sum goes, times its two scales, to a
 * float32 sum, in order. W lies in panels of VL rows, four columns at a time, so that an instruction takes four products
 * of each of VL rows. A task is a tile of panels: it comes from memory once, and is in a near cache for all rows of x
 * but the first.
 */
#include "dot8.h"
#include "kernels.h"
#include "rotate.h"

#define LARGEST 127.0f   /* integer */
#define TINY 0x1p-100f   /* groups of no larger numbers are 0: the inverse of their scale would be infinite */
#define TASK_BYTES (256 * 1024) /* of W in a task at most */
#define INFINITY_BITS 0x7f800000
#define CHUNK 512        /* rows of x at a time: bounds the scratch memory */
#define AHEAD_BYTES 2048 /* W is fetched that far ahead, in each panel */
#define PANEL VL         /* rows of W in a panel */
#define ROUND_ROWS 8     /* rows of x that a task rounds */
#define SERIAL_NUMBERS (16 * 1024) /* that are rounded faster than a team of threads is woken */
#if VL == 16 || defined(__aarch64__)
#define TILE_ROWS 6
#define TILE_PANELS 4
#else
#define TILE_ROWS 4
#define TILE_PANELS 2
#endif

#define TILE_WIDTH (TILE_PANELS * PANEL) /* rows of W in a tile */

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

/* Lane i gets x[i + width]; width is a constant. */
INLINE vi fold(vi x, int width) {
#if VL == 16
    if (width == 8) return FOLD(x, 8);
#endif
#if VL >= 8
    if (width == 4) return FOLD(x, 4);
#endif
    return width == 2 ? FOLD(x, 2) : FOLD(x, 1);
}

INLINE vi larger(vi a, vi b) { return (vi)choose(a > b, (vf)a, (vf)b); }

/* The largest magnitude of a group; NaN if one of its numbers is not finite. */
INLINE float largest_of(const vf numbers[GROUP_VECTORS]) {
    /* The bits of magnitudes, read as integers, are in the order of the magnitudes, and infinity and NaN above all. */
    vi most = splat_int(0);
    UNROLL
    for (int i = 0; i < GROUP_VECTORS; i++) most = larger(most, (vi)numbers[i] & 0x7fffffff);
    UNROLL
    for (int width = VL / 2; width; width /= 2) most = larger(most, fold(most, width));
    vf largest = (vf)most;
    return most[0] < INFINITY_BITS ? largest[0] : NAN;
}

/* ---- W ---- */

typedef struct {
    const void *weight;
    int8_t *numbers;
    uint16_t *scale;
    Cut cut;
    int dtype;
} Quantizing;

/* The smallest bfloat16 that is at least x, for x >= 0: no number is cut off. */
INLINE uint16_t bfloat16_above(float x) {
    uint16_t nearest;
    store_one(&nearest, 0, x, BFLOAT16);
    return (uint16_t)(nearest + (load_one(&nearest, 0, BFLOAT16) < x));
}

INLINE void quantize_row(const int dtype, const Quantizing *q, int64_t row) {
    Cut cut = q->cut;
    for (int64_t group = 0; group < cut.num_groups; group++) {
        vf numbers[GROUP_VECTORS];
        int64_t first = group * GROUP, stored = min64(GROUP, cut.num_quads * 4 - first);
        load_group(dtype, q->weight, row * cut.depth + first, min64(GROUP, cut.depth - first), 1.0f / GROUP, numbers);
        uint16_t *scale = q->scale + row * cut.num_groups + group;
        *scale = bfloat16_above(largest_of(numbers) / LARGEST);
        /* The least divisor concerns groups of zeros alone: 0 / 0 would be NaN. */
        float step = load_one(scale, 0, BFLOAT16), divisor = step < TINY ? TINY : step;
        int8_t rounded[GROUP];
        for (int i = 0; i < GROUP_VECTORS; i++) {
            vb narrow = __builtin_convertvector(round_vec(numbers[i] / divisor), vb);
            memcpy(rounded + i * VL, &narrow, VL);
        }
        memcpy(q->numbers + row * cut.num_quads * 4 + first, rounded, (size_t)stored);
    }
}

static void quantize_row_of(void *context, int64_t row) {
    const Quantizing *q = context;
    if (q->dtype == FLOAT32)
        quantize_row(FLOAT32, q, row);
    else
        quantize_row(BFLOAT16, q, row);
}

/* A weight as integers and scales.
 *
 *   weight   [width, depth] of `dtype`
 *   numbers  [width, depth rounded up to a multiple of 4] int8
 *   scale    [width, depth / GROUP rounded up] bfloat16
 */
EXPORT void hc_quantize_int8(int dtype, const void *weight, int8_t *numbers, uint16_t *scale, int64_t width,
                             int64_t depth, int num_threads) {
    Quantizing quantizing = {weight, numbers, scale, cut_of(depth), dtype};
    run_tasks(quantize_row_of, &quantizing, width, num_threads);
}

/* ---- packing ---- */

INLINE size_t number_bytes(Cut cut) { return (size_t)(PANEL * cut.num_quads * 4); }

INLINE size_t scale_bytes(Cut cut) { return (size_t)(PANEL * cut.num_groups) * sizeof(uint16_t); }

/* Room for the integers of a panel, and behind them its scales; NULL where there is none. */
static int8_t *make_panel(Cut cut) { return calloc(number_bytes(cut) + scale_bytes(cut), 1); }

INLINE Weight panel_in(const int8_t *memory, Cut cut) {
    return (Weight){memory, (const uint16_t *)(memory + number_bytes(cut))};
}

/* `count` rows -> numbers [num_quads, PANEL, 4] and scales [num_groups, PANEL], in the memory of a panel. */
static void arrange(Weight rows, int64_t count, Cut cut, int8_t *panel) {
    uint16_t *scale = (uint16_t *)(panel + number_bytes(cut));
    for (int64_t c = 0; c < count; c++) {
        Weight row = rows_from(rows, c, cut);
        for (int64_t k = 0; k < cut.num_quads * 4; k++)
            panel[k / 4 * PANEL * 4 + c * 4 + k % 4] = (int8_t)(row.numbers[k] + WEIGHT_OFFSET);
        for (int64_t group = 0; group < cut.num_groups; group++) scale[group * PANEL + c] = row.scale[group];
    }
}

typedef struct {
    int8_t *numbers;
    uint16_t *scale;
    Cut cut;
    int failed;
} Packing;

static void pack_panel(void *context, int64_t i) {
    Packing *p = context;
    int8_t *numbers = p->numbers + i * PANEL * p->cut.num_quads * 4, *panel = make_panel(p->cut);
    uint16_t *scale = p->scale + i * PANEL * p->cut.num_groups;
    if (!panel) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    arrange((Weight){numbers, scale}, PANEL, p->cut, panel);
    memcpy(numbers, panel, number_bytes(p->cut));
    memcpy(scale, panel + number_bytes(p->cut), scale_bytes(p->cut));
    free(panel);
}

/* Pack a weight in place: each whole panel of its rows becomes [num_quads, PANEL, 4], its scales [num_groups, PANEL];
 * rows that make up no panel stay as they are, behind the others.
 *
 *   weight  [width, depth rounded up to a multiple of 4] int8
 *   scale   [width, depth / GROUP rounded up] bfloat16
 *
 * Returns 0, or -1 where there is no memory for a panel.
 */
EXPORT int hc_pack_int8(int8_t *weight, uint16_t *scale, int64_t width, int64_t depth, int num_threads) {
    Packing packing = {weight, scale, cut_of(depth), 0};
    run_tasks(pack_panel, &packing, width / PANEL, num_threads);
    return packing.failed ? -1 : 0;
}

typedef struct {
    Weight weight;
    Cut cut;
    const int64_t *row_ids;
    void *out;
    int64_t width;
    int dtype;
} Gathering;

/* Number k of a row, times its scale. */
INLINE float number_of(const Gathering *g, int64_t row, int64_t k) {
    int64_t c = row % PANEL, group = k / GROUP;
    if (row - c + PANEL > g->width) {
        Weight rest = rows_from(g->weight, row, g->cut);
        return (float)rest.numbers[k] * load_one(rest.scale, group, BFLOAT16);
    }
    Weight panel = rows_from(g->weight, row - c, g->cut);
    int8_t number = (int8_t)(panel.numbers[k / 4 * PANEL * 4 + c * 4 + k % 4] - WEIGHT_OFFSET);
    return (float)number * load_one(panel.scale, group * PANEL + c, BFLOAT16);
}

static void gather_row(void *context, int64_t i) {
    const Gathering *g = context;
    for (int64_t first = 0; first < g->cut.depth; first += GROUP) {
        float numbers[GROUP];
        int64_t count = min64(GROUP, g->cut.depth - first);
        for (int64_t k = 0; k < count; k++) numbers[k] = number_of(g, g->row_ids[i], first + k);
        if (count == GROUP) {
            vf turned[GROUP_VECTORS];
            load_group(FLOAT32, numbers, 0, GROUP, 1, turned);
            for (int n = 0; n < GROUP_VECTORS; n++) store(numbers + n * VL, turned[n]);
        }
        for (int64_t k = 0; k < count; k++) store_one(g->out, i * g->cut.depth + first + k, numbers[k], g->dtype);
    }
}

/* Rows of a packed weight in `dtype`: out[n] = weight[row_ids[n]], turned back.
 *
 *   weight, scale  packed
 *   row_ids        [num_ids], each in [0, width)
 *   out            [num_ids, depth] of `dtype`
 */
EXPORT void hc_gather_rows_int8(int dtype, const int8_t *weight, const uint16_t *scale, const int64_t *row_ids,
                                void *out, int64_t num_ids, int64_t width, int64_t depth, int num_threads) {
    Gathering gathering = {{weight, scale}, cut_of(depth), row_ids, out, width, dtype};
    run_tasks(gather_row, &gathering, num_ids, num_ids > 16 ? num_threads : 1);
}

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
    const void *bias, *residual;
    void *y;
    int64_t num_rows, width, tiles_per_task;
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
                sums[m][n] += x->scale[place + m * cut.num_groups] * scale * __builtin_convertvector(acc[m][n], vf);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) store(out + (m * panels + n) * VL, sums[m][n]);
    }
}

/* y's row = sums + bias + residual, rounded once. Columns [start, start + count). */
INLINE void finish_row(const int dtype, const Job *job, const float *sums, int64_t row, int64_t start, int64_t count) {
    int64_t base = row * job->width + start, i = 0;
    for (; i + VL <= count; i += VL) {
        vf sum = load(sums + i);
        if (job->bias) sum += load_vec(job->bias, start + i, dtype);
        if (job->residual) sum += load_vec(job->residual, base + i, dtype);
        store_vec(job->y, base + i, sum, dtype);
    }
    for (; i < count; i++) {
        float sum = sums[i];
        if (job->bias) sum += load_one(job->bias, start + i, dtype);
        if (job->residual) sum += load_one(job->residual, base + i, dtype);
        store_one(job->y, base + i, sum, dtype);
    }
}

/* `rows` and `panels` are constants; `count` columns of them are W's, the rest is padding. */
INLINE void strip(const int rows, const int panels, const int dtype, const Job *job, Weight w, int64_t row,
                  int64_t start, int64_t count) {
    float sums[TILE_ROWS * TILE_PANELS * PANEL];
    tile(rows, panels, &job->x, row, w, sums);
    for (int m = 0; m < rows; m++) finish_row(dtype, job, sums + m * panels * PANEL, row + m, start, count);
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
    int64_t start = job->width / PANEL * PANEL, count = job->width - start;
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
    int64_t whole = job->width / PANEL * PANEL, row = i * job->tiles_per_task * TILE_WIDTH;
    if (row >= whole) {
        rest(dtype, job);
        return;
    }
    int64_t last = min64(whole, row + job->tiles_per_task * TILE_WIDTH);
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

/* Tiles of a task follow each other in memory, and there are several tasks a thread, for a core that other programs use
 * as well gets fewer of them done. */
static int64_t tiles_per_task(int64_t num_tiles, Cut cut, int num_threads) {
    int64_t fits = TASK_BYTES / (TILE_WIDTH * cut.num_quads * 4 + 1), fair = num_tiles / (4 * num_threads);
    return max64(1, min64(fits, fair));
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
    int64_t size = tiles_per_task(num_tiles, room.cut, num_threads);
    int64_t num_tasks = (num_tiles + size - 1) / size + (width % PANEL > 0);
    for (int64_t row = 0; row < num_rows; row += CHUNK) {
        int64_t rows = min64(CHUNK, num_rows - row);
        Rounding rounding = {at(x, row * depth, dtype), room, rows, dtype};
        run_tasks(round_rows, &rounding, (rows + ROUND_ROWS - 1) / ROUND_ROWS,
                  rows * depth > SERIAL_NUMBERS ? num_threads : 1);
        Job job = {
            .x = room,
            .weight = {weight, scale},
            .bias = bias,
            .residual = residual ? at(residual, row * width, dtype) : NULL,
            .y = at_mut(y, row * width, dtype),
            .num_rows = rows,
            .width = width,
            .tiles_per_task = size,
        };
        run_tasks(dtype == FLOAT32 ? block_float32 : block_bfloat16, &job, num_tasks, num_threads);
        failed |= job.failed;
    }
    free(room.quads);
    return failed ? -1 : 0;
}
