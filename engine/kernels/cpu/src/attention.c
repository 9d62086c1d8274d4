/* softmax(q k^T * scale) v over the paged cache, read in place.
 *
 * A task is one KV head of one sequence and a run of its query tokens: the rows of its matrix are the query heads of
 * the head's group, of every token in the run, so that keys and values are read once for all of them. The softmax is
 * taken online (Milakov and Gimelshein 2018) over tiles of keys. Runs of SPLIT keys are computed apart and merged in
 * order, because a long context with few sequences has to be shared among threads. Tiles and splits begin at multiples
 * of their size in the sequence, whatever else is in the batch: so the same row gets the same numbers always.
 */
#include "kernels.h"

#define TILE 64        /* keys whose scores exist at a time */
#define SPLIT 512      /* keys that one task may share with no other */
#define BLOCK_ROWS 72  /* rows of a task where the group allows it: keys and values are widened once for all */
#define VECTORS 4      /* of a register tile */

typedef struct {
    const void *q, *k_cache, *v_cache;
    void *out;
    const int64_t *block_tables, *cu_seqlens_q, *seq_lens;
    int64_t q_stride, num_seqs, max_blocks, block_size, num_q_heads, num_kv_heads, k_head_dim, v_head_dim, window;
    float softmax_scale;
    int dtype;
} Attention;

/* What one (sequence, run of tokens, KV head) is. */
typedef struct {
    int64_t seq, kv_head;
    int64_t first_token, num_tokens; /* of the step */
    int64_t first_position;          /* of first_token in its sequence */
    int64_t first_split, num_splits; /* of keys that any of its rows sees */
    int64_t partial;                 /* its first partial result */
} Run;

/* A softmax under way, for the rows of a run: sum = sum of e^(score - max), acc = the same with v. */
typedef struct {
    float *max, *sum, *acc; /* [rows], [rows], [rows, width] in split order */
} Partial;

/* Keys whose scores exist at a time, by the slots where they lie. */
typedef struct {
    int64_t count, slots[TILE];
} Tile;

typedef struct {
    const Attention *args;
    Run *runs;
    float *partials; /* of partial_size floats each */
    int64_t partial_size;
    int failed;
} Plan;

INLINE int64_t group_of(const Attention *a) { return a->num_q_heads / a->num_kv_heads; }

INLINE int64_t padded_k(const Attention *a) { return round_up(a->k_head_dim, VL); }

INLINE int64_t padded_v(const Attention *a) { return round_up(a->v_head_dim, VL); }

INLINE int64_t tokens_per_run(const Attention *a) { return max64(1, BLOCK_ROWS / group_of(a)); }

INLINE int64_t rows_per_run(const Attention *a) { return tokens_per_run(a) * group_of(a); }

INLINE Partial partial_at(float *memory, const Attention *a) {
    int64_t rows = rows_per_run(a);
    return (Partial){memory, memory + rows, memory + 2 * rows};
}

/* ---- one tile ---- */

/* The keys of positions [start, stop), but no more than TILE; none where start is past stop. */
INLINE void find_tile(const Attention *a, const Run *run, int64_t start, int64_t stop, Tile *tile) {
    tile->count = max64(0, min64(TILE, stop - start));
    /* Nothing is read through it where there are no keys, and start may be past the last block. */
    const int64_t *table = a->block_tables + run->seq * a->max_blocks + start / a->block_size;
    int64_t offset = start % a->block_size;
    for (int64_t j = 0; j < tile->count; j++) {
        tile->slots[j] = *table * a->block_size + offset;
        if (++offset == a->block_size) {
            offset = 0;
            table++;
        }
    }
}

/* Where the run's head of a slot begins, in a cache whose heads are head_dim wide. */
INLINE const void *row_of(const int dtype, const Attention *a, const Run *run, const void *cache, int64_t slot,
                          int64_t head_dim) {
    return at(cache, (slot * a->num_kv_heads + run->kv_head) * head_dim, dtype);
}

