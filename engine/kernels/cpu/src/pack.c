/* Weights are packed for linear.c, in place, and read again row by row. */
#include "kernels.h"
#include "panels.h"

#define GATHER_ROWS 4 /* that a task reads */

typedef struct {
    void *weight;
    int64_t width, depth;
    int dtype, failed;
} Packing;

static void pack_panel(void *context, int64_t i) {
    Packing *p = context;
    size_t size = (size_t)(PANEL * p->depth * size_of(p->dtype));
    void *panel = at_mut(p->weight, i * PANEL * p->depth, p->dtype), *packed = malloc(size);
    if (!packed) {
        __atomic_store_n(&p->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    if (p->dtype == FLOAT32)
        fill_panel(FLOAT32, panel, PANEL, p->depth, packed);
    else
        fill_panel(BFLOAT16, panel, PANEL, p->depth, packed);
    memcpy(panel, packed, size);
    free(packed);
}

/* Pack a weight [width, depth] of `dtype` in place, each whole panel of its rows (place_of); rows that make up no panel
 * stay as they are, behind the others. Returns 0, or -1 where there is no memory for a panel. */
EXPORT int hc_pack(int dtype, void *weight, int64_t width, int64_t depth, int num_threads) {
    Packing packing = {weight, width, depth, dtype, 0};
    run_tasks(pack_panel, &packing, width / PANEL, num_threads);
    return packing.failed ? -1 : 0;
}

typedef struct {
    const void *weight;
    const int64_t *row_ids;
    void *out;
    int64_t num_ids, width, depth;
} Gathering;

INLINE void gather_rows(const int dtype, const Gathering *g, int64_t i) {
    for (int64_t n = i * GATHER_ROWS; n < min64(g->num_ids, (i + 1) * GATHER_ROWS); n++) {
        int64_t row = g->row_ids[n], first = row / PANEL * PANEL, size = size_of(dtype);
        char *out = (char *)g->out + n * g->depth * size;
        if (first + PANEL > g->width) {
            memcpy(out, at(g->weight, row * g->depth, dtype), (size_t)(g->depth * size));
            continue;
        }
        const char *panel = at(g->weight, first * g->depth, dtype);
        for (int64_t k = 0; k < g->depth; k++)
            memcpy(out + k * size, panel + place_of(dtype, k, row - first, g->depth) * size, (size_t)size);
    }
}

static void gather_float32(void *gathering, int64_t i) { gather_rows(FLOAT32, gathering, i); }

static void gather_bfloat16(void *gathering, int64_t i) { gather_rows(BFLOAT16, gathering, i); }

/* Rows of a packed weight: out[n] = weight[row_ids[n]].
 *
 *   weight   [width, depth] of `dtype`, packed
 *   row_ids  [num_ids], each in [0, width)
 *   out      [num_ids, depth] of `dtype`
 */
EXPORT void hc_gather_rows(int dtype, const void *weight, const int64_t *row_ids, void *out, int64_t num_ids,
                           int64_t width, int64_t depth, int num_threads) {
    Gathering gathering = {weight, row_ids, out, num_ids, width, depth};
    run_tasks(dtype == FLOAT32 ? gather_float32 : gather_bfloat16, &gathering,
              (num_ids + GATHER_ROWS - 1) / GATHER_ROWS, num_ids > 16 ? num_threads : 1);
}
