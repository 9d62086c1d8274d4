/* All layers of a decoder in one call: the kernels one after the other, as engine/models/decoder.py calls them.
 *
 * At one token a step, a layer's ten calls from Python take as long as a third of its arithmetic. The results are
 * those of the separate calls, bit by bit.
 */
#include "kernels.h"

/* What a layer is, fixed when the model is loaded. engine/kernels/cpu/layers.py has the same members in the same order. */
typedef struct {
    const void *attention_norm, *qkv, *qkv_bias, *o, *o_bias; /* weights and biases; a bias may be NULL */
    const void *mlp_norm, *up, *up_bias, *down, *down_bias;
    void *k_cache, *v_cache;
    uint16_t *k_scale, *v_scale; /* NULL where the cache has no scales */
    const void *qkv_scale, *o_scale, *up_scale, *down_scale; /* of weights that are 8-bit integers; else NULL */
    int64_t num_q_heads, num_kv_heads, k_head_dim, v_head_dim, window, intermediate_size, group;
    float softmax_scale;
} Layer;

/* What all layers of a step share. */
typedef struct {
    void *x; /* [num_tokens, hidden_size], the residual stream: changed in place */
    void *normed, *qkv, *attended, *up, *activated; /* scratch: as wide as the widest layer needs, num_tokens high */
    const float *cos, *sin; /* [num_tokens, half], or NULL without rotary embedding */
    const int64_t *slot_mapping, *block_tables; /* [num_groups, num_tokens], [num_groups, num_seqs, max_blocks] */
    const int64_t *cu_seqlens_q, *seq_lens;
    int64_t num_tokens, num_seqs, max_blocks, block_size, hidden_size, half;
    float eps;
    int32_t dtype, kv_dtype, activation, is_gated, num_threads;
} Step;

/* y = x W^T (+ bias) (+ residual); W has 8 bits where it has scales. */
static int linear(const Step *s, const void *x, const void *weight, const void *scale, const void *bias, const void *residual,
                  void *y, int64_t width, int64_t depth) {
    if (scale)
        return hc_linear_int8(s->dtype, s->dtype, x, weight, scale, bias, residual, y, s->num_tokens, width, depth,
                              s->num_threads);
    return hc_linear(s->dtype, s->dtype, x, weight, bias, residual, y, s->num_tokens, width, depth, s->num_threads);
}

static int attention_half(const Layer *l, const Step *s) {
    int64_t q_width = l->num_q_heads * l->k_head_dim, k_width = l->num_kv_heads * l->k_head_dim;
    int64_t v_width = l->num_kv_heads * l->v_head_dim, width = q_width + k_width + v_width;
    int64_t size = size_of(s->dtype);
    hc_rms_norm(s->dtype, s->x, l->attention_norm, s->normed, s->num_tokens, s->hidden_size, s->hidden_size, s->eps,
                s->num_threads);
    int failed = linear(s, s->normed, l->qkv, l->qkv_scale, l->qkv_bias, NULL, s->qkv, width, s->hidden_size);
    if (s->cos)
        hc_apply_rope(s->dtype, s->qkv, s->cos, s->sin, s->num_tokens, l->num_q_heads + l->num_kv_heads, l->k_head_dim,
                      s->half, width, s->num_threads);
    const int64_t *slots = s->slot_mapping + l->group * s->num_tokens;
    const int64_t *tables = s->block_tables + l->group * s->num_seqs * s->max_blocks;
    char *k = (char *)s->qkv + q_width * size, *v = k + k_width * size;
    hc_store_kv(s->dtype, s->kv_dtype, k, l->k_cache, l->k_scale, slots, s->num_tokens, l->num_kv_heads, l->k_head_dim,
                width, s->num_threads);
    hc_store_kv(s->dtype, s->kv_dtype, v, l->v_cache, l->v_scale, slots, s->num_tokens, l->num_kv_heads, l->v_head_dim,
                width, s->num_threads);
    failed |= hc_paged_attention(&(Attention){
        .q = s->qkv, .k_cache = l->k_cache, .v_cache = l->v_cache, .k_scale = l->k_scale, .v_scale = l->v_scale,
        .out = s->attended, .block_tables = tables, .cu_seqlens_q = s->cu_seqlens_q, .seq_lens = s->seq_lens,
        .q_stride = width, .num_tokens = s->num_tokens, .num_seqs = s->num_seqs, .max_blocks = s->max_blocks,
        .block_size = s->block_size, .num_q_heads = l->num_q_heads, .num_kv_heads = l->num_kv_heads,
        .k_head_dim = l->k_head_dim, .v_head_dim = l->v_head_dim, .window = l->window,
        .softmax_scale = l->softmax_scale, .dtype = s->dtype, .kv_dtype = s->kv_dtype, .num_threads = s->num_threads,
    });
    return failed | linear(s, s->attended, l->o, l->o_scale, l->o_bias, s->x, s->x, s->hidden_size,
                           l->num_q_heads * l->v_head_dim);
}

static int mlp_half(const Layer *l, const Step *s) {
    int64_t up_width = l->intermediate_size * (s->is_gated ? 2 : 1);
    hc_rms_norm(s->dtype, s->x, l->mlp_norm, s->normed, s->num_tokens, s->hidden_size, s->hidden_size, s->eps,
                s->num_threads);
    int failed = linear(s, s->normed, l->up, l->up_scale, l->up_bias, NULL, s->up, up_width, s->hidden_size);
    hc_activate(s->dtype, s->up, s->activated, s->num_tokens, l->intermediate_size, s->activation, s->is_gated,
                s->num_threads);
    return failed | linear(s, s->activated, l->down, l->down_scale, l->down_bias, s->x, s->x, s->hidden_size,
                           l->intermediate_size);
}

/* Returns 0, or -1 where there is no memory for scratch. */
EXPORT int hc_layers(const Layer *layers, int64_t num_layers, const Step *step) {
    int failed = 0;
    for (int64_t i = 0; i < num_layers && !failed; i++)
        failed = attention_half(&layers[i], step) | mlp_half(&layers[i], step);
    return failed;
}
