/* softmax(q k^T * scale) v over the paged cache, read in place.
 *
 * A task is a run: some query tokens of a sequence and one KV head, the rows of whose matrix are the query heads of the
 * head's group, of every token, so that keys and values are read once for all of them. Few tokens go with all KV heads,
 * tile by tile of keys: what the cache holds of a tile is read as it lies in memory. The softmax is taken online (Milakov
 * and Gimelshein 2018) over tiles of keys. Splits of SPLIT keys are computed apart and merged in order, because a long
 * context with few sequences has to be shared among threads. Tiles and splits begin at multiples of their size in the
 * sequence, whatever else is in the batch: so the same row gets the same numbers always. attention_amx.h has the products of a CPU
 * that multiplies whole tiles.
 */
#include "attention_amx.h"

#define LEAST_TASKS 3 /* a thread, of the longest ones: fewer leave threads waiting for the last */

typedef struct {
    const Attention *args;
    Run *runs;
    float *partials; /* of partial_size floats each */
    int64_t num_runs, num_splits, partial_size;
    int64_t work, most_work; /* of all splits, and of the one that takes most: rows by keys */
    int failed;
} Plan;

/* ---- one split of one run ---- */

/* Floats that the terms take the place of. */
INLINE int64_t terms_size(const Attention *a) {
    return attention_by_amx(a->kv_dtype, a) ? most_rows(a) * NUM_TERMS * TILE / 2 : 0;
}

INLINE int64_t scratch_size(const Attention *a) {
    return most_rows(a) * (padded_k(a) + TILE + 1) + terms_size(a) + TILE * (padded_v(a) + a->k_head_dim + 2);
}

/* What attend_span works with. Where scores are products of pairs, queries and keys are bfloat16 as they were: q [rows,
 * k_head_dim], and transposed [k_head_dim / 2, TILE] pairs. */
typedef struct {
    float *q;                   /* [rows, padded_k], times softmax_scale */
    float *scores;              /* [rows, TILE], then the weights of the values */
    float *v;                   /* [TILE, padded_v] in the order of read_value; by AMX as pair_values makes them */
    float *transposed;          /* [k_head_dim, TILE] */
    float *k_scales, *v_scales; /* [TILE] */
    uint16_t *terms;            /* as split_weights makes them */
    float *shrink;              /* [rows], by how much a tile makes the sums before it smaller */
} Scratch;

INLINE Scratch lay_out(float *memory, const Attention *a) {
    Scratch s = {.q = memory};
    s.scores = s.q + most_rows(a) * padded_k(a);
    s.v = s.scores + most_rows(a) * TILE;
    s.transposed = s.v + TILE * padded_v(a);
    s.k_scales = s.transposed + TILE * a->k_head_dim;
    s.v_scales = s.k_scales + TILE;
    s.terms = (uint16_t *)(s.v_scales + TILE);
    s.shrink = s.v_scales + TILE + terms_size(a);
    return s;
}

/* The query head of a row of the run, and its token. */
INLINE int64_t head_of(const Attention *a, const Run *run, int64_t row) {
    return (run->kv_head + row / rows_of_head(a, run)) * group_of(a) + row % group_of(a);
}

INLINE int64_t token_of(const Attention *a, const Run *run, int64_t row) {
    return run->first_token + row % rows_of_head(a, run) / group_of(a);
}

/* q's heads in the order of the run's rows: as they are where pairs are multiplied, else widened and scaled. */
INLINE void read_queries(const int dtype, const int kv_dtype, const Attention *a, const Run *run, float *q) {
    const int64_t num_rows = num_rows_of(a, run), width = a->k_head_dim;
    const float scale = a->softmax_scale;
    for (int64_t row = 0; row < num_rows; row++) {
        const void *from = at(a->q, token_of(a, run, row) * a->q_stride + head_of(a, run, row) * width, dtype);
        if (is_scored_in_pairs(kv_dtype, a)) {
            memcpy((uint16_t *)q + row * width, from, sizeof(uint16_t) * (size_t)width);
            continue;
        }
        float *wide = q + row * padded_k(a);
        widen_row(wide, from, width, dtype);
        for (int64_t i = 0; i < width; i++) wide[i] *= scale;
    }
}

