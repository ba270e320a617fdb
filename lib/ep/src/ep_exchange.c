// What every operation does: post, read what others posted, wait until others have read.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ep_flags.h"
#include "ep_private.h"
#include "fathom/crc.h"
#include "fathom/span.h"

static const char *const kind_names[] = {"barrier", "dispatch", "combine", "all-gather", "reduce-scatter"};

/** Keeps the first failure of an operation, which goes on to its end so that no peer waits for it. */
static void fail_op(fm_ep_op *op, fm_status status)
{
    if (op->status < 0)
        return;
    op->status = status;
    snprintf(op->message, sizeof op->message, "%s, epoch %" PRIu64 ": %s", kind_names[op->kind], op->epoch,
             fm_error_message());
}

/** Whose segment holds what this rank reads of a source: its own, or that of its rail on this node. Threads can read
 * a source directly when its rail is masked. */
static int holder_of(const fm_ep_group *group, int source)
{
    if (group->mirror_of[source] < 0)
        return source;
    int rail = fm_ep_rail(&group->plan, group->node, source);
    return group->masked[rail] ? source : rail;
}

/** The flag that says that what this rank reads of a source is there. */
static fm_ep_flag *ready_flag(const fm_ep_op *op, int source)
{
    int holder = holder_of(op->group, source);
    return holder == source ? fm_ep_flag_posted(op->group, source, op->slot)
                            : fm_ep_flag_mirrored(op->group, holder, op->slot, source);
}

static size_t mirror_offset(const fm_ep_group *group, int slot, int source)
{
    size_t index = (size_t)slot * (size_t)group->plan.mirrors + (size_t)group->mirror_of[source];
    return group->plan.mirror_slots + index * group->plan.mirror_bytes;
}

static fm_ep_view view_at(const fm_ep_op *op, int owner, size_t offset, int reader)
{
    const fm_ep_group *group = op->group;
    const char *base = group->base[owner];
    fm_ep_view view = {.base = base, .publication = (const fm_ep_publication *)(const void *)(base + offset)};
    const fm_ep_publication *publication = view.publication;
    const int32_t *begin = (const int32_t *)(const void *)(base + publication->begin_offset);
    view.list = (const int32_t *)(const void *)(base + publication->list_offset) + begin[reader];
    if (publication->origin_offset)
        view.origin = (const int32_t *)(const void *)(base + publication->origin_offset);
    if (publication->check_offset)
        view.check = (const uint32_t *)(const void *)(base + publication->check_offset) + begin[reader];
    view.count = begin[reader + 1] - begin[reader];
    return view;
}

static fm_ep_view direct_view(const fm_ep_op *op, int source, int reader)
{
    return view_at(op, source, op->group->plan.slots + (size_t)op->slot * op->group->plan.slot_bytes, reader);
}

