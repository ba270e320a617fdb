// Dispatch: tokens' rows to the ranks that own their experts.
#include <inttypes.h>
#include <string.h>

#include "ep_private.h"
#include "fathom/span.h"

static size_t row_bytes(const fm_ep_group *group, fm_ep_format format)
{
    return fm_ep_row_bytes(format, group->options.hidden);
}

static size_t scale_bytes(const fm_ep_group *group, fm_ep_format format)
{
    return fm_ep_scale_bytes(format, group->options.hidden);
}

static int can_travel(const fm_ep_group *group, fm_ep_format format)
{
    return format == FM_EP_F32 ? group->options.wide != 0 : format >= FM_EP_BF16 && format <= FM_EP_FP8_UE8M0;
}

static fm_status check_choices(const fm_ep_group *group, const fm_ep_dispatch *dispatch)
{
    if (dispatch->tokens < 0 || dispatch->tokens > group->options.tokens_max)
        return fm_base_error_set(FM_ERR_ARG, "tokens is %d; expected 0 to %d, the group's tokens_max",
                                 dispatch->tokens, group->options.tokens_max);
    if (dispatch->topk < 1 || dispatch->topk > group->options.topk_max)
        return fm_base_error_set(FM_ERR_ARG, "topk is %d; expected 1 to %d, the group's topk_max",
                                 dispatch->topk, group->options.topk_max);
    if (dispatch->tokens > 0 && !dispatch->topk_idx)
        return fm_base_error_set(FM_ERR_ARG, "topk_idx is NULL; expected [%d][%d]", dispatch->tokens,
                                 dispatch->topk);
    return fm_ep_choices_check(dispatch->topk_idx, dispatch->tokens, dispatch->topk, group->options.experts);
}

static fm_status check_handle(const fm_ep_group *group, const fm_ep_handle *handle)
{
    if (!handle || handle->group != group)
        return fm_base_error_set(FM_ERR_ARG, "handle is %s; expected one of this group",
                                 handle ? "another group's" : "NULL");
    return FM_OK;
}

/** Operations in flight still read the handle's choices, and what it says of pulled rows. */
static fm_status check_idle(const fm_ep_group *group, const fm_ep_handle *handle)
{
    for (int i = 0; i < group->plan.in_flight; i++)
        if (group->ops[i].state != FM_EP_FREE && group->ops[i].handle == handle)
            return fm_base_error_set(FM_ERR_STATE,
                                     "the handle is used by the operation of epoch %" PRIu64
                                     ", which has not ended; expected another handle",
                                     group->ops[i].epoch);
    return FM_OK;
}

static fm_status check_dispatch(const fm_ep_group *group, const fm_ep_dispatch *dispatch,
                                const fm_ep_handle *handle)
{
    if (!dispatch || dispatch->size != sizeof *dispatch)
        return fm_base_error_set(FM_ERR_ARG, "dispatch: size is %zu; expected sizeof(fm_ep_dispatch), %zu",
                                 dispatch ? dispatch->size : 0, sizeof *dispatch);
    FM_TRY(check_handle(group, handle));
    if (!dispatch->cached || dispatch->is_pull)
        FM_TRY(check_idle(group, handle));
    if (!dispatch->cached) {
        FM_TRY(check_choices(group, dispatch));
    } else if (!handle->is_received || handle->rejoins != group->rejoins) {
        return fm_base_error_set(FM_ERR_STATE, "cached: the handle has seen no dispatch%s",
                                 handle->is_received ? " since the group rejoined" : "");
    }
    fm_ep_format from = dispatch->x_format, to = dispatch->recv_format;
    if (!can_travel(group, from) || !can_travel(group, to) ||
        (from != to && (from != FM_EP_BF16 || to == FM_EP_F32)))
        return fm_base_error_set(
            FM_ERR_ARG, "x_format is %d and recv_format %d; expected equal ones, or BF16 to FP8%s", (int)from,
            (int)to, from == FM_EP_F32 ? " (F32 needs a group that is wide)" : "");
    int tokens = dispatch->cached ? handle->tokens : dispatch->tokens;
    if (tokens > 0 && (!dispatch->x || (scale_bytes(group, from) > 0 && !dispatch->x_scales)))
        return fm_base_error_set(FM_ERR_ARG, "x or x_scales is NULL, with %d tokens to send", tokens);
    if (dispatch->x_stride != 0 && dispatch->x_stride < row_bytes(group, from))
        return fm_base_error_set(FM_ERR_ARG, "x_stride is %zu bytes; expected 0 or at least a row, %zu",
                                 dispatch->x_stride, row_bytes(group, from));
    if (dispatch->is_pull)
        return FM_OK;
    if (dispatch->recv_rows_max < 0 || (dispatch->recv_rows_max > 0 && !dispatch->recv_x) ||
        (dispatch->recv_rows_max > 0 && scale_bytes(group, to) > 0 && !dispatch->recv_scales))
        return fm_base_error_set(
            FM_ERR_ARG, "recv_rows_max is %" PRId64 ", recv_x %s NULL, recv_scales %s NULL",
            dispatch->recv_rows_max, dispatch->recv_x ? "not" : "is", dispatch->recv_scales ? "not" : "is");
    return FM_OK;
}

