/* y = x W^T (+ bias) (+ residual), W packed.
 *
 * Decoding is bound by reading W from memory, prefill by arithmetic; one loop nest serves both. W is packed into panels
 * of PANEL rows, column by column, so that a load gives PANEL rows' numbers for one element of x: no sum across lanes,
 * and an instruction and a half for each vector of products however many rows x has. A panel comes from memory once; where
 * x has more rows than a tile it is fetched while the one before is multiplied, and is in a near cache then. x is widened
 * once. A CPU that multiplies pairs of bfloat16 gets two columns at a time instead, and x as it is; linear_amx.h is for one that
 * multiplies whole tiles.
 */
#include "kernels.h"
#include "linear_amx.h"
#include "shares.h"

#define TASK_BYTES (256 * 1024)  /* of W in a task at most */
#define CHUNK 512                 /* rows of x at a time: bounds the scratch memory */
#define SERIAL_WIDEN (16 * 1024)  /* numbers that are widened faster than a team of threads is woken */
#define FEW_ROWS 3                /* of x, with which a task has FEW_PANELS at least: one alone waits for its sums */
#define FEW_PANELS 3
#if NUM_REGISTERS == 32
#define TILE_PANELS 4 /* panels of a register tile at most, and its rows */
#define TILE_ROWS 12
#else
#define TILE_PANELS 3
#define TILE_ROWS 6
#endif

/* x's format: where columns are not multiplied in pairs it is widened. */
#define X_DTYPE(dtype) (IS_PAIRED(dtype) ? BFLOAT16 : FLOAT32)

typedef struct {
    const void *x; /* [num_rows, depth] of X_DTYPE */
    const void *weight; /* [end.width, depth] */
    Epilogue end;
    int64_t num_rows, depth, num_panels, num_shares;
    int num_threads, failed;
} Job;

typedef vf Sums[TILE_ROWS][2 * TILE_PANELS]; /* [rows, panels * 2]: a tile's, a vector of PANEL / 2 rows of W each */

/* Where a tile is in x: a pointer for every fourth row, from which an address reaches the rows between. With one for all rows
 * GCC runs out of registers. */
typedef struct {
    const char *fourth[(TILE_ROWS + 3) / 4];
    int64_t row_bytes;
} Cursor;

INLINE Cursor begin_of(const int rows, const void *x, int64_t row_bytes) {
    Cursor cursor = {.row_bytes = row_bytes};
    UNROLL
    for (int i = 0; i < (rows + 3) / 4; i++) cursor.fourth[i] = (const char *)x + 4 * i * row_bytes;
    return cursor;
}

INLINE const char *row_at(const Cursor *x, const int m) { return x->fourth[m / 4] + m % 4 * x->row_bytes; }

INLINE void advance(const int rows, Cursor *x, int64_t bytes) {
    UNROLL
    for (int i = 0; i < (rows + 3) / 4; i++) {
        x->fourth[i] += bytes;
        FORGET(x->fourth[i]); /* or it finds all rows by one pointer again */
    }
}

/* Column k of the panels times x's numbers at a cursor. */
INLINE void add_column(const int rows, const int panels, const int dtype, const Cursor *x, const void *w, const char *ahead,
                       int64_t pace, int64_t depth, int64_t k, Sums acc) {
    vf column[2 * TILE_PANELS];
    UNROLL
    for (int p = 0; p < panels; p++) {
        const void *numbers = at(w, (p * depth + k) * PANEL, dtype);
        fetch(ahead, pace, p * depth + k);
        column[2 * p] = load_even(numbers, 0, dtype);
        HOLD(column[2 * p]);
        HOLD_POINTER(numbers);
        column[2 * p + 1] = load_odd(numbers, 0, dtype);
        HOLD(column[2 * p + 1]);
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        vf number = splat(load_one(row_at(x, m), 0, X_DTYPE(dtype)));
        UNROLL
        for (int n = 0; n < 2 * panels; n++) acc[m][n] = vfma(number, column[n], acc[m][n]);
    }
}

/* Columns k and k + 1 of the panels times x's numbers at a cursor, in bfloat16. */
INLINE void add_pair(const int rows, const int panels, const Cursor *x, const uint16_t *w, const char *ahead,
                     int64_t pace, int64_t depth, int64_t k, Sums acc) {
    vu columns[2 * TILE_PANELS];
    UNROLL
    for (int p = 0; p < panels; p++) {
        const uint16_t *numbers = w + (p * depth + k) * PANEL;
        fetch(ahead, pace, p * depth + k);
        fetch(ahead, pace, p * depth + k + 1);
        columns[2 * p] = *(const vu_mem *)numbers;
        columns[2 * p + 1] = *(const vu_mem *)(numbers + PANEL);
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        vu pair = splat_pair(row_at(x, m));
        UNROLL
        for (int n = 0; n < 2 * panels; n++) acc[m][n] = DOT_PAIRS(acc[m][n], columns[n], pair);
    }
}

/* `rows` rows of x times `panels` panels that lie one after the other (both constants) -> out [rows, panels * PANEL].
 * Each number is summed over k in order. */
