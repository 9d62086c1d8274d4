/* The kernels, for those who call them from C. What the arguments are stands where each one is defined. */
#ifndef HEADCOUNT_KERNELS_H
#define HEADCOUNT_KERNELS_H

#include "common.h"

EXPORT int hc_pack(int dtype, void *weight, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_gather_rows(int dtype, const void *weight, const int64_t *row_ids, void *out, int64_t num_ids,
                           int64_t width, int64_t depth, int num_threads);
EXPORT int hc_linear(int dtype, int y_dtype, const void *x, const void *weight, const void *bias, const void *residual,
                     void *y, int64_t num_rows, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_quantize_int8(int dtype, const void *weight, int8_t *numbers, uint16_t *scale, int64_t width,
                             int64_t depth, int num_threads);
EXPORT int hc_pack_int8(int8_t *weight, uint16_t *scale, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_gather_rows_int8(int dtype, const int8_t *weight, const uint16_t *scale, const int64_t *row_ids,
                                void *out, int64_t num_ids, int64_t width, int64_t depth, int num_threads);
EXPORT int hc_linear_int8(int dtype, int y_dtype, const void *x, const int8_t *weight, const uint16_t *scale,
                          const void *bias, const void *residual, void *y, int64_t num_rows, int64_t width,
                          int64_t depth, int num_threads);
EXPORT void hc_rms_norm(int dtype, const void *x, const void *weight, void *y, int64_t num_rows, int64_t width,
                        int64_t stride, float eps, int num_threads);
EXPORT void hc_activate(int dtype, const void *x, void *y, int64_t num_rows, int64_t width, int kind, int is_gated,
                        int num_threads);
EXPORT void hc_apply_rope(int dtype, void *x, const float *cos, const float *sin, int64_t num_rows, int64_t num_heads,
                          int64_t head_dim, int64_t half, int64_t stride, int num_threads);
EXPORT void hc_store_kv(int dtype, int kv_dtype, const void *src, void *cache, uint16_t *scale,
                        const int64_t *slot_mapping, int64_t num_rows, int64_t num_heads, int64_t head_dim,
                        int64_t stride, int num_threads);

/* What is asked of hc_paged_attention. engine/kernels/cpu/attention.py has the same members in the same order.
 *
 *   q              [num_tokens, num_q_heads, k_head_dim] of `dtype`, tokens `q_stride` elements apart
 *   k_cache        [num_blocks, block_size, num_kv_heads, k_head_dim] of `kv_dtype`
 *   v_cache        [num_blocks, block_size, num_kv_heads, v_head_dim] of `kv_dtype`
 *   k_scale        [num_blocks, block_size, num_kv_heads] float16 where `kv_dtype` has 8 bits; as v_scale
 *   out            [num_tokens, num_q_heads, v_head_dim] of `dtype`
 *   block_tables   [num_seqs, max_blocks]
 *   cu_seqlens_q   [num_seqs + 1]
 *   seq_lens       [num_seqs], this step's tokens included
 *   alibi_slopes   [num_q_heads], or NULL
 *   sinks          [num_q_heads], or NULL
 *   window         keys that a query sees, itself among them
 *   softcap        0: none
 *   kv_dtype       `dtype`, or one of 8 bits
 */
typedef struct {
    const void *q, *k_cache, *v_cache;
    const uint16_t *k_scale, *v_scale;
    void *out;
    const int64_t *block_tables, *cu_seqlens_q, *seq_lens;
    const float *alibi_slopes, *sinks;
    int64_t q_stride, num_tokens, num_seqs, max_blocks, block_size;
    int64_t num_q_heads, num_kv_heads, k_head_dim, v_head_dim, window;
    float softmax_scale, softcap;
    int32_t dtype, kv_dtype, num_threads;
} Attention;

EXPORT int hc_paged_attention(const Attention *args);

EXPORT void hc_argmax(const float *logits, int64_t *out, int64_t num_rows, int64_t vocab_size, int num_threads);
EXPORT int hc_draw(const float *logits, const float *temperature, const double *uniform, int64_t *out, int64_t num_rows,
                   int64_t vocab_size, int num_threads);
EXPORT int hc_draw_truncated(const float *logits, const float *temperature, const double *uniform, const int64_t *top_k,
                             const float *top_p, const float *min_p, int64_t *out, int64_t num_rows, int64_t vocab_size,
                             int num_threads);

#endif
