/* One tile of attention: the keys of a run, its scores, and what they weigh. attention.c says what a run is. */
#ifndef HEADCOUNT_ATTENTION_TILE_H
#define HEADCOUNT_ATTENTION_TILE_H

#include "amx.h"
#include "attention_product.h"
#include "eight_bit.h"
#include "kernels.h"

#define TILE 64   /* keys whose scores exist at a time */
#define SPLIT 512 /* keys that one task may share with no other */
/* Rows of a task where the group allows it: keys and values are laid out once for all, and AMX takes 16 at a time. */
#define BLOCK_ROWS (HAS_AMX ? 80 : 72)

/* Tokens of one sequence that follow each other, and KV heads that do. Its rows are the query heads of the first KV head's
 * group, of every token, then those of the next KV head's. */
typedef struct {
    int64_t seq, kv_head, num_heads;
    int64_t first_token, num_tokens; /* of the step */
    int64_t first_position;          /* of first_token in its sequence */
    int64_t first_split, num_splits; /* of keys that any of its rows sees */
    int64_t partial;                 /* its first partial result */
} Run;

/* Keys [start, stop) of a run's sequence. */
typedef struct {
    const Run *run;
    int64_t start, stop;
} Span;

/* A softmax under way, for the rows of a run: sum = sum of e^(score - max), acc = the same with v. */
typedef struct {
    float *max, *sum, *acc; /* [rows], [rows], [rows, width], columns in the order of read_value, or of pair_columns */
} Partial;

/* Keys whose scores exist at a time, and where the run's first head of each lies: a number of heads from the cache's begin.
 * Behind the last one it is repeated. Without keys there are no heads. */
typedef struct {
    int64_t count, num_heads, heads[TILE];
} Tile;

INLINE int64_t group_of(const Attention *a) { return a->num_q_heads / a->num_kv_heads; }

INLINE int64_t padded_k(const Attention *a) { return round_up(a->k_head_dim, VL); }

INLINE int64_t padded_v(const Attention *a) { return round_up(a->v_head_dim, VL); }

INLINE int64_t tokens_per_run(const Attention *a) { return max64(1, BLOCK_ROWS / group_of(a)); }

/* Rows of a run at most: those of one KV head and as many tokens as go together, or those of all heads and one token, or
 * of as many as fit into the same number. */
INLINE int64_t most_rows(const Attention *a) { return max64(tokens_per_run(a) * group_of(a), a->num_q_heads); }

INLINE int64_t rows_of_head(const Attention *a, const Run *run) { return run->num_tokens * group_of(a); }

INLINE int64_t num_rows_of(const Attention *a, const Run *run) { return run->num_heads * rows_of_head(a, run); }

INLINE Partial partial_at(float *memory, const Attention *a) {
    int64_t rows = most_rows(a);
    float *max = memory + rows * padded_v(a);
    return (Partial){max, max + rows, memory};
}

/* The same without its first `row` rows. */
INLINE Partial rows_from(const Attention *a, Partial p, int64_t row) {
    return (Partial){p.max + row, p.sum + row, p.acc + row * padded_v(a)};
}

/* ---- one tile ---- */

/* The first keys of a span, TILE at most; none where it starts past its stop. */
INLINE void find_tile(const Attention *a, Span span, Tile *tile) {
    const Run *run = span.run;
    tile->count = max64(0, min64(TILE, span.stop - span.start));
    tile->num_heads = tile->count ? run->num_heads : 0;
    /* Nothing is read through it where there are no keys, and the start may be past the last block. */
    const int64_t *table = a->block_tables + run->seq * a->max_blocks + span.start / a->block_size;
    int64_t offset = span.start % a->block_size, num_heads = a->num_kv_heads, last = 0;
    for (int64_t j = 0; j < tile->count; offset = 0) {
        int64_t first = (*table++ * a->block_size + offset) * num_heads + run->kv_head;
        int64_t end = min64(tile->count, j + a->block_size - offset);
        for (; j < end; j++, first += num_heads) tile->heads[j] = last = first;
    }
    for (int64_t j = tile->count; j < TILE; j++) tile->heads[j] = last;
}