/** Rows go out from where they lie, or from the slot: cast to FP8, or staged. */
static void publish_rows(fm_ep_op *op, fm_ep_publication *publication, const fm_ep_dispatch *dispatch)
{
    const fm_ep_group *group = op->group;
    fm_ep_format to = dispatch->recv_format;
    size_t stride = dispatch->x_stride ? dispatch->x_stride : row_bytes(group, dispatch->x_format);
    size_t bytes = row_bytes(group, to), scales = scale_bytes(group, to);
    fm_ep_part *row_part = &publication->parts[FM_EP_PART_ROW],
               *scale_part = &publication->parts[FM_EP_PART_SCALES];
    if (dispatch->x_format == to) {
        int rows = publication->rows;
        fm_ep_exchange_part(op, row_part, !fm_ep_exchange_is_seen(group, dispatch->x, stride, rows),
                            group->plan.stage, dispatch->x, stride, bytes, rows, NULL);
        fm_ep_exchange_part(op, scale_part, !fm_ep_exchange_is_seen(group, dispatch->x_scales, scales, rows),
                            group->plan.stage_scales, dispatch->x_scales, scales, scales, rows, NULL);
        return;
    }
    FM_SPAN_ARGS(span, "cast", "ep", "tokens", NULL);
    span.args[0] = publication->rows;
    char *stage = fm_ep_slot_at(op, group->plan.stage),
         *stage_scales = fm_ep_slot_at(op, group->plan.stage_scales);
    for (int t = 0; t < publication->rows; t++)
        fm_ep_cast_row((const fm_bf16 *)(const void *)((const char *)dispatch->x + stride * (size_t)t),
                       group->options.hidden, to, stage + bytes * (size_t)t,
                       stage_scales + scales * (size_t)t);
    *row_part = (fm_ep_part){.offset = fm_ep_offset_of(group, stage), .stride = bytes, .bytes = bytes};
    *scale_part =
        (fm_ep_part){.offset = fm_ep_offset_of(group, stage_scales), .stride = scales, .bytes = scales};
}

static void publish_choices(fm_ep_op *op, fm_ep_publication *publication, const fm_ep_handle *handle)
{
    const fm_ep_group *group = op->group;
    size_t choices = (size_t)handle->tokens * (size_t)handle->topk;
    int32_t *idx = fm_ep_slot_at(op, group->plan.idx);
    float *weights = fm_ep_slot_at(op, group->plan.weights);
    memcpy(idx, handle->topk_idx, choices * sizeof *idx);
    publication->parts[FM_EP_PART_IDX] = (fm_ep_part){.offset = fm_ep_offset_of(group, idx),
                                                      .stride = (size_t)handle->topk * sizeof *idx,
                                                      .bytes = (size_t)handle->topk * sizeof *idx};
    if (!handle->has_weights)
        return;
    memcpy(weights, handle->topk_weights, choices * sizeof *weights);
    publication->parts[FM_EP_PART_WEIGHTS] = (fm_ep_part){.offset = fm_ep_offset_of(group, weights),
                                                          .stride = (size_t)handle->topk * sizeof *weights,
                                                          .bytes = (size_t)handle->topk * sizeof *weights};
}

