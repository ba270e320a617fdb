// What this rank reads of each source, directly or through a mirror; and the checksums of rows.
#include <inttypes.h>

#include "ep_flags.h"
#include "ep_private.h"
#include "fathom/crc.h"

/** The flag that says that what this rank reads of a source is there. */
static fm_ep_flag *ready_flag(const fm_ep_op *op, int source)
{
    int holder = fm_ep_holder_of(op->group, source);
    return holder == source ? fm_ep_flag_posted(op->group, source, op->slot)
                            : fm_ep_flag_mirrored(op->group, holder, op->slot, source);
}

fm_ep_view fm_ep_view_at(const char *base, const fm_ep_publication *publication, int reader)
{
    fm_ep_view view = {.base = base, .publication = publication};
    const int32_t *begin = (const int32_t *)(const void *)(base + publication->begin_offset);
    view.list = (const int32_t *)(const void *)(base + publication->list_offset) + begin[reader];
    if (publication->origin_offset)
        view.origin = (const int32_t *)(const void *)(base + publication->origin_offset);
    if (publication->check_offset)
        view.check = (const uint32_t *)(const void *)(base + publication->check_offset) + begin[reader];
    view.count = begin[reader + 1] - begin[reader];
    return view;
}

fm_ep_view fm_ep_view_direct(const fm_ep_op *op, int source, int reader)
{
    const fm_ep_plan *plan = &op->group->plan;
    const char *base = op->group->base[source];
    size_t at = plan->slots + (size_t)op->slot * plan->slot_bytes;
    return fm_ep_view_at(base, (const fm_ep_publication *)(const void *)(base + at), reader);
}

static fm_ep_view read_view(const fm_ep_op *op, int source)
{
    const fm_ep_group *group = op->group;
    int holder = fm_ep_holder_of(group, source);
    if (holder == source)
        return fm_ep_view_direct(op, source, group->rank);
    const char *base = group->base[holder];
    size_t at = fm_ep_mirror_offset(group, op->slot, source);
    return fm_ep_view_at(base, (const fm_ep_publication *)(const void *)(base + at), group->rank);
}

/** A source whose rows would come through a rail that is masked, and cannot be read past it. */
static int is_cut_off(const fm_ep_group *group, int source)
{
    return !fm_ep_sees(group, source) && group->masked[fm_ep_rail(&group->plan, group->node, source)];
}

int fm_ep_views_missing(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        if (group->masked[source] || is_cut_off(group, source) ||
            fm_ep_flag_get(ready_flag(op, source)) >= op->epoch)
            continue;
        int holder = fm_ep_holder_of(group, source);
        if (holder == source)
            return source;
        // Who has not posted is to blame; when both have, the rail. Over messages only the rail can know of the source.
        int told_by = fm_ep_sees(group, source) ? source : holder;
        int has_posted = fm_ep_flag_get(fm_ep_flag_posted(group, told_by, op->slot)) >= op->epoch;
        return has_posted == (told_by == source) ? holder : source;
    }
    return -1;
}

static fm_status gone_on(int rank)
{
    return fm_base_error_set(FM_ERR_STATE, "rank %d has gone on without this rank; rejoin", rank);
}

static fm_status check_publication(const fm_ep_op *op, int source, const fm_ep_publication *publication)
{
    if (publication->kind != (int32_t)op->kind)
        return fm_base_error_set(FM_ERR_STATE, "rank %d posted %s; expected the same on all ranks", source,
                                 fm_ep_kind_name(publication->kind));
    if (publication->detail != op->detail)
        return fm_base_error_set(FM_ERR_STATE,
                                 "rank %d posted it with other arguments (%#" PRIx64 ", here %#" PRIx64
                                 "); expected the same sizes and formats on all ranks",
                                 source, publication->detail, op->detail);
    return FM_OK;
}

void fm_ep_views_open(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        fm_ep_view *view = &group->views[source];
        *view = (fm_ep_view){0};
        if (group->masked[source])
            continue;
        if (is_cut_off(group, source)) {
            fm_ep_op_fail(op,
                          fm_base_error_set(
                              FM_ERR_UNAVAILABLE,
                              "the rows of rank %d come through rank %d, which is masked; mask rank %d, too",
                              source, fm_ep_rail(&group->plan, group->node, source), source));
            continue;
        }
        if (fm_ep_flag_get(ready_flag(op, source)) != op->epoch) {
            fm_ep_op_fail(op, gone_on(source));
            continue;
        }
        *view = read_view(op, source);
        op->is_open[source] = 1;
        fm_status status = check_publication(op, source, view->publication);
        if (status < 0) {
            fm_ep_op_fail(op, status);
            view->count = 0;
        }
    }
}

void fm_ep_views_close(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        if (group->masked[source] || !op->is_open[source] || is_cut_off(group, source))
            continue;
        int holder = fm_ep_holder_of(group, source);
        if (fm_ep_flag_get(ready_flag(op, source)) != op->epoch)
            fm_ep_op_fail(op, gone_on(holder));
        // The source is told even where the mirror was read: it may have masked the rail, and wait for this rank.
        if (source != group->rank && fm_ep_sees(group, source))
            fm_ep_flag_set(fm_ep_flag_done(group, source, op->slot, group->rank), op->epoch);
        if (holder != source)
            fm_ep_flag_set(fm_ep_flag_mirror_done(group, holder, op->slot, source, group->rank), op->epoch);
    }
}

/* ---- checksums ---- */

static uint32_t checksum(uint64_t epoch, int source, int row, const fm_ep_part *parts, const void *bytes,
                         const void *scales)
{
    uint64_t words[2] = {epoch, (uint64_t)(uint32_t)source << 32 | (uint32_t)row};
    uint32_t crc = fm_base_crc32c(0, words, sizeof words);
    crc = fm_base_crc32c(crc, bytes, parts[FM_EP_PART_ROW].bytes);
    return fm_base_crc32c(crc, scales, parts[FM_EP_PART_SCALES].bytes);
}

void fm_ep_check_write(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    uint32_t *check = fm_ep_slot_at(op, group->plan.check);
    for (int reader = 0; reader < group->ranks; reader++) {
        fm_ep_view view = fm_ep_view_direct(op, group->rank, reader);
        for (int i = 0; i < view.count; i++)
            *check++ = checksum(op->epoch, group->rank, view.list[i], view.publication->parts,
                                fm_ep_view_row(&view, FM_EP_PART_ROW, view.list[i]),
                                fm_ep_view_row(&view, FM_EP_PART_SCALES, view.list[i]));
    }
}

fm_status fm_ep_view_check(const fm_ep_op *op, const fm_ep_view *view, int source, int i, const void *row,
                           const void *scales)
{
    if (!view->check)
        return FM_OK;
    int number = view->origin ? view->origin[view->list[i]] : view->list[i];
    uint32_t crc = checksum(op->epoch, source, number, view->publication->parts, row, scales);
    if (crc == view->check[i])
        return FM_OK;
    return fm_base_error_set(FM_ERR_FORMAT, "row %d of rank %d has checksum %08x; expected %08x", number,
                             source, crc, view->check[i]);
}