INLINE void panel_tile(const int rows, const int panels, const int dtype, const void *x, const void *w, Ahead ahead,
                       int64_t depth, float *out) {
    Sums acc;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < 2 * panels; n++) acc[m][n] = splat(0);
    }
    const int64_t size = size_of(X_DTYPE(dtype)), line = PANEL * size_of(dtype);
    const int64_t early = (depth - ahead.distance / line) / 2 * 2;
    Cursor cursor = begin_of(rows, x, depth * size);
    int64_t k = 0;
    for (int is_late = 0; is_late < 2; is_late++) {
        const char *from = is_late ? ahead.late : ahead.early;
        const int64_t stop = is_late ? depth : early;
        for (; IS_PAIRED(dtype) && k + 2 <= stop; k += 2) {
            add_pair(rows, panels, &cursor, w, from, ahead.pace, depth, k, acc);
            advance(rows, &cursor, 2 * size);
        }
        for (; k < stop; k++) {
            add_column(rows, panels, dtype, &cursor, w, from, ahead.pace, depth, k, acc);
            advance(rows, &cursor, size);
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < 2 * panels; n++) store(out + (m * panels * 2 + n) * VL, acc[m][n]);
    }
}

/* Few rows go with several panels at once: each sum waits for its last product, and the others fill the time. */
#if NUM_REGISTERS == 32
#define EACH_TILE(F)                                                                                \
    F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(3, 3) F(3, 4) \
    F(4, 1) F(4, 2) F(5, 1) F(5, 2) F(6, 1) F(6, 2) F(7, 1) F(8, 1) F(9, 1) F(10, 1) F(11, 1) F(12, 1)
#else
#define EACH_TILE(F) F(1, 1) F(1, 2) F(1, 3) F(2, 1) F(2, 2) F(3, 1) F(4, 1) F(5, 1) F(6, 1)
#endif

typedef void (*TileFunction)(const void *x, const void *w, Ahead ahead, int64_t depth, float *out);

/* A function for each: in one of all tiles, the compiler finds no registers for some of their sums. */
#define DEFINE_TILE(DTYPE, R, P)                                                                                   \
    NOINLINE void tile_##DTYPE##_##R##_##P(const void *x, const void *w, Ahead ahead, int64_t depth, float *out) { \
        panel_tile(R, P, DTYPE, x, w, ahead, depth, out);                                                          \
    }
#define DEFINE_TILES(R, P) DEFINE_TILE(FLOAT32, R, P) DEFINE_TILE(BFLOAT16, R, P)
EACH_TILE(DEFINE_TILES)

/* [dtype][rows - 1][panels - 1]; NULL: that one is not used. */
#define NAME_TILE(DTYPE, R, P) [DTYPE][R - 1][P - 1] = tile_##DTYPE##_##R##_##P,
#define NAME_TILES(R, P) NAME_TILE(FLOAT32, R, P) NAME_TILE(BFLOAT16, R, P)
static const TileFunction TILES[2][TILE_ROWS][TILE_PANELS] = {EACH_TILE(NAME_TILES)};

/* How many of `left` panels are multiplied with all rows before the rest is: what the largest of their tiles takes. */
INLINE int64_t panels_at_once(const int dtype, const Job *job, int64_t left) {
    if (linear_by_amx(dtype, job->depth)) return left;
    const int64_t num_tiles = num_row_tiles(job->num_rows, TILE_ROWS);
    const TileFunction *tiles = TILES[dtype][row_tile(0, job->num_rows, num_tiles).count - 1];
    int64_t panels = equal_part(left, TILE_PANELS);
    while (!tiles[panels - 1]) panels--;
    return panels;
}

/* All rows of x against the panels of a part, W's rows from `start` on; `count` of them are W's, the rest is padding. */
INLINE void all_rows(const int dtype, const Job *job, const Part *part, int64_t start, int64_t count) {
    if (linear_by_amx(dtype, job->depth)) {
        multiply_part(job->x, job->num_rows, job->depth, part, &job->end, start, count);
        return;
    }
    ON_LINE float sums[TILE_ROWS * TILE_PANELS * PANEL];
    const int64_t num_tiles = num_row_tiles(job->num_rows, TILE_ROWS);
    for (int64_t i = 0; i < num_tiles; i++) {
        const RowTile tile = row_tile(i, job->num_rows, num_tiles);
        const void *x = at(job->x, tile.first * job->depth, X_DTYPE(dtype));
        TILES[dtype][tile.count - 1][part->panels - 1](x, part->begin, ahead_of(part, i, num_tiles), job->depth, sums);
        for (int64_t m = 0; m < tile.count; m++)
            finish_row(dtype, &job->end, sums + m * part->panels * PANEL, tile.first + m, start, count);
    }
}

/* `panels` panels at w; the thread goes on at `next`. AMX takes one after the other, as if they were one. */
INLINE Part part_of(const int dtype, const Job *job, const void *w, const void *next, int64_t panels) {
    const int64_t line = PANEL * size_of(dtype);
    if (linear_by_amx(dtype, job->depth)) return (Part){w, next, 1, panels * job->depth * line, line, AMX_STEP * line};
    return (Part){w, next, panels, job->depth * line, line, 2 * line};
}

