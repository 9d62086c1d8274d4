/* y = x W^T (+ bias) (+ residual) with 8-bit integers; engine/kernels/int8.py says what W and x are rounded to.
 *
 * Products are summed exactly, in 32 bits, over a group of columns; each group's sum goes, times its two scales, to a
 * float32 sum, in order. W lies in panels of VL rows, four columns at a time, so that an instruction takes four products
 * of each of VL rows. A few panels at a time are multiplied with all rows of x; where these are more than a tile has, the
 * panels come from memory while those before them are multiplied, and are in a near cache then.
 */
#include "kernels.h"
#include "linear_int8_amx.h"
#include "shares.h"

#define TASK_BYTES (256 * 1024)    /* of W in a task at most */
#define CHUNK 512                  /* rows of x at a time: bounds the scratch memory */
#define LINE (4 * PANEL)           /* bytes of a panel's quads of the same columns */
#if NUM_REGISTERS == 32
#define TILE_ROWS 7
#define TILE_PANELS 4
#else
#define TILE_ROWS 4
#define TILE_PANELS 2
#endif
#define FEW_ROWS 3 /* of x, with which a task has a tile's panels at least: few alone wait for their sums */
#define UNIT 2     /* panels that are not shared out apart, for most tiles have so many */

typedef struct {
    Rounded x;
    Weight weight;
    Epilogue end;
    int64_t num_units, num_shares;
    int num_threads, failed;
} Job;

/* What a tile fetches meanwhile. */
typedef struct {
    Ahead numbers;
    const char *scales; /* of where the thread goes on */
} Fetching;

typedef vi GroupSums[TILE_ROWS][TILE_PANELS]; /* a tile's, over a group */
typedef vf Sums[TILE_ROWS][TILE_PANELS];

/* `count` quads, from `first` on, of `panels` panels at w times `rows` rows of x. Meanwhile W is fetched from `ahead` on. */
INLINE void add_products(const int rows, const int panels, const Quad *x, const int8_t *w, int64_t num_quads, int64_t first,
                         int64_t count, const char *ahead, int64_t pace, GroupSums acc) {
    for (int64_t k = 0; k < count; k++) {
        vq column[TILE_PANELS];
        UNROLL
        for (int n = 0; n < panels; n++) {
            const int64_t line = n * num_quads + first + k;
            fetch(ahead, pace, line);
            column[n] = load_weights(w + line * LINE);
        }
        UNROLL
        for (int m = 0; m < rows; m++) {
            Quad quad = x[m * GROUP_QUADS + k];
            UNROLL
            for (int n = 0; n < panels; n++) acc[m][n] = dot(acc[m][n], column[n], quad);
        }
    }
}

/* Group `group` of a tile's rows times that of `panels` panels. */
INLINE void add_group(const int rows, const int panels, const Rounded *x, RowTile tile, int64_t group, Weight w,
                      const Fetching *fetching, Sums sums) {
    const Cut cut = x->cut;
    const int64_t place = group_place(x, tile, group), first = group * GROUP_QUADS, left = cut.num_quads - first;
    const Quad *quads = x->quads + place * GROUP_QUADS;
    const int32_t *start = x->start + place;
    const float *x_scale = x->scale + place;
    const Ahead *ahead = &fetching->numbers;
    const char *from = left * LINE > ahead->distance ? ahead->early : ahead->late;
    const int64_t scale_bytes = panels * PANEL * 2;
    prefetch(fetching->scales + group * scale_bytes, scale_bytes);
    GroupSums acc;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) acc[m][n] = splat_int(start[m]);
    }
    if (left >= GROUP_QUADS)
        add_products(rows, panels, quads, w.numbers, cut.num_quads, first, GROUP_QUADS, from, ahead->pace, acc);
    else
        add_products(rows, panels, quads, w.numbers, cut.num_quads, first, left, from, ahead->pace, acc);
    UNROLL
    for (int n = 0; n < panels; n++) {
        vf scale = load_vec(w.scale, (n * cut.num_groups + group) * PANEL, BFLOAT16);
        UNROLL
        for (int m = 0; m < rows; m++)
            sums[m][n] = vfma(x_scale[m] * scale, __builtin_convertvector(acc[m][n], vf), sums[m][n]);
    }
}

