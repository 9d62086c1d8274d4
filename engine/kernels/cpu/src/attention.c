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
#define BLOCK_ROWS 36  /* rows of a task where the group allows it: six register tiles of six */
#define VECTORS 4      /* vectors of v's width in a register tile */

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

/* The slots of `count` positions from `start` on. */
INLINE void find_slots(const Attention *a, const Run *run, int64_t start, int64_t count, int64_t *slots) {
    /* Nothing is read through it where count is 0, which start past the last block goes with. */
    const int64_t *table = a->block_tables + run->seq * a->max_blocks + start / a->block_size;
    int64_t offset = start % a->block_size;
    for (int64_t j = 0; j < count; j++) {
        slots[j] = *table * a->block_size + offset;
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

/* Rows are in no order in memory that the hardware could foresee. */
INLINE void prefetch_rows(const int dtype, const Attention *a, const Run *run, const void *cache, const int64_t *slots,
                          int64_t count, int64_t head_dim) {
    for (int64_t j = 0; j < count; j++) {
        const char *row = row_of(dtype, a, run, cache, slots[j], head_dim);
        for (int64_t byte = 0; byte < head_dim * size_of(dtype); byte += 64) __builtin_prefetch(row + byte, 0, 2);
    }
}

/* scores[row, key] of the keys in `count` slots. */
INLINE void score_tile(const int dtype, const Attention *a, const Run *run, const float *q, int64_t num_rows,
                       const int64_t *slots, int64_t count, float *scores) {
    const void *keys[TILE + COLS];
    for (int64_t j = 0; j < round_up(count, COLS); j++)
        keys[j] = row_of(dtype, a, run, a->k_cache, slots[min64(j, count - 1)], a->k_head_dim);
    const int64_t ldq = padded_k(a);
    for (int64_t row = 0; row < num_rows;) {
        int64_t rows = next_rows(num_rows - row);
        for (int64_t j = 0; j < count; j += COLS) {
            CALL_WITH_ROWS(rows, dot_tile, dtype, q + row * ldq, ldq, &keys[j], a->k_head_dim, NO_PREFETCH,
                           scores + row * TILE + j, TILE);
        }
        row += rows;
    }
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

/* acc[m, :] += sum over j of weights[m, j] * v[j, :] for `rows` and `vectors` (constants). */
INLINE void add_values(const int rows, const int vectors, const float *weights, const float *v, int64_t count,
                       int64_t width, float *acc) {
    vf sums[MAX_ROWS][VECTORS];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) sums[m][c] = load(acc + m * width + c * VL);
    }
    for (int64_t j = 0; j < count; j++) {
        vf value[VECTORS];
        UNROLL
        for (int c = 0; c < vectors; c++) value[c] = load(v + j * width + c * VL);
        UNROLL
        for (int m = 0; m < rows; m++) {
            vf weight = splat(weights[m * TILE + j]);
            UNROLL
            for (int c = 0; c < vectors; c++) sums[m][c] += weight * value[c];
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int c = 0; c < vectors; c++) store(acc + m * width + c * VL, sums[m][c]);
    }
}

INLINE void add_tile(const float *weights, const float *v, int64_t num_rows, int64_t count, int64_t width, float *acc) {
    for (int64_t row = 0; row < num_rows;) {
        int64_t rows = next_rows(num_rows - row), c = 0;
        const float *w = weights + row * TILE;
        float *out = acc + row * width;
        for (; c + VECTORS * VL <= width; c += VECTORS * VL)
            CALL_WITH_ROWS(rows, add_values, VECTORS, w, v + c, count, width, out + c);
        for (; c < width; c += VL) CALL_WITH_ROWS(rows, add_values, 1, w, v + c, count, width, out + c);
        row += rows;
    }
}

/* ---- one split of one run ---- */

INLINE int64_t scratch_size(const Attention *a) {
    return rows_per_run(a) * (padded_k(a) + TILE) + TILE * padded_v(a);
}

/* The softmax over keys [start, stop) for all rows of the run, from nothing. */
INLINE void attend_keys(const int dtype, const Attention *a, const Run *run, int64_t start, int64_t stop,
                        float *scratch, Partial out) {
    const int64_t group = group_of(a), num_rows = run->num_tokens * group, width = padded_v(a);
    float *q = scratch, *scores = q + rows_per_run(a) * padded_k(a), *v = scores + rows_per_run(a) * TILE;
    for (int64_t row = 0; row < num_rows; row++) {
        int64_t head = run->kv_head * group + row % group, token = run->first_token + row / group;
        float *wide = q + row * padded_k(a);
        widen_row(wide, at(a->q, token * a->q_stride + head * a->k_head_dim, dtype), a->k_head_dim, dtype);
        for (int64_t i = 0; i < a->k_head_dim; i++) wide[i] *= a->softmax_scale;
        out.max[row] = -INFINITY;
        out.sum[row] = 0;
    }
    memset(out.acc, 0, sizeof(float) * (size_t)(num_rows * width));
    int64_t slots[TILE], next_slots[TILE];
    find_slots(a, run, start, min64(TILE, stop - start), next_slots);
    for (int64_t tile = start; tile < stop; tile += TILE) {
        int64_t count = min64(TILE, stop - tile), next_count = max64(0, min64(TILE, stop - tile - TILE));
        memcpy(slots, next_slots, sizeof slots);
        prefetch_rows(dtype, a, run, a->v_cache, slots, count, a->v_head_dim);
        score_tile(dtype, a, run, q, num_rows, slots, count, scores);
        find_slots(a, run, tile + TILE, next_count, next_slots);
        prefetch_rows(dtype, a, run, a->k_cache, next_slots, next_count, a->k_head_dim);
        for (int64_t row = 0; row < num_rows; row++) {
            int64_t position = run->first_position + row / group;
            int64_t low = max64(0, position - a->window + 1 - tile), high = min64(count, position + 1 - tile);
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
        for (int64_t j = 0; j < count; j++)
            widen_row(v + j * width, row_of(dtype, a, run, a->v_cache, slots[j], a->v_head_dim), a->v_head_dim, dtype);
        add_tile(scores, v, num_rows, count, width, out.acc);
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
        run_tasks(run_whole, &plan, num_runs, num_threads);
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
