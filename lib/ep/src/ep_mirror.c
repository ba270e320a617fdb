// Mirrors: what a node needs of a source outside, each row once, where all of the node can read it.
#include <string.h>

#include "ep_flags.h"
#include "ep_private.h"
#include "fathom/span.h"

int fm_ep_sees(const fm_ep_group *group, int peer)
{
    return !group->mail || group->mirror_of[peer] < 0;
}

int fm_ep_holder_of(const fm_ep_group *group, int source)
{
    if (group->mirror_of[source] < 0)
        return source;
    int rail = fm_ep_rail(&group->plan, group->node, source);
    return group->masked[rail] && fm_ep_sees(group, source) ? source : rail;
}

size_t fm_ep_mirror_offset(const fm_ep_group *group, int slot, int source)
{
    size_t index = (size_t)slot * (size_t)group->plan.mirrors + (size_t)group->mirror_of[source];
    return group->plan.mirror_slots + index * group->plan.mirror_bytes;
}

/** A publication being read for the ranks `first` to `last - 1` of a node. */
typedef struct extract {
    const fm_ep_group *group;
    const char *base;
    const fm_ep_publication *publication;
    int first, last;
} extract;

/** Gives each row that a rank of the node needs a place in the mirror; returns how many there are. A row of combine
 * goes to one rank only. */
static int place_rows(const extract *from, int32_t *begin, int32_t *list)
{
    int32_t *mirror_row = from->group->mirror_row;
    int rows = 0, items = 0, is_shared = from->publication->kind != FM_EP_KIND_COMBINE;
    for (int reader = from->first; is_shared && reader < from->last; reader++) {
        fm_ep_view view = fm_ep_view_at(from->base, from->publication, reader);
        for (int i = 0; i < view.count; i++)
            mirror_row[view.list[i]] = -1;
    }
    for (int reader = 0; reader < from->group->ranks; reader++) {
        begin[reader] = items;
        if (reader < from->first || reader >= from->last)
            continue;
        fm_ep_view view = fm_ep_view_at(from->base, from->publication, reader);
        for (int i = 0; i < view.count; i++) {
            int32_t own = -1, *place = is_shared ? &mirror_row[view.list[i]] : &own;
            if (*place < 0)
                *place = rows++;
            list[items++] = *place;
        }
    }
    begin[from->group->ranks] = items;
    return rows;
}

/** Copies the rows to their places; a row that several ranks need was placed at its first mention, in order. */
static void copy_rows(const extract *from, const fm_ep_publication *mirror, const int32_t *list, char *base,
                      int32_t *origin)
{
    int rows = 0;
    for (int reader = from->first; reader < from->last; reader++) {
        fm_ep_view view = fm_ep_view_at(from->base, from->publication, reader);
        for (int i = 0; i < view.count; i++) {
            if (*list++ != rows)
                continue;
            for (int p = 0; p < FM_EP_PARTS; p++) {
                const fm_ep_part *part = &mirror->parts[p];
                if (part->bytes > 0)
                    memcpy(base + part->offset + (int64_t)part->stride * rows,
                           fm_ep_view_row(&view, p, view.list[i]), part->bytes);
            }
            origin[rows++] = view.list[i];
        }
    }
}

/** Room for `bytes` in a mirror: their offset from the base that offsets in it count from. */
static size_t take(size_t *end, size_t bytes)
{
    size_t at = *end;
    *end = fm_round_up(at + bytes, FM_EP_ALIGN);
    return at;
}

size_t fm_ep_mirror_build(const fm_ep_group *group, const char *base, const fm_ep_publication *publication,
                          int node, char *to, size_t at)
{
    const fm_ep_plan *plan = &group->plan;
    extract from = {group, base, publication, node * plan->node_ranks, (node + 1) * plan->node_ranks};
    if (from.last > group->ranks)
        from.last = group->ranks;
    char *origin_base = to - at;
    const int32_t *all = (const int32_t *)(const void *)(base + publication->begin_offset);
    size_t items = (size_t)(all[from.last] - all[from.first]), end = at;
    fm_ep_publication *mirror = (fm_ep_publication *)(void *)(origin_base + take(&end, sizeof *mirror));
    *mirror = *publication;
    mirror->begin_offset = (int64_t)take(&end, ((size_t)group->ranks + 1) * sizeof(int32_t));
    mirror->list_offset = (int64_t)take(&end, items * sizeof(int32_t));
    mirror->origin_offset = (int64_t)take(&end, items * sizeof(int32_t));
    int32_t *list = (int32_t *)(void *)(origin_base + mirror->list_offset);
    mirror->rows = place_rows(&from, (int32_t *)(void *)(origin_base + mirror->begin_offset), list);
    if (publication->check_offset) {
        mirror->check_offset = (int64_t)take(&end, items * sizeof(uint32_t));
        const char *check = base + publication->check_offset;
        memcpy(origin_base + mirror->check_offset, check + (size_t)all[from.first] * sizeof(uint32_t),
               items * sizeof(uint32_t));
    }
    for (int p = 0; p < FM_EP_PARTS; p++) {
        fm_ep_part *part = &mirror->parts[p];
        part->offset = (int64_t)take(&end, part->bytes * (size_t)mirror->rows);
        part->stride = part->bytes;
    }
    copy_rows(&from, mirror, list, origin_base, (int32_t *)(void *)(origin_base + mirror->origin_offset));
    return end - at;
}

/** Copies a source, whose memory this rank sees, into its mirror here. */
static void copy_source(fm_ep_op *op, int source)
{
    const fm_ep_group *group = op->group;
    size_t at = fm_ep_mirror_offset(group, op->slot, source);
    const fm_ep_publication *publication = fm_ep_view_direct(op, source, group->rank).publication;
    fm_ep_mirror_build(group, group->base[source], publication, group->node, group->base[group->rank] + at,
                       at);
}

static void publish_mirror(fm_ep_op *op, int source)
{
    fm_ep_group *group = op->group;
    const char *at = group->base[group->rank] + fm_ep_mirror_offset(group, op->slot, source);
    const fm_ep_publication *mirror = (const fm_ep_publication *)(const void *)at;
    for (int p = 0; p < FM_EP_PARTS; p++)
        group->stats.bytes_remote += mirror->parts[p].bytes * (uint64_t)mirror->rows;
    op->mirror_ready[source] = 1;
    // The epoch is that of what came: a source that has gone on is found out by its readers.
    fm_ep_flag_set(fm_ep_flag_mirrored(group, group->rank, op->slot, source), mirror->epoch);
    if (fm_ep_sees(group, source))
        fm_ep_flag_set(fm_ep_flag_done(group, source, op->slot, group->rank), op->epoch);
}

void fm_ep_mirrors_serve(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    if (group->plan.mirrors == 0)
        return;
    for (int source = 0; source < group->ranks; source++) {
        if (group->mirror_of[source] < 0 || op->mirror_ready[source] || group->masked[source] ||
            fm_ep_rail(&group->plan, group->node, source) != group->rank)
            continue;
        if (!fm_ep_sees(group, source)) {
            if (!fm_ep_mail_receive(op, source))
                continue;
        } else if (fm_ep_flag_get(fm_ep_flag_posted(group, source, op->slot)) == op->epoch) {
            FM_SPAN_ARGS(span, "mirror", "ep", "source", NULL);
            span.args[0] = source;
            copy_source(op, source);
        } else {
            continue;
        }
        publish_mirror(op, source);
    }
}
