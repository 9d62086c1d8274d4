/* What every kernel shares: vectors of floats, the two number formats, and reductions.
 *
 * The vectors are GCC's and Clang's vector extensions, so one source compiles to AVX-512, AVX2, SSE or NEON. All sums
 * are taken in float32 whatever the format of the operands.
 *
 * Order of summation. Whatever a kernel adds up, it adds in an order that depends on the row alone: not on how many
 * rows there are, how they are tiled, or how many threads run. So a request gets the same numbers alone, in a full
 * batch, and in chunks. Nor does the compiler choose where a product and a sum are rounded together: it would choose
 * otherwise in tiles of other sizes (GCC does, tuning for Zen 2 and 3). It is told to leave them apart, and vfma is where
 * they are one.
 */
#ifndef HEADCOUNT_COMMON_H
#define HEADCOUNT_COMMON_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* VL floats in a vector, NUM_REGISTERS vectors in registers. */
#if defined(__AVX512F__)
#define VL 16
#define NUM_REGISTERS 32
#elif defined(__AVX__)
#define VL 8
#define NUM_REGISTERS 16
#elif defined(__aarch64__)
#define VL 4
#define NUM_REGISTERS 32
#else
#define VL 4
#define NUM_REGISTERS 16
#endif

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define EXPORT __attribute__((visibility("default")))
#define HIDDEN __attribute__((visibility("hidden")))
#define UNROLL _Pragma("GCC unroll 16")

/* HOLD(vector) and HOLD_POINTER(p): here it is in a register, and nothing computed from it stands before. Where a tile
 * takes all 16 registers, loads that the compiler moves up or shares leave none for its sums. */
#if defined(__SSE2__) && NUM_REGISTERS == 16
#define HOLD(x) __asm__ volatile("" : "+x"(x))
#define HOLD_POINTER(p) __asm__ volatile("" : "+r"(p))
#else
#define HOLD(x) ((void)0)
#define HOLD_POINTER(p) ((void)0)
#endif

/* FORGET(p): from here on the compiler does not know how the pointer came about. */
#define FORGET(p) __asm__ volatile("" : "+r"(p))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));

/* The same as they lie in memory: aligned to an element only. */
typedef float vf_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu_mem __attribute__((vector_size(VL * 4), aligned(2), may_alias));
typedef uint32_t vu_bytes __attribute__((vector_size(VL * 4), aligned(1), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(VL * 2), aligned(2), may_alias));

/* Number formats, as the Python side numbers them. Functions below are inlined with a constant dtype. Those of 8 bits
 * are in the KV cache only: eight_bit.h reads and writes them. */
enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, E4M3 = 3 };

INLINE int64_t size_of(int dtype) { return dtype == FLOAT32 ? 4 : dtype == BFLOAT16 ? 2 : 1; }

INLINE const void *at(const void *base, int64_t idx, int dtype) { return (const char *)base + idx * size_of(dtype); }

INLINE void *at_mut(void *base, int64_t idx, int dtype) { return (char *)base + idx * size_of(dtype); }

INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

#define CACHE_LINE 64 /* bytes; a vector that lies across two lines takes two accesses */
#define ON_LINE __attribute__((aligned(CACHE_LINE)))

/* Scratch memory that begins on a line, to be freed; NULL where there is none. */
INLINE void *make_lines(size_t bytes) { return aligned_alloc(CACHE_LINE, bytes / CACHE_LINE * CACHE_LINE + CACHE_LINE); }

INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

/* Not 0 + x, which is no copy of x: -0 would become 0, and so compilers add. */
INLINE vf splat(float x) { return x - (vf){0}; }

/* Fetch `bytes`, one or more, from p on into a near cache. */
INLINE void prefetch(const void *p, int64_t bytes) {
    __builtin_prefetch(p, 0, 2);
    for (int64_t byte = 64; byte < bytes; byte += 64) __builtin_prefetch((const char *)p + byte, 0, 2);
}

INLINE vf load(const float *p) { return *(const vf_mem *)p; }

INLINE void store(float *p, vf x) { *(vf_mem *)p = x; }

