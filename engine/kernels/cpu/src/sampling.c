/* A token a row: the most probable one, or one drawn at random. engine/kernels/sampling.py says what is drawn.
 *
 * No row is sorted. What top-k, top-p and min-p keep is a prefix of the tokens in descending order, equal ones in the
 * order of their ids, and a draw asks where in that order a sum is passed. Tokens are dealt into buckets by how far they
 * lie below the row's peak; the buckets are in order, and only in the one where an answer lies are tokens put into it.
 */
#include "kernels.h"

#define NUM_BUCKETS 4096
#define BUCKETS_PER_NAT 256.0f /* the last bucket has all tokens that are less than e^-16 as probable as the peak */
#define BLOCK 1024             /* tokens of a plain draw whose weights are added up before they are searched */
#define SCAN 64                /* tokens that a search for a bucket looks at together */

typedef double vd __attribute__((vector_size(VL * 8)));

/* The first `count` tokens, in order, of `bucket`, and all tokens of the buckets before. */
typedef struct {
    int64_t bucket, count;
} Prefix;

typedef struct {
    float x;
    int64_t id;
} Token;

/* A row's tokens, dealt. */
typedef struct {
    double mass[NUM_BUCKETS]; /* weights of each bucket together; a weight is e^(x - peak), x a logit / temperature */
    int64_t counts[NUM_BUCKETS];
    Token *tokens;     /* [vocab_size] scratch for one bucket's */
    uint16_t *buckets; /* [vocab_size, rounded up to SCAN]: which one each token is in */
    const float *logits;
    float temperature, peak;
    int64_t vocab_size;
} Row;

typedef struct {
    const float *logits, *temperature;
    const double *uniform;
    const int64_t *top_k;
    const float *top_p, *min_p;
    int64_t *out;
    int64_t vocab_size;
    _Atomic int failed;
} Draws;

INLINE double sum_wide(vd x) {
    double sum = 0;
    for (int lane = 0; lane < VL; lane++) sum += x[lane];
    return sum;
}

INLINE float min_lanes(vf x) { return -max_lanes(-x); }

INLINE vd widen(vf x) { return __builtin_convertvector(x, vd); }

static float weight_of(float x, float peak) { return vexp(splat(x - peak))[0]; }

static float find_peak(const float *logits, float temperature, int64_t vocab_size) {
    vf most = splat(-INFINITY);
    int64_t i = 0;
    for (; i + VL <= vocab_size; i += VL) most = vmax(load(logits + i) / temperature, most);
    float peak = max_lanes(most);
    for (; i < vocab_size; i++) peak = logits[i] / temperature > peak ? logits[i] / temperature : peak;
    return peak;
}

/* ---- the most probable token ---- */

static void argmax_row(void *context, int64_t row) {
    const Draws *draws = context;
    const float *logits = draws->logits + row * draws->vocab_size;
    float peak = find_peak(logits, 1.0f, draws->vocab_size);
    int64_t id = 0;
    while (id < draws->vocab_size && logits[id] != peak) id++;
    draws->out[row] = id < draws->vocab_size ? id : 0;
}

/* ---- a draw from all tokens, in the order of their ids ---- */

static double weigh_block(const float *logits, float temperature, float peak, int64_t count) {
    vd sum = {0};
    int64_t i = 0;
    for (; i + VL <= count; i += VL) sum += widen(vexp(load(logits + i) / temperature - peak));
    double total = sum_wide(sum);
    for (; i < count; i++) total += weight_of(logits[i] / temperature, peak);
    return total;
}

/* The first token at which the running sum passes `target`; the last one that weighs anything where rounding keeps it
 * from being passed. */
static int64_t find_passed(const float *logits, float temperature, float peak, const double *sums, int64_t vocab_size,
                           double target) {
    double before = 0;
    int64_t last = 0;
    for (int64_t start = 0; start < vocab_size; start += BLOCK) {
        double sum = sums[start / BLOCK];
        if (before + sum > target || start + BLOCK >= vocab_size) {
            double passed = before;
            for (int64_t i = start; i < min64(start + BLOCK, vocab_size); i++) {
                float weight = weight_of(logits[i] / temperature, peak);
                passed += weight;
                if (weight > 0) last = i;
                if (passed > target) return i;
            }
        }
        before += sum;
    }
    return last;
}

static void draw_row(void *context, int64_t row) {
    Draws *draws = context;
    int64_t vocab_size = draws->vocab_size;
    const float *logits = draws->logits + row * vocab_size;
    float temperature = draws->temperature[row], peak = find_peak(logits, temperature, vocab_size);
    double *sums = malloc((vocab_size / BLOCK + 1) * sizeof(double)), total = 0;
    if (!sums) {
        draws->failed = 1;
        return;
    }
    for (int64_t start = 0; start < vocab_size; start += BLOCK) {
        sums[start / BLOCK] = weigh_block(logits + start, temperature, peak, min64(BLOCK, vocab_size - start));
        total += sums[start / BLOCK];
    }
    draws->out[row] = find_passed(logits, temperature, peak, sums, vocab_size, draws->uniform[row] * total);
    free(sums);
}

