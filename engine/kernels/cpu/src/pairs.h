/* Products of two bfloat16 at once, where the CPU has an instruction for them. */
#ifndef HEADCOUNT_PAIRS_H
#define HEADCOUNT_PAIRS_H

#include "common.h"

/* DOT_PAIRS(acc, w, x): acc[lane] += w[2 lane] * x[2 lane] + w[2 lane + 1] * x[2 lane + 1] of bfloat16. Defined from
 * outside it stands for an instruction that the CPU lacks, as the tests do.
 *
 * IS_PAIRED(dtype): whether numbers of that format are multiplied so. */
#if !defined(DOT_PAIRS) && defined(__AVX512BF16__)
#define DOT_PAIRS(acc, w, x) (vf)_mm512_dpbf16_ps((__m512)(acc), (__m512bh)(w), (__m512bh)(x))
#endif
#ifdef DOT_PAIRS
#define IS_PAIRED(dtype) ((dtype) == BFLOAT16)
#else
#define DOT_PAIRS(acc, w, x) ((void)(w), (void)(x), (acc)) /* compiled, and never reached */
#define IS_PAIRED(dtype) ((void)(dtype), 0)
#endif

/* A pair of bfloat16 in every lane. */
INLINE vu splat_pair(const void *pair) {
    uint32_t bits;
    memcpy(&bits, pair, 4);
    return bits - (vu){0};
}

#endif