/** The rows of a dispatch that an item has here: one for the item, or one for each of its choices. */
static const int32_t *rows_of_item(const fm_ep_handle *handle, int *item, int *out_count)
{
    if (handle->arrangement == FM_EP_PLAIN) {
        *out_count = 1;
        return item;
    }
    *out_count = handle->choice_begin[*item + 1] - handle->choice_begin[*item];
    return handle->choice_row + handle->choice_begin[*item];
}

/** Copies the rows of one source to all the places that they have here. */
static fm_status copy_rows(fm_ep_op *op, int source)
{
    const fm_ep_group *group = op->group;
    const fm_ep_handle *handle = op->handle;
    const fm_ep_dispatch *dispatch = &op->as.dispatch;
    const fm_ep_view *view = &group->views[source];
    size_t bytes = row_bytes(group, dispatch->recv_format),
           scales = scale_bytes(group, dispatch->recv_format);
    fm_ep_copy_kernel stream = fm_ep_copy_choose((size_t)handle->received.rows * bytes);
    for (int i = 0; i < view->count; i++) {
        int item = handle->source_begin[source] + i, count = 0;
        const char *row = fm_ep_view_row(view, FM_EP_PART_ROW, view->list[i]);
        const char *row_scales = fm_ep_view_row(view, FM_EP_PART_SCALES, view->list[i]);
        const char *next = fm_ep_view_row(view, FM_EP_PART_ROW, view->list[i + 1 < view->count ? i + 1 : i]);
        const int32_t *to = rows_of_item(handle, &item, &count);
        for (int c = 0; c < count; c++) {
            char *out = (char *)dispatch->recv_x + (size_t)to[c] * bytes;
            fm_ep_copy_row(stream, out, row, bytes, next);
            if (scales > 0)
                memcpy((char *)dispatch->recv_scales + (size_t)to[c] * scales, row_scales, scales);
            if (c == 0)
                FM_TRY(fm_ep_view_check(op, view, source, i, out, row_scales));
        }
    }
    return FM_OK;
}

/** Notes where the rows of one source lie. */
static fm_status locate_rows(fm_ep_op *op, int source)
{
    const fm_ep_handle *handle = op->handle;
    const fm_ep_view *view = &op->group->views[source];
    for (int i = 0; i < view->count; i++) {
        int item = handle->source_begin[source] + i, count = 0;
        const void *row = fm_ep_view_row(view, FM_EP_PART_ROW, view->list[i]);
        const void *row_scales = fm_ep_view_row(view, FM_EP_PART_SCALES, view->list[i]);
        const int32_t *to = rows_of_item(handle, &item, &count);
        for (int c = 0; c < count; c++) {
            handle->row_at[to[c]] = row;
            handle->row_scales_at[to[c]] = row_scales;
        }
        FM_TRY(fm_ep_view_check(op, view, source, i, row, row_scales));
    }
    return FM_OK;
}

static fm_status receive_rows(fm_ep_op *op, int source)
{
    fm_ep_group *group = op->group;
    uint64_t rows = (uint64_t)group->views[source].count;
    fm_ep_format format = op->as.dispatch.recv_format;
    FM_TRY(op->is_pull ? locate_rows(op, source) : copy_rows(op, source));
    group->peers[source].dispatch_rows += rows;
    fm_ep_exchange_count(group, source, rows * (row_bytes(group, format) + scale_bytes(group, format)));
    return FM_OK;
}

