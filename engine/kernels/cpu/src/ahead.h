/* What a product's tile of rows fetches of the weight while it multiplies. The hardware's prefetchers alone reach half of
 * memory's speed, and none of them knows what a thread does next. */
#ifndef HEADCOUNT_AHEAD_H
#define HEADCOUNT_AHEAD_H

#include "common.h"

#define AHEAD_BYTES 8192 /* of a weight that are under way, shared by the panels of a tile */

/* With its line number n a tile fetches `early + n * pace`; with the lines that make up the last `distance` bytes of a panel
 * `late + n * pace`. */
typedef struct {
    const char *early, *late;
    int64_t pace, distance;
} Ahead;

/* What of a weight is multiplied with all rows before the rest is: panels one after the other, in lines, of which a tile
 * takes those of `step_bytes` at a time; and where the thread goes on. */
typedef struct {
    const char *begin, *next;
    int64_t panels, panel_bytes, line_bytes, step_bytes;
} Part;

/* For tile `tile` of the `num_tiles` tiles of rows that go over the same part. One alone fetches its own lines, and at the
 * end of each panel the first ones of the next part. Of several each fetches a share of the next part: so memory is read
 * while all of them multiply, and not in the first one's time alone. */
INLINE Ahead ahead_of(const Part *part, int64_t tile, int64_t num_tiles) {
    if (num_tiles == 1) {
        int64_t most = min64(AHEAD_BYTES / part->panels, part->panel_bytes), distance = most - most % part->step_bytes;
        return (Ahead){part->begin + distance, part->next + distance - part->panel_bytes, part->line_bytes, distance};
    }
    const char *share = part->next + tile * part->panels * part->panel_bytes / num_tiles;
    return (Ahead){share, share, (part->line_bytes + num_tiles - 1) / num_tiles, 0};
}

INLINE void fetch(const char *from, int64_t pace, int64_t line) { __builtin_prefetch(from + line * pace, 0, 2); }

/* As fetch, of `count` lines from `line` on, for a part of one panel. Where tiles share what is fetched, several lines would fetch the
 * same line of the cache: only one does. */
INLINE void fetch_lines(const Part *part, const Ahead *ahead, int64_t line, int64_t count) {
    const char *from = line * part->line_bytes < part->panel_bytes - ahead->distance ? ahead->early : ahead->late;
    const int64_t step = max64(1, CACHE_LINE / ahead->pace);
    for (int64_t i = 0; i < count; i += step) fetch(from, ahead->pace, line + i);
}

#endif
