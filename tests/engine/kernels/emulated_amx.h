/* What Intel's AMX does, in C: given to the compiler before a source of the kernels, it stands for the instructions of amx.h on a
 * CPU that lacks them. After Intel's Software Developer's Manual, volume 2, TDPBF16PS and TDPBSSD; but numbers below 2^-126 stay.
 */
#include <stdint.h>
#include <string.h>

#define HAS_AMX 1

static __thread union {
    float sums[16][16];
    int32_t counts[16][16];
    uint16_t pairs[16][32];
    int8_t quads[16][64];
    uint8_t bytes[16][64];
} amx_register[8];

/* Its members as amx.h has them; palette 0: released. */
static __thread struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_config;

#define AMX_UNUSED __attribute__((unused))

AMX_UNUSED static void amx_configure(const void *config) {
    memcpy(&amx_config, config, sizeof amx_config);
    memset(amx_register, 0, sizeof amx_register);
}

/* An instruction whose register is not configured, or whose operands do not fit together, is an error on the CPU too. */
static void amx_check(int is_right) {
    if (!is_right) __builtin_trap();
}

static void amx_check_register(int t) {
    amx_check(amx_config.palette == 1 && amx_config.rows[t] && amx_config.rows[t] <= 16);
    amx_check(amx_config.row_bytes[t] && amx_config.row_bytes[t] <= 64 && amx_config.row_bytes[t] % 4 == 0);
}

static void amx_check_product(int c, int a, int b) {
    amx_check_register(a);
    amx_check_register(b);
    amx_check_register(c);
    amx_check(c != a && c != b && a != b);
    amx_check(amx_config.rows[c] == amx_config.rows[a] && amx_config.row_bytes[a] == 4 * amx_config.rows[b]);
    amx_check(amx_config.row_bytes[c] == amx_config.row_bytes[b]);
}

AMX_UNUSED static void amx_zero(int t) {
    amx_check_register(t);
    memset(&amx_register[t], 0, sizeof amx_register[t]);
}

AMX_UNUSED static void amx_load(int t, const char *p, int64_t stride) {
    amx_check_register(t);
    memset(&amx_register[t], 0, sizeof amx_register[t]);
    for (int m = 0; m < amx_config.rows[t]; m++) memcpy(amx_register[t].bytes[m], p + m * stride, amx_config.row_bytes[t]);
}

AMX_UNUSED static void amx_store(int t, char *p, int64_t stride) {
    amx_check_register(t);
    for (int m = 0; m < amx_config.rows[t]; m++) memcpy(p + m * stride, amx_register[t].bytes[m], amx_config.row_bytes[t]);
}

static float amx_wide(uint16_t number) {
    uint32_t bits = (uint32_t)number << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

AMX_UNUSED static void amx_dot_pairs(int c, int a, int b) {
    amx_check_product(c, a, b);
    for (int m = 0; m < amx_config.rows[c]; m++) {
        for (int n = 0; n < amx_config.row_bytes[c] / 4; n++) {
            float sums[2] = {0, 0};
            for (int k = 0; k < amx_config.row_bytes[a] / 2; k++) {
                float x = amx_wide(amx_register[a].pairs[m][k]), w = amx_wide(amx_register[b].pairs[k / 2][2 * n + k % 2]);
                sums[k % 2] = __builtin_fmaf(x, w, sums[k % 2]);
            }
            amx_register[c].sums[m][n] += sums[0] + sums[1];
        }
    }
}

AMX_UNUSED static void amx_dot_quads(int c, int a, int b) {
    amx_check_product(c, a, b);
    for (int m = 0; m < amx_config.rows[c]; m++) {
        for (int n = 0; n < amx_config.row_bytes[c] / 4; n++) {
            for (int k = 0; k < amx_config.row_bytes[a]; k++)
                amx_register[c].counts[m][n] += amx_register[a].quads[m][k] * amx_register[b].quads[k / 4][4 * n + k % 4];
        }
    }
}

#define AMX_CONFIGURE(config) amx_configure(config)
#define AMX_RELEASE() ((void)(amx_config.palette = 0))
#define AMX_ZERO(t) amx_zero(t)
#define AMX_LOAD(t, p, stride) amx_load(t, (const char *)(p), stride)
#define AMX_STREAM AMX_LOAD
#define AMX_STORE(t, p, stride) amx_store(t, (char *)(p), stride)
#define AMX_DOT_PAIRS(c, a, b) amx_dot_pairs(c, a, b)
#define AMX_DOT_QUADS(c, a, b) amx_dot_quads(c, a, b)
