/*
 * Events are passed in order of time with the set of all states that the register can be in (Lowe, "Testing for
 * linearizability", 2017). A state is the value and which of the operations that have begun and not ended have
 * happened. When an operation ends, the states in which it has not happened are dropped, after every way to let
 * open operations happen before it was tried.
 */
#include "lin_check.h"

#include <stdlib.h>
#include <string.h>

enum { SLOTS = 64, STATES_FEW = 1 << 9, STATES_MANY = 1 << 17 };

struct state {
    uint64_t happened; // a bit for each slot
    uint64_t value;
};

struct set {
    size_t room;
    struct state *states;
    size_t count;
    size_t *table; // index + 1 by hash
};

static size_t hash_of(const struct set *set, const struct state *state)
{
    uint64_t x = (state->happened * 0x9E3779B97F4A7C15u) ^ (state->value * 0xC2B2AE3D27D4EB4Fu);
    return (size_t)(x >> 40) & (2 * set->room - 1);
}

static int add(struct set *set, struct state state)
{
    size_t at = hash_of(set, &state);
    for (; set->table[at]; at = (at + 1) & (2 * set->room - 1)) {
        const struct state *other = &set->states[set->table[at] - 1];
        if (other->happened == state.happened && other->value == state.value)
            return 1;
    }
    if (set->count == set->room)
        return 0;
    set->states[set->count++] = state;
    set->table[at] = set->count;
    return 1;
}

static void empty(struct set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        size_t at = hash_of(set, &set->states[i]);
        while (set->table[at]) {
            set->table[at] = 0;
            at = (at + 1) & (2 * set->room - 1);
        }
    }
    set->count = 0;
}

struct event {
    int64_t time;
    int ends;
    size_t op;
};

static int compare_events(const void *a, const void *b)
{
    const struct event *x = a;
    const struct event *y = b;
    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    return x->ends - y->ends; // at one moment, those that begin overlap those that end
}

static int takes_effect(const lin_op *op, uint64_t value)
{
    return op->when == LIN_ALWAYS || (op->when == LIN_IF) == (value == op->than);
}

// Adds every state that open operations can lead to. 0: too many.
static int close_over(struct set *set, const lin_op *ops, const size_t *slots, uint64_t open)
{
    for (size_t i = 0; i < set->count; i++) {
        for (uint64_t left = open & ~set->states[i].happened; left; left &= left - 1) {
            unsigned slot = (unsigned)__builtin_ctzll(left);
            const lin_op *op = &ops[slots[slot]];
            struct state next = set->states[i];
            if (!op->writes && op->value != next.value)
                continue;
            next.happened |= (uint64_t)1 << slot;
            if (op->writes && takes_effect(op, next.value))
                next.value = op->value;
            if (!add(set, next))
                return 0;
        }
    }
    return 1;
}

static enum lin_result end_op(struct set *set, struct set *kept, unsigned slot)
{
    uint64_t bit = (uint64_t)1 << slot;
    for (size_t i = 0; i < set->count; i++)
        if (set->states[i].happened & bit) {
            struct state state = set->states[i];
            state.happened &= ~bit;
            add(kept, state);
        }
    empty(set);
    struct set swap = *set;
    *set = *kept;
    *kept = swap;
    return set->count ? LIN_YES : LIN_NO;
}

// A write whose end is not known, and whose value nobody has read, need not have happened.
static size_t drop_unread(lin_op *ops, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        int read = 0;
        for (size_t r = 0; r < count && !read; r++)
            read = !ops[r].writes && ops[r].value == ops[i].value;
        if (ops[i].writes && ops[i].end == INT64_MAX && !read)
            ops[i].begin = -1;
    }
    for (size_t i = 0; i < count; i++)
        if (ops[i].begin >= 0)
            ops[kept++] = ops[i];
    return kept;
}

static enum lin_result pass(const lin_op *ops, const struct event *events, size_t count, struct set *set,
                            struct set *kept)
{
    size_t slots[SLOTS];
    uint64_t open = 0;
    enum lin_result result = LIN_YES;
    for (size_t e = 0; e < count && result == LIN_YES; e++) {
        unsigned slot = 0;
        if (!events[e].ends) {
            if (open == UINT64_MAX)
                return LIN_TOO_HARD;
            slot = (unsigned)__builtin_ctzll(~open);
            open |= (uint64_t)1 << slot;
            slots[slot] = events[e].op;
            continue;
        }
        while (!(open >> slot & 1) || slots[slot] != events[e].op)
            slot++;
        if (!close_over(set, ops, slots, open))
            return LIN_TOO_HARD;
        result = end_op(set, kept, slot);
        open &= ~((uint64_t)1 << slot);
    }
    return result;
}

static struct set new_set(size_t room)
{
    return (struct set){room, calloc(room, sizeof(struct state)), 0, calloc(2 * room, sizeof(size_t))};
}

static void free_set(struct set *set)
{
    free(set->states);
    free(set->table);
}

static enum lin_result check_within(const lin_op *ops, const struct event *events, size_t count, size_t room)
{
    struct set set = new_set(room);
    struct set kept = new_set(room);
    add(&set, (struct state){0, 0});
    enum lin_result result = pass(ops, events, count, &set, &kept);
    free_set(&set);
    free_set(&kept);
    return result;
}

enum lin_result lin_check(lin_op *ops, size_t count)
{
    count = drop_unread(ops, count);
    struct event *events = calloc(2 * count + 1, sizeof *events);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        events[n++] = (struct event){ops[i].begin, 0, i};
        if (ops[i].end != INT64_MAX)
            events[n++] = (struct event){ops[i].end, 1, i};
    }
    qsort(events, n, sizeof *events, compare_events);
    enum lin_result result = check_within(ops, events, n, STATES_FEW);
    if (result == LIN_TOO_HARD)
        result = check_within(ops, events, n, STATES_MANY);
    free(events);
    return result;
}