/* VL numbers of a cached row, and one. */
INLINE vf load_numbers(const void *row, int64_t idx, int dtype) {
    return is_eight_bit(dtype) ? load_bytes(row, idx, dtype) : load_vec(row, idx, dtype);
}

INLINE float load_number(const void *row, int64_t idx, int dtype) {
    return is_eight_bit(dtype) ? load_byte(row, idx, dtype) : load_one(row, idx, dtype);
}

/* Where a head begins, in a cache whose heads are head_dim wide. */
INLINE const void *row_of(const int dtype, const void *cache, int64_t head, int64_t head_dim) {
    return at(cache, head * head_dim, dtype);
}

/* Fetch rows [first, stop) of a tile, of the run's head number `head`, where it has one. They are in no order in memory that
 * the hardware could foresee. */
INLINE void prefetch_rows(const int dtype, const void *cache, int64_t head_dim, const Tile *tile, int64_t head,
                          int64_t first, int64_t stop) {
    if (head >= tile->num_heads) return;
    for (int64_t j = first; j < min64(stop, tile->count); j++)
        prefetch(row_of(dtype, cache, tile->heads[j] + head, head_dim), head_dim * size_of(dtype));
}

/* What of the next tile, for the run's head number `head`, is not fetched yet: from row `row` on. The keys are rows 0 to TILE - 1, the
 * values come after them. */
typedef struct {
    const Tile *tile;
    int64_t head, row;
} NextRows;

/* Fetch up to `count` rows more. A few at a time: a core has two dozen lines under way at most, and waits when there are more. */
INLINE void fetch_rows(const int dtype, const Attention *a, NextRows *next, int64_t count) {
    const int64_t row = next->row, stop = min64(row + count, 2 * TILE);
    prefetch_rows(dtype, a->k_cache, a->k_head_dim, next->tile, next->head, row, min64(stop, TILE));
    prefetch_rows(dtype, a->v_cache, a->v_head_dim, next->tile, next->head, max64(0, row - TILE), stop - TILE);
    next->row = stop;
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
    /* Four bytes do. */
    for (; is_eight_bit(dtype) && i + 4 * VL <= depth; i += 4 * VL) {
        UNROLL
        for (int n = 0; n < VL; n++) block[n] = *(const vu_bytes *)at(keys[n], i, dtype);
        transpose_block(block);
        UNROLL
        for (int n = 0; n < VL; n++) {
            UNROLL
            for (int byte = 0; byte < 4; byte++)
                store(out + (i + 4 * n + byte) * TILE, widen_byte(block[n], byte, dtype));
        }
    }
    for (; i + VL <= depth; i += VL) {
        UNROLL
        for (int n = 0; n < VL; n++) block[n] = (vu)load_numbers(keys[n], i, dtype);
        transpose_block(block);
        UNROLL
        for (int n = 0; n < VL; n++) store(out + (i + n) * TILE, (vf)block[n]);
    }
    for (; i < depth; i++) {
        for (int n = 0; n < VL; n++) out[i * TILE + n] = load_number(keys[n], i, dtype);
    }
}

/* Whether keys and queries are multiplied as they are, two numbers at a time: out of the same cache always or never. */
INLINE int is_scored_in_pairs(const int dtype, const Attention *a) { return IS_PAIRED(dtype) && a->k_head_dim % 2 == 0; }

/* VL keys of bfloat16: out[i, key] = numbers 2 i and 2 i + 1 of keys[key], rows of out TILE pairs apart. */
INLINE void transpose_pairs(const void *const keys[VL], int64_t num_pairs, vu_mem *out) {
    vu block[VL];
    int64_t i = 0;
    for (; i + VL <= num_pairs; i += VL) {
        UNROLL
        for (int n = 0; n < VL; n++) block[n] = *(const vu_mem *)at(keys[n], 2 * i, BFLOAT16);
        transpose_block(block);
        UNROLL
        for (int n = 0; n < VL; n++) out[(i + n) * TILE / VL] = block[n];
    }
    for (; i < num_pairs; i++) {
        for (int n = 0; n < VL; n++) memcpy((char *)(out + i * TILE / VL) + 4 * n, at(keys[n], 2 * i, BFLOAT16), 4);
    }
}

