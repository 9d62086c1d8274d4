/* What every kernel shares: vectors of floats, the two number formats, and reductions.
 *
 * The vectors are GCC's and Clang's vector extensions, so one source compiles to AVX-512, AVX2, SSE or NEON. All sums
 * are taken in float32 whatever the format of the operands.
 *
 * Order of summation. Whatever a kernel adds up, it adds in an order that depends on the row alone: not on how many
 * rows there are, how they are tiled, or how many threads run. So a request gets the same numbers alone, in a full
 * batch, and in chunks.
 */
#ifndef HEADCOUNT_COMMON_H
#define HEADCOUNT_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16      /* floats in a vector */
#define MAX_ROWS 6 /* rows of a register tile: 6 x 4 accumulators of the 32 registers */
#elif defined(__AVX__)
#define VL 8
#define MAX_ROWS 3 /* 3 x 4 accumulators of 16 registers */
#elif defined(__aarch64__)
#define VL 4
#define MAX_ROWS 6
#else
#define VL 4
#define MAX_ROWS 3
#endif

#define COLS 4 /* columns of a register tile */
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef float v4 __attribute__((vector_size(16)));

/* The same as they lie in memory: aligned to an element only. */
typedef float vf_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu_mem __attribute__((vector_size(VL * 4), aligned(2), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef float v4_mem __attribute__((vector_size(16), aligned(4), may_alias));

/* Number formats, as the Python side numbers them. Functions below are inlined with a constant dtype. */
enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE int64_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : 2; }

INLINE const void *at(const void *base, int64_t idx, int dtype) { return (const char *)base + idx * size_of(dtype); }

INLINE void *at_mut(void *base, int64_t idx, int dtype) { return (char *)base + idx * size_of(dtype); }

INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE vf splat(float x) { return (vf){0} + x; }

INLINE vf load(const float *p) { return *(const vf_mem *)p; }

INLINE void store(float *p, vf x) { *(vf_mem *)p = x; }

INLINE vf choose(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

INLINE vf vmax(vf a, vf b) { return choose(a > b, a, b); }

/* Call task(context, i) for every i in [0, num_tasks), on up to num_threads threads; back when all are done. */
typedef void (*Task)(void *context, int64_t i);
HIDDEN void run_tasks(Task task, void *context, int64_t num_tasks, int num_threads);

/* ---- one number ---- */

INLINE float load_one(const void *p, int64_t idx, int dtype) {
    if (dtype == FLOAT32) return ((const float *)p)[idx];
    uint32_t bits = (uint32_t)((const uint16_t *)p)[idx] << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE void store_one(void *p, int64_t idx, float x, int dtype) {
    if (dtype == FLOAT32) {
        ((float *)p)[idx] = x;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    /* To nearest, ties to even. The sum would carry a NaN's mantissa into its exponent: NaNs keep their top bits. */
    bits = x != x ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    ((uint16_t *)p)[idx] = (uint16_t)(bits >> 16);
}

/* ---- VL numbers in their natural order ---- */

/* bfloat16 bits, rounded to nearest even, in the upper half of each element; the lower half is rubbish. */
INLINE vu round_to_upper(vf x) {
    vu bits = (vu)x;
    vu rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    vu is_nan = (vu)(x != x);
    return (is_nan & (bits | 0x400000u)) | (~is_nan & rounded);
}

INLINE vf load_vec(const void *p, int64_t idx, int dtype) {
    if (dtype == FLOAT32) return load((const float *)p + idx);
    vh half = *(const vh_mem *)((const uint16_t *)p + idx);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}

INLINE void store_vec(void *p, int64_t idx, vf x, int dtype) {
    if (dtype == FLOAT32) {
        store((float *)p + idx, x);
        return;
    }
    *(vh_mem *)((uint16_t *)p + idx) = __builtin_convertvector(round_to_upper(x) >> 16, vh);
}

/* ---- 2 * VL numbers in split order ----
 *
 * Two bfloat16 lie in one 32-bit element: the even one is the lower half, the odd one the upper. A shift and a mask
 * widen both without moving anything across lanes, half the work of widening in order. What is widened this way comes
 * as (even elements, odd elements); a product or sum of two rows does not care as long as both are split alike.
 */

INLINE vf load_even(const void *p, int64_t idx, int dtype) {
    if (dtype == FLOAT32) return load((const float *)p + idx);
    return (vf)(*(const vu_mem *)((const uint16_t *)p + idx) << 16);
}

INLINE vf load_odd(const void *p, int64_t idx, int dtype) {
    if (dtype == FLOAT32) return load((const float *)p + idx + VL);
    return (vf)(*(const vu_mem *)((const uint16_t *)p + idx) & 0xffff0000u);
}

/* src [width] -> dst [width] in split order: pairs of vectors while there are any, then one vector, then singles. */
INLINE void widen_row(float *dst, const void *src, int64_t width, int dtype) {
    int64_t i = 0;
    for (; i + 2 * VL <= width; i += 2 * VL) {
        store(dst + i, load_even(src, i, dtype));
        store(dst + i + VL, load_odd(src, i, dtype));
    }
    for (; i + VL <= width; i += VL) store(dst + i, load_vec(src, i, dtype));
    for (; i < width; i++) dst[i] = load_one(src, i, dtype);
}

/* The way back: src [width] in split order times scale -> dst [width]. */
INLINE void narrow_row(void *dst, const float *src, float scale, int64_t width, int dtype) {
    int64_t i = 0;
    for (; i + 2 * VL <= width; i += 2 * VL) {
        vf even = load(src + i) * scale, odd = load(src + i + VL) * scale;
        if (dtype == FLOAT32) {
            store((float *)dst + i, even);
            store((float *)dst + i + VL, odd);
        } else {
            vu both = (round_to_upper(even) >> 16) | (round_to_upper(odd) & 0xffff0000u);
            *(vu_mem *)((uint16_t *)dst + i) = both;
        }
    }
    for (; i + VL <= width; i += VL) store_vec(dst, i, load(src + i) * scale, dtype);
    for (; i < width; i++) store_one(dst, i, src[i] * scale, dtype);
}

/* ---- functions ---- */

/* e^x to about 2 units in the last place: 2^n times a polynomial for 2^f, n the integer nearest to x / ln 2. Below
 * -87.3, where float32 has no normal numbers left, it is 0. NaN stays NaN. */
INLINE vf vexp(vf x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which then is in the low bits */
    vf limited = choose(x < splat(-87.3f), splat(-87.3f), x);
    limited = choose(limited > splat(88.7f), splat(88.7f), limited);
    vf shifted = limited * 1.44269504f + magic, n = shifted - magic;
    vf f = limited - n * 0.693145752f; /* ln 2 in two parts, so that the remainder is exact to the last bit */
    f = f - n * 1.42860677e-6f;
    vf poly = splat(1.0f / 720);
    poly = poly * f + 1.0f / 120;
    poly = poly * f + 1.0f / 24;
    poly = poly * f + 1.0f / 6;
    poly = poly * f + 0.5f;
    poly = poly * f + 1.0f;
    poly = poly * f + 1.0f;
    /* n reaches 128, an exponent that float32 lacks: half of it goes into each of two factors. */
    vi whole = (vi)shifted - 0x4b400000, half = whole >> 1;
    vf scaled = poly * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
    vf result = choose(x > splat(88.8f), splat(INFINITY), scaled);
    return choose(x < splat(-87.3f), splat(0), result);
}

/* ---- reductions ---- */

INLINE float sum_lanes(vf x) {
    float sum = 0;
    UNROLL
    for (int i = 0; i < VL; i++) sum += x[i];
    return sum;
}

INLINE float max_lanes(vf x) {
    float max = x[0];
    UNROLL
    for (int i = 1; i < VL; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* The sums of four vectors, as one of four: cheaper than four sums, because the shuffles work on several at once. */
INLINE v4 sum_lanes_of_4(const vf a[4]) {
    v4 quarters[4]; /* of each vector, its lanes added down to four */
    UNROLL
    for (int n = 0; n < 4; n++) {
#if VL == 16
        v4 p0 = __builtin_shufflevector(a[n], a[n], 0, 1, 2, 3), p1 = __builtin_shufflevector(a[n], a[n], 4, 5, 6, 7);
        v4 p2 = __builtin_shufflevector(a[n], a[n], 8, 9, 10, 11);
        v4 p3 = __builtin_shufflevector(a[n], a[n], 12, 13, 14, 15);
        quarters[n] = (p0 + p1) + (p2 + p3);
#elif VL == 8
        quarters[n] = __builtin_shufflevector(a[n], a[n], 0, 1, 2, 3) + __builtin_shufflevector(a[n], a[n], 4, 5, 6, 7);
#else
        quarters[n] = a[n];
#endif
    }
    /* A 4 x 4 transposition, added up on the way. */
    v4 low = __builtin_shufflevector(quarters[0], quarters[1], 0, 4, 1, 5) +
             __builtin_shufflevector(quarters[0], quarters[1], 2, 6, 3, 7);
    v4 high = __builtin_shufflevector(quarters[2], quarters[3], 0, 4, 1, 5) +
              __builtin_shufflevector(quarters[2], quarters[3], 2, 6, 3, 7);
    return __builtin_shufflevector(low, high, 0, 1, 4, 5) + __builtin_shufflevector(low, high, 2, 3, 6, 7);
}

/* ---- the register tile that linear layers and attention scores are made of ---- */

#define NO_PREFETCH (-1)

/* out[m, n] = sum over k of x[m, k] * w[n][k] for `rows` (a constant) rows and four columns.
 *
 *   x      [rows, depth] float32 in split order, rows ldx apart
 *   w      four rows [depth] of `dtype`, wherever they lie
 *   ahead  bytes from each element of w to what will be needed soon, which is fetched into the second-level cache
 *          meanwhile; or NO_PREFETCH
 *   out    [rows, 4] float32, rows ldo apart
 */
INLINE void dot_tile(const int rows, const int dtype, const float *x, int64_t ldx, const void *const w[COLS],
                     int64_t depth, int64_t ahead, float *out, int64_t ldo) {
    vf acc[MAX_ROWS][COLS];
    UNROLL
    for (int m = 0; m < rows; m++) {
        UNROLL
        for (int n = 0; n < COLS; n++) acc[m][n] = splat(0);
    }
    int64_t k = 0;
    for (; k + 2 * VL <= depth; k += 2 * VL) {
        vf even[COLS], odd[COLS];
        if (ahead != NO_PREFETCH) {
            UNROLL
            for (int n = 0; n < COLS; n++) __builtin_prefetch((const char *)at(w[n], k, dtype) + ahead, 0, 2);
        }
        UNROLL
        for (int n = 0; n < COLS; n++) even[n] = load_even(w[n], k, dtype);
        UNROLL
        for (int m = 0; m < rows; m++) {
            vf row = load(x + m * ldx + k);
            UNROLL
            for (int n = 0; n < COLS; n++) acc[m][n] += row * even[n];
        }
        UNROLL
        for (int n = 0; n < COLS; n++) odd[n] = load_odd(w[n], k, dtype);
        UNROLL
        for (int m = 0; m < rows; m++) {
            vf row = load(x + m * ldx + k + VL);
            UNROLL
            for (int n = 0; n < COLS; n++) acc[m][n] += row * odd[n];
        }
    }
    for (; k + VL <= depth; k += VL) {
        UNROLL
        for (int n = 0; n < COLS; n++) {
            vf column = load_vec(w[n], k, dtype);
            UNROLL
            for (int m = 0; m < rows; m++) acc[m][n] += load(x + m * ldx + k) * column;
        }
    }
    UNROLL
    for (int m = 0; m < rows; m++) *(v4_mem *)(out + m * ldo) = sum_lanes_of_4(acc[m]);
    for (; k < depth; k++) {
        UNROLL
        for (int m = 0; m < rows; m++) {
            UNROLL
            for (int n = 0; n < COLS; n++) out[m * ldo + n] += x[m * ldx + k] * load_one(w[n], k, dtype);
        }
    }
}

/* CALL_WITH_ROWS(rows, F, ...): F(rows, ...) with the number of rows as a constant. */
#if MAX_ROWS == 6
#define CALL_WITH_ROWS(rows, F, ...)        \
    switch (rows) {                         \
    case 1: F(1, __VA_ARGS__); break;       \
    case 2: F(2, __VA_ARGS__); break;       \
    case 3: F(3, __VA_ARGS__); break;       \
    case 4: F(4, __VA_ARGS__); break;       \
    case 5: F(5, __VA_ARGS__); break;       \
    default: F(6, __VA_ARGS__);             \
    }
#else
#define CALL_WITH_ROWS(rows, F, ...)        \
    switch (rows) {                         \
    case 1: F(1, __VA_ARGS__); break;       \
    case 2: F(2, __VA_ARGS__); break;       \
    default: F(3, __VA_ARGS__);             \
    }
#endif

/* Rows of the next tile when `left` are left: tiles as equal as possible (8 = 4 + 4, not 6 + 2), for a tile of few
 * rows has little to do for each weight that it widens. */
INLINE int64_t next_rows(int64_t left) {
    int64_t num_tiles = (left + MAX_ROWS - 1) / MAX_ROWS;
    return (left + num_tiles - 1) / num_tiles;
}

#endif