/* Rows of W that make up no panel, as one that is filled up with zeros. */
INLINE void multiply_rest(const int dtype, Job *job) {
    int64_t start = job->end.width / PANEL * PANEL, count = job->end.width - start;
    void *panel = calloc((size_t)(PANEL * job->depth), (size_t)size_of(dtype));
    if (!panel) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    fill_panel(dtype, at(job->weight, start * job->depth, dtype), count, job->depth, panel);
    Part part = part_of(dtype, job, panel, panel, 1);
    all_rows(dtype, job, &part, start, count);
    free(panel);
}

INLINE void multiply_share(const int dtype, const Job *job, int64_t i) {
    const Share share = share_of(i, job->num_panels, job->num_shares, job->num_threads);
    for (int64_t panel = share.first; panel < share.last;) {
        int64_t panels = panels_at_once(dtype, job, share.last - panel);
        int64_t after = panel + panels < share.last ? panel + panels : share.later;
        const void *w = at(job->weight, panel * PANEL * job->depth, dtype);
        const void *next = after < 0 ? w : at(job->weight, after * PANEL * job->depth, dtype);
        Part part = part_of(dtype, job, w, next, panels);
        all_rows(dtype, job, &part, panel * PANEL, panels * PANEL);
        panel += panels;
    }
}

INLINE void block(const int dtype, Job *job, int64_t i) {
    const int by_amx = linear_by_amx(dtype, job->depth);
    if (by_amx) configure_tiles(LINEAR_ROW_REGISTERS, job->num_rows);
    if (i < job->num_shares)
        multiply_share(dtype, job, i);
    else
        multiply_rest(dtype, job);
    if (by_amx) AMX_RELEASE();
}

#define WIDEN_ROWS 16 /* rows of x that a task widens */

typedef struct {
    float *dst;
    const void *src;
    int64_t num_rows, depth;
} Widening;

static void widen_bfloat16(void *context, int64_t i) {
    const Widening *w = context;
    for (int64_t row = i * WIDEN_ROWS; row < min64(w->num_rows, (i + 1) * WIDEN_ROWS); row++)
        widen_row(w->dst + row * w->depth, at(w->src, row * w->depth, BFLOAT16), w->depth, BFLOAT16);
}

static void block_float32(void *job, int64_t i) { block(FLOAT32, job, i); }

static void block_bfloat16(void *job, int64_t i) { block(BFLOAT16, job, i); }

/* All tensors are contiguous, and of `dtype` where nothing else is said.
 *
 *   x         [num_rows, depth]
 *   weight    [width, depth], packed
 *   bias      [width], or NULL
 *   residual  [num_rows, width], or NULL; may be y
 *   y         [num_rows, width] of `y_dtype`: `dtype`, or float32
 *
 * Returns 0, or -1 where there is no memory for the scratch.
 */
EXPORT int hc_linear(int dtype, int y_dtype, const void *x, const void *weight, const void *bias, const void *residual,
                     void *y, int64_t num_rows, int64_t width, int64_t depth, int num_threads) {
    float *wide = NULL;
    if (X_DTYPE(dtype) != dtype) {
        wide = make_lines(sizeof(float) * (size_t)(min64(num_rows, CHUNK) * depth));
        if (!wide) return -1;
    }
    int failed = 0;
    int64_t num_panels = width / PANEL, fits = TASK_BYTES / (PANEL * depth * size_of(dtype) + 1);
    int64_t least = num_rows <= FEW_ROWS ? FEW_PANELS : 1;
    int tasks = num_rows > TILE_ROWS ? MANY_TASKS : FEW_TASKS;
    int64_t shares = num_shares(num_panels, least, max64(least, fits), tasks, num_threads);
    int64_t num_tasks = shares + (width % PANEL > 0);
    for (int64_t row = 0; row < num_rows; row += CHUNK) {
        int64_t rows = min64(CHUNK, num_rows - row);
        if (wide) {
            Widening widening = {wide, at(x, row * depth, dtype), rows, depth};
            run_tasks(widen_bfloat16, &widening, (rows + WIDEN_ROWS - 1) / WIDEN_ROWS,
                      rows * depth > SERIAL_WIDEN ? num_threads : 1);
        }
        Job job = {
            .x = wide ? wide : at(x, row * depth, dtype),
            .weight = weight,
            .end = {bias, residual ? at(residual, row * width, dtype) : NULL, at_mut(y, row * width, y_dtype), y_dtype, width},
            .num_rows = rows,
            .depth = depth,
            .num_panels = num_panels,
            .num_shares = shares,
            .num_threads = num_threads,
        };
        run_tasks(dtype == FLOAT32 ? block_float32 : block_bfloat16, &job, num_tasks, num_threads);
        failed |= job.failed;
    }
    free(wide);
    return failed ? -1 : 0;
}
