/* How the panels of a weight are shared out: among tasks, and of a task among its turns. */
#ifndef HEADCOUNT_SHARES_H
#define HEADCOUNT_SHARES_H

#include "common.h"

/* Tasks of a thread. A core that other programs use as well gets fewer of them done, and at the end threads wait for
 * half of one. Where each begins with what it reads from memory, many cost more than they save. */
#define FEW_TASKS 4
#define MANY_TASKS 16

/* Into how many tasks `count` parts are shared out: as many for each thread (`wanted`), of at most `most` parts, but of
 * `least` where there are enough for all threads. */
INLINE int64_t num_shares(int64_t count, int64_t least, int64_t most, int wanted, int num_threads) {
    int64_t shares = min64(max64((count + most - 1) / most, wanted * num_threads), count / least);
    return min64(count, max64(shares / num_threads * num_threads, num_threads));
}

/* The first part of share i. */
INLINE int64_t share_begin(int64_t i, int64_t count, int64_t num_shares) { return i * count / num_shares; }

/* Parts [first, last), and where the thread that has them goes on; -1: nowhere. */
typedef struct {
    int64_t first, last, later;
} Share;

/* Share i. Threads take turns, more or less. */
INLINE Share share_of(int64_t i, int64_t count, int64_t num_shares, int num_threads) {
    int64_t turn = i + num_threads;
    return (Share){share_begin(i, count, num_shares), share_begin(i + 1, count, num_shares),
                   turn < num_shares ? share_begin(turn, count, num_shares) : -1};
}

/* How many of `left` panels to multiply at once, `most` at most: as equal parts as possible. */
INLINE int64_t equal_part(int64_t left, int64_t most) {
    int64_t num_parts = (left + most - 1) / most;
    return (left + num_parts - 1) / num_parts;
}

#endif