/* ---- a draw from the most probable tokens ---- */

/* Deal tokens of one vector, `count` of them; how many weigh at least `min_p`. */
INLINE int64_t deal_few(Row *row, int64_t start, int64_t count, vf place, vf weight, float min_p) {
    float weights[VL];
    vi buckets = __builtin_convertvector(place, vi);
    int64_t num_over = 0;
    store(weights, weight);
    for (int64_t i = 0; i < count; i++) {
        row->buckets[start + i] = (uint16_t)buckets[i];
        row->mass[buckets[i]] += weights[i];
        row->counts[buckets[i]]++;
        num_over += weights[i] >= min_p;
    }
    return num_over;
}

/* Deal all tokens; how many of them are at least `min_p` times as probable as the peak. */
static int64_t deal(Row *row, float min_p) {
    const float farthest = NUM_BUCKETS - 1;
    memset(row->mass, 0, sizeof(row->mass));
    memset(row->counts, 0, sizeof(row->counts));
    vd far_mass = {0};
    int64_t num_far = 0, num_over = 0;
    for (int64_t start = 0; start < row->vocab_size; start += VL) {
        int64_t count = min64(VL, row->vocab_size - start);
        vf logits = splat(-INFINITY);
        if (count == VL) logits = load(row->logits + start);
        else for (int64_t i = 0; i < count; i++) logits[i] = row->logits[start + i];
        vf below = row->peak - logits / row->temperature, weight = vexp(-below);
        weight = choose(weight == weight, weight, splat(0));
        /* What compares as no number goes into the last bucket with weight 0. */
        vf place = choose(below * BUCKETS_PER_NAT < farthest, below * BUCKETS_PER_NAT, splat(farthest));
        /* Most tokens of most rows are far below: they are added up side by side. */
        int is_far = count == VL && min_lanes(place) == farthest;
        if (is_far && (min_p <= 0 || max_lanes(weight) < min_p)) {
            *(vh_mem *)(row->buckets + start) = (vh){0} + (uint16_t)farthest;
            far_mass += widen(weight);
            num_far += VL;
            num_over += min_p <= 0 ? VL : 0;
        } else {
            num_over += deal_few(row, start, count, place, weight, min_p);
        }
    }
    row->mass[NUM_BUCKETS - 1] += sum_wide(far_mass);
    row->counts[NUM_BUCKETS - 1] += num_far;
    return num_over;
}