/* Fetch some of a tile's rows. They are in no order in memory that the hardware could foresee. */
INLINE void prefetch_rows(const int dtype, const Attention *a, const Run *run, const void *cache, int64_t head_dim,
                          const Tile *tile, int64_t first, int64_t count) {
    for (int64_t j = first; j < min64(first + count, tile->count); j++) {
        const char *row = row_of(dtype, a, run, cache, tile->slots[j], head_dim);
        for (int64_t byte = 0; byte < head_dim * size_of(dtype); byte += 64) __builtin_prefetch(row + byte, 0, 2);
    }
}

/* out[m, :] += sum over j of a[m, j] * b[j, :] in the order of j, for `rows` and `vectors` (constants).
 *
 *   a    [rows, count], rows lda apart
 *   b    [count, vectors * VL], rows `width` apart
 *   out  [rows, vectors * VL], rows `width` apart
 */
INLINE void add_product(const int rows, const int vectors, const float *a, int64_t lda, const float *b, int64_t count,
                        int64_t width, float *out) {
    vf sums[MAX_ROWS][VECTORS];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) sums[m][c] = load(out + m * width + c * VL);
    }
    for (int64_t j = 0; j < count; j++) {
        vf row[VECTORS];
        UNROLL
        for (int c = 0; c < vectors; c++) row[c] = load(b + j * width + c * VL);
        UNROLL
        for (int m = 0; m < rows; m++) {
            vf factor = splat(a[m * lda + j]);
            UNROLL
            for (int c = 0; c < vectors; c++) sums[m][c] += factor * row[c];
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) store(out + m * width + c * VL, sums[m][c]);
    }
}

/* The same for any number of rows, and any width that is a multiple of VL. */
INLINE void add_products(const float *a, int64_t lda, const float *b, int64_t num_rows, int64_t count, int64_t width,
                         float *out) {
    for (int64_t row = 0; row < num_rows;) {
        int64_t rows = next_rows(num_rows - row, MAX_ROWS), c = 0;
        const float *factors = a + row * lda;
        float *sums = out + row * width;
        for (; c + VECTORS * VL <= width; c += VECTORS * VL)
            CALL_WITH_ROWS(rows, add_product, VECTORS, factors, lda, b + c, count, width, sums + c);
        for (; c < width; c += VL)
            CALL_WITH_ROWS(rows, add_product, 1, factors, lda, b + c, count, width, sums + c);
        row += rows;
    }
}

/* Widen VL keys: out[i, key] = keys[key][i], rows of out TILE apart. */
INLINE void transpose_keys(const int dtype, const void *const keys[VL], int64_t depth, float *out) {
    vu block[VL];
    int64_t i = 0;
    /* Two bfloat16 travel as one element. */
    for (; dtype == BFLOAT16 && i + 2 * VL <= depth; i += 2 * VL) {
        UNROLL
        for (int n = 0; n < VL; n++) block[n] = *(const vu_mem *)at(keys[n], i, dtype);
        transpose_block(block);
        UNROLL
        for (int n = 0; n < VL; n++) {
            store(out + (i + 2 * n) * TILE, (vf)(block[n] << 16));
            store(out + (i + 2 * n + 1) * TILE, (vf)(block[n] & 0xffff0000u));
        }
    }
    for (; i + VL <= depth; i += VL) {
        UNROLL
        for (int n = 0; n < VL; n++) block[n] = (vu)load_vec(keys[n], i, dtype);
        transpose_block(block);
        UNROLL
        for (int n = 0; n < VL; n++) store(out + (i + n) * TILE, (vf)block[n]);
    }
    for (; i < depth; i++) {
        for (int n = 0; n < VL; n++) out[i * TILE + n] = load_one(keys[n], i, dtype);
    }
}

/* scores [num_rows, TILE] of the tile's keys; what stands behind them is rubbish. Meanwhile the next tile is fetched, bit
 * by bit: a core has a dozen lines under way at most, and waits when there are more. */
