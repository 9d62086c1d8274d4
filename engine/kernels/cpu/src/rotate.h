/* The Walsh-Hadamard transform of a group of numbers: it spreads an outlier over all of them. */
#ifndef HEADCOUNT_ROTATE_H
#define HEADCOUNT_ROTATE_H

#include "common.h"

#define GROUP 64 /* engine/quantization.py: GROUP_SIZE */
#define GROUP_VECTORS (GROUP / VL)

/* Lane i gets x[i ^ h]. */
#if VL == 16
#define LANES {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, \
    9 ^ h, 10 ^ h, 11 ^ h, 12 ^ h, 13 ^ h, 14 ^ h, 15 ^ h)
#elif VL == 8
#define LANES {0, 1, 2, 3, 4, 5, 6, 7}
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h)
#else
#define LANES {0, 1, 2, 3}
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h)
#endif

/* Lanes i and i + h become their sum and their difference, in every vector; h is a constant below VL. */
#define TURN_WITHIN(numbers, h)                                            \
    UNROLL                                                                 \
    for (int i = 0; i < GROUP_VECTORS; i++) {                              \
        vf x = numbers[i];                                                 \
        vu sign = (lane & h) * (0x80000000u / h);                          \
        numbers[i] = PARTNER(x, h) + (vf)((vu)x ^ sign);                   \
    }

/* GROUP numbers times the matrix of Sylvester's construction, in place. Twice is GROUP times the numbers. Stages go from
 * neighbours to the farthest, as in engine/kernels/int8.py: the roundings are the same. */
INLINE void rotate(vf numbers[GROUP_VECTORS]) {
    const vu lane = LANES;
    TURN_WITHIN(numbers, 1)
    TURN_WITHIN(numbers, 2)
#if VL >= 8
    TURN_WITHIN(numbers, 4)
#endif
#if VL == 16
    TURN_WITHIN(numbers, 8)
#endif
    UNROLL
    for (int h = 1; h < GROUP_VECTORS; h *= 2) {
        UNROLL
        for (int i = 0; i < GROUP_VECTORS; i++) {
            if (i & h) continue;
            vf a = numbers[i], b = numbers[i + h];
            numbers[i] = a + b;
            numbers[i + h] = a - b;
        }
    }
}

#endif