static void zero_padding(const fm_ep_op *op)
{
    const fm_ep_received *received = &op->handle->received;
    const fm_ep_dispatch *dispatch = &op->as.dispatch;
    size_t bytes = row_bytes(op->group, dispatch->recv_format),
           scales = scale_bytes(op->group, dispatch->recv_format);
    for (int e = 0; e < received->local_experts; e++) {
        size_t from = (size_t)received->expert_begin[e] + (size_t)received->expert_count[e];
        size_t rows = (size_t)received->expert_begin[e + 1] - from;
        if (rows > 0)
            memset((char *)dispatch->recv_x + from * bytes, 0, rows * bytes);
        if (rows > 0 && scales > 0)
            memset((char *)dispatch->recv_scales + from * scales, 0, rows * scales);
    }
}

static fm_status receive_dispatch(fm_ep_op *op)
{
    FM_SPAN_ARGS(span, "dispatch", "ep", "epoch", "rows");
    fm_ep_group *group = op->group;
    fm_ep_handle *handle = op->handle;
    if (!op->as.dispatch.cached)
        fm_ep_handle_receive(handle);
    const fm_ep_received *received = &handle->received;
    if (op->is_pull) {
        memset(handle->row_at, 0, (size_t)received->rows * sizeof(const void *));
        memset(handle->row_scales_at, 0, (size_t)received->rows * sizeof(const void *));
    } else if (received->rows > op->as.dispatch.recv_rows_max) {
        return fm_base_error_set(FM_ERR_LIMIT, "%d rows arrive, but recv_rows_max is %" PRId64,
                                 received->rows, op->as.dispatch.recv_rows_max);
    }
    for (int source = 0; source < group->ranks; source++) {
        int expected = received->source_begin[source + 1] - received->source_begin[source];
        if (group->masked[source])
            continue;
        if (group->views[source].count != expected)
            return fm_base_error_set(FM_ERR_STATE, "rank %d sends %d rows; the handle knows of %d", source,
                                     group->views[source].count, expected);
        FM_TRY(receive_rows(op, source));
    }
    fm_ep_copy_fence();
    if (handle->arrangement == FM_EP_EXPANDED && !op->is_pull)
        zero_padding(op);
    span.args[0] = (int64_t)op->epoch;
    span.args[1] = received->rows;
    return FM_OK;
}

fm_status fm_ep_dispatch_post(fm_ep_group *group, const fm_ep_dispatch *dispatch, fm_ep_handle *handle,
                              fm_ep_op **out_op)
{
    FM_TRY(check_dispatch(group, dispatch, handle));
    fm_ep_op *op;
    fm_ep_publication *publication;
    FM_TRY(fm_ep_exchange_begin(group, FM_EP_KIND_DISPATCH, &op, &publication));
    if (!dispatch->cached) {
        fm_ep_handle_send(handle, dispatch->tokens, dispatch->topk, dispatch->topk_idx,
                          dispatch->topk_weights);
        handle->epoch = op->epoch;
        handle->rejoins = group->rejoins;
    }
    op->handle = handle;
    op->is_pull = dispatch->is_pull != 0;
    op->as.dispatch = *dispatch;
    op->receive = receive_dispatch;
    publication->rows = handle->tokens;
    publication->detail = (uint64_t)dispatch->recv_format | (uint64_t)(dispatch->cached != 0) << 8 |
                          (uint64_t)handle->topk << 16;
    publish_rows(op, publication, dispatch);
    if (!dispatch->cached)
        publish_choices(op, publication, handle);
    size_t ranks = (size_t)group->ranks;
    memcpy(fm_ep_slot_at(op, group->plan.begin), handle->send_begin, (ranks + 1) * sizeof(int32_t));
    memcpy(fm_ep_slot_at(op, group->plan.list), handle->send_list,
           (size_t)handle->send_begin[ranks] * sizeof(int32_t));
    fm_ep_exchange_post(op);
    *out_op = op;
    return FM_OK;
}

fm_status fm_ep_dispatch_run(fm_ep_group *group, const fm_ep_dispatch *dispatch, fm_ep_handle *handle)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_dispatch_post(group, dispatch, handle, &op));
    return fm_ep_op_wait(op);
}
