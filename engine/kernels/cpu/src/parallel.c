/* A team of threads that share tasks, and never wait for one another to start.
 *
 * The caller works too, and when no task is left it waits only for helpers that are in the middle of one. So a helper
 * whose core is busy with another program costs its share of the work and nothing more; an OpenMP team would wait at
 * the end of each region until the system lets the late thread run, which takes milliseconds where a task takes tens
 * of microseconds. Helpers look out for the next job for a moment before they sleep: within a step jobs follow each
 * other closely, and waking a thread takes longer than most of them.
 */
#include "common.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#define MAX_HELPERS 255
#define LOOKOUT_NS 100000 /* longer than Python's pauses between two kernels, shorter than those between two steps */
#define OPEN (1u << 31)

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/* The job of the moment. Its plain members change only while no helper is in it. */
static struct {
    Task task;
    void *context;
    int64_t num_tasks;
    int num_helpers;
    _Alignas(64) _Atomic int64_t next;     /* first task that nobody has taken */
    _Alignas(64) _Atomic uint32_t members; /* OPEN while helpers may come in, plus the number that are in */
    _Alignas(64) _Atomic uint32_t number;  /* of the job, counted up */
} job;

static pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER; /* held by the thread whose job it is */
static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;   /* guards going to sleep */
static pthread_cond_t bell = PTHREAD_COND_INITIALIZER;
static _Atomic int num_asleep;
static int num_started; /* helpers, ever; changed by the caller only */

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void work(void) {
    for (int64_t i; (i = atomic_fetch_add_explicit(&job.next, 1, memory_order_relaxed)) < job.num_tasks;)
        job.task(job.context, i);
}

static void sleep_until_rung(uint32_t seen) {
    pthread_mutex_lock(&door);
    atomic_fetch_add(&num_asleep, 1);
    /* Sequentially consistent with run_tasks, which counts the number up before it looks for sleepers. */
    while (atomic_load(&job.number) == seen) pthread_cond_wait(&bell, &door);
    atomic_fetch_sub(&num_asleep, 1);
    pthread_mutex_unlock(&door);
}

/* The number of a job that is not `seen`. */
static uint32_t await_job(uint32_t seen) {
    int64_t deadline = 0;
    for (int64_t turns = 1;; turns++) {
        uint32_t number = atomic_load_explicit(&job.number, memory_order_acquire);
        if (number != seen) return number;
        RELAX();
        if (turns % 64) continue;
        int64_t now = now_ns();
        if (!deadline) deadline = now + LOOKOUT_NS;
        if (now > deadline) sleep_until_rung(seen);
    }
}

static void *help(void *argument) {
    int index = (int)(intptr_t)argument;
    for (uint32_t seen = 0;;) {
        seen = await_job(seen);
        uint32_t members = atomic_load_explicit(&job.members, memory_order_relaxed);
        while (members & OPEN) {
            if (!atomic_compare_exchange_weak_explicit(&job.members, &members, members + 1, memory_order_acquire,
                                                       memory_order_relaxed))
                continue;
            if (index < job.num_helpers) work();
            atomic_fetch_sub_explicit(&job.members, 1, memory_order_release);
            break;
        }
    }
    return NULL;
}

/* Helpers up to `wanted`, or as many as the system gives; how many there are. */
static int start_helpers(int wanted) {
    while (num_started < min64(wanted, MAX_HELPERS)) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, help, (void *)(intptr_t)num_started)) break;
        pthread_detach(thread);
        num_started++;
    }
    return num_started < wanted ? num_started : wanted;
}

/* A fork has the caller's thread only: those that were asleep, held a mutex or had a job are not there to wake, to let it go or to
 * end it. */
static void forget_helpers(void) {
    num_started = 0;
    atomic_store(&job.members, 0);
    atomic_store(&num_asleep, 0);
    caller = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    door = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    bell = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_helpers); }

HIDDEN void run_tasks(Task task, void *context, int64_t num_tasks, int num_threads) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    /* Another thread's job is under way: there are no cores to spare. */
    if (num_threads <= 1 || num_tasks <= 1 || pthread_mutex_trylock(&caller)) {
        for (int64_t i = 0; i < num_tasks; i++) task(context, i);
        return;
    }
    pthread_once(&once, watch_forks);
    job.task = task;
    job.context = context;
    job.num_tasks = num_tasks;
    job.num_helpers = start_helpers((int)min64(num_threads, num_tasks) - 1);
    atomic_store_explicit(&job.next, 0, memory_order_relaxed);
    atomic_store_explicit(&job.members, OPEN, memory_order_release);
    atomic_fetch_add(&job.number, 1);
    if (atomic_load(&num_asleep)) {
        pthread_mutex_lock(&door);
        pthread_cond_broadcast(&bell);
        pthread_mutex_unlock(&door);
    }
    work();
    atomic_fetch_and_explicit(&job.members, ~OPEN, memory_order_acquire);
    while (atomic_load_explicit(&job.members, memory_order_acquire)) RELAX();
    pthread_mutex_unlock(&caller);
}
