/* Numbers of 8 bits and their float16 scales: engine/kernels/quantization.py says what they mean, and is matched to the
 * last bit. Everything is done on the bits of float32, so that no instruction set need know these formats.
 */
#ifndef HEADCOUNT_EIGHT_BIT_H
#define HEADCOUNT_EIGHT_BIT_H

#include "common.h"

#define ROUNDER 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, which then is in the low bits */

typedef uint8_t v_bytes __attribute__((vector_size(VL)));
typedef uint8_t bytes_mem __attribute__((vector_size(VL), aligned(1), may_alias));

INLINE int is_eight_bit(int dtype) { return dtype == INT8 || dtype == E4M3; }

/* ---- reading ---- */

/* The numbers in byte 0, 1, 2 or 3 (a constant) of each element. */
INLINE vf widen_byte(vu x, const int byte, const int dtype) {
    if (dtype == INT8) return __builtin_convertvector((vi)(x << (24 - 8 * byte)) >> 24, vf);
    /* The exponent's bias is 120 less than float32's. Exponent 0 has no leading one: 2^-6 * m/8 = 2 * 2^-7 (1 + m/8) -
     * 2^-6. NaN's code is read as 480: such a vector's scale is NaN, and so is the product. */
    vu code = (x >> 8 * byte) & 0x7fu;
    vf magnitude = (vf)((code << 20) + (120u << 23));
    magnitude = choose((vi)(code < 8u), 2.0f * magnitude - 0x1p-6f, magnitude);
    return (vf)((vu)magnitude | ((x << (24 - 8 * byte)) & 0x80000000u));
}

/* VL numbers in their natural order. By way of 16 bits: compilers take four times the width apart into single numbers. */
INLINE vf load_bytes(const void *p, int64_t idx, int dtype) {
    v_bytes bytes = *(const bytes_mem *)((const uint8_t *)p + idx);
    return widen_byte(to_32_bits(__builtin_convertvector(bytes, vh)), 0, dtype);
}

INLINE float load_byte(const void *p, int64_t idx, int dtype) {
    return widen_byte((vu){((const uint8_t *)p)[idx]}, 0, dtype)[0];
}

/* src [width] -> dst [width] in quarter order: of each 4 * VL numbers, first those whose places are multiples of four,
 * then those after them. As with split order, nothing moves across lanes. What makes up no four vectors is in its natural
 * order behind them. */
INLINE void quarter_row(float *dst, const void *src, int64_t width, int dtype) {
    int64_t i = 0;
    for (; i + 4 * VL <= width; i += 4 * VL) {
        vu four = *(const vu_bytes *)((const uint8_t *)src + i);
        UNROLL
        for (int byte = 0; byte < 4; byte++) store(dst + i + byte * VL, widen_byte(four, byte, dtype));
    }
    for (; i + VL <= width; i += VL) store(dst + i, load_bytes(src, i, dtype));
    for (; i < width; i++) dst[i] = load_byte(src, i, dtype);
}

/* The way back: src [width] in quarter order times scale -> dst [width]. */
INLINE void order_quarters(void *dst, const float *src, float scale, int64_t width, const int dtype) {
    int64_t i = 0;
    for (; i + 4 * VL <= width; i += 4 * VL) {
        vf first = load(src + i) * scale, second = load(src + i + VL) * scale;
        vf third = load(src + i + 2 * VL) * scale, fourth = load(src + i + 3 * VL) * scale;
        vf even_low = __builtin_shufflevector(first, third, INTERLEAVE_LOW);
        vf even_high = __builtin_shufflevector(first, third, INTERLEAVE_HIGH);
        vf odd_low = __builtin_shufflevector(second, fourth, INTERLEAVE_LOW);
        vf odd_high = __builtin_shufflevector(second, fourth, INTERLEAVE_HIGH);
        store_vec(dst, i, __builtin_shufflevector(even_low, odd_low, INTERLEAVE_LOW), dtype);
        store_vec(dst, i + VL, __builtin_shufflevector(even_low, odd_low, INTERLEAVE_HIGH), dtype);
        store_vec(dst, i + 2 * VL, __builtin_shufflevector(even_high, odd_high, INTERLEAVE_LOW), dtype);
        store_vec(dst, i + 3 * VL, __builtin_shufflevector(even_high, odd_high, INTERLEAVE_HIGH), dtype);
    }
    for (; i + VL <= width; i += VL) store_vec(dst, i, load(src + i) * scale, dtype);
    for (; i < width; i++) store_one(dst, i, src[i] * scale, dtype);
}

