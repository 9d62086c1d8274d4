/* Weights as 8-bit integers: rounded, packed for linear_int8.c, and read again row by row. */
#include "groups8.h"
#include "kernels.h"

/* ---- rounding ---- */

typedef struct {
    const void *weight;
    int8_t *numbers;
    uint16_t *scale;
    Cut cut;
    int dtype;
} Quantizing;

/* The smallest bfloat16 that is at least x, for x >= 0: no number is cut off. */
INLINE uint16_t bfloat16_above(float x) {
    uint16_t nearest;
    store_one(&nearest, 0, x, BFLOAT16);
    return (uint16_t)(nearest + (load_one(&nearest, 0, BFLOAT16) < x));
}

INLINE void quantize_row(const int dtype, const Quantizing *q, int64_t row) {
    Cut cut = q->cut;
    for (int64_t group = 0; group < cut.num_groups; group++) {
        vf numbers[GROUP_VECTORS];
        int64_t first = group * GROUP, stored = min64(GROUP, cut.num_quads * 4 - first);
        load_group(dtype, q->weight, row * cut.depth + first, min64(GROUP, cut.depth - first), 1.0f / GROUP, numbers);
        uint16_t *scale = q->scale + row * cut.num_groups + group;
        *scale = bfloat16_above(largest_of(numbers) / LARGEST);
        /* The least divisor concerns groups of zeros alone: 0 / 0 would be NaN. */
        float step = load_one(scale, 0, BFLOAT16), divisor = step < TINY ? TINY : step;
        int8_t rounded[GROUP];
        for (int i = 0; i < GROUP_VECTORS; i++) {
            vb narrow = __builtin_convertvector(round_vec(numbers[i] / divisor), vb);
            memcpy(rounded + i * VL, &narrow, VL);
        }
        memcpy(q->numbers + row * cut.num_quads * 4 + first, rounded, (size_t)stored);
    }
}

static void quantize_row_of(void *context, int64_t row) {
    const Quantizing *q = context;
    if (q->dtype == FLOAT32)
        quantize_row(FLOAT32, q, row);
    else
        quantize_row(BFLOAT16, q, row);
}

/* A weight as integers and scales.
 *
 *   weight   [width, depth] of `dtype`
 *   numbers  [width, depth rounded up to a multiple of 4] int8
 *   scale    [width, depth / GROUP rounded up] bfloat16
 */
EXPORT void hc_quantize_int8(int dtype, const void *weight, int8_t *numbers, uint16_t *scale, int64_t width,
                             int64_t depth, int num_threads) {
    Quantizing quantizing = {weight, numbers, scale, cut_of(depth), dtype};
    run_tasks(quantize_row_of, &quantizing, width, num_threads);
}

/* ---- packing ---- */

typedef struct {
    int8_t *numbers;
    uint16_t *scale;
    Cut cut;
    int failed;
} Packing;

static void pack_panel(void *context, int64_t i) {
    Packing *p = context;
    int8_t *numbers = p->numbers + i * PANEL * p->cut.num_quads * 4, *panel = make_panel(p->cut);
    uint16_t *scale = p->scale + i * PANEL * p->cut.num_groups;
    if (!panel) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    arrange((Weight){numbers, scale}, PANEL, p->cut, panel);
    memcpy(numbers, panel, number_bytes(p->cut));
    memcpy(scale, panel + number_bytes(p->cut), scale_bytes(p->cut));
    free(panel);
}

/* Pack a weight in place: each whole panel of its rows becomes [num_quads, PANEL, 4], its scales [num_groups, PANEL];
 * rows that make up no panel stay as they are, behind the others.
 *
 *   weight  [width, depth rounded up to a multiple of 4] int8
 *   scale   [width, depth / GROUP rounded up] bfloat16
 *
 * Returns 0, or -1 where there is no memory for a panel.
 */
EXPORT int hc_pack_int8(int8_t *weight, uint16_t *scale, int64_t width, int64_t depth, int num_threads) {
    Packing packing = {weight, scale, cut_of(depth), 0};
    run_tasks(pack_panel, &packing, width / PANEL, num_threads);
    return packing.failed ? -1 : 0;
}

/* ---- rows ---- */

typedef struct {
    Weight weight;
    Cut cut;
    const int64_t *row_ids;
    void *out;
    int64_t width;
    int dtype;
} Gathering;

/* Number k of a row, times its scale. */
INLINE float number_of(const Gathering *g, int64_t row, int64_t k) {
    int64_t c = row % PANEL, group = k / GROUP;
    if (row - c + PANEL > g->width) {
        Weight rest = rows_from(g->weight, row, g->cut);
        return (float)rest.numbers[k] * load_one(rest.scale, group, BFLOAT16);
    }
    Weight panel = rows_from(g->weight, row - c, g->cut);
    int8_t number = (int8_t)(panel.numbers[k / 4 * PANEL * 4 + c * 4 + k % 4] - PACKED_OFFSET);
    return (float)number * load_one(panel.scale, group * PANEL + c, BFLOAT16);
}

static void gather_row(void *context, int64_t i) {
    const Gathering *g = context;
    for (int64_t first = 0; first < g->cut.depth; first += GROUP) {
        float numbers[GROUP];
        int64_t count = min64(GROUP, g->cut.depth - first);
        for (int64_t k = 0; k < count; k++) numbers[k] = number_of(g, g->row_ids[i], first + k);
        if (count == GROUP) {
            vf turned[GROUP_VECTORS];
            load_group(FLOAT32, numbers, 0, GROUP, 1, turned);
            for (int n = 0; n < GROUP_VECTORS; n++) store(numbers + n * VL, turned[n]);
        }
        for (int64_t k = 0; k < count; k++) store_one(g->out, i * g->cut.depth + first + k, numbers[k], g->dtype);
    }
}

/* Rows of a packed weight in `dtype`: out[n] = weight[row_ids[n]], turned back.
 *
 *   weight, scale  packed
 *   row_ids        [num_ids], each in [0, width)
 *   out            [num_ids, depth] of `dtype`
 */
EXPORT void hc_gather_rows_int8(int dtype, const int8_t *weight, const uint16_t *scale, const int64_t *row_ids,
                                void *out, int64_t num_ids, int64_t width, int64_t depth, int num_threads) {
    Gathering gathering = {{weight, scale}, cut_of(depth), row_ids, out, width, dtype};
    run_tasks(gather_row, &gathering, num_ids, num_ids > 16 ? num_threads : 1);
}