/* A tile's rows of x (`rows` of them) times `panels` panels that lie one after the other (both constants) -> out [rows,
 * panels * PANEL]. */
INLINE void panel_tile(const int rows, const int panels, const Rounded *x, int64_t first, Weight w,
                       const Fetching *fetching, float *out) {
    const RowTile tile = {first, rows};
    Sums sums;
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) sums[m][n] = splat(0);
    }
    for (int64_t group = 0; group < x->cut.num_groups; group++) add_group(rows, panels, x, tile, group, w, fetching, sums);
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < panels; n++) store(out + (m * panels + n) * VL, sums[m][n]);
    }
}

/* Sums over a group and sums of groups share the registers. Few rows go with several panels at once. */
#if NUM_REGISTERS == 32
#define EACH_TILE(F)                                                                                \
    F(1, 1) F(1, 2) F(1, 3) F(1, 4) F(2, 1) F(2, 2) F(2, 3) F(2, 4) F(3, 1) F(3, 2) F(3, 3) F(3, 4) \
    F(4, 1) F(4, 2) F(5, 1) F(5, 2) F(6, 1) F(6, 2) F(7, 1) F(7, 2)
#else
#define EACH_TILE(F) F(1, 1) F(1, 2) F(2, 1) F(2, 2) F(3, 1) F(3, 2) F(4, 1) F(4, 2)
#endif

typedef void (*TileFunction)(const Rounded *x, int64_t first, Weight w, const Fetching *fetching, float *out);

#define DEFINE_TILE(R, P)                                                                                          \
    NOINLINE void tile_##R##_##P(const Rounded *x, int64_t first, Weight w, const Fetching *fetching, float *out) { \
        panel_tile(R, P, x, first, w, fetching, out);                                                              \
    }
EACH_TILE(DEFINE_TILE)

/* [rows - 1][panels - 1]; NULL: that one is not used. */
#define NAME_TILE(R, P) [R - 1][P - 1] = tile_##R##_##P,
static const TileFunction TILES[TILE_ROWS][TILE_PANELS] = {EACH_TILE(NAME_TILE)};

/* How many of `left` panels are multiplied with all rows before the rest is: what the largest of their tiles takes. */
INLINE int64_t panels_at_once(const Rounded *x, int64_t left) {
    if (int8_by_amx(x->cut, x->num_rows)) return equal_part(left, AMX_PANELS);
    const TileFunction *tiles = TILES[row_tile(0, x->num_rows, x->num_tiles).count - 1];
    int64_t panels = equal_part(left, TILE_PANELS);
    while (!tiles[panels - 1]) panels--;
    return panels;
}

/* All rows of x against `panels` panels at w, W's rows from `start` on, `count` of them; the thread goes on at `next`. */
INLINE void all_rows(const int dtype, const Job *job, Weight w, Weight next, int64_t panels, int64_t start,
                     int64_t count) {
    const Rounded *x = &job->x;
    if (int8_by_amx(x->cut, x->num_rows)) {
        multiply_panels(dtype, x, w, next, &job->end, start, count);
        return;
    }
    ON_LINE float sums[TILE_ROWS * TILE_PANELS * PANEL];
    const Part part = {(const char *)w.numbers, (const char *)next.numbers, panels, x->cut.num_quads * LINE, LINE,
                       GROUP_QUADS * LINE};
    for (int64_t i = 0; i < x->num_tiles; i++) {
        const RowTile tile = row_tile(i, x->num_rows, x->num_tiles);
        const Fetching fetching = {ahead_of(&part, i, x->num_tiles), (const char *)next.scale};
        TILES[tile.count - 1][panels - 1](x, tile.first, w, &fetching, sums);
        for (int64_t m = 0; m < tile.count; m++)
            finish_row(dtype, &job->end, sums + m * panels * PANEL, tile.first + m, start, count);
    }
}

