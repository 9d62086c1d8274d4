/* A token a row: the most probable one, or one drawn at random. engine/kernels/sampling.py says what is drawn.
 *
 * No row is sorted. What top-k, top-p and min-p keep is a prefix of the tokens in descending order, equal ones in the
 * order of their ids, and a draw asks where in that order a sum is passed. Tokens are dealt into buckets by how far they
 * lie below the row's peak; the buckets are in order, and only in the one where an answer lies are tokens put into it.
 */
#include "kernels.h"

#define NUM_BUCKETS 4096
#define BUCKETS_PER_NAT 256.0f
#define NUM_RANGES 4
#define BLOCK 1024             /* tokens that are taken together before they are looked at one by one */
#define SCAN 64                /* tokens that a search for a bucket looks at together */

typedef double vd __attribute__((vector_size(VL * 8)));

/* Nats below the peak within which tokens are dealt one by one; all that are farther are in one bucket, the last. */
static const float RANGES[NUM_RANGES] = {4, 8, 12, (NUM_BUCKETS - 1) / BUCKETS_PER_NAT};

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
    int64_t counts[NUM_BUCKETS], last_bucket;
    float *below;      /* [vocab_size, rounded up to SCAN]: peak - x */
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

INLINE int any_lane(vi mask) { return max_lanes(choose(mask, splat(1), splat(0))) > 0; }

INLINE vd widen(vf x) { return __builtin_convertvector(x, vd); }

static float weight_of(float x, float peak) { return vexp(splat(x - peak))[0]; }

static float find_peak(const float *logits, float temperature, int64_t vocab_size) {
    vf most = splat(-INFINITY);
    int64_t i = 0;
    for (; i + VL <= vocab_size; i += VL) most = vmax(load(logits + i), most);
    float peak = max_lanes(most);
    for (; i < vocab_size; i++) peak = logits[i] > peak ? logits[i] : peak;
    return peak / temperature; /* rounded as each of them would be, and so the greatest still */
}

/* ---- the most probable token ---- */