/* Of what read_queries has made, the run's row `row`. */
INLINE const void *query_at(const int kv_dtype, const Attention *a, const float *q, int64_t row) {
    if (is_scored_in_pairs(kv_dtype, a)) return (const uint16_t *)q + row * a->k_head_dim;
    return q + row * padded_k(a);
}

/* scores [num_rows, TILE] of the tile's keys; what stands behind them is rubbish. `q` is what read_queries makes. */
INLINE void score_tile(const int kv_dtype, const Attention *a, const void *q, int64_t num_rows, const Tile *tile,
                       NextRows *next, const Scratch *s) {
    const int64_t width = round_up(tile->count, VL), depth = a->k_head_dim;
    if (attention_by_amx(kv_dtype, a)) {
        score_by_amx(a, q, s->transposed, num_rows, next, s->scores);
        return;
    }
    if (is_scored_in_pairs(kv_dtype, a)) {
        multiply_all_pairs(q, (const vu_mem *)s->transposed, num_rows, depth / 2, TILE, width / VL, a->softmax_scale,
                           s->scores);
        return;
    }
    memset(s->scores, 0, sizeof(float) * (size_t)(num_rows * TILE));
    add_products(q, padded_k(a), s->transposed, TILE, num_rows, depth, width, s->scores);
}

/* A value in float32: in split order, or in quarter order where it has 8 bits. */
INLINE void read_value(const int kv_dtype, float *dst, const void *src, int64_t width) {
    if (is_eight_bit(kv_dtype))
        quarter_row(dst, src, width, kv_dtype);
    else
        split_row(dst, src, width, kv_dtype);
}

/* Whether values are widened on their way: where each is wanted by few rows, that is cheaper than a copy of them. */
INLINE int is_in_place(const int kv_dtype, const Attention *a, int64_t num_rows) {
    return !is_eight_bit(kv_dtype) && num_rows <= MAX_ROWS && a->v_head_dim % (VECTORS * VL) == 0;
}

/* out = out * shrink + the tile's values by their weights, for the run's head number `head`. */
INLINE void add_values(const int kv_dtype, const Attention *a, const Tile *tile, int64_t head, int64_t num_rows,
                       NextRows *next, const Scratch *s, float *out) {
    const int64_t width = padded_v(a);
    if (attention_by_amx(kv_dtype, a)) {
        pair_values(a, tile, head, next, s->v);
        split_weights(s->scores, num_rows, s->terms);
        add_by_amx(a, s->terms, s->v, tile->count, num_rows, s->shrink, next, out);
        return;
    }
    for (int64_t row = 0; row < num_rows; row++) {
        if (s->shrink[row] == 1) continue;
        for (int64_t i = 0; i < width; i++) out[row * width + i] *= s->shrink[row];
    }
    if (is_in_place(kv_dtype, a, num_rows)) {
        const int64_t *ahead = head < next->tile->num_heads ? next->tile->heads : NULL;
        Rows values = {row_of(kv_dtype, a->v_cache, head, width), width, tile->heads, ahead};
        CALL_WITH_ROWS(num_rows, add_wide_product, kv_dtype, s->scores, TILE, values, tile->count, width, width, out);
        next->row += tile->count;
        return;
    }
    for (int64_t j = 0; j < tile->count; j++) {
        fetch_rows(kv_dtype, a, next, 1);
        read_value(kv_dtype, s->v + j * width, row_of(kv_dtype, a->v_cache, tile->heads[j] + head, a->v_head_dim),
                   a->v_head_dim);
    }
    add_products(s->scores, TILE, s->v, width, num_rows, tile->count, width, out);
}

/* Scores of a tile to weights of its values, row by row of the run's head number `head`; updates `out`'s max and sum. By how much its
 * acc has to shrink is left in s->shrink. */
INLINE void weigh_tile(const int kv_dtype, const Attention *a, const Run *run, int64_t first, const Tile *tile,
                       int64_t head, const Scratch *s, Partial out) {
    const int64_t group = group_of(a), num_rows = rows_of_head(a, run);
    const int is_adjusted = has_adjustments(kv_dtype, a);
    for (int64_t row = 0; row < num_rows; row++) {
        int64_t position = run->first_position + row / group, q_head = head_of(a, run, head * num_rows + row);
        int64_t low = max64(0, position - a->window + 1 - first), high = min64(tile->count, position + 1 - first);
        float *weights = s->scores + row * TILE;
        s->shrink[row] = 1;
        if (low >= high) {
            memset(weights, 0, TILE * sizeof(float));
            continue;
        }
        if (is_adjusted) adjust_row(kv_dtype, a, s->k_scales, q_head, first - position, weights);
        s->shrink[row] = weigh_row(weights, low, high, &out.max[row], &out.sum[row]);
        if (is_eight_bit(kv_dtype)) {
            for (int64_t j = 0; j < TILE; j += VL) store(weights + j, load(weights + j) * load(s->v_scales + j));
        }
    }
}