/* The scales of a tile's keys or values for the run's head number `head`; 0 behind them. */
INLINE void read_scales(const uint16_t *scale, const Tile *tile, int64_t head, float *out) {
    uint16_t halves[TILE] = {0};
    for (int64_t j = 0; j < tile->count; j++) halves[j] = scale[tile->heads[j] + head];
    for (int64_t j = 0; j < TILE; j += VL)
        store(out + j, widen_halves(to_32_bits(*(const vh_mem *)(halves + j))));
}

/* The tile's keys for the run's head number `head` as they are multiplied: rows of one number, or pair, of each key. With each VL
 * keys `num_fetched` of the next tile's rows are fetched. */
INLINE void lay_out_keys(const int dtype, const Attention *a, const Tile *tile, int64_t head, NextRows *next, int64_t num_fetched,
                         float *transposed) {
    const int64_t width = round_up(tile->count, VL), depth = a->k_head_dim;
    for (int64_t j = 0; j < width; j += VL) {
        const void *keys[VL];
        for (int n = 0; n < VL; n++) keys[n] = row_of(dtype, a->k_cache, tile->heads[j + n] + head, depth);
        fetch_rows(dtype, a, next, num_fetched);
        if (is_scored_in_pairs(dtype, a))
            transpose_pairs(keys, depth / 2, (vu_mem *)(transposed + j));
        else
            transpose_keys(dtype, keys, depth, transposed + j);
    }
}

/* tanh to a few units in the last place: Lambert's continued fraction where 1 - 2 / (e^2x + 1) would cancel. */
INLINE vf vtanh(vf x) {
    vf square = x * x;
    vf near_zero = x * (945.0f + square * (105.0f + square)) / (945.0f + square * (420.0f + square * 15.0f));
    vf magnitude = (vf)((vu)x & 0x7fffffffu);
    vf far = 1.0f - 2.0f / (vexp(2.0f * magnitude) + 1.0f);
    far = (vf)((vu)far | ((vu)x & 0x80000000u));
    return choose((vi)(magnitude < splat(0.5f)), near_zero, far);
}

INLINE int has_adjustments(const int kv_dtype, const Attention *a) {
    return is_eight_bit(kv_dtype) || a->softcap != 0 || a->alibi_slopes;
}

/* What stands between a row's products and its softmax: the keys' scales, the soft-cap, ALiBi's bias.
 *
 *   distance  of the tile's first key from the row's query: its position less the query's
 */
INLINE void adjust_row(const int kv_dtype, const Attention *a, const float *k_scales, int64_t head, int64_t distance,
                       float *scores) {
    static const float LANES[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    vf lanes = load(LANES);
    for (int64_t j = 0; j < TILE; j += VL) {
        vf score = load(scores + j);
        if (is_eight_bit(kv_dtype)) score *= load(k_scales + j);
        if (a->softcap != 0) score = a->softcap * vtanh(score / a->softcap);
        if (a->alibi_slopes) score += a->alibi_slopes[head] * (lanes + (float)(distance + j));
        store(scores + j, score);
    }
}

/* Scores of one row to weights, the row's running maximum and sum brought up to date. Keys outside [low, high) count
 * as -infinity. Returns by how much what was added up so far has to shrink. */
INLINE float weigh_row(float *scores, int64_t low, int64_t high, float *max, float *sum) {
    const int64_t end = round_up(high, VL);
    for (int64_t j = 0; j < low; j++) scores[j] = -INFINITY;
    for (int64_t j = high; j < end; j++) scores[j] = -INFINITY;
    vf highest = load(scores);
    for (int64_t j = VL; j < end; j += VL) highest = vmax(highest, load(scores + j));
    float tile_max = max_lanes(highest), new_max = tile_max > *max ? tile_max : *max;
    vf total = splat(0);
    for (int64_t j = 0; j < end; j += VL) {
        vf weight = vexp(load(scores + j) - new_max);
        store(scores + j, weight);
        total += weight;
    }
    for (int64_t j = end; j < TILE; j += VL) store(scores + j, splat(0));
    float shrink = vexp(splat(*max - new_max))[0];
    *sum = *sum * shrink + sum_lanes(total);
    *max = new_max;
    return shrink;
}

#endif
