// What every operation does: post, read what others posted, wait until others have read.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ep_flags.h"
#include "ep_private.h"
#include "fathom/span.h"

enum {
    YIELD_NS = 300000, /**< a few times what a dispatch of 128 tokens takes */
    YIELD_STEP = 140,  /**< of fm_wait: past its spinning, before its sleeping */
};

static const char *const kind_names[] = {"barrier", "dispatch", "combine", "all-gather", "reduce-scatter"};

const char *fm_ep_kind_name(int kind)
{
    return kind_names[kind];
}

void fm_ep_op_fail(fm_ep_op *op, fm_status status)
{
    if (op->status < 0)
        return;
    op->status = status;
    snprintf(op->message, sizeof op->message, "%s, epoch %" PRIu64 ": %s", kind_names[op->kind], op->epoch,
             fm_error_message());
}

void fm_ep_exchange_count(fm_ep_group *group, int source, uint64_t bytes)
{
    int holder = fm_ep_holder_of(group, source);
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

/* ---- progress ---- */

/** Whether `reader` has read what this rank posted, or mirrors. */
static int has_read(const fm_ep_op *op, int reader)
{
    const fm_ep_group *group = op->group;
    if (fm_ep_flag_get(fm_ep_flag_done(group, group->rank, op->slot, reader)) < op->epoch)
        return 0;
    for (int source = 0; group->plan.mirrors > 0 && source < group->ranks; source++)
        if (op->mirror_ready[source] &&
            fm_ep_flag_get(fm_ep_flag_mirror_done(group, group->rank, op->slot, source, reader)) < op->epoch)
            return 0;
    return 1;
}

/** Whether a rank outside has what it needs: its rail has copied it, or the message has left. */
static int has_copied(const fm_ep_op *op, int rail)
{
    const fm_ep_group *group = op->group;
    if (group->mail)
        return op->mailed[fm_ep_node_of(&group->plan, rail)] == FM_EP_MAIL_TAKEN;
    return fm_ep_flag_get(fm_ep_flag_done(group, group->rank, op->slot, rail)) >= op->epoch;
}

/** The first rank that has still to read what this rank posted or mirrors; -1 when none has. */
static int missing_reader(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    for (int reader = 0; reader < group->ranks; reader++) {
        int node = fm_ep_node_of(&group->plan, reader);
        if (reader == group->rank || group->masked[reader])
            continue;
        if (node == group->node) {
            if (!has_read(op, reader))
                return reader;
            continue;
        }
        int rail = fm_ep_rail(&group->plan, node, group->rank);
        if (group->masked[rail] && group->mail)
            continue; // nothing is sent there
        rail = group->masked[rail] ? reader : rail;
        if (!has_copied(op, rail))
            return rail;
    }
    return -1;
}

/** The end of reading: publishers are told. */
static void release(fm_ep_op *op)
{
    fm_ep_views_close(op);
    op->state = FM_EP_RECEIVED;
}

/** Does what can be done now; returns the rank that has to act next, -1 when the operation has ended. */
static int progress(fm_ep_op *op)
{
    fm_ep_mail_send(op);
    fm_ep_mirrors_serve(op);
    if (op->state == FM_EP_POSTED) {
        int source = fm_ep_views_missing(op);
        if (source >= 0)
            return source;
        fm_ep_views_open(op);
        if (op->status == FM_OK && op->receive) {
            fm_status status = op->receive(op);
            if (status < 0)
                fm_ep_op_fail(op, status);
        }
        op->state = FM_EP_ARRIVED;
        if (!op->is_pull || op->status < 0)
            release(op);
    }
    if (op->state == FM_EP_ARRIVED)
        return op->group->rank;
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
        if (other != op && other->state != FM_EP_FREE && other->state != FM_EP_ENDED)
            progress(other);
    }
    return op->state == FM_EP_ENDED ? -1 : progress(op);
}

/* ---- the life of an operation ---- */

