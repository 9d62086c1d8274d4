/* Threads: OpenMP's, of the runtime that PyTorch has already loaded, so that one team serves both. */
#include "common.h"

HIDDEN void run_tasks(Task task, void *context, int64_t num_tasks, int num_threads) {
    if (num_threads > num_tasks) num_threads = (int)num_tasks;
    if (num_threads <= 1) {
        for (int64_t i = 0; i < num_tasks; i++) task(context, i);
        return;
    }
    /* Dynamic: a core that other programs use as well gets fewer tasks. */
#pragma omp parallel for num_threads(num_threads) schedule(dynamic)
    for (int64_t i = 0; i < num_tasks; i++) task(context, i);
}
