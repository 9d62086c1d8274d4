/* The write to the cache: rows as they are, or in 8 bits. */
#include "eight_bit.h"
#include "kernels.h"

#define TOKENS_PER_TASK 8
#define SERIAL_NUMBERS (32 * 1024) /* fewer numbers than this are written before a second thread is awake */

typedef struct {
    const void *src;
    void *cache;
    uint16_t *scale;
    const int64_t *slot_mapping;
    int64_t num_rows, num_heads, head_dim, stride;
    int dtype, kv_dtype;
} Store;

INLINE void quantize_token(const int dtype, const int kv_dtype, const Store *job, int64_t row) {
    int64_t slot = job->slot_mapping[row];
    for (int64_t head = 0; head < job->num_heads; head++) {
        int64_t place = slot * job->num_heads + head;
        quantize_row(dtype, kv_dtype, at(job->src, row * job->stride + head * job->head_dim, dtype), job->head_dim,
                     (uint8_t *)job->cache + place * job->head_dim, job->scale + place);
    }
}

static void copy_token(const Store *job, int64_t row) {
    int64_t width = job->num_heads * job->head_dim;
    memcpy(at_mut(job->cache, job->slot_mapping[row] * width, job->dtype), at(job->src, row * job->stride, job->dtype),
           (size_t)(width * size_of(job->dtype)));
}

static void store_token(const Store *job, int64_t row) {
    if (!is_eight_bit(job->kv_dtype))
        copy_token(job, row);
    else if (job->dtype == FLOAT32 && job->kv_dtype == INT8)
        quantize_token(FLOAT32, INT8, job, row);
    else if (job->dtype == FLOAT32)
        quantize_token(FLOAT32, E4M3, job, row);
    else if (job->kv_dtype == INT8)
        quantize_token(BFLOAT16, INT8, job, row);
    else
        quantize_token(BFLOAT16, E4M3, job, row);
}

static void store_tokens(void *context, int64_t i) {
    const Store *job = context;
    int64_t stop = min64(job->num_rows, (i + 1) * TOKENS_PER_TASK);
    for (int64_t row = i * TOKENS_PER_TASK; row < stop; row++) store_token(job, row);
}

/* Write tokens to their slots.
 *
 *   src           [num_rows, num_heads, head_dim] of `dtype`, rows `stride` elements apart
 *   cache         [num_blocks, block_size, num_heads, head_dim] of `kv_dtype`: `dtype`, or one of 8 bits
 *   scale         [num_blocks, block_size, num_heads] float16 where `kv_dtype` has 8 bits
 *   slot_mapping  [num_rows]
 */
EXPORT void hc_store_kv(int dtype, int kv_dtype, const void *src, void *cache, uint16_t *scale,
                        const int64_t *slot_mapping, int64_t num_rows, int64_t num_heads, int64_t head_dim,
                        int64_t stride, int num_threads) {
    Store job = {src, cache, scale, slot_mapping, num_rows, num_heads, head_dim, stride, dtype, kv_dtype};
    int is_small = num_rows * num_heads * head_dim < SERIAL_NUMBERS;
    run_tasks(store_tokens, &job, (num_rows + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK, is_small ? 1 : num_threads);
}