/* One tile for the run's head number `head`. Meanwhile the next tile's keys and values for the same head are fetched. */
INLINE void attend_tile(const int kv_dtype, const Attention *a, const Run *run, int64_t first, const Tile *tile,
                        const Tile *next_tile, int64_t head, const Scratch *s, Partial out) {
    const int by_amx = attention_by_amx(kv_dtype, a);
    const int64_t num_rows = rows_of_head(a, run);
    const void *q = query_at(kv_dtype, a, s->q, head * num_rows);
    NextRows next = {next_tile, head, 0};
    lay_out_keys(kv_dtype, a, tile, head, &next, by_amx ? VL / 2 : VL, s->transposed);
    if (!by_amx) fetch_rows(kv_dtype, a, &next, TILE - next.row); /* its values are fetched by add_values */
    score_tile(kv_dtype, a, q, num_rows, tile, &next, s);
    if (is_eight_bit(kv_dtype)) {
        read_scales(a->k_scale, tile, head, s->k_scales);
        read_scales(a->v_scale, tile, head, s->v_scales);
    }
    weigh_tile(kv_dtype, a, run, first, tile, head, s, out);
    add_values(kv_dtype, a, tile, head, num_rows, &next, s, out.acc);
    fetch_rows(kv_dtype, a, &next, 2 * TILE);
}

/* The softmax over a span's keys for all rows of its run, from nothing. While its last keys are computed the first ones
 * of `later` are fetched. */
