/* Four products of 8-bit numbers a lane, summed in 32 bits: what linear_int8.c is made of.
 *
 *   vq        VL * 4 weights: four of each of VL rows
 *   Quad      four numbers of x, as `dot` wants them
 *   dot       acc[lane] += sum of weight[lane][i] * x[i]; exact
 *
 * Weights are in [-127, 127]. Where the instruction takes one operand without sign, it is the weights, and WEIGHT_OFFSET is
 * added to each; whoever adds up starts with what takes the offset off again. PACKED_OFFSET of it is added as they are
 * packed: all of it, unless AMX reads them too, which takes them with their sign.
 */
#ifndef HEADCOUNT_DOT8_H
#define HEADCOUNT_DOT8_H

#include "amx.h"

typedef int8_t vb __attribute__((vector_size(VL)));
typedef int32_t vi_mem __attribute__((vector_size(VL * 4), aligned(4), may_alias));

INLINE vi splat_int(int32_t x) { return x - (vi){0}; }

#if defined(__AVX512VNNI__) && VL == 16
#define DOT_INSTRUCTION(acc, w, x) (vi) _mm512_dpbusd_epi32((__m512i)(acc), (__m512i)(w), (__m512i)(x))
#define WEIGHT_OFFSET 128
#elif (defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))) && VL == 8
#define DOT_INSTRUCTION(acc, w, x) (vi) _mm256_dpbusd_epi32((__m256i)(acc), (__m256i)(w), (__m256i)(x))
#define WEIGHT_OFFSET 128
#elif defined(__ARM_FEATURE_DOTPROD) && VL == 4
#define DOT_INSTRUCTION(acc, w, x) (vi) vdotq_s32((int32x4_t)(acc), (int8x16_t)(w), (int8x16_t)(x))
#define WEIGHT_OFFSET 0
#elif defined(__AVX512BW__) && VL == 16
#define MULTIPLY_ADD(w, x) (vi) _mm512_madd_epi16((__m512i)(w), (__m512i)(x))
#elif defined(__AVX2__) && VL == 8
#define MULTIPLY_ADD(w, x) (vi) _mm256_madd_epi16((__m256i)(w), (__m256i)(x))
#elif defined(__SSE2__) && VL == 4
#define MULTIPLY_ADD(w, x) (vi) _mm_madd_epi16((__m128i)(w), (__m128i)(x))
#endif

#ifndef DOT_INSTRUCTION
#define WEIGHT_OFFSET 0
#endif
#if HAS_AMX
#define PACKED_OFFSET 0
#else
#define PACKED_OFFSET WEIGHT_OFFSET
#endif

#ifdef DOT_INSTRUCTION

typedef struct {
    int32_t bytes;
} Quad;

typedef struct {
    vi bytes;
} vq;

INLINE vq load_weights(const void *p) {
    vi bytes = *(const vi_mem *)p;
    return (vq){PACKED_OFFSET == WEIGHT_OFFSET ? bytes : bytes ^ splat_int((int32_t)0x80808080)};
}

INLINE vi dot(vi acc, vq w, Quad x) { return DOT_INSTRUCTION(acc, w.bytes, splat_int(x.bytes)); }

typedef int8_t quads_mem __attribute__((vector_size(VL), aligned(1), may_alias));

/* VL integers in [-127, 127], four make a quad. */
INLINE void store_quads(Quad *quads, vi x) { *(quads_mem *)quads = __builtin_convertvector(x, vb); }

#else

/* Bytes 0 and 2 of each lane, and bytes 1 and 3, as pairs of 16 bits. */
typedef struct {
    int16_t even[2], odd[2];
} Quad;

typedef struct {
    vi even, odd;
} vq;

typedef int16_t vs __attribute__((vector_size(VL * 4)));

#ifndef MULTIPLY_ADD
INLINE vi low_half(vi x) { return (vi)((vu)x << 16) >> 16; }

INLINE vi multiply_add(vi w, vi x) { return low_half(w) * low_half(x) + (w >> 16) * (x >> 16); }

#define MULTIPLY_ADD(w, x) multiply_add(w, x)
#endif

INLINE vq load_weights(const void *p) {
    vs bytes = (vs) * (const vi_mem *)p;
    return (vq){(vi)((vs)((vs)bytes << 8) >> 8), (vi)(bytes >> 8)};
}

INLINE vi splat_words(const int16_t *pair) {
    int32_t bits;
    memcpy(&bits, pair, 4);
    return splat_int(bits);
}

INLINE vi dot(vi acc, vq w, Quad x) {
    return acc + MULTIPLY_ADD(w.even, splat_words(x.even)) + MULTIPLY_ADD(w.odd, splat_words(x.odd));
}

/* Of every four lanes the second and the third change places. */
#if VL == 16
#define SWAP_MIDDLE(x) __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)
#elif VL == 8
#define SWAP_MIDDLE(x) __builtin_shufflevector(x, x, 0, 2, 1, 3, 4, 6, 5, 7)
#else
#define SWAP_MIDDLE(x) __builtin_shufflevector(x, x, 0, 2, 1, 3)
#endif

typedef int16_t vw __attribute__((vector_size(VL * 2)));
typedef int16_t quads_mem __attribute__((vector_size(VL * 2), aligned(2), may_alias));

/* VL integers in [-127, 127], four make a quad. */
INLINE void store_quads(Quad *quads, vi x) {
    *(quads_mem *)quads = __builtin_convertvector(SWAP_MIDDLE(x), vw);
}

#endif

INLINE vi larger(vi a, vi b) {
#if defined(__AVX512F__)
    return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
    return (vi)choose(a > b, (vf)a, (vf)b);
#endif
}

/* To the nearest integer, ties to even. */
INLINE vi round_vec(vf x) {
#if defined(__AVX512F__) && VL == 16
    return (vi)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX__) && VL == 8
    return (vi)_mm256_cvtps_epi32((__m256)x);
#elif defined(__SSE2__) && VL == 4
    return (vi)_mm_cvtps_epi32((__m128)x);
#elif defined(__aarch64__)
    return (vi)vcvtnq_s32_f32((float32x4_t)x);
#else
    vi rounded;
    for (int i = 0; i < VL; i++) rounded[i] = (int32_t)lrintf(x[i]);
    return rounded;
#endif
}

#endif