/* Rows of W that make up no panel, as one that is filled up with zeros. */
INLINE void multiply_rest(const int dtype, Job *job) {
    int64_t start = job->end.width / PANEL * PANEL, count = job->end.width - start;
    int8_t *panel = make_panel(job->x.cut);
    if (!panel) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    arrange(rows_from(job->weight, start, job->x.cut), count, job->x.cut, panel);
    Weight w = panel_in(panel, job->x.cut);
    all_rows(dtype, job, w, w, 1, start, count);
    free(panel);
}

INLINE void multiply_share(const int dtype, const Job *job, int64_t i) {
    const Cut cut = job->x.cut;
    const Share share = share_of(i, job->num_units, job->num_shares, job->num_threads);
    const int64_t last = min64(job->end.width / PANEL, share.last * UNIT);
    for (int64_t panel = share.first * UNIT; panel < last;) {
        int64_t panels = panels_at_once(&job->x, last - panel);
        int64_t after = panel + panels < last ? panel + panels : share.later * UNIT;
        Weight w = rows_from(job->weight, panel * PANEL, cut);
        Weight next = after < 0 ? w : rows_from(job->weight, after * PANEL, cut);
        all_rows(dtype, job, w, next, panels, panel * PANEL, panels * PANEL);
        panel += panels;
    }
}

INLINE void block(const int dtype, Job *job, int64_t i) {
    const int by_amx = int8_by_amx(job->x.cut, job->x.num_rows);
    if (by_amx) configure_tiles(0, AMX_ROWS);
    if (i < job->num_shares)
        multiply_share(dtype, job, i);
    else
        multiply_rest(dtype, job);
    if (by_amx) AMX_RELEASE();
}

static void block_float32(void *job, int64_t i) { block(FLOAT32, job, i); }

static void block_bfloat16(void *job, int64_t i) { block(BFLOAT16, job, i); }

/* All tensors are contiguous, and of `dtype` where nothing else is said.
 *
 *   x              [num_rows, depth]
 *   weight, scale  packed, see hc_pack_int8
 *   bias           [width], or NULL
 *   residual       [num_rows, width], or NULL; may be y
 *   y              [num_rows, width] of `y_dtype`: `dtype`, or float32
 *
 * Returns 0, or -1 where there is no memory for the scratch.
 */
EXPORT int hc_linear_int8(int dtype, int y_dtype, const void *x, const int8_t *weight, const uint16_t *scale,
                          const void *bias, const void *residual, void *y, int64_t num_rows, int64_t width,
                          int64_t depth, int num_threads) {
    Rounded room = make_room(min64(num_rows, CHUNK), depth);
    if (!room.quads) return -1;
    int failed = 0;
    int64_t num_units = (width / PANEL + UNIT - 1) / UNIT, fits = TASK_BYTES / (UNIT * room.cut.num_quads * LINE + 1);
    int64_t least = num_rows <= FEW_ROWS ? TILE_PANELS / UNIT : 1;
    int tasks = num_rows > TILE_ROWS ? MANY_TASKS : FEW_TASKS;
    int64_t shares = num_shares(num_units, least, max64(least, fits), tasks, num_threads);
    int64_t num_tasks = shares + (width % PANEL > 0);
    for (int64_t row = 0; row < num_rows; row += CHUNK) {
        room.num_rows = min64(CHUNK, num_rows - row);
        room.num_tiles = num_row_tiles(room.num_rows, int8_by_amx(room.cut, room.num_rows) ? AMX_ROWS : TILE_ROWS);
        round_rows(dtype, at(x, row * depth, dtype), &room, num_threads);
        Job job = {
            .x = room,
            .weight = {weight, scale},
            .end = {bias, residual ? at(residual, row * width, dtype) : NULL, at_mut(y, row * width, y_dtype), y_dtype, width},
            .num_units = num_units,
            .num_shares = shares,
            .num_threads = num_threads,
        };
        run_tasks(dtype == FLOAT32 ? block_float32 : block_bfloat16, &job, num_tasks, num_threads);
        failed |= job.failed;
    }
    free(room.quads);
    return failed ? -1 : 0;
}
