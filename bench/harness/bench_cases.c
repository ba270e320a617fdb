#include "bench_cases.h"

#include "bench_probe.h"

#include <string.h>

static fm_status refuse(const fm_bench_case *item, const char *what)
{
    return fm_base_error_set(FM_ERR_ARG, "benchmark case %s: %s", item->name, what);
}

static int has_peer(const fm_bench_case *item, const char *name)
{
    for (const fm_bench_peer *peer = item->peers; peer->name; peer++)
        if (strcmp(peer->name, name) == 0)
            return 1;
    return 0;
}

static fm_status check_goal(const fm_bench_case *item, const fm_bench_goal *goal)
{
    if (goal->must == 0 && goal->hope == 0)
        return refuse(item, "a goal has neither must nor hope");
    if (goal->peer && !has_peer(item, goal->peer))
        return refuse(item, "a goal names a peer that the case does not have");
    switch (goal->metric) {
    case FM_BENCH_FRACTION:
        return item->limit == FM_BENCH_NO_LIMIT ? refuse(item, "a goal for the fraction of no limit") : FM_OK;
    case FM_BENCH_RATIO:
        return item->peers[0].name ? FM_OK : refuse(item, "a goal for the ratio to no peer");
    case FM_BENCH_EXCESS:
        if (!goal->peer)
            return refuse(item, "a goal for the excess over no peer");
        return item->items > 0 ? FM_OK : refuse(item, "a goal for the excess an item, but items is 0");
    case FM_BENCH_ITEM_TIME:
        return item->items > 0 ? FM_OK : refuse(item, "a goal for the time of an item, but items is 0");
    case FM_BENCH_OWN_AT_LEAST:
    case FM_BENCH_OWN_AT_MOST:
        return goal->name ? FM_OK : refuse(item, "a goal for a metric without a name");
    case FM_BENCH_SCALING:
    case FM_BENCH_TIME:
        break;
    }
    return FM_OK;
}

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static int same_aim(const fm_bench_goal *a, const fm_bench_goal *b)
{
    return a->metric == b->metric && a->threads == b->threads && same_text(a->peer, b->peer) &&
           same_text(a->name, b->name);
}

static fm_status check_limit(const fm_bench_case *item)
{
    const char *unit = fm_bench_limit_unit(item->limit);
    if (strcmp(unit, "flop/s") == 0 && item->flops <= 0)
        return refuse(item, "its limit counts flops, but flops is 0");
    if (strcmp(unit, "B/s") == 0 && item->bytes <= 0)
        return refuse(item, "its limit counts bytes, but bytes is 0");
    if (item->limit == FM_BENCH_OWN_LIMIT && !item->own_limit)
        return refuse(item, "its limit is its own, but own_limit is NULL");
    if (item->limit != FM_BENCH_NO_LIMIT && item->bytes <= 0 && item->items <= 0 && item->flops <= 0)
        return refuse(item, "it has a limit, but does no work");
    return FM_OK;
}

static fm_status check_case(const fm_bench *bench, const fm_bench_case *item)
{
    if (!item->name || !item->name[0] || strpbrk(item->name, " \t\n"))
        return fm_base_error_set(FM_ERR_ARG, "a benchmark case needs a name without spaces; it is \"%s\"",
                                 item->name ? item->name : "");
    for (size_t i = 0; i < bench->case_count; i++)
        if (strcmp(bench->cases[i].name, item->name) == 0)
            return refuse(item, "the name is taken");
    if (!item->run)
        return refuse(item, "run is NULL");
    FM_TRY(check_limit(item));
    for (const fm_bench_peer *peer = item->peers; peer->name; peer++) {
        if (!peer->run)
            return refuse(item, "a peer's run is NULL");
        if (peer->expect_of && (!has_peer(item, peer->expect_of) || strcmp(peer->expect_of, peer->name) == 0))
            return refuse(item, "a peer's expect_of names no other peer of the case");
        if (peer->expect > 0 && !peer->expect_of && item->limit == FM_BENCH_NO_LIMIT)
            return refuse(item, "a peer is expected to reach a fraction of no limit");
    }
    for (const fm_bench_goal *goal = item->goals; goal->metric; goal++) {
        FM_TRY(check_goal(item, goal));
        for (const fm_bench_goal *other = item->goals; other < goal; other++)
            if (same_aim(goal, other))
                return refuse(item, "two goals for one figure; must and hope go into one");
    }
    return FM_OK;
}

static fm_status copy_name(fm_bench *bench, const char **name)
{
    char *copy = fm_base_arena_strndup(&bench->names, *name, strlen(*name));
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the name %s", *name);
    *name = copy;
    return FM_OK;
}

fm_status fm_bench_add(fm_bench *bench, const fm_bench_case *item)
{
    FM_TRY(check_case(bench, item));
    fm_bench_case copy = *item;
    FM_TRY(copy_name(bench, &copy.name));
    fm_bench_case *cases = fm_base_mem_realloc(bench->cases, bench->case_count + 1, sizeof *cases);
    if (!cases)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for case %s", item->name);
    bench->cases = cases;
    bench->cases[bench->case_count++] = copy;
    return FM_OK;
}

fm_status fm_bench_add_group(fm_bench *bench, const fm_bench_group *group)
{
    const fm_bench_goal *goal = &group->goal;
    if (!group->name || !group->cases || (goal->must == 0 && goal->hope == 0))
        return fm_base_error_set(FM_ERR_ARG, "a group needs a name, cases, and a goal with must or hope");
    if (goal->metric != FM_BENCH_FRACTION && (goal->metric != FM_BENCH_RATIO || !goal->peer))
        return fm_base_error_set(FM_ERR_ARG, "group %s: its goal is for FRACTION, or RATIO to a named peer",
                                 group->name);
    fm_bench_group copy = *group;
    FM_TRY(copy_name(bench, &copy.name));
    FM_TRY(copy_name(bench, &copy.cases));
    fm_bench_group *groups = fm_base_mem_realloc(bench->groups, bench->group_count + 1, sizeof *groups);
    if (!groups)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for group %s", group->name);
    bench->groups = groups;
    bench->groups[bench->group_count++] = copy;
    return FM_OK;
}

void fm_bench_cases_clear(fm_bench *bench)
{
    fm_base_mem_free(bench->cases);
    fm_base_mem_free(bench->groups);
    fm_base_arena_clear(&bench->names);
    *bench = (fm_bench){0};
}

int fm_bench_filter_passes(const char *filter, const char *text)
{
    if (!filter || !filter[0])
        return 1;
    for (const char *word = filter; *word;) {
        size_t length = strcspn(word, ",");
        if (length > 0 && memmem(text, strlen(text), word, length))
            return 1;
        word += length;
        word += *word == ',';
    }
    return 0;
}