INLINE void score_tile(const int dtype, const Attention *a, const Run *run, const float *q, int64_t num_rows,
                       const Tile *tile, const Tile *next, float *transposed, float *scores) {
    for (int64_t j = 0; j < TILE; j += VL) {
        const void *keys[VL];
        for (int n = 0; n < VL; n++)
            keys[n] = row_of(dtype, a, run, a->k_cache, tile->slots[min64(j + n, tile->count - 1)], a->k_head_dim);
        prefetch_rows(dtype, a, run, a->k_cache, a->k_head_dim, next, j, VL);
        prefetch_rows(dtype, a, run, a->v_cache, a->v_head_dim, next, j, VL);
        transpose_keys(dtype, keys, a->k_head_dim, transposed + j);
    }
    memset(scores, 0, sizeof(float) * (size_t)(num_rows * TILE));
    add_products(q, padded_k(a), transposed, num_rows, a->k_head_dim, TILE, scores);
}

/* Scores of one row to weights, the row's running maximum and sum brought up to date. Keys outside [low, high) count
 * as -infinity. Returns by how much what was added up so far has to shrink. */
INLINE float weigh_row(float *scores, int64_t low, int64_t high, float *max, float *sum) {
    for (int64_t j = 0; j < low; j++) scores[j] = -INFINITY;
    for (int64_t j = high; j < TILE; j++) scores[j] = -INFINITY;
    vf highest = load(scores);
    for (int64_t j = VL; j < TILE; j += VL) highest = vmax(highest, load(scores + j));
    float tile_max = max_lanes(highest), new_max = tile_max > *max ? tile_max : *max;
    vf total = splat(0);
    for (int64_t j = 0; j < TILE; j += VL) {
        vf weight = vexp(load(scores + j) - new_max);
        store(scores + j, weight);
        total += weight;
    }
    float shrink = vexp(splat(*max - new_max))[0];
    *sum = *sum * shrink + sum_lanes(total);
    *max = new_max;
    return shrink;
}

/* ---- one split of one run ---- */

INLINE int64_t scratch_size(const Attention *a) {
    return rows_per_run(a) * (padded_k(a) + TILE) + TILE * (padded_v(a) + a->k_head_dim);
}

/* The softmax over keys [start, stop) for all rows of the run, from nothing. */
INLINE void attend_keys(const int dtype, const Attention *a, const Run *run, int64_t start, int64_t stop,
                        float *scratch, Partial out) {
    const int64_t group = group_of(a), num_rows = run->num_tokens * group, width = padded_v(a);
    float *q = scratch, *scores = q + rows_per_run(a) * padded_k(a), *v = scores + rows_per_run(a) * TILE;
    float *transposed = v + TILE * width;
    for (int64_t row = 0; row < num_rows; row++) {
        int64_t head = run->kv_head * group + row % group, token = run->first_token + row / group;
        float *wide = q + row * padded_k(a);
        widen_row(wide, at(a->q, token * a->q_stride + head * a->k_head_dim, dtype), a->k_head_dim, dtype);
        for (int64_t i = 0; i < a->k_head_dim; i++) wide[i] *= a->softmax_scale;
        out.max[row] = -INFINITY;
        out.sum[row] = 0;
    }
    memset(out.acc, 0, sizeof(float) * (size_t)(num_rows * width));
    Tile tile, next;
    find_tile(a, run, start, stop, &next);
    for (int64_t first = start; first < stop; first += TILE) {
        tile = next;
        find_tile(a, run, first + TILE, stop, &next);
        score_tile(dtype, a, run, q, num_rows, &tile, &next, transposed, scores);
        for (int64_t row = 0; row < num_rows; row++) {
            int64_t position = run->first_position + row / group;
            int64_t low = max64(0, position - a->window + 1 - first), high = min64(tile.count, position + 1 - first);
            float *weights = scores + row * TILE;
            if (low >= high) {
                memset(weights, 0, TILE * sizeof(float));
                continue;
            }
            float shrink = weigh_row(weights, low, high, &out.max[row], &out.sum[row]);
            if (shrink != 1) {
                for (int64_t i = 0; i < width; i++) out.acc[row * width + i] *= shrink;
            }
        }
        for (int64_t j = 0; j < tile.count; j++) {
            const void *row = row_of(dtype, a, run, a->v_cache, tile.slots[j], a->v_head_dim);
            split_row(v + j * width, row, a->v_head_dim, dtype);
        }
        add_products(scores, TILE, v, num_rows, tile.count, width, out.acc);
    }
}

