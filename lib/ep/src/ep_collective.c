// Barrier, all-gather and reduce-scatter: exchanges whose lists are the same for everyone.
#include <string.h>

#include "ep_private.h"
#include "fathom/span.h"

/** Posts `rows` parts of `bytes` each, of which reader q gets part q, or all readers get part 0. */
static fm_status post(fm_ep_group *group, fm_ep_kind kind, const void *from, int rows, size_t bytes,
                      void *out, fm_status (*receive)(fm_ep_op *op), fm_ep_op **out_op)
{
    fm_ep_op *op;
    fm_ep_publication *publication;
    FM_TRY(fm_ep_exchange_begin(group, kind, &op, &publication));
    op->as.collective.out = out;
    op->as.collective.bytes = bytes;
    op->receive = receive;
    publication->rows = rows;
    publication->detail = bytes;
    fm_ep_exchange_part(op, &publication->parts[FM_EP_PART_ROW],
                        !fm_ep_exchange_is_seen(group, from, bytes, rows), group->plan.stage, from, bytes,
                        bytes, rows, NULL);
    int32_t *begin = fm_ep_slot_at(op, group->plan.begin), *list = fm_ep_slot_at(op, group->plan.list);
    for (int reader = 0; reader <= group->ranks; reader++)
        begin[reader] = rows > 0 ? reader : 0;
    for (int reader = 0; reader < group->ranks; reader++)
        list[reader] = rows > 1 ? reader : 0;
    fm_ep_exchange_post(op);
    *out_op = op;
    return FM_OK;
}

fm_status fm_ep_barrier_post(fm_ep_group *group, fm_ep_op **out_op)
{
    return post(group, FM_EP_KIND_BARRIER, NULL, 0, 0, NULL, NULL, out_op);
}

fm_status fm_ep_barrier(fm_ep_group *group)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_barrier_post(group, &op));
    return fm_ep_op_wait(op);
}

static fm_status check_bytes(const fm_ep_group *group, const void *from, size_t bytes, const void *out)
{
    if (bytes > group->options.collective_bytes_max)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%zu bytes; expected at most the group's collective_bytes_max, %zu", bytes,
                                 group->options.collective_bytes_max);
    if (bytes > 0 && (!from || !out))
        return fm_base_error_set(FM_ERR_ARG, "input and output must not be NULL");
    return FM_OK;
}

static fm_status receive_gather(fm_ep_op *op)
{
    FM_SPAN_ARGS(span, "all-gather", "ep", "epoch", "bytes");
    fm_ep_group *group = op->group;
    size_t bytes = op->as.collective.bytes;
    for (int source = 0; source < group->ranks; source++) {
        const fm_ep_view *view = &group->views[source];
        if (view->count == 0)
            continue;
        memcpy((char *)op->as.collective.out + (size_t)source * bytes,
               fm_ep_view_row(view, FM_EP_PART_ROW, view->list[0]), bytes);
        fm_ep_exchange_count(group, source, bytes);
    }
    span.args[0] = (int64_t)op->epoch;
    span.args[1] = (int64_t)bytes;
    return FM_OK;
}

fm_status fm_ep_all_gather_post(fm_ep_group *group, const void *from, size_t bytes, void *out,
                                fm_ep_op **out_op)
{
    FM_TRY(check_bytes(group, from, bytes, out));
    if (bytes == 0)
        return fm_ep_barrier_post(group, out_op);
    return post(group, FM_EP_KIND_ALL_GATHER, from, 1, bytes, out, receive_gather, out_op);
}

fm_status fm_ep_all_gather(fm_ep_group *group, const void *from, size_t bytes, void *out)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_all_gather_post(group, from, bytes, out, &op));
    return fm_ep_op_wait(op);
}

static fm_status receive_sum(fm_ep_op *op)
{
    FM_SPAN_ARGS(span, "reduce-scatter", "ep", "epoch", "bytes");
    fm_ep_group *group = op->group;
    size_t bytes = op->as.collective.bytes, count = bytes / sizeof(float);
    float *out = op->as.collective.out;
    memset(out, 0, bytes);
    for (int source = 0; source < group->ranks; source++) {
        const fm_ep_view *view = &group->views[source];
        if (view->count == 0)
            continue;
        const float *part = fm_ep_view_row(view, FM_EP_PART_ROW, view->list[0]);
        for (size_t i = 0; i < count; i++)
            out[i] += part[i];
        fm_ep_exchange_count(group, source, bytes);
    }
    span.args[0] = (int64_t)op->epoch;
    span.args[1] = (int64_t)bytes;
    return FM_OK;
}

fm_status fm_ep_reduce_scatter_post(fm_ep_group *group, const float *x, size_t count, float *out,
                                    fm_ep_op **out_op)
{
    size_t bytes = 0, all = 0;
    FM_TRY(fm_mul_size(count, sizeof *x, &bytes));
    FM_TRY(fm_mul_size(bytes, (size_t)group->ranks, &all));
    FM_TRY(check_bytes(group, x, all, out));
    if (bytes == 0)
        return fm_ep_barrier_post(group, out_op);
    return post(group, FM_EP_KIND_REDUCE_SCATTER, x, group->ranks, bytes, out, receive_sum, out_op);
}

fm_status fm_ep_reduce_scatter(fm_ep_group *group, const float *x, size_t count, float *out)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_reduce_scatter_post(group, x, count, out, &op));
    return fm_ep_op_wait(op);
}
