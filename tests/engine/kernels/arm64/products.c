/* Products on a CPU of another kind: `products KIND DTYPE ROWS WIDTH DEPTH FOLDER` reads FOLDER/x and FOLDER/weight as
 * they lie in memory, packs the weight, multiplies, and writes FOLDER/y. KIND is `whole` or `int8`; the weight of the
 * latter are its numbers, and FOLDER/scale its scales. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int hc_pack(int, void *, int64_t, int64_t, int);
int hc_linear(int, int, const void *, const void *, const void *, const void *, void *, int64_t, int64_t, int64_t, int);
int hc_pack_int8(void *, void *, int64_t, int64_t, int);
int hc_linear_int8(int, int, const void *, const void *, const void *, const void *, const void *, void *, int64_t, int64_t,
                   int64_t, int);

#define THREADS 2

static void *read_file(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file) exit(2);
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    void *bytes = aligned_alloc(64, (size_t)(size + 127) / 64 * 64);
    if (!bytes || fread(bytes, 1, (size_t)size, file) != (size_t)size) exit(2);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    int dtype = atoi(argv[2]), failed;
    int64_t rows = atoll(argv[3]), width = atoll(argv[4]), depth = atoll(argv[5]);
    const char *folder = argv[6];
    size_t size = (size_t)(rows * width) * (dtype == 0 ? 4 : 2);
    void *x = read_file(folder, "x"), *weight = read_file(folder, "weight"), *y = malloc(size);
    if (strcmp(argv[1], "int8") == 0) {
        void *scale = read_file(folder, "scale");
        failed = hc_pack_int8(weight, scale, width, depth, THREADS) ||
                 hc_linear_int8(dtype, dtype, x, weight, scale, NULL, NULL, y, rows, width, depth, THREADS);
    } else {
        failed = hc_pack(dtype, weight, width, depth, THREADS) ||
                 hc_linear(dtype, dtype, x, weight, NULL, NULL, y, rows, width, depth, THREADS);
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/y", folder);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(y, 1, size, file) != size || fclose(file)) return 2;
    return failed ? 1 : 0;
}