/* a * b + c, rounded once where the CPU can: at a level all do or none. */
INLINE vf vfma(vf a, vf b, vf c) {
#if defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

INLINE vf choose(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

/* a > b ? a : b, so b where one is NaN. */
INLINE vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

/* a < b ? a : b, so b where one is NaN. */
INLINE vf vmin(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vf)_mm_min_ps((__m128)a, (__m128)b);
#else
    return choose(a < b, a, b);
#endif
}

/* 16 bits to 32, with zeros: GCC takes 32 bytes of them apart if it is not told how. */
INLINE vu to_32_bits(vh x) {
#if defined(__AVX512F__)
    return (vu)_mm512_cvtepu16_epi32((__m256i)x);
#else
    return __builtin_convertvector(x, vu);
#endif
}

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

/* To nearest even. The instruction makes 0 of what is below 2^-126; where numbers are rounded one by one, or in pairs, such
 * numbers stay. */
INLINE vh to_bfloat16(vf x) {
#if defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)x);
#else
    return __builtin_convertvector(round_to_upper(x) >> 16, vh);
#endif
}

INLINE vf load_vec(const void *p, int64_t idx, int dtype) {
    if (dtype == FLOAT32) return load((const float *)p + idx);
    vh half = *(const vh_mem *)((const uint16_t *)p + idx);
    return (vf)(to_32_bits(half) << 16);
}

INLINE void store_vec(void *p, int64_t idx, vf x, int dtype) {
    if (dtype == FLOAT32) {
        store((float *)p + idx, x);
        return;
    }
    *(vh_mem *)((uint16_t *)p + idx) = to_bfloat16(x);
}

/* 2 * VL numbers. */
INLINE void store_two(void *p, int64_t idx, vf first, vf second, int dtype) {
#if defined(__AVX512BF16__)
    if (dtype == BFLOAT16) {
        *(vu_mem *)((uint16_t *)p + idx) = (vu)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
        return;
    }
#endif
    store_vec(p, idx, first, dtype);
    store_vec(p, idx + VL, second, dtype);
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

/* src [width] -> dst [width] in its natural order. */
INLINE void widen_row(float *dst, const void *src, int64_t width, int dtype) {
    int64_t i = 0;
    for (; i + VL <= width; i += VL) store(dst + i, load_vec(src, i, dtype));
    for (; i < width; i++) dst[i] = load_one(src, i, dtype);
}

/* src [width] -> dst [width] in split order: pairs of vectors while there are any, then one vector, then singles. */
INLINE void split_row(float *dst, const void *src, int64_t width, int dtype) {
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
    vf limited = vmin(splat(89.0f), vmax(splat(-87.3f), x)); /* e^89 is infinite */
    vf shifted = vfma(limited, splat(1.44269504f), splat(magic)), n = shifted - magic;
    vf f = vfma(n, splat(-0.693145752f), limited); /* ln 2 in two parts: the remainder is exact to the last bit */
    f = vfma(n, splat(-1.42860677e-6f), f);
    vf poly = splat(1.0f / 720);
    poly = vfma(poly, f, splat(1.0f / 120));
    poly = vfma(poly, f, splat(1.0f / 24));
    poly = vfma(poly, f, splat(1.0f / 6));
    poly = vfma(poly, f, splat(0.5f));
    poly = vfma(poly, f, splat(1.0f));
    poly = vfma(poly, f, splat(1.0f));
#if defined(__AVX512F__)
    vf scaled = (vf)_mm512_scalef_ps((__m512)poly, (__m512)n);
#else
    /* n reaches 128, an exponent that float32 lacks: half of it goes into each of two factors. */
    vi whole = (vi)shifted - 0x4b400000, half = whole >> 1;
    vf scaled = poly * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
#endif
    return (vf)((vi)scaled & ~(x < splat(-87.3f)));
}

/* ---- reductions ---- */

#if VL == 16
#define FOLD(x, width) __builtin_shufflevector(x, x, (0 + width) % 16, (1 + width) % 16, (2 + width) % 16,      \
    (3 + width) % 16, (4 + width) % 16, (5 + width) % 16, (6 + width) % 16, (7 + width) % 16, (8 + width) % 16, \
    (9 + width) % 16, (10 + width) % 16, (11 + width) % 16, (12 + width) % 16, (13 + width) % 16,              \
    (14 + width) % 16, (15 + width) % 16)
#elif VL == 8
#define FOLD(x, width) __builtin_shufflevector(x, x, (0 + width) % 8, (1 + width) % 8, (2 + width) % 8,         \
    (3 + width) % 8, (4 + width) % 8, (5 + width) % 8, (6 + width) % 8, (7 + width) % 8)