/* Bring the softmax over further keys into `total`. */
static void merge(const Attention *a, int64_t num_rows, Partial total, Partial more) {
    int64_t width = padded_v(a);
    for (int64_t row = 0; row < num_rows; row++) {
        float max = more.max[row] > total.max[row] ? more.max[row] : total.max[row];
        /* A row that sees none of these keys has -infinity on one side, maybe on both. */
        float keep = total.max[row] == max ? 1 : vexp(splat(total.max[row] - max))[0];
        float add = more.max[row] == max ? 1 : vexp(splat(more.max[row] - max))[0];
        float *into = total.acc + row * width, *from = more.acc + row * width;
        for (int64_t i = 0; i < width; i++) into[i] = into[i] * keep + from[i] * add;
        total.sum[row] = total.sum[row] * keep + more.sum[row] * add;
        total.max[row] = max;
    }
}

INLINE void attend_split(const int dtype, const Attention *a, const Run *run, int64_t split, float *scratch,
                         Partial out) {
    int64_t last = run->first_position + run->num_tokens;
    int64_t lowest = max64(0, run->first_position - a->window + 1) / TILE * TILE;
    int64_t start = (run->first_split + split) * SPLIT;
    attend_keys(dtype, a, run, max64(start, lowest), min64(start + SPLIT, last), scratch, out);
}

static void attend(const Attention *a, const Run *run, int64_t split, float *scratch, Partial out) {
    if (a->dtype == FLOAT32)
        attend_split(FLOAT32, a, run, split, scratch, out);
    else
        attend_split(BFLOAT16, a, run, split, scratch, out);
}

static void write_out(const Attention *a, const Run *run, Partial total) {
    int64_t group = group_of(a);
    for (int64_t row = 0; row < run->num_tokens * group; row++) {
        int64_t head = run->kv_head * group + row % group, token = run->first_token + row / group;
        void *dst = at_mut(a->out, (token * a->num_q_heads + head) * a->v_head_dim, a->dtype);
        const float *acc = total.acc + row * padded_v(a);
        if (a->dtype == FLOAT32)
            narrow_row(dst, acc, 1 / total.sum[row], a->v_head_dim, FLOAT32);
        else
            narrow_row(dst, acc, 1 / total.sum[row], a->v_head_dim, BFLOAT16);
    }
}

/* ---- tasks ---- */

/* A whole run, its splits one after the other. */
static void run_whole(void *context, int64_t i) {
    Plan *plan = context;
    const Attention *a = plan->args;
    const Run *run = &plan->runs[i];
    float *memory = malloc(sizeof(float) * (size_t)(scratch_size(a) + 2 * plan->partial_size));
    if (!memory) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *scratch = memory + 2 * plan->partial_size;
    Partial total = partial_at(memory, a), more = partial_at(memory + plan->partial_size, a);
    attend(a, run, 0, scratch, total);
    for (int64_t split = 1; split < run->num_splits; split++) {
        attend(a, run, split, scratch, more);
        merge(a, run->num_tokens * group_of(a), total, more);
    }
    write_out(a, run, total);
    free(memory);
}

/* All KV heads of one run: what the hardware fetches ahead for one of them is the next one's. */
static void run_heads(void *context, int64_t i) {
    const Plan *plan = context;
    for (int64_t head = 0; head < plan->args->num_kv_heads; head++) run_whole(context, i * plan->args->num_kv_heads + head);
}

/* One split of one run; i counts the splits of all runs. */
static void run_split(void *context, int64_t i) {
    Plan *plan = context;
    const Run *run = plan->runs;
    while (i >= run->partial + run->num_splits) run++;
    float *scratch = malloc(sizeof(float) * (size_t)scratch_size(plan->args));
    if (!scratch) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    attend(plan->args, run, i - run->partial, scratch, partial_at(plan->partials + i * plan->partial_size, plan->args));
    free(scratch);
}

static void merge_run(void *context, int64_t i) {
    Plan *plan = context;
    const Run *run = &plan->runs[i];
    float *first = plan->partials + run->partial * plan->partial_size;
    Partial total = partial_at(first, plan->args);
    for (int64_t split = 1; split < run->num_splits; split++)
        merge(plan->args, run->num_tokens * group_of(plan->args), total,
              partial_at(first + split * plan->partial_size, plan->args));
    write_out(plan->args, run, total);
}