static int descending(const void *left, const void *right) {
    const Token *a = left, *b = right;
    if (a->x != b->x) return a->x > b->x ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Put a bucket's tokens in order, into row->tokens. */
static void order_bucket(Row *row, int64_t bucket) {
    int64_t count = 0;
    uint16_t wanted = (uint16_t)bucket;
    for (int64_t start = 0; start < row->vocab_size; start += SCAN) {
        const uint16_t *buckets = row->buckets + start;
        uint16_t is_there = 0;
        for (int i = 0; i < SCAN; i++) is_there |= (uint16_t)(buckets[i] == wanted);
        if (!is_there) continue;
        for (int64_t i = start; i < min64(start + SCAN, row->vocab_size); i++)
            if (row->buckets[i] == bucket) row->tokens[count++] = (Token){row->logits[i] / row->temperature, i};
    }
    qsort(row->tokens, count, sizeof(Token), descending);
}

/* The first `count` tokens. */
static Prefix first_tokens(const Row *row, int64_t count) {
    int64_t before = 0, bucket = 0;
    while (bucket < NUM_BUCKETS - 1 && before + row->counts[bucket] < count) before += row->counts[bucket++];
    return (Prefix){bucket, min64(count - before, row->counts[bucket])};
}

static Prefix shorter(Prefix a, Prefix b) {
    if (a.bucket != b.bucket) return a.bucket < b.bucket ? a : b;
    return a.count < b.count ? a : b;
}

static double mass_of(Row *row, Prefix prefix) {
    double mass = 0;
    for (int64_t bucket = 0; bucket < prefix.bucket; bucket++) mass += row->mass[bucket];
    if (prefix.count == row->counts[prefix.bucket] || row->mass[prefix.bucket] == 0)
        return mass + (prefix.count ? row->mass[prefix.bucket] : 0);
    order_bucket(row, prefix.bucket);
    for (int64_t i = 0; i < prefix.count; i++) mass += weight_of(row->tokens[i].x, row->peak);
    return mass;
}

/* Of a prefix, the tokens before which less than `share` has been added up. */
static Prefix tokens_before(Row *row, Prefix prefix, double share) {
    double before = 0;
    for (int64_t bucket = 0; bucket <= prefix.bucket; bucket++) {
        if (before + row->mass[bucket] < share) {
            before += row->mass[bucket];
            continue;
        }
        int64_t most = bucket == prefix.bucket ? prefix.count : row->counts[bucket], count = 0;
        order_bucket(row, bucket);
        while (count < most && before < share) before += weight_of(row->tokens[count++].x, row->peak);
        if (before >= share) return (Prefix){bucket, count};
    }
    return prefix;
}

/* The first token of a prefix at which the running sum passes `target`; else the last that weighs anything. */
static int64_t find_drawn(Row *row, Prefix prefix, double target) {
    double before = 0;
    int64_t heaviest_last = -1;
    for (int64_t bucket = 0; bucket <= prefix.bucket; bucket++) {
        if (row->mass[bucket] == 0) continue;
        heaviest_last = bucket;
        if (bucket < prefix.bucket && before + row->mass[bucket] <= target) {
            before += row->mass[bucket];
            continue;
        }
        int64_t count = bucket == prefix.bucket ? prefix.count : row->counts[bucket];
        order_bucket(row, bucket);
        for (int64_t i = 0; i < count; i++)
            if ((before += weight_of(row->tokens[i].x, row->peak)) > target) return row->tokens[i].id;
    }
    if (heaviest_last < 0) return 0;
    int64_t count = heaviest_last == prefix.bucket ? prefix.count : row->counts[heaviest_last];
    order_bucket(row, heaviest_last);
    return row->tokens[max64(count, 1) - 1].id;
}

static int64_t draw_dealt(Row *row, int64_t top_k, float top_p, float min_p, double uniform) {
    int64_t num_over = deal(row, min_p);
    Prefix kept = first_tokens(row, max64(1, min64(top_k, row->vocab_size)));
    if (top_p < 1) kept = tokens_before(row, kept, (double)top_p * mass_of(row, kept));
    kept = shorter(kept, first_tokens(row, max64(1, num_over)));
    kept = kept.bucket == 0 && kept.count == 0 ? first_tokens(row, 1) : kept;
    return find_drawn(row, kept, uniform * mass_of(row, kept));
}

static void draw_truncated_row(void *context, int64_t index) {
    Draws *draws = context;
    int64_t vocab_size = draws->vocab_size, padded = round_up(vocab_size, SCAN);
    Row *row = malloc(sizeof(Row));
    Token *tokens = malloc(vocab_size * sizeof(Token));
    uint16_t *buckets = malloc(padded * sizeof(uint16_t));
    if (row && tokens && buckets) {
        for (int64_t i = vocab_size; i < padded; i++) buckets[i] = NUM_BUCKETS;
        const float *logits = draws->logits + index * vocab_size;
        float temperature = draws->temperature[index];
        row->tokens = tokens;
        row->buckets = buckets;
        row->logits = logits;
        row->temperature = temperature;
        row->peak = find_peak(logits, temperature, vocab_size);
        row->vocab_size = vocab_size;
        draws->out[index] =
            draw_dealt(row, draws->top_k[index], draws->top_p[index], draws->min_p[index], draws->uniform[index]);
    } else {
        draws->failed = 1;
    }
    free(row);
    free(tokens);
    free(buckets);
}

/* ---- for Python ---- */

/* logits [num_rows, vocab_size] -> out [num_rows]: of equally probable tokens the first. */
EXPORT void hc_argmax(const float *logits, int64_t *out, int64_t num_rows, int64_t vocab_size, int num_threads) {
    Draws draws = {.logits = logits, .out = out, .vocab_size = vocab_size};
    run_tasks(argmax_row, &draws, num_rows, num_threads);
}

/* logits [num_rows, vocab_size], the others [num_rows]; 1: no memory. */
EXPORT int hc_draw(const float *logits, const float *temperature, const double *uniform, int64_t *out, int64_t num_rows,
                   int64_t vocab_size, int num_threads) {
    Draws draws = {
        .logits = logits, .temperature = temperature, .uniform = uniform, .out = out, .vocab_size = vocab_size};
    run_tasks(draw_row, &draws, num_rows, num_threads);
    return draws.failed;
}

/* The same among the tokens that top_k, top_p and min_p keep. */
EXPORT int hc_draw_truncated(const float *logits, const float *temperature, const double *uniform, const int64_t *top_k,
                             const float *top_p, const float *min_p, int64_t *out, int64_t num_rows, int64_t vocab_size,
                             int num_threads) {
    Draws draws = {.logits = logits,
                   .temperature = temperature,
                   .uniform = uniform,
                   .top_k = top_k,
                   .top_p = top_p,
                   .min_p = min_p,
                   .out = out,
                   .vocab_size = vocab_size};
    run_tasks(draw_truncated_row, &draws, num_rows, num_threads);
    return draws.failed;
}