INLINE void attend_span(const int kv_dtype, const Attention *a, Span span, Span later, float *memory, Partial out) {
    const Run *run = span.run;
    const int64_t num_rows = num_rows_of(a, run);
    const Scratch s = lay_out(memory, a);
    if (a->dtype == FLOAT32)
        read_queries(FLOAT32, kv_dtype, a, run, s.q);
    else
        read_queries(BFLOAT16, kv_dtype, a, run, s.q);
    for (int64_t row = 0; row < num_rows; row++) {
        out.max[row] = -INFINITY;
        out.sum[row] = 0;
    }
    memset(out.acc, 0, sizeof(float) * (size_t)(num_rows * padded_v(a)));
    if (attention_by_amx(kv_dtype, a)) configure_tiles(ATTENTION_ROW_REGISTERS, rows_of_head(a, run));
    Tile tile, next;
    find_tile(a, span, &next);
    for (int64_t first = span.start; first < span.stop; first += TILE) {
        tile = next;
        find_tile(a, first + TILE < span.stop ? (Span){run, first + TILE, span.stop} : later, &next);
        for (int64_t head = 0; head < run->num_heads; head++)
            attend_tile(kv_dtype, a, run, first, &tile, &next, head, &s,
                        rows_from(a, out, head * rows_of_head(a, run)));
    }
    if (attention_by_amx(kv_dtype, a)) AMX_RELEASE();
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

/* A function for each format: in one of all four, the compiler keeps less in registers. */
#define ATTEND(NAME, KV_DTYPE)                                                                   \
    NOINLINE void NAME(const Attention *a, Span span, Span later, float *scratch, Partial out) { \
        attend_span(KV_DTYPE, a, span, later, scratch, out);                                     \
    }

ATTEND(attend_float32, FLOAT32)
ATTEND(attend_bfloat16, BFLOAT16)
ATTEND(attend_int8, INT8)
ATTEND(attend_e4m3, E4M3)

static void attend(const Attention *a, Span span, Span later, float *scratch, Partial out) {
    switch (a->kv_dtype) {
    case FLOAT32: attend_float32(a, span, later, scratch, out); break;
    case BFLOAT16: attend_bfloat16(a, span, later, scratch, out); break;
    case INT8: attend_int8(a, span, later, scratch, out); break;
    default: attend_e4m3(a, span, later, scratch, out);
    }
}

/* What a row's sum of weighted values is multiplied with: 1 / the sum of its weights, the sink's among them. */
INLINE float normalizer(const Attention *a, int64_t head, float max, float sum) {
    if (!a->sinks) return 1 / sum;
    float highest = a->sinks[head] > max ? a->sinks[head] : max;
    float shrink = vexp(splat(max - highest))[0];
    return shrink / (sum * shrink + vexp(splat(a->sinks[head] - highest))[0]);
}

/* src [width] in the order that acc has times scale -> dst [width]. */
INLINE void write_row(const Attention *a, void *dst, const float *src, float scale) {
    const int is_wide = a->dtype == FLOAT32;
    if (attention_by_amx(a->kv_dtype, a)) {
        for (int64_t i = 0; i < a->v_head_dim; i += PAIRED_COLUMNS) write_columns(dst, i, src + i, scale);
        return;
    }
    if (is_eight_bit(a->kv_dtype) && is_wide)
        order_quarters(dst, src, scale, a->v_head_dim, FLOAT32);
    else if (is_eight_bit(a->kv_dtype))
        order_quarters(dst, src, scale, a->v_head_dim, BFLOAT16);
    else if (is_wide)
        narrow_row(dst, src, scale, a->v_head_dim, FLOAT32);
    else
        narrow_row(dst, src, scale, a->v_head_dim, BFLOAT16);
}

static void write_out(const Attention *a, const Run *run, Partial total) {
    for (int64_t row = 0; row < num_rows_of(a, run); row++) {
        int64_t head = head_of(a, run, row), token = token_of(a, run, row);
        void *dst = at_mut(a->out, (token * a->num_q_heads + head) * a->v_head_dim, a->dtype);
        write_row(a, dst, total.acc + row * padded_v(a), normalizer(a, head, total.max[row], total.sum[row]));
    }
}

/* ---- tasks ---- */

INLINE Span span_of(const Attention *a, const Run *run, int64_t split) {
    int64_t last = run->first_position + run->num_tokens;
    int64_t lowest = max64(0, run->first_position - a->window + 1) / TILE * TILE;
    int64_t start = (run->first_split + split) * SPLIT;
    return (Span){run, max64(start, lowest), min64(start + SPLIT, last)};
}

/* Split i of those of all runs, none where there are not so many; its run is `from` or comes after it. */
INLINE Span nth_split(const Plan *plan, const Run *from, int64_t i) {
    if (i >= plan->num_splits) return (Span){from, 0, 0};
    while (i >= from->partial + from->num_splits) from++;
    return span_of(plan->args, from, i - from->partial);
}

/* What a thread likely does after run i: threads take turns. */
INLINE Span span_after(const Plan *plan, int64_t i) {
    int64_t next = i + plan->args->num_threads;
    return next < plan->num_runs ? span_of(plan->args, plan->runs + next, 0) : (Span){plan->runs, 0, 0};
}

/* A whole run, its splits one after the other. */
static void run_whole(void *context, int64_t i) {
    Plan *plan = context;
    const Attention *a = plan->args;
    const Run *run = &plan->runs[i];
    float *memory = make_lines(sizeof(float) * (size_t)(scratch_size(a) + 2 * plan->partial_size));
    if (!memory) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *scratch = memory + 2 * plan->partial_size;
    Partial total = partial_at(memory, a), more = partial_at(memory + plan->partial_size, a);
    for (int64_t split = 0; split < run->num_splits; split++) {
        Span later = split + 1 < run->num_splits ? span_of(a, run, split + 1) : span_after(plan, i);
        attend(a, span_of(a, run, split), later, scratch, split ? more : total);
        if (split) merge(a, num_rows_of(a, run), total, more);
    }
    write_out(a, run, total);
    free(memory);
}

static void run_split(void *context, int64_t i) {
    Plan *plan = context;
    const Attention *a = plan->args;
    float *scratch = make_lines(sizeof(float) * (size_t)scratch_size(a));
    if (!scratch) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    Span span = nth_split(plan, plan->runs, i);
    Span later = nth_split(plan, span.run, i + a->num_threads);
    attend(a, span, later, scratch, partial_at(plan->partials + i * plan->partial_size, a));
    free(scratch);
}

static void merge_run(void *context, int64_t i) {
    Plan *plan = context;
    const Run *run = &plan->runs[i];
    float *first = plan->partials + run->partial * plan->partial_size;
    Partial total = partial_at(first, plan->args);
    for (int64_t split = 1; split < run->num_splits; split++)
        merge(plan->args, num_rows_of(plan->args, run), total,
              partial_at(first + split * plan->partial_size, plan->args));
    write_out(plan->args, run, total);
}

/* All runs of the step, the last tokens of a sequence first: they see the most keys, and long tasks belong first. Few
 * tokens go with all KV heads where `is_together`. */
static void list_runs(Plan *plan, int is_together) {
    const Attention *a = plan->args;
    const int64_t size = tokens_per_run(a);
    plan->num_runs = plan->num_splits = plan->work = plan->most_work = 0;
    for (int64_t seq = 0; seq < a->num_seqs; seq++) {
        int64_t first = a->cu_seqlens_q[seq], query_len = a->cu_seqlens_q[seq + 1] - first;
        int64_t context_len = a->seq_lens[seq] - query_len;
        for (int64_t start = (query_len - 1) / size * size; start >= 0 && query_len > 0; start -= size) {
            int64_t num_tokens = min64(size, query_len - start), position = context_len + start;
            int64_t first_split = max64(0, position - a->window + 1) / SPLIT;
            int64_t num_splits = (position + num_tokens - 1) / SPLIT - first_split + 1;
            int64_t num_heads = is_together && num_tokens * a->num_q_heads <= most_rows(a) ? a->num_kv_heads : 1;
            int64_t num_keys = position + num_tokens - max64(0, position - a->window + 1);
            for (int64_t head = 0; head < a->num_kv_heads; head += num_heads) {
                Run run = {seq, head, num_heads, first + start, num_tokens, position, first_split, num_splits,
                           plan->num_splits};
                plan->runs[plan->num_runs++] = run;
                plan->num_splits += num_splits;
                plan->work += num_rows_of(a, &run) * num_keys;
                plan->most_work = max64(plan->most_work, num_rows_of(a, &run) * min64(num_keys, SPLIT));
            }
        }
    }
}

/* Whether the lengths fit together, and into the tables: what lies beyond is not the caller's to read. */
static int lengths_fit(const Attention *a) {
    if (a->cu_seqlens_q[0] != 0 || a->cu_seqlens_q[a->num_seqs] != a->num_tokens) return 0;
    for (int64_t seq = 0; seq < a->num_seqs; seq++) {
        int64_t query_len = a->cu_seqlens_q[seq + 1] - a->cu_seqlens_q[seq];
        if (query_len < 0 || query_len > a->seq_lens[seq]) return 0;
        if (a->seq_lens[seq] > a->max_blocks * a->block_size) return 0;
    }
    return 1;
}

/* All splits on their own, then merged. */
static void run_splits(Plan *plan) {
    plan->partials = make_lines(sizeof(float) * (size_t)(plan->num_splits * plan->partial_size));
    plan->failed = !plan->partials;
    if (!plan->failed) run_tasks(run_split, plan, plan->num_splits, plan->args->num_threads);
    if (!plan->failed) run_tasks(merge_run, plan, plan->num_runs, plan->args->num_threads);
    free(plan->partials);
}

/* Paged attention, causal. Returns 0, -1 where there is no memory for the scratch, or -2 where lengths do not fit. */
EXPORT int hc_paged_attention(const Attention *a) {
    if (!lengths_fit(a)) return -2;
    int64_t most = a->num_tokens / tokens_per_run(a) + a->num_seqs;
    Plan plan = {.args = a, .partial_size = round_up(most_rows(a) * (2 + padded_v(a)), CACHE_LINE / sizeof(float))};
    plan.runs = malloc(sizeof(Run) * (size_t)(most * a->num_kv_heads));
    if (!plan.runs) return -1;
    list_runs(&plan, 1);
    if (plan.work < LEAST_TASKS * a->num_threads * plan.most_work) list_runs(&plan, 0);
    /* Splits of their own where they are few: a short chunk of a long context is a task or two of many times the others'
     * length, and threads would wait for it. A long chunk has tasks enough, and its partial results would take memory. */
    int is_long = plan.num_splits >= 64 * a->num_threads && plan.num_runs >= LEAST_TASKS * a->num_threads;
    if (is_long || plan.num_splits == plan.num_runs)
        run_tasks(run_whole, &plan, plan.num_runs, a->num_threads);
    else
        run_splits(&plan);
    free(plan.runs);
    return plan.failed ? -1 : 0;
}
