/* y = x W^T (+ bias) (+ residual).
 *
 * Decoding is bound by reading W from memory, prefill by arithmetic; one loop nest serves both. A task is a block of
 * W's rows small enough for the second-level cache: it comes from memory once, whatever the number of x's rows, and
 * is widened to float32 in registers. x is widened once, into scratch memory.
 */
#include "kernels.h"

#define MAX_BLOCK 256             /* rows of W in a task */
#define BLOCK_BYTES (256 * 1024)  /* and their size at most */
#define AHEAD_ROWS 8              /* rows of W fetched ahead; the hardware's prefetchers alone reach half the speed */
#define CHUNK 512                 /* rows of x at a time: bounds the scratch memory */
#define SERIAL_WIDEN (16 * 1024)  /* numbers that are widened faster than a team of threads is woken */

typedef struct {
    const float *x; /* [num_rows, depth] in split order */
    const void *weight, *bias, *residual;
    void *y;
    int64_t ldx, num_rows, width, depth; /* W is [width, depth] */
    int64_t block_rows;
} Job;

/* y's row = tile's row + bias + residual, rounded once. Columns [start, start + count). */
INLINE void finish_row(const int dtype, const Job *job, const float *tile, int64_t row, int64_t start, int64_t count) {
    int64_t base = row * job->width + start, i = 0;
    for (; i + VL <= count; i += VL) {
        vf sum = load(tile + i);
        if (job->bias) sum += load_vec(job->bias, start + i, dtype);
        if (job->residual) sum += load_vec(job->residual, base + i, dtype);
        store_vec(job->y, base + i, sum, dtype);
    }
    for (; i < count; i++) {
        float sum = tile[i];
        if (job->bias) sum += load_one(job->bias, start + i, dtype);
        if (job->residual) sum += load_one(job->residual, base + i, dtype);
        store_one(job->y, base + i, sum, dtype);
    }
}

/* `rows` (a constant) rows of x against `count` rows of W from `start` on. */
INLINE void strip(const int rows, const int dtype, const Job *job, int64_t row, int64_t start, int64_t count) {
    float tile[MAX_ROWS][MAX_BLOCK];
    const float *x = job->x + row * job->ldx;
    const int64_t ahead = AHEAD_ROWS * job->depth * size_of(dtype);
    for (int64_t n = 0; n < count; n += COLS) {
        const void *w[COLS];
        /* Past the last row the tile computes that one again, and nobody reads it. */
        for (int c = 0; c < COLS; c++) w[c] = at(job->weight, (start + min64(n + c, count - 1)) * job->depth, dtype);
        dot_tile(rows, dtype, x, job->ldx, w, job->depth, ahead, &tile[0][n], MAX_BLOCK);
    }
    for (int m = 0; m < rows; m++) finish_row(dtype, job, tile[m], row + m, start, count);
}

INLINE void block(const int dtype, const Job *job, int64_t i) {
    int64_t start = i * job->block_rows, count = min64(job->block_rows, job->width - start);
    for (int64_t row = 0; row < job->num_rows;) {
        int64_t rows = next_rows(job->num_rows - row);
        CALL_WITH_ROWS(rows, strip, dtype, job, row, start, count);
        row += rows;
    }
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

/* Rows of W in a task: they fit in the cache, and there are several tasks a thread, for a core that other programs
 * use as well gets fewer of them done. */
static int64_t block_rows(int64_t width, int64_t row_bytes, int num_threads) {
    int64_t fits = BLOCK_BYTES / (row_bytes + 1), fair = width / (4 * num_threads);
    return round_up(max64(1, min64(min64(fits, fair), MAX_BLOCK - VL)), VL);
}

/* All tensors are contiguous and of `dtype`.
 *
 *   x         [num_rows, depth]
 *   weight    [width, depth]
 *   bias      [width], or NULL
 *   residual  [num_rows, width], or NULL; may be y
 *   y         [num_rows, width]
 *
 * Returns 0, or -1 where there is no memory for the scratch.
 */
EXPORT int hc_linear(int dtype, const void *x, const void *weight, const void *bias, const void *residual, void *y,
                     int64_t num_rows, int64_t width, int64_t depth, int num_threads) {
    float *wide = NULL;
    if (dtype != FLOAT32) {
        wide = malloc(sizeof(float) * (size_t)(min64(num_rows, CHUNK) * depth) + 64);
        if (!wide) return -1;
    }
    int64_t size = block_rows(width, depth * size_of(dtype), num_threads);
    for (int64_t row = 0; row < num_rows; row += CHUNK) {
        int64_t rows = min64(CHUNK, num_rows - row);
        if (wide) {
            Widening widening = {wide, at(x, row * depth, dtype), rows, depth};
            int64_t num_tasks = (rows + WIDEN_ROWS - 1) / WIDEN_ROWS;
            run_tasks(widen_bfloat16, &widening, num_tasks, rows * depth > SERIAL_WIDEN ? num_threads : 1);
        }
        Job job = {
            .x = wide ? wide : (const float *)x + row * depth,
            .weight = weight,
            .bias = bias,
            .residual = residual ? at(residual, row * width, dtype) : NULL,
            .y = at_mut(y, row * width, dtype),
            .ldx = depth,
            .num_rows = rows,
            .width = width,
            .depth = depth,
            .block_rows = size,
        };
        Task task = dtype == FLOAT32 ? block_float32 : block_bfloat16;
        run_tasks(task, &job, (width + size - 1) / size, num_threads);
    }
    free(wide);
    return 0;
}