fm_status fm_ep_exchange_begin(fm_ep_group *group, fm_ep_kind kind, fm_ep_op **out_op,
                               fm_ep_publication **out_pub)
{
    if (group->is_rejoining)
        return fm_base_error_set(FM_ERR_STATE,
                                 "the group is rejoining; call fm_ep_group_rejoin() until it succeeds");
    uint64_t epoch = group->epoch + 1;
    fm_ep_op *op = &group->ops[epoch % (uint64_t)group->plan.in_flight];
    if (op->state != FM_EP_FREE)
        return fm_base_error_set(
            FM_ERR_BUSY,
            "%d operations are in flight, as many as the group allows; end the %s of epoch "
            "%" PRIu64 " first",
            group->plan.in_flight, kind_names[op->kind], op->epoch);
    uint8_t *is_open = op->is_open, *mirror_ready = op->mirror_ready, *mailed = op->mailed;
    memset(is_open, 0, (size_t)group->ranks);
    memset(mirror_ready, 0, (size_t)group->ranks);
    memset(mailed, FM_EP_MAIL_WAITING, (size_t)group->plan.nodes);
    *op = (fm_ep_op){.group = group,
                     .kind = kind,
                     .slot = (int)(epoch % (uint64_t)group->plan.in_flight),
                     .epoch = epoch,
                     .is_open = is_open,
                     .mirror_ready = mirror_ready,
                     .mailed = mailed};
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

int fm_ep_exchange_is_seen(const fm_ep_group *group, const void *rows_at, size_t stride, int64_t rows)
{
    if (!group->options.staged)
        return 1;
    uintptr_t memory = (uintptr_t)group->base[group->rank] + group->plan.memory, at = (uintptr_t)rows_at;
    return at >= memory && at - memory <= group->plan.memory_bytes &&
           (size_t)rows * stride <= group->plan.memory_bytes - (at - memory);
}

void fm_ep_exchange_part(fm_ep_op *op, fm_ep_part *part, int staged, size_t stage, const void *from,
                         size_t stride, size_t bytes, int rows, const int32_t *list)
{
    *part = (fm_ep_part){0};
    if (bytes == 0)
        return;
    const char *rows_at = from;
    if (staged && rows > 0) {
        char *to = fm_ep_slot_at(op, stage);
        fm_ep_copy_kernel stream = fm_ep_copy_choose((size_t)rows * bytes);
        for (int i = 0; i < rows; i++) {
            int next = i + 1 < rows ? i + 1 : i;
            fm_ep_copy_row(stream, to + (size_t)i * bytes, rows_at + (size_t)(list ? list[i] : i) * stride,
                           bytes, rows_at + (size_t)(list ? list[next] : next) * stride);
        }
        fm_ep_copy_fence();
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
        fm_ep_check_write(op);
        publication->check_offset = fm_ep_offset_of(group, fm_ep_slot_at(op, group->plan.check));
    }
    op->state = FM_EP_POSTED;
    group->epoch = op->epoch;
    group->stats.operations++;
    fm_ep_flag_set(fm_ep_flag_posted(group, group->rank, op->slot), op->epoch);
    fm_ep_mail_send(op);
}

static fm_status end_op(fm_ep_op *op)
{
    op->state = FM_EP_FREE;
    if (op->status == FM_OK)
        op->group->has_timed_out = 0; // whoever was late has come after all, or is masked
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

/** Waits until the operation has come to `state`. */
static fm_status wait_for_state(fm_ep_op *op, int wanted)
{
    fm_ep_group *group = op->group;
    int64_t timeout_ms = group->options.timeout_ms;
    fm_wait wait = fm_base_wait_begin(timeout_ms);
    uint64_t blocked = 0, waited = 0; // since when; 0: not blocked
    int state = (int)op->state;
    for (;;) {
        int peer = progress_all(op);
        if ((int)op->state >= wanted)
            return FM_OK;
        if ((int)op->state != state) { // this rank has worked meanwhile: the next wait spins again
            state = (int)op->state;
            wait = fm_base_wait_begin(timeout_ms);
            blocked = waited = 0;
        }
        uint64_t before = blocked ? blocked : fm_base_clock_ns();
        // A sleep ends some 100 us late, which is longer than small operations take: first the processor is offered to
        // others for a while.
        if (waited < YIELD_NS && wait.steps > YIELD_STEP)
            wait.steps = YIELD_STEP;
        if (fm_base_wait_step(&wait) < 0) {
            group->has_timed_out = 1;
            group->late_peer = peer;
            return fm_base_error_set(FM_ERR_TIMEOUT,
                                     "%s, epoch %" PRIu64 ": rank %d has not %s within %" PRId64 " ms",
                                     kind_names[op->kind], op->epoch, peer,
                                     op->state == FM_EP_POSTED ? "posted" : "finished reading", timeout_ms);
        }
        blocked = fm_base_clock_ns();
        waited += blocked - before;
        group->peers[peer].wait_ns += blocked - before;
    }
}

fm_status fm_ep_op_wait(fm_ep_op *op)
{
    FM_TRY(check_in_flight(op));
    FM_SPAN_ARGS(span, "wait", "ep", "epoch", NULL);
    span.args[0] = (int64_t)op->epoch;
    FM_TRY(wait_for_state(op, FM_EP_ARRIVED));
    fm_ep_op_release(op);
    FM_TRY(wait_for_state(op, FM_EP_ENDED));
    return end_op(op);
}

fm_status fm_ep_op_arrive(fm_ep_op *op)
{
    FM_TRY(check_in_flight(op));
    FM_TRY(wait_for_state(op, FM_EP_ARRIVED));
    return op->status < 0 ? fm_base_error_set(op->status, "%s", op->message) : FM_OK;
}

int fm_ep_op_has_arrived(const fm_ep_op *op)
{
    return op && op->state >= FM_EP_ARRIVED;
}

void fm_ep_op_release(fm_ep_op *op)
{
    if (op && op->state == FM_EP_ARRIVED)
        release(op);
}
