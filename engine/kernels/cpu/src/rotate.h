/* The Walsh-Hadamard transform of a group of numbers: it spreads an outlier over all of them. */
#ifndef HEADCOUNT_ROTATE_H
#define HEADCOUNT_ROTATE_H

#include "common.h"

#define GROUP 32 /* engine/kernels/int8.py: GROUP_SIZE */

/* Lane i gets x[i ^ h]. */
#if VL == 16
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, \
    9 ^ h, 10 ^ h, 11 ^ h, 12 ^ h, 13 ^ h, 14 ^ h, 15 ^ h)
#elif VL == 8
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h)
#else
#define PARTNER(x, h) __builtin_shufflevector(x, x, 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h)
#endif

/* Lanes i and i + h become their sum and their difference, in every vector; h is a constant below VL. */
#define TURN_WITHIN(numbers, h)                                          \
    for (int64_t i = 0; i < GROUP; i += VL) {                            \
        vi is_second = (lane & h) != 0;                                  \
        vf x = load(numbers + i);                                        \
        store(numbers + i, PARTNER(x, h) + choose(is_second, -x, x));    \
    }

/* GROUP numbers times the matrix of Sylvester's construction, in place. Twice is GROUP times the numbers. Stages go from
 * neighbours to the farthest, as in engine/kernels/int8.py: the roundings are the same. */
INLINE void rotate(float *numbers) {
    vi lane;
    for (int i = 0; i < VL; i++) lane[i] = i;
    TURN_WITHIN(numbers, 1)
    TURN_WITHIN(numbers, 2)
#if VL >= 8
    TURN_WITHIN(numbers, 4)
#endif
#if VL == 16
    TURN_WITHIN(numbers, 8)
#endif
    for (int64_t h = VL; h < GROUP; h *= 2)
        for (int64_t first = 0; first < GROUP; first += 2 * h)
            for (int64_t i = first; i < first + h; i += VL) {
                vf a = load(numbers + i), b = load(numbers + i + h);
                store(numbers + i, a + b);
                store(numbers + i + h, a - b);
            }
}

#endif
