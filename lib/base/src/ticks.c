#include "ticks.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

enum fm_ticks_source fm_base_ticks_source(const char *clocksource)
{
#if defined(__x86_64__)
    const unsigned int invariant_tsc = 1u << 8; // CPUID 80000007H, EDX
    unsigned int a, b, c, d;
    if (!__get_cpuid(0x80000007u, &a, &b, &c, &d) || !(d & invariant_tsc))
        return FM_TICKS_CLOCK;
    int fd = open(clocksource, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return FM_TICKS_CLOCK;
    char name[5] = {0};
    ssize_t length = read(fd, name, sizeof name - 1);
    close(fd);
    return length == 4 && strcmp(name, "tsc\n") == 0 ? FM_TICKS_TSC : FM_TICKS_CLOCK;
#else
    (void)clocksource;
    return FM_TICKS_CLOCK;
#endif
}

struct fm_ticks_pair fm_base_ticks_pair(enum fm_ticks_source source)
{
    // The clock is read between two ticks; of several tries the one with the least between them was least
    // disturbed.
    struct fm_ticks_pair best = {0};
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        uint64_t before = fm_ticks_now(source);
        uint64_t ns = fm_base_clock_ns();
        uint64_t between = fm_ticks_now(source) - before;
        if (between < least) {
            least = between;
            best = (struct fm_ticks_pair){before + between / 2, ns};
        }
    }
    return best;
}

static uint64_t convert(const struct fm_ticks_map *map, uint64_t ticks)
{
    int i = map->count - 1;
    while (i > 0 && ticks < map->pieces[i].begin.ticks)
        i--;
    // Signed: a tick read on another processor just before the map began may precede it.
    double ns = (double)(int64_t)(ticks - map->pieces[i].begin.ticks) * map->pieces[i].ns_per_tick;
    return map->pieces[i].begin.ns + (uint64_t)(int64_t)ns;
}

static double rate_between(struct fm_ticks_pair from, struct fm_ticks_pair to)
{
    return (double)(to.ns - from.ns) / (double)(to.ticks - from.ticks);
}

/* Gives up every second piece; each that stays reaches to the next that does, and the last to `end`. */
static void merge_pieces(struct fm_ticks_map *map, struct fm_ticks_pair end)
{
    int kept = 0;
    for (int i = 0; i < map->count; i += 2)
        map->pieces[kept++] = map->pieces[i];
    for (int i = 0; i < kept; i++)
        map->pieces[i].ns_per_tick =
            rate_between(map->pieces[i].begin, i + 1 < kept ? map->pieces[i + 1].begin : end);
    map->count = kept;
}

void fm_base_ticks_extend(struct fm_ticks_map *map, struct fm_ticks_pair pair)
{
    if (map->count == 0) {
        map->pieces[0].begin = pair;
        map->count = 1;
        map->aimed = pair;
        map->fixed_to = pair.ticks;
        return;
    }
    // Time that stands still or runs back (a virtual machine restored from a snapshot) says nothing about the
    // rate.
    if (pair.ticks <= map->aimed.ticks || pair.ns <= map->aimed.ns)
        return;
    if (map->measured && pair.ns - map->aimed.ns < FM_TICKS_PIECE_NS)
        return;
    double rate = rate_between(map->aimed, pair);
    map->aimed = pair;
    if (!map->measured) {
        map->pieces[0].ns_per_tick = rate;
        map->measured = 1;
        return;
    }
    struct fm_ticks_pair begin = {map->fixed_to, convert(map, map->fixed_to)};
    if (map->count == FM_TICKS_PIECES)
        merge_pieces(map, begin);
    if (begin.ticks > map->pieces[map->count - 1].begin.ticks)
        map->count++;
    // The piece meets the pair, or, where it begins too near to it to aim well, the true line a piece's
    // length on.
    double reach = (double)(int64_t)(pair.ticks - begin.ticks); // may be negative
    double error = (double)(int64_t)(pair.ns - begin.ns) - reach * rate;
    double piece = FM_TICKS_PIECE_NS / rate;
    double slope = rate + error / (reach > piece ? reach : piece);
    // Rises, whatever happened to either clock.
    slope = slope < rate / 2 ? rate / 2 : slope > rate * 2 ? rate * 2 : slope;
    map->pieces[map->count - 1].begin = begin;
    map->pieces[map->count - 1].ns_per_tick = slope;
}

uint64_t fm_base_ticks_to_ns(struct fm_ticks_map *map, uint64_t ticks)
{
    if (ticks > map->fixed_to)
        map->fixed_to = ticks;
    return convert(map, ticks);
}