/* float16 from the lower half of each element. Its exponent's bias is 112 less than float32's. */
INLINE vf widen_halves(vu x) {
    vu code = x & 0x7fffu;
    vf magnitude = (vf)((code << 13) + (112u << 23));
    magnitude = choose((vi)(code < 0x400u), 2.0f * magnitude - 0x1p-14f, magnitude);
    vu special = (code << 13) + (224u << 23); /* infinity and NaN */
    magnitude = choose((vi)(code >= 0x7c00u), (vf)special, magnitude);
    return (vf)((vu)magnitude | ((x & 0x8000u) << 16));
}

/* ---- writing ---- */

/* The smallest float16 that is at least x, as bits, for x >= 0; the largest finite one where there is none. */
INLINE uint16_t scale_bits(float x) {
    if (x != x) return 0x7e00;
    if (x >= 65504) return 0x7bff;
    if (x < 0x1p-14f) { /* steps of 2^-24 */
        float steps = x * 0x1p24f;
        uint16_t whole = (uint16_t)steps;
        return (uint16_t)(whole + ((float)whole < steps));
    }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits >> 13) - (112u << 10) + ((bits & 0x1fffu) != 0));
}

/* The codes of x, which is within the format's largest numbers, in the lowest byte of each element: to nearest, ties to
 * even. NaN becomes whatever: its scale says NaN. */
INLINE vu narrow_to_bytes(vf x, int dtype) {
    if (dtype == INT8) return (vu)(x + ROUNDER) & 0xffu;
    vu bits = (vu)x & 0x7fffffffu;
    vu normal = ((bits + 0x7ffffu + ((bits >> 20) & 1u)) >> 20) - (120u << 3);
    vu small = (vu)((vf)bits * 512.0f + ROUNDER) & 0xffu; /* steps of 2^-9, eight of which are 2^-6 */
    vu code = (vu)choose((vi)((vf)bits < splat(0x1p-6f)), (vf)small, (vf)normal);
    return (code & 0x7fu) | (((vu)x >> 24) & 0x80u);
}

/* One head's vector to numbers and their scale. */
INLINE void quantize_row(const int dtype, const int kv_dtype, const void *src, int64_t width, uint8_t *numbers,
                         uint16_t *scale) {
    const float largest = kv_dtype == INT8 ? 127.0f : 448.0f;
    float amax = 0;
    int64_t i = 0;
    vf most = splat(0);
    for (; i + VL <= width; i += VL) {
        vf magnitude = (vf)((vu)load_vec(src, i, dtype) & 0x7fffffffu);
        /* NaN is kept: its comparison is false, and so is that of all that come later. */
        most = choose((vi)(magnitude <= most), most, choose((vi)(most == most), magnitude, most));
    }
    for (int lane = 0; lane < VL; lane++) amax = most[lane] <= amax || amax != amax ? amax : most[lane];
    for (; i < width; i++) {
        float magnitude = fabsf(load_one(src, i, dtype));
        amax = magnitude <= amax || amax != amax ? amax : magnitude;
    }
    *scale = scale_bits(amax / largest);
    /* A scale of 0 has a vector of zeros: 0 / 0 would be NaN. */
    float divisor = widen_halves((vu){*scale})[0];
    divisor = divisor < 0x1p-24f ? 0x1p-24f : divisor;
    for (i = 0; i < width; i += VL) {
        vf x = splat(0);
        int64_t count = min64(VL, width - i);
        if (count == VL)
            x = load_vec(src, i, dtype);
        else
            for (int64_t lane = 0; lane < count; lane++) x[lane] = load_one(src, i + lane, dtype);
        x = x / divisor;
        x = choose((vi)(x > splat(largest)), splat(largest), x);
        x = choose((vi)(x < splat(-largest)), splat(-largest), x);
        v_bytes bytes = __builtin_convertvector(__builtin_convertvector(narrow_to_bytes(x, kv_dtype), vh), v_bytes);
        memcpy(numbers + i, &bytes, (size_t)count);
    }
}

#endif