/* The first block that holds the greatest is all that is looked through one by one. */
static void argmax_row(void *context, int64_t row) {
    const Draws *draws = context;
    const float *logits = draws->logits + row * draws->vocab_size;
    float peak = -INFINITY;
    int64_t id = 0;
    for (int64_t start = 0; start < draws->vocab_size; start += BLOCK) {
        float most = find_peak(logits + start, 1.0f, min64(BLOCK, draws->vocab_size - start));
        if (most > peak) peak = most, id = start;
    }
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

/* What a row's tokens are like beyond each range, and how many weigh at least `min_p`. */
typedef struct {
    double far_mass[NUM_RANGES];
    int64_t num_near[NUM_RANGES], num_over;
} Overview;

INLINE int64_t count_lanes(vi mask) {
    int64_t count = 0;
    for (int lane = 0; lane < VL; lane++) count -= mask[lane];
    return count;
}

/* Tokens [start, start + BLOCK) of `padded`. */
static void look_at_block(Row *row, int64_t start, int64_t padded, float min_p, Overview *seen) {
    const int longest = NUM_RANGES - 1;
    vf far_mass[NUM_RANGES] = {0};
    vi num_near[NUM_RANGES] = {0}, num_over = {0};
    vd farthest_mass = {0}; /* of which nothing may be lost: where all tokens are kept, it is the end of the order */
    for (int64_t i = start; i < min64(start + BLOCK, padded); i += VL) {
        vf below = load(row->below + i), weight = vexp(-below);
        weight = choose(weight == weight, weight, splat(0)); /* what compares as no number is far, with weight 0 */
        num_over += (vi)(weight >= splat(min_p));
        UNROLL
        for (int range = 0; range < NUM_RANGES; range++) {
            vi is_near = (vi)(below < splat(RANGES[range]));
            vf far = choose(is_near, splat(0), weight);
            num_near[range] += is_near;
            if (range < longest) far_mass[range] += far;
            else farthest_mass += widen(far);
        }
    }
    for (int range = 0; range < NUM_RANGES; range++) {
        seen->far_mass[range] += range < longest ? sum_lanes(far_mass[range]) : sum_wide(farthest_mass);
        seen->num_near[range] += count_lanes(num_near[range]);
    }
    seen->num_over += count_lanes(num_over);
}

/* How far below the peak each token is, and the overview of it. */
static Overview look(Row *row, float min_p) {
    Overview seen = {0};
    int64_t padded = round_up(row->vocab_size, SCAN), i = 0;
    for (; i + VL <= row->vocab_size; i += VL) store(row->below + i, row->peak - load(row->logits + i) / row->temperature);
    for (; i < row->vocab_size; i++) row->below[i] = row->peak - row->logits[i] / row->temperature;
    for (; i < padded; i++) row->below[i] = INFINITY;
    for (int64_t start = 0; start < padded; start += BLOCK) look_at_block(row, start, padded, min_p, &seen);
    seen.num_over = min64(seen.num_over, row->vocab_size); /* padding counts where min_p is 0 */
    return seen;
}

/* The shortest range that has every token which may be kept; the longest where none surely has. */
static int choose_range(const Overview *seen, const Row *row, int64_t top_k, float top_p, float min_p) {
    const int is_limited = top_k < row->vocab_size || top_p < 1 || min_p > 0;
    int range = is_limited ? 0 : NUM_RANGES - 1;
    for (; range < NUM_RANGES - 1; range++) {
        int has_top_k = top_k >= row->vocab_size || seen->num_near[range] >= top_k;
        /* All weights together are 1 at least; twice the room that this leaves, for sums are rounded. */
        int has_top_p = top_p >= 1 || 2 * seen->far_mass[range] < 1 - (double)top_p;
        int has_min_p = min_p <= 0 || weight_of(-RANGES[range], 0) < min_p;
        if (has_top_k && has_top_p && has_min_p) break;
    }
    return range;
}

/* Deal the tokens of one vector that are near. */
INLINE void deal_near(Row *row, int64_t start, float range) {
    float weights[VL];
    store(weights, vexp(-load(row->below + start)));
    for (int64_t i = 0; i < VL; i++) {
        float below = row->below[start + i];
        if (!(below < range)) continue;
        int64_t bucket = (int64_t)(below * BUCKETS_PER_NAT);
        row->buckets[start + i] = (uint16_t)bucket;
        row->mass[bucket] += weights[i];
        row->counts[bucket]++;
    }
}

/* Deal all tokens: those within the range by how far below the peak they are, the others into the last bucket. */
static void deal(Row *row, const Overview *seen, int range) {
    const float farthest = RANGES[range];
    const int64_t last = (int64_t)(farthest * BUCKETS_PER_NAT);
    memset(row->mass, 0, sizeof(row->mass));
    memset(row->counts, 0, sizeof(row->counts));
    row->last_bucket = last;
    row->mass[last] = seen->far_mass[range];
    row->counts[last] = row->vocab_size - seen->num_near[range];
    for (int64_t i = 0; i < row->vocab_size; i++) row->buckets[i] = (uint16_t)last;
    for (int64_t start = 0; start < row->vocab_size; start += SCAN) {
        vi is_near = {0};
        for (int64_t i = 0; i < SCAN; i += VL) is_near |= (vi)(load(row->below + start + i) < splat(farthest));
        if (!any_lane(is_near)) continue;
        for (int64_t i = 0; i < SCAN; i += VL) deal_near(row, start + i, farthest);
    }
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
    while (bucket < row->last_bucket && before + row->counts[bucket] < count) before += row->counts[bucket++];
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
    Overview seen = look(row, min_p);
    deal(row, &seen, choose_range(&seen, row, top_k, top_p, min_p));
    Prefix kept = first_tokens(row, max64(1, min64(top_k, row->vocab_size)));
    if (top_p < 1) kept = tokens_before(row, kept, (double)top_p * mass_of(row, kept));
    kept = shorter(kept, first_tokens(row, max64(1, seen.num_over)));
    kept = kept.bucket == 0 && kept.count == 0 ? first_tokens(row, 1) : kept;
    return find_drawn(row, kept, uniform * mass_of(row, kept));
}

static void draw_truncated_row(void *context, int64_t index) {
    Draws *draws = context;
    int64_t vocab_size = draws->vocab_size, padded = round_up(vocab_size, SCAN);
    Row *row = malloc(sizeof(Row));
    Token *tokens = malloc(vocab_size * sizeof(Token));
    uint16_t *buckets = malloc(padded * sizeof(uint16_t));
    float *below = malloc(padded * sizeof(float));
    if (row && tokens && buckets && below) {
        for (int64_t i = vocab_size; i < padded; i++) buckets[i] = NUM_BUCKETS;
        const float *logits = draws->logits + index * vocab_size;
        float temperature = draws->temperature[index];
        row->tokens = tokens;
        row->buckets = buckets;
        row->below = below;
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
    free(below);
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
