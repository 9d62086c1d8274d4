/* Intel's AMX: eight registers of up to 16 rows of 64 bytes, and products of two of them. A thread configures them before it uses
 * them and releases them afterwards, and calls nothing in between that does the same, as run_tasks may; engine/kernels/levels.py
 * asks the system for them.
 *
 *   AMX_DOT_PAIRS(c, a, b)  c[m][n] += sum over k of a[m][k] * b[k / 2][2 n + k % 2] of bfloat16, in float32
 *   AMX_DOT_QUADS(c, a, b)  c[m][n] += sum over k of a[m][k] * b[k / 4][4 n + k % 4] of int8, in int32; exact
 *
 * AMX_STREAM loads what is not needed again soon, so that it does not evict what is.
 *
 * A row of c depends on the same row of a, and on no other. Defined from outside, with HAS_AMX, they stand for instructions that
 * the CPU lacks, as the tests do. The compilers' own functions are not used: GCC 12's may be moved before the stores that
 * fill what they read.
 */
#ifndef HEADCOUNT_AMX_H
#define HEADCOUNT_AMX_H

#include "common.h"

#define AMX_ROWS 16
#define AMX_BYTES 64 /* of a row */
#define AMX_STEP 32  /* columns of bfloat16 in a row */

/* How many rows each register has, and bytes a row; as the instruction reads it. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} AmxConfig;

#if !defined(HAS_AMX) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#define HAS_AMX 1
#define AMX_CONFIGURE(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(config)))
#define AMX_RELEASE() __asm__ volatile("tilerelease" ::)
#define AMX_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define AMX_LOAD(t, p, stride) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"((const void *)(p)), "r"((int64_t)(stride)) : "memory")
#define AMX_STREAM(t, p, stride) \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"((const void *)(p)), "r"((int64_t)(stride)) : "memory")
#define AMX_STORE(t, p, stride) \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"((void *)(p)), "r"((int64_t)(stride)) : "memory")
#define AMX_DOT_PAIRS(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#define AMX_DOT_QUADS(c, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)
#endif

#ifndef HAS_AMX
#define HAS_AMX 0
#endif
#if !HAS_AMX /* compiled, and never reached */
#define AMX_CONFIGURE(config) ((void)(config))
#define AMX_RELEASE() ((void)0)
#define AMX_ZERO(t) ((void)0)
#define AMX_LOAD(t, p, stride) ((void)(p), (void)(stride))
#define AMX_STREAM(t, p, stride) ((void)(p), (void)(stride))
#define AMX_STORE(t, p, stride) ((void)(p), (void)(stride))
#define AMX_DOT_PAIRS(c, a, b) ((void)0)
#define AMX_DOT_QUADS(c, a, b) ((void)0)
#endif

/* Where bfloat16 is multiplied, registers 0 to 3 are sums. */
#define AMX_ZERO_SUMS() \
    do {                \
        AMX_ZERO(0);    \
        AMX_ZERO(1);    \
        AMX_ZERO(2);    \
        AMX_ZERO(3);    \
    } while (0)

/* Ready for products: registers below `num_for_rows` hold tiles of `num_rows` rows, or AMX_ROWS if there are more. */
INLINE void configure_tiles(int num_for_rows, int64_t num_rows) {
    AmxConfig config = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = AMX_BYTES;
        config.rows[t] = (uint8_t)(t < num_for_rows ? min64(num_rows, AMX_ROWS) : AMX_ROWS);
    }
    AMX_CONFIGURE(&config);
}

/* Where the tile with row `row`, a multiple of AMX_ROWS, begins: the last one ends where the rows do, and has some of those before
 * if it is not the only one. That takes no other configuration. */
INLINE int64_t tile_begin(int64_t row, int64_t num_rows) { return min64(row, max64(0, num_rows - AMX_ROWS)); }

#endif