#else
#define FOLD(x, width) __builtin_shufflevector(x, x, (0 + width) % 4, (1 + width) % 4, (2 + width) % 4, (3 + width) % 4)
#endif

INLINE float sum_lanes(vf x) {
#if VL == 16
    x += FOLD(x, 8);
#endif
#if VL >= 8
    x += FOLD(x, 4);
#endif
    x += FOLD(x, 2);
    x += FOLD(x, 1);
    return x[0];
}

INLINE float max_lanes(vf x) {
#if VL == 16
    x = vmax(x, FOLD(x, 8));
#endif
#if VL >= 8
    x = vmax(x, FOLD(x, 4));
#endif
    x = vmax(x, FOLD(x, 2));
    return vmax(x, FOLD(x, 1))[0];
}

/* ---- transposition ---- */

#if VL == 16
#define INTERLEAVE_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define INTERLEAVE_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VL == 8
#define INTERLEAVE_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define INTERLEAVE_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define INTERLEAVE_LOW 0, 4, 1, 5
#define INTERLEAVE_HIGH 2, 6, 3, 7
#endif

/* Transpose VL x VL elements. */
#if VL == 8
/* Halves of 128 bits first, one by one, then they change places: elements cross between halves in no other way as fast. */
INLINE void transpose_block(vu rows[VL]) {
    vu pairs[VL], fours[VL];
    UNROLL
    for (int i = 0; i < VL; i += 2) {
        pairs[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        pairs[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    UNROLL
    for (int i = 0; i < VL; i++) {
        vu first = pairs[i / 4 * 4 + i / 2 % 2], second = pairs[i / 4 * 4 + i / 2 % 2 + 2];
        fours[i] = i % 2 ? __builtin_shufflevector(first, second, 2, 3, 10, 11, 6, 7, 14, 15)
                         : __builtin_shufflevector(first, second, 0, 1, 8, 9, 4, 5, 12, 13);
    }
    UNROLL
    for (int i = 0; i < VL / 2; i++) {
        rows[i] = __builtin_shufflevector(fours[i], fours[i + VL / 2], 0, 1, 2, 3, 8, 9, 10, 11);
        rows[i + VL / 2] = __builtin_shufflevector(fours[i], fours[i + VL / 2], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#else
/* To interleave the upper half of the rows with the lower one turns the bits of (row, column) round by one place, and
 * after log2(VL) times they have changed sides. */
INLINE void transpose_block(vu rows[VL]) {
    UNROLL
    for (int width = 1; width < VL; width *= 2) {
        vu turned[VL];
        UNROLL
        for (int i = 0; i < VL / 2; i++) {
            turned[2 * i] = __builtin_shufflevector(rows[i], rows[i + VL / 2], INTERLEAVE_LOW);
            turned[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + VL / 2], INTERLEAVE_HIGH);
        }
        UNROLL
        for (int i = 0; i < VL; i++) rows[i] = turned[i];
    }
}
#endif

/* ---- register tiles ---- */

/* Tiles of `most` rows at most are as equal as possible (8 = 4 + 4, not 6 + 2), the first ones being the largest: a tile of
 * few rows has little to do for each number that it loads. How many tiles `num_rows` make up: */
INLINE int64_t num_row_tiles(int64_t num_rows, int64_t most) { return (num_rows + most - 1) / most; }

/* Rows [first, first + count). */
typedef struct {
    int64_t first, count;
} RowTile;

INLINE RowTile row_tile(int64_t i, int64_t num_rows, int64_t num_tiles) {
    int64_t each = num_rows / num_tiles, larger = num_rows % num_tiles;
    return (RowTile){i * each + min64(i, larger), each + (i < larger)};
}

#endif
