/*
 * Ticks: the cheap clock of spans, and its conversion to the time of fm_base_clock_ns().
 *
 * Reading the time-stamp counter takes about half as long as CLOCK_MONOTONIC, which is itself computed from
 * it. A tick is converted by a piecewise linear function that the reader extends now and then from a pair
 * (ticks, ns) read together:
 *
 *     ns ^                      o pair just read
 *        |                  . '
 *        |            .  '  .  the piece that begins at `fixed_to` aims at the pair, so that errors of the
 * rate measured |      x--'        .  before (and the adjustments that NTP makes to CLOCK_MONOTONIC) do not
 * add up |  .-'
 *        |-'    ^ fixed_to: what was converted so far
 *        +-----------------------> ticks
 *
 * The function is continuous and rises, and a tick once converted keeps its time (until its piece is merged
 * with its neighbour, below): a span that ends an hour after it began still begins before the spans inside it
 * that were converted long ago.
 */
#ifndef FM_BASE_TICKS_H
#define FM_BASE_TICKS_H

#include <stdint.h>

#include "fathom/clock.h"

enum fm_ticks_source { FM_TICKS_CLOCK = 1, FM_TICKS_TSC = 2 };

enum {
    // A pair is read to within some 20 ns, so 10 ms give the first rate to 4 ppm.
    FM_TICKS_FIRST_NS = 10000000,
    // Pieces of a second: rates to better than 0.1 ppm, and 24 bytes a second.
    FM_TICKS_PIECE_NS = 1000000000,
    // 12 KiB. When all are used, every second one of them is given up, so that the pieces of the distant past
    // get longer.
    FM_TICKS_PIECES = 512,
};

struct fm_ticks_pair {
    uint64_t ticks;
    uint64_t ns;
};

struct fm_ticks_map {
    struct {
        struct fm_ticks_pair begin;
        double ns_per_tick;
    } pieces[FM_TICKS_PIECES];
    int count;                  // of pieces; 0 before the first pair
    int measured;               // the first piece has a rate
    struct fm_ticks_pair aimed; // the pair that the last piece aims at
    uint64_t fixed_to;          // the latest tick converted
};

/* The time-stamp counter where it runs at a constant rate (CPUID says so) and the kernel keeps time by it,
 * having found it to agree between processors (the file `clocksource` says so). */
enum fm_ticks_source fm_base_ticks_source(const char *clocksource);

static inline uint64_t fm_ticks_now(enum fm_ticks_source source)
{
#if defined(__x86_64__)
    if (source == FM_TICKS_TSC) {
        uint32_t low, high;
        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
        return (uint64_t)high << 32 | low;
    }
#endif
    (void)source;
    return fm_base_clock_ns();
}

/* Ticks and nanoseconds of one moment. */
struct fm_ticks_pair fm_base_ticks_pair(enum fm_ticks_source source);

/* Extends a zero-initialised map by what was just read. The first pair begins the map; a second one, at least
 * FM_TICKS_FIRST_NS later, must come before ticks are converted. */
void fm_base_ticks_extend(struct fm_ticks_map *map, struct fm_ticks_pair pair);

/* The time of a tick. */
uint64_t fm_base_ticks_to_ns(struct fm_ticks_map *map, uint64_t ticks);

#endif