static fm_ep_view read_view(const fm_ep_op *op, int source)
{
    const fm_ep_group *group = op->group;
    int holder = holder_of(group, source);
    if (holder == source)
        return direct_view(op, source, group->rank);
    return view_at(op, holder, mirror_offset(group, op->slot, source), group->rank);
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

static void write_checksums(const fm_ep_op *op, const fm_ep_publication *publication)
{
    uint32_t *check = fm_ep_slot_at(op, op->group->plan.check);
    for (int reader = 0; reader < op->group->ranks; reader++) {
        fm_ep_view view = direct_view(op, op->group->rank, reader);
        for (int i = 0; i < view.count; i++)
            *check++ = checksum(op->epoch, op->group->rank, view.list[i], publication->parts,
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

/* ---- mirrors ---- */

/** Gives each row that a rank of this node needs a place in the mirror; returns how many there are. A row of combine
 * goes to one rank only. */
static int place_mirror_rows(const fm_ep_op *op, int source, int first, int last, int32_t *list,
                             int32_t *begin)
{
    int32_t *mirror_row = op->group->mirror_row;
    int rows = 0, items = 0;
    if (op->kind != FM_EP_KIND_COMBINE)
        for (int reader = first; reader < last; reader++) {
            fm_ep_view view = direct_view(op, source, reader);
            for (int i = 0; i < view.count; i++)
                mirror_row[view.list[i]] = -1;
        }
    for (int reader = 0; reader < op->group->ranks; reader++) {
        begin[reader] = items;
        if (reader < first || reader >= last)
            continue;
        fm_ep_view view = direct_view(op, source, reader);
        for (int i = 0; i < view.count; i++) {
            if (op->kind == FM_EP_KIND_COMBINE) {
                list[items++] = rows++;
                continue;
            }
            int32_t *place = &mirror_row[view.list[i]];
            if (*place < 0)
                *place = rows++;
            list[items++] = *place;
        }
    }
    begin[op->group->ranks] = items;
    return rows;
}

/** Copies the rows to their places; a row that several ranks need was placed at its first mention, in order. */
static uint64_t copy_mirror_rows(const fm_ep_op *op, int source, int first, int last, char *base,
                                 const fm_ep_publication *mirror, const int32_t *list)
{
    int32_t *origin = (int32_t *)(void *)(base + mirror->origin_offset);
    uint64_t bytes = 0;
    int rows = 0;
    for (int reader = first; reader < last; reader++) {
        fm_ep_view view = direct_view(op, source, reader);
        for (int i = 0; i < view.count; i++) {
            if (*list++ != rows)
                continue;
            for (int p = 0; p < FM_EP_PARTS; p++) {
                const fm_ep_part *part = &mirror->parts[p];
                memcpy(base + part->offset + (int64_t)part->stride * rows,
                       fm_ep_view_row(&view, p, view.list[i]), part->bytes);
                bytes += part->bytes;
            }
            origin[rows++] = view.list[i];
        }
    }
    return bytes;
}

static void build_mirror(fm_ep_op *op, int source)
{
    FM_SPAN_ARGS(span, "mirror", "ep", "source", "bytes");
    fm_ep_group *group = op->group;
    const fm_ep_plan *plan = &group->plan;
    int first = group->node * plan->node_ranks;
    int last = first + plan->node_ranks < group->ranks ? first + plan->node_ranks : group->ranks;
    char *base = group->base[group->rank];
    size_t at = mirror_offset(group, op->slot, source);
    fm_ep_publication *mirror = (fm_ep_publication *)(void *)(base + at);
    int32_t *begin = (int32_t *)(void *)(base + at + plan->mirror_begin);
    int32_t *list = (int32_t *)(void *)(base + at + plan->mirror_list);

    *mirror = *direct_view(op, source, group->rank).publication;
    mirror->begin_offset = (int64_t)(at + plan->mirror_begin);
    mirror->list_offset = (int64_t)(at + plan->mirror_list);
    if (mirror->kind != (int32_t)op->kind || mirror->detail != op->detail) {
        // The readers, this rank among them, will see the same and say so.
        memset(begin, 0, ((size_t)group->ranks + 1) * sizeof *begin);
        return;
    }
    mirror->rows = place_mirror_rows(op, source, first, last, list, begin);
    mirror->origin_offset = (int64_t)(at + plan->mirror_origin);
    size_t end = at + plan->mirror_parts;
    for (int p = 0; p < FM_EP_PARTS; p++) {
        fm_ep_part *part = &mirror->parts[p];
        part->offset = (int64_t)end;
        part->stride = part->bytes;
        end = fm_round_up(end + part->bytes * (size_t)mirror->rows, FM_EP_ALIGN);
    }
    uint64_t bytes = copy_mirror_rows(op, source, first, last, base, mirror, list);
    if (mirror->check_offset) {
        mirror->check_offset = (int64_t)(at + plan->mirror_check);
        uint32_t *check = (uint32_t *)(void *)(base + mirror->check_offset);
        for (int reader = first; reader < last; reader++) {
            fm_ep_view view = direct_view(op, source, reader);
            memcpy(check + begin[reader], view.check, (size_t)view.count * sizeof *check);
        }
    }
    group->stats.bytes_remote += bytes;
    span.args[0] = source;
    span.args[1] = (int64_t)bytes;
}

/** Mirrors the sources outside whose rail this rank is, as they post. */
static void serve_mirrors(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    if (group->plan.mirrors == 0)
        return;
    for (int source = 0; source < group->ranks; source++) {
        if (group->mirror_of[source] < 0 || fm_ep_rail(&group->plan, group->node, source) != group->rank ||
            op->mirror_ready[source] || group->masked[source] ||
            fm_ep_flag_get(fm_ep_flag_posted(group, source, op->slot)) != op->epoch)
            continue;
        build_mirror(op, source);
        op->mirror_ready[source] = 1;
        fm_ep_flag_set(fm_ep_flag_mirrored(group, group->rank, op->slot, source), op->epoch);
        fm_ep_flag_set(fm_ep_flag_done(group, source, op->slot, group->rank), op->epoch);
    }
}

/* ---- reading ---- */

/** The first rank whose rows, or whose mirror of another's rows, are not there yet; -1 when all are. */
static int missing_source(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        if (group->masked[source] || fm_ep_flag_get(ready_flag(op, source)) >= op->epoch)
            continue;
        int has_posted = fm_ep_flag_get(fm_ep_flag_posted(group, source, op->slot)) >= op->epoch;
        return has_posted ? holder_of(group, source) : source;
    }
    return -1;
}

/** Fills the group's views: empty for masked sources and for those that posted something else. */
static void open_views(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        fm_ep_view *view = &group->views[source];
        *view = (fm_ep_view){0};
        if (group->masked[source])
            continue;
        if (fm_ep_flag_get(ready_flag(op, source)) != op->epoch) {
            fail_op(op,
                    fm_base_error_set(FM_ERR_STATE, "rank %d has gone on without this rank; rejoin", source));
            continue;
        }
        *view = read_view(op, source);
        const fm_ep_publication *publication = view->publication;
        if (publication->kind != (int32_t)op->kind) {
            fail_op(op, fm_base_error_set(FM_ERR_STATE, "rank %d posted %s; expected the same on all ranks",
                                          source, kind_names[publication->kind]));
            view->count = 0;
        } else if (publication->detail != op->detail) {
            fail_op(op,
                    fm_base_error_set(FM_ERR_STATE,
                                      "rank %d posted it with other arguments (%#" PRIx64 ", here %#" PRIx64
                                      "); expected the same sizes and formats on all ranks",
                                      source, publication->detail, op->detail));
            view->count = 0;
        }
    }
}

/** Tells the publishers that this rank has read. A flag that has moved on meanwhile says that what was read may have
 * been overwritten. */
static void close_views(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    for (int source = 0; source < group->ranks; source++) {
        if (group->masked[source] || !group->views[source].publication)
            continue;
        int holder = holder_of(group, source);
        if (fm_ep_flag_get(ready_flag(op, source)) != op->epoch)
            fail_op(op,
                    fm_base_error_set(FM_ERR_STATE, "rank %d has gone on without this rank; rejoin", holder));
        // The source is told even where the mirror was read: it may have masked the rail, and wait for this rank.
        if (source != group->rank)
            fm_ep_flag_set(fm_ep_flag_done(group, source, op->slot, group->rank), op->epoch);
        if (holder != source)
            fm_ep_flag_set(fm_ep_flag_mirror_done(group, holder, op->slot, source, group->rank), op->epoch);
    }
}

void fm_ep_exchange_count(fm_ep_group *group, int source, uint64_t bytes)
{
    int holder = holder_of(group, source);
    int outside = group->mirror_of[source] >= 0;
    if (outside)
        group->stats.bytes_direct += bytes;
    if (outside && holder == source)
        group->stats.bytes_remote += bytes;
    else if (holder == group->rank)
        group->stats.bytes_self += bytes;
    else
        group->stats.bytes_node += bytes;
}

/** The first rank that has still to read what this rank posted or mirrors; -1 when none has. */
static int missing_reader(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    for (int reader = 0; reader < group->ranks; reader++) {
        int node = fm_ep_node_of(&group->plan, reader), marker = reader;
        if (node != group->node) {
            marker = fm_ep_rail(&group->plan, node, group->rank);
            marker = group->masked[marker] ? reader : marker;
        }
        if (reader != group->rank && !group->masked[reader] &&
            fm_ep_flag_get(fm_ep_flag_done(group, group->rank, op->slot, marker)) < op->epoch)
            return marker;
        for (int source = 0; node == group->node && source < group->ranks; source++)
            if (op->mirror_ready[source] && reader != group->rank && !group->masked[reader] &&
                fm_ep_flag_get(fm_ep_flag_mirror_done(group, group->rank, op->slot, source, reader)) <
                    op->epoch)
                return reader;
    }
    return -1;
}

/** Does what can be done now; returns the rank that has to act next, -1 when the operation has ended. */
static int progress(fm_ep_op *op)
{
    serve_mirrors(op);
    if (op->state == FM_EP_POSTED) {
        int source = missing_source(op);
        if (source >= 0)
            return source;
        open_views(op);
        if (op->status == FM_OK && op->receive) {
            fm_status status = op->receive(op);
            if (status < 0)
                fail_op(op, status);
        }
        close_views(op);
        op->state = FM_EP_RECEIVED;
    }
    int reader = missing_reader(op);
    if (reader < 0)
        op->state = FM_EP_ENDED;
    return reader;
}

/** Others may wait for this rank in any operation, so all are served. Returns progress() of `op`. */
static int progress_all(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    for (uint64_t back = (uint64_t)group->plan.in_flight; back-- > 0;) {
        if (back >= group->epoch)
            continue;
        fm_ep_op *other = &group->ops[(group->epoch - back) % (uint64_t)group->plan.in_flight];
        if (other != op && (other->state == FM_EP_POSTED || other->state == FM_EP_RECEIVED))
            progress(other);
    }
    return op->state == FM_EP_ENDED ? -1 : progress(op);
}

/* ---- the life of an operation ---- */

fm_status fm_ep_exchange_begin(fm_ep_group *group, fm_ep_kind kind, fm_ep_op **out_op,
                               fm_ep_publication **out_pub)
{
    uint64_t epoch = group->epoch + 1;
    fm_ep_op *op = &group->ops[epoch % (uint64_t)group->plan.in_flight];
    if (op->state != FM_EP_FREE)
        return fm_base_error_set(
            FM_ERR_BUSY,
            "%d operations are in flight, as many as the group allows; end the %s of epoch "
            "%" PRIu64 " first",
            group->plan.in_flight, kind_names[op->kind], op->epoch);
    uint8_t *mirror_ready = op->mirror_ready;
    memset(mirror_ready, 0, (size_t)group->ranks);
    *op = (fm_ep_op){.group = group,
                     .kind = kind,
                     .slot = (int)(epoch % (uint64_t)group->plan.in_flight),
                     .epoch = epoch,
                     .mirror_ready = mirror_ready};
    fm_ep_publication *publication = fm_ep_slot_at(op, 0);
    *publication = (fm_ep_publication){
        .epoch = epoch,
        .kind = (int32_t)kind,
        .begin_offset = fm_ep_offset_of(group, fm_ep_slot_at(op, group->plan.begin)),
        .list_offset = fm_ep_offset_of(group, fm_ep_slot_at(op, group->plan.list)),
    };
    *out_op = op;
    *out_pub = publication;
    return FM_OK;
}

void fm_ep_exchange_part(fm_ep_op *op, fm_ep_part *part, size_t stage, const void *from, size_t stride,
                         size_t bytes, int rows, const int32_t *list)
{
    *part = (fm_ep_part){0};
    if (bytes == 0)
        return;
    const char *rows_at = from;
    if (op->group->options.staged && rows > 0) {
        char *to = fm_ep_slot_at(op, stage);
        for (int i = 0; i < rows; i++)
            memcpy(to + (size_t)i * bytes, (const char *)from + (size_t)(list ? list[i] : i) * stride, bytes);
        rows_at = to;
        stride = bytes;
    }
    *part = (fm_ep_part){.offset = fm_ep_offset_of(op->group, rows_at), .stride = stride, .bytes = bytes};
}

void fm_ep_exchange_post(fm_ep_op *op)
{
    fm_ep_group *group = op->group;
    fm_ep_publication *publication = fm_ep_slot_at(op, 0);
    op->detail = publication->detail;
    if (group->options.check && (op->kind == FM_EP_KIND_DISPATCH || op->kind == FM_EP_KIND_COMBINE)) {
        write_checksums(op, publication);
        publication->check_offset = fm_ep_offset_of(group, fm_ep_slot_at(op, group->plan.check));
    }
    op->state = FM_EP_POSTED;
    group->epoch = op->epoch;
    group->stats.operations++;
    fm_ep_flag_set(fm_ep_flag_posted(group, group->rank, op->slot), op->epoch);
}

static fm_status end_op(fm_ep_op *op)
{
    op->state = FM_EP_FREE;
    return op->status < 0 ? fm_base_error_set(op->status, "%s", op->message) : FM_OK;
}

static fm_status check_in_flight(const fm_ep_op *op)
{
    if (!op || op->state == FM_EP_FREE)
        return fm_base_error_set(FM_ERR_STATE,
                                 "the operation is not in flight: it has ended or was forgotten");
    return FM_OK;
}

fm_status fm_ep_op_test(fm_ep_op *op, int *out_done)
{
    FM_TRY(check_in_flight(op));
    *out_done = progress_all(op) < 0;
    return *out_done ? end_op(op) : FM_OK;
}

fm_status fm_ep_op_wait(fm_ep_op *op)
{
    FM_TRY(check_in_flight(op));
    FM_SPAN_ARGS(span, "wait", "ep", "epoch", "ns");
    fm_ep_group *group = op->group;
    int64_t timeout_ms = group->options.timeout_ms;
    fm_wait wait = fm_base_wait_begin(timeout_ms);
    uint64_t blocked = 0; // since when; 0: not blocked
    int state = (int)op->state;
    for (;;) {
        int peer = progress_all(op);
        if (peer < 0)
            break;
        if ((int)op->state != state) { // this rank has worked meanwhile: the next wait spins again
            state = (int)op->state;
            wait = fm_base_wait_begin(timeout_ms);
            blocked = 0;
        }
        uint64_t before = blocked ? blocked : fm_base_clock_ns();
        if (fm_base_wait_step(&wait) < 0)
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "%s, epoch %" PRIu64 ": rank %d has not %s within %" PRId64 " ms",
                                     kind_names[op->kind], op->epoch, peer,
                                     op->state == FM_EP_POSTED ? "posted" : "finished reading", timeout_ms);
        blocked = fm_base_clock_ns();
        group->peers[peer].wait_ns += blocked - before;
        span.args[1] += (int64_t)(blocked - before);
    }
    span.args[0] = (int64_t)op->epoch;
    return end_op(op);
}
