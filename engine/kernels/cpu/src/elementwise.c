/* What works on one token at a time: norms, activations, rotary embedding. */
#include "kernels.h"

#define SERIAL_NUMBERS (32 * 1024) /* fewer numbers than this are done before a second thread is awake */
#define ROWS_PER_TASK 8

/* Threads for `count` numbers. */
static int threads_for(int64_t count, int num_threads) { return count < SERIAL_NUMBERS ? 1 : num_threads; }

static int64_t num_row_tasks(int64_t num_rows) { return (num_rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK; }

/* ---- RMSNorm ---- */

typedef struct {
    const void *x, *weight;
    void *y;
    int64_t num_rows, width, stride;
    float eps;
} Norm;

INLINE void norm_row(const int dtype, const Norm *norm, int64_t row) {
    const void *x = at(norm->x, row * norm->stride, dtype);
    void *y = at_mut(norm->y, row * norm->width, dtype);
    int64_t width = norm->width, i = 0;
    vf squares = splat(0);
    for (; i + VL <= width; i += VL) {
        vf part = load_vec(x, i, dtype);
        squares = vfma(part, part, squares);
    }
    float sum = sum_lanes(squares);
    for (; i < width; i++) sum += load_one(x, i, dtype) * load_one(x, i, dtype);
    float scale = 1 / sqrtf(sum / (float)width + norm->eps);
    for (i = 0; i + VL <= width; i += VL)
        store_vec(y, i, load_vec(x, i, dtype) * scale * load_vec(norm->weight, i, dtype), dtype);
    for (; i < width; i++) store_one(y, i, load_one(x, i, dtype) * scale * load_one(norm->weight, i, dtype), dtype);
}

#define ROW_TASK(NAME, TYPE, ROW, DTYPE)                                                            \
    static void NAME(void *context, int64_t i) {                                                    \
        const TYPE *job = context;                                                                  \
        int64_t stop = min64(job->num_rows, (i + 1) * ROWS_PER_TASK);                               \
        for (int64_t row = i * ROWS_PER_TASK; row < stop; row++) ROW(DTYPE, job, row);              \
    }

ROW_TASK(norm_float32, Norm, norm_row, FLOAT32)
ROW_TASK(norm_bfloat16, Norm, norm_row, BFLOAT16)

/* y = x / sqrt(mean(x^2) + eps) * weight.
 *
 *   x       [num_rows, width] of `dtype`, rows `stride` elements apart
 *   weight  [width] of `dtype`
 *   y       [num_rows, width] of `dtype`, contiguous
 */
EXPORT void hc_rms_norm(int dtype, const void *x, const void *weight, void *y, int64_t num_rows, int64_t width,
                        int64_t stride, float eps, int num_threads) {
    Norm norm = {x, weight, y, num_rows, width, stride, eps};
    run_tasks(dtype == FLOAT32 ? norm_float32 : norm_bfloat16, &norm, num_row_tasks(num_rows),
              threads_for(num_rows * width, num_threads));
}

/* ---- activations ---- */

enum { SILU = 0, GELU_TANH = 1, RELU = 2 };

typedef struct {
    const void *x;
    void *y;
    int64_t num_rows, width;
    int kind, is_gated;
} Activation;

INLINE vf activated(vf x, int kind) {
    if (kind == RELU) return choose(x < splat(0), splat(0), x);
    if (kind == SILU) return x / (1.0f + vexp(-x));
    /* 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), with u = sqrt(2 / pi) (x + 0.044715 x^3). */
    vf u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x / (1.0f + vexp(-2.0f * u));
}

INLINE void activate_row(const int dtype, const Activation *job, int64_t row) {
    int64_t width = job->width, i = 0;
    const void *x = at(job->x, row * width * (job->is_gated ? 2 : 1), dtype);
    void *y = at_mut(job->y, row * width, dtype);
    for (; i + VL <= width; i += VL) {
        vf value = activated(load_vec(x, i, dtype), job->kind);
        if (job->is_gated) value *= load_vec(x, width + i, dtype);
        store_vec(y, i, value, dtype);
    }
    for (; i < width; i++) {
        float value = activated(splat(load_one(x, i, dtype)), job->kind)[0];
        if (job->is_gated) value *= load_one(x, width + i, dtype);
        store_one(y, i, value, dtype);
    }
}

ROW_TASK(activate_float32, Activation, activate_row, FLOAT32)
ROW_TASK(activate_bfloat16, Activation, activate_row, BFLOAT16)

/* y = activation(gate) * up, or activation(x).
 *
 *   x     [num_rows, 2 * width] of `dtype`, gate then up, where is_gated; else [num_rows, width]
 *   y     [num_rows, width] of `dtype`
 *   kind  0 SiLU, 1 GELU through tanh, 2 ReLU
 */
EXPORT void hc_activate(int dtype, const void *x, void *y, int64_t num_rows, int64_t width, int kind, int is_gated,
                        int num_threads) {
    Activation job = {x, y, num_rows, width, kind, is_gated};
    run_tasks(dtype == FLOAT32 ? activate_float32 : activate_bfloat16, &job, num_row_tasks(num_rows),
              threads_for(num_rows * width, num_threads));
}

/* ---- rotary embedding ---- */

typedef struct {
    void *x;
    const float *cos, *sin;
    int64_t num_rows, num_heads, head_dim, half, stride;
} Rope;

INLINE void rotate_row(const int dtype, const Rope *job, int64_t row) {
    const float *cos = job->cos + row * job->half, *sin = job->sin + row * job->half;
    int64_t half = job->half;
    for (int64_t head = 0; head < job->num_heads; head++) {
        void *x = at_mut(job->x, row * job->stride + head * job->head_dim, dtype);
        int64_t i = 0;
        for (; i + VL <= half; i += VL) {
            vf a = load_vec(x, i, dtype), b = load_vec(x, half + i, dtype), c = load(cos + i), s = load(sin + i);
            store_vec(x, i, a * c - b * s, dtype);
            store_vec(x, half + i, b * c + a * s, dtype);
        }
        for (; i < half; i++) {
            float a = load_one(x, i, dtype), b = load_one(x, half + i, dtype);
            store_one(x, i, a * cos[i] - b * sin[i], dtype);
            store_one(x, half + i, b * cos[i] + a * sin[i], dtype);
        }
    }
}

ROW_TASK(rotate_float32, Rope, rotate_row, FLOAT32)
ROW_TASK(rotate_bfloat16, Rope, rotate_row, BFLOAT16)

/* Turn the pairs (x[i], x[i + half]) of every head by the token's angles, in place.
 *
 *   x    [num_rows, num_heads, head_dim] of `dtype`, rows `stride` elements apart
 *   cos  [num_rows, half] float32, as sin
 */
EXPORT void hc_apply_rope(int dtype, void *x, const float *cos, const float *sin, int64_t num_rows, int64_t num_heads,
                          int64_t head_dim, int64_t half, int64_t stride, int num_threads) {
    Rope job = {x, cos, sin, num_rows, num_heads, head_dim, half, stride};
    run_tasks(dtype == FLOAT32 ? rotate_float32 : rotate_bfloat16, &job, num_row_tasks(num_rows),
              threads_for(num_rows * num_heads * head_dim, num_threads));
}
