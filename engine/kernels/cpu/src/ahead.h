/* What a product's tile of rows fetches of the weight while it multiplies. The hardware's prefetchers alone reach half of
 * memory's speed, and none of them knows what a thread does next. */
#ifndef HEADCOUNT_AHEAD_H
#define HEADCOUNT_AHEAD_H

#include "common.h"

#define AHEAD_BYTES 8192 /* of a weight that are under way, shared by the panels of a tile */

/* For each line of its panels that a tile has done, it fetches the byte that lies `pace` times as far behind `early`; or
 * behind `late`, when the line is one of the last `distance` bytes of its panel. */
typedef struct {
    const char *early, *late;
    int64_t pace, distance;
} Ahead;

/* What of a weight is multiplied with all rows before the rest is: `bytes` of panels, one after the other, of `panel_bytes`
 * in lines of `line_bytes`; and where the thread goes on. */
typedef struct {
    const char *begin, *next;
    int64_t bytes, panel_bytes, line_bytes;
} Part;

/* For tile `tile` of the `num_tiles` tiles of rows that go over the same part. One alone fetches its own lines, and at the
 * end of each panel the first ones of the next part. Of several each fetches a share of the next part: so memory is read
 * while all of them multiply, and not in the first one's time alone. */
INLINE Ahead ahead_of(const Part *part, int64_t tile, int64_t num_tiles) {
    if (num_tiles == 1) {
        int64_t distance = AHEAD_BYTES * part->panel_bytes / part->bytes;
        return (Ahead){part->begin + distance, part->next + distance - part->panel_bytes, part->line_bytes, distance};
    }
    const char *share = part->next + tile * part->bytes / num_tiles;
    return (Ahead){share, share, (part->line_bytes + num_tiles - 1) / num_tiles, 0};
}

/* How many of `left` panels to multiply at once, `most` at most: as equal parts as possible. */
INLINE int64_t equal_part(int64_t left, int64_t most) {
    int64_t num_parts = (left + most - 1) / most;
    return (left + num_parts - 1) / num_parts;
}

INLINE void fetch(const char *from, int64_t pace, int64_t line) { __builtin_prefetch(from + line * pace, 0, 2); }

#endif
