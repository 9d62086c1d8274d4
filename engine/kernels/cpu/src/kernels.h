/* The kernels, for those who call them from C. What the arguments are stands where each one is defined. */
#ifndef HEADCOUNT_KERNELS_H
#define HEADCOUNT_KERNELS_H

#include "common.h"

EXPORT int hc_pack(int dtype, void *weight, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_gather_rows(int dtype, const void *weight, const int64_t *row_ids, void *out, int64_t num_ids,
                           int64_t width, int64_t depth, int num_threads);
EXPORT int hc_linear(int dtype, const void *x, const void *weight, const void *bias, const void *residual, void *y,
                     int64_t num_rows, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_quantize_int8(int dtype, const void *weight, int8_t *numbers, uint16_t *scale, int64_t width,
                             int64_t depth, int num_threads);
EXPORT int hc_pack_int8(int8_t *weight, uint16_t *scale, int64_t width, int64_t depth, int num_threads);
EXPORT void hc_gather_rows_int8(int dtype, const int8_t *weight, const uint16_t *scale, const int64_t *row_ids,
                                void *out, int64_t num_ids, int64_t width, int64_t depth, int num_threads);
EXPORT int hc_linear_int8(int dtype, const void *x, const int8_t *weight, const uint16_t *scale, const void *bias,
                          const void *residual, void *y, int64_t num_rows, int64_t width, int64_t depth,
                          int num_threads);
EXPORT void hc_rms_norm(int dtype, const void *x, const void *weight, void *y, int64_t num_rows, int64_t width,
                        int64_t stride, float eps, int num_threads);
EXPORT void hc_activate(int dtype, const void *x, void *y, int64_t num_rows, int64_t width, int kind, int is_gated,
                        int num_threads);
EXPORT void hc_apply_rope(int dtype, void *x, const float *cos, const float *sin, int64_t num_rows, int64_t num_heads,
                          int64_t head_dim, int64_t half, int64_t stride, int num_threads);
EXPORT void hc_store_rows(const char *src, char *cache, const int64_t *slot_mapping, int64_t num_rows,
                          int64_t row_bytes, int64_t stride_bytes, int num_threads);
EXPORT int hc_paged_attention(int dtype, const void *q, const void *k_cache, const void *v_cache, void *out,
                              const int64_t *block_tables, const int64_t *cu_seqlens_q, const int64_t *seq_lens,
                              int64_t q_stride, int64_t num_seqs, int64_t max_blocks, int64_t block_size,
                              int64_t num_q_heads, int64_t num_kv_heads, int64_t k_head_dim, int64_t v_head_dim,
                              int64_t window, float softmax_scale, int num_threads);

EXPORT void hc_argmax(const float *logits, int64_t *out, int64_t num_rows, int64_t vocab_size, int num_threads);
EXPORT int hc_draw(const float *logits, const float *temperature, const double *uniform, int64_t *out, int64_t num_rows,
                   int64_t vocab_size, int num_threads);
EXPORT int hc_draw_truncated(const float *logits, const float *temperature, const double *uniform, const int64_t *top_k,
                             const float *top_p, const float *min_p, int64_t *out, int64_t num_rows, int64_t vocab_size,
                             int num_threads);

#endif