/* All runs of the step, the last tokens of a sequence first: they see the most keys, and long tasks belong first. */
static int64_t list_runs(const Attention *a, Run *runs) {
    int64_t count = 0, size = tokens_per_run(a), num_partials = 0;
    for (int64_t seq = 0; seq < a->num_seqs; seq++) {
        int64_t first = a->cu_seqlens_q[seq], query_len = a->cu_seqlens_q[seq + 1] - first;
        int64_t context_len = a->seq_lens[seq] - query_len;
        for (int64_t start = (query_len - 1) / size * size; start >= 0; start -= size) {
            int64_t num_tokens = min64(size, query_len - start), position = context_len + start;
            int64_t first_split = max64(0, position - a->window + 1) / SPLIT;
            int64_t num_splits = (position + num_tokens - 1) / SPLIT - first_split + 1;
            for (int64_t head = 0; head < a->num_kv_heads && query_len > 0; head++) {
                runs[count++] = (Run){seq, head, first + start, num_tokens, position, first_split, num_splits,
                                      num_partials};
                num_partials += num_splits;
            }
        }
    }
    return count;
}

/* Paged attention, causal.
 *
 *   q             [num_tokens, num_q_heads, k_head_dim] of `dtype`, tokens `q_stride` elements apart
 *   k_cache       [num_blocks, block_size, num_kv_heads, k_head_dim] of `dtype`
 *   v_cache       [num_blocks, block_size, num_kv_heads, v_head_dim] of `dtype`
 *   out           [num_tokens, num_q_heads, v_head_dim] of `dtype`
 *   block_tables  [num_seqs, max_blocks]
 *   cu_seqlens_q  [num_seqs + 1]
 *   seq_lens      [num_seqs], this step's tokens included
 *   window        keys that a query sees, itself among them
 *
 * Returns 0, or -1 where there is no memory for the scratch.
 */
EXPORT int hc_paged_attention(int dtype, const void *q, const void *k_cache, const void *v_cache, void *out,
                              const int64_t *block_tables, const int64_t *cu_seqlens_q, const int64_t *seq_lens,
                              int64_t q_stride, int64_t num_seqs, int64_t max_blocks, int64_t block_size,
                              int64_t num_q_heads, int64_t num_kv_heads, int64_t k_head_dim, int64_t v_head_dim,
                              int64_t window, float softmax_scale, int num_threads) {
    Attention a = {q, k_cache, v_cache, out, block_tables, cu_seqlens_q, seq_lens, q_stride, num_seqs, max_blocks,
                   block_size, num_q_heads, num_kv_heads, k_head_dim, v_head_dim, window, softmax_scale, dtype};
    int64_t most = cu_seqlens_q[num_seqs] / tokens_per_run(&a) + num_seqs;
    Plan plan = {.args = &a, .partial_size = rows_per_run(&a) * (2 + padded_v(&a))};
    plan.runs = malloc(sizeof(Run) * (size_t)(most * num_kv_heads));
    if (!plan.runs) return -1;
    int64_t num_runs = list_runs(&a, plan.runs);
    int64_t num_splits = num_runs ? plan.runs[num_runs - 1].partial + plan.runs[num_runs - 1].num_splits : 0;
    /* Splits of their own where they are few: a short chunk of a long context is a task or two of many times the others'
     * length, and threads would wait for it. A long chunk has tasks enough, and its partial results would take memory. */
    if (num_splits >= 64 * num_threads || num_splits == num_runs) {
        run_tasks(run_heads, &plan, num_runs / num_kv_heads, num_threads);
    } else {
        plan.partials = malloc(sizeof(float) * (size_t)(num_splits * plan.partial_size));
        if (plan.partials) {
            run_tasks(run_split, &plan, num_splits, num_threads);
            if (!plan.failed) run_tasks(merge_run, &plan, num_runs, num_threads);
        } else {
            plan.failed = 1;
        }
        free(plan.partials);
    }
    free(plan.runs);
    return plan.failed ? -1 : 0;
}
