// Combine: experts' outputs back to the tokens' ranks, summed in top-k order.
#include <string.h>

#include "ep_private.h"
#include "fathom/cpu.h"
#include "fathom/span.h"

/** Bytes of a row as the experts left it, and as it is summed into. */
static size_t uncast_bytes(const fm_ep_group *group, fm_ep_format format)
{
    return fm_ep_row_bytes(format == FM_EP_F32 ? FM_EP_F32 : FM_EP_BF16, group->options.hidden);
}

static int is_cast(const fm_ep_combine *combine)
{
    return combine->format != FM_EP_BF16 && combine->format != FM_EP_F32;
}

static fm_status check_combine(const fm_ep_group *group, const fm_ep_combine *combine,
                               const fm_ep_handle *handle)
{
    if (!combine || combine->size != sizeof *combine)
        return fm_base_error_set(FM_ERR_ARG, "combine: size is %zu; expected sizeof(fm_ep_combine), %zu",
                                 combine ? combine->size : 0, sizeof *combine);
    if (!handle || handle->group != group)
        return fm_base_error_set(FM_ERR_ARG, "handle is %s; expected one of this group",
                                 handle ? "another group's" : "NULL");
    if (!handle->is_received || handle->rejoins != group->rejoins)
        return fm_base_error_set(FM_ERR_STATE, "the handle has seen no dispatch%s",
                                 handle->is_received ? " since the group rejoined" : "");
    size_t row = uncast_bytes(group, combine->format);
    if (handle->received.items > 0 && !combine->x)
        return fm_base_error_set(FM_ERR_ARG, "x is NULL, with %d rows to send", handle->received.rows);
    if (combine->x_stride != 0 && combine->x_stride < row)
        return fm_base_error_set(FM_ERR_ARG, "x_stride is %zu bytes; expected 0 or at least a row, %zu",
                                 combine->x_stride, row);
    if (handle->tokens > 0 && !combine->out)
        return fm_base_error_set(FM_ERR_ARG, "out is NULL, with %d tokens to combine", handle->tokens);
    if (combine->format < FM_EP_BF16 || combine->format > FM_EP_F32)
        return fm_base_error_set(FM_ERR_ARG, "format is %d; expected BF16, FP8, LOGFMT10 or F32",
                                 (int)combine->format);
    if (combine->format == FM_EP_F32 && !group->options.wide)
        return fm_base_error_set(FM_ERR_ARG, "format is F32, but the group was created without wide");
    if (is_cast(combine) && !group->options.casts_combine)
        return fm_base_error_set(FM_ERR_ARG, "format is %d, but the group was created without casts_combine",
                                 (int)combine->format);
    if (combine->topk_weights && handle->arrangement == FM_EP_PLAIN)
        return fm_base_error_set(
            FM_ERR_ARG, "topk_weights: a PLAIN handle has one row for several choices; expected NULL");
    return FM_OK;
}

/** Takes the next row of the view of choice k, if it has one of its own: in a PLAIN handle, a rank's first lane has. */
static fm_status add_choice(fm_ep_op *op, int t, int k, fm_ep_sum *sum)
{
    fm_ep_group *group = op->group;
    const fm_ep_handle *handle = op->handle;
    const fm_ep_combine *combine = &op->as.combine;
    const int32_t *choice = handle->topk_idx + (size_t)t * (size_t)handle->topk;
    size_t lane = (size_t)t * (size_t)handle->topk + (size_t)k;
    if (combine->out_weights)
        combine->out_weights[lane] = 0.0f;
    int owner = choice[k] < 0 ? -1 : choice[k] / group->local_experts;
    if (owner < 0 || group->masked[owner])
        return FM_OK;
    const fm_ep_view *view = &group->views[owner];
    int is_new = 1;
    for (int before = 0; handle->arrangement == FM_EP_PLAIN && before < k; before++)
        is_new &= choice[before] < 0 || choice[before] / group->local_experts != owner;
    int i = is_new ? group->cursor[owner]++ : group->cursor[owner] - 1;
    const void *row = fm_ep_view_row(view, FM_EP_PART_ROW, view->list[i]);
    const void *scales = is_cast(combine) ? fm_ep_view_row(view, FM_EP_PART_SCALES, view->list[i]) : NULL;
    if (combine->out_weights) {
        if (view->publication->parts[FM_EP_PART_WEIGHTS].bytes == 0)
            return fm_base_error_set(FM_ERR_STATE, "out_weights is wanted, but rank %d gave no row_weights",
                                     owner);
        const float *weights = fm_ep_view_row(view, FM_EP_PART_WEIGHTS, view->list[i]);
        combine->out_weights[lane] = weights[handle->arrangement == FM_EP_PLAIN ? k : 0];
    }
    if (!is_new)
        return FM_OK;
    sum->rows[sum->count] = row;
    sum->scales[sum->count] = scales;
    sum->weights[sum->count++] = combine->topk_weights ? combine->topk_weights[lane] : 1.0f;
    group->peers[owner].combine_rows++;
    return fm_ep_view_check(op, view, owner, i, row, scales);
}

/** What token `t` is made of. */
static fm_status collect(fm_ep_op *op, int t, fm_ep_sum *out_sum)
{
    const fm_ep_combine *combine = &op->as.combine;
    out_sum->count = 0;
    for (int b = 0; b < 2; b++)
        if (combine->bias[b]) {
            out_sum->rows[out_sum->count] =
                (const char *)combine->bias[b] + (size_t)t * uncast_bytes(op->group, combine->format);
            out_sum->scales[out_sum->count] = NULL;
            out_sum->weights[out_sum->count++] = 1.0f;
        }
    for (int k = 0; k < op->handle->topk; k++)
        FM_TRY(add_choice(op, t, k, out_sum));
    return FM_OK;
}

/** A view must hold a row for each that this rank is owed. */
static fm_status check_views(const fm_ep_op *op)
{
    const fm_ep_group *group = op->group;
    const fm_ep_handle *handle = op->handle;
    memset(group->cursor, 0, (size_t)group->ranks * sizeof *group->cursor);
    for (int t = 0; t < handle->tokens; t++)
        for (int k = 0; k < handle->topk; k++) {
            int32_t expert = handle->topk_idx[(size_t)t * (size_t)handle->topk + (size_t)k];
            if (expert >= 0)
                group->cursor[expert / group->local_experts]++;
        }
    for (int owner = 0; owner < group->ranks; owner++) {
        int owed = handle->arrangement == FM_EP_PLAIN
                       ? handle->send_begin[owner + 1] - handle->send_begin[owner]
                       : group->cursor[owner];
        if (!group->masked[owner] && group->views[owner].count != owed)
            return fm_base_error_set(
                FM_ERR_STATE,
                "rank %d has %d rows of this rank, which sent it %d: it had masked this rank out", owner,
                group->views[owner].count, owed);
    }
    memset(group->cursor, 0, (size_t)group->ranks * sizeof *group->cursor);
    return FM_OK;
}

static fm_status receive_combine(fm_ep_op *op)
{
    FM_SPAN_ARGS(span, "combine", "ep", "epoch", "tokens");
    fm_ep_group *group = op->group;
    const fm_ep_handle *handle = op->handle;
    const fm_ep_combine *combine = &op->as.combine;
    FM_TRY(check_views(op));
    size_t row = uncast_bytes(group, combine->format);
    int stream = fm_ep_copy_choose((size_t)handle->tokens * row) != NULL;
    uint32_t mode = fm_base_fp_enter();
    fm_ep_sum sums[2]; // of this token, and of the next one, whose rows are fetched meanwhile
    fm_status status = handle->tokens > 0 ? collect(op, 0, &sums[0]) : FM_OK;
    for (int t = 0; t < handle->tokens && status == FM_OK; t++) {
        fm_ep_sum *next = t + 1 < handle->tokens ? &sums[(t + 1) % 2] : NULL;
        if (next)
            status = collect(op, t + 1, next);
        void *out = (char *)combine->out + (size_t)t * row;
        if (combine->format == FM_EP_F32)
            fm_ep_sum_wide(&sums[t % 2], group->options.hidden, out);
        else if (combine->format == FM_EP_BF16)
            group->sum(&sums[t % 2], group->options.hidden, next, stream, out);
        else
            fm_ep_sum_cast(&sums[t % 2], group->options.hidden, combine->format, out);
    }
    fm_ep_copy_fence();
    fm_base_fp_leave(mode);
    size_t bytes = fm_ep_row_bytes(combine->format, group->options.hidden) +
                   fm_ep_scale_bytes(combine->format, group->options.hidden);
    for (int owner = 0; owner < group->ranks; owner++)
        fm_ep_exchange_count(group, owner, (uint64_t)group->cursor[owner] * bytes);
    span.args[0] = (int64_t)op->epoch;
    span.args[1] = handle->tokens;
    return status;
}

/** Each source gets its rows by token, then lane: the order in which it will add them. */
static void publish_lists(fm_ep_op *op, const fm_ep_handle *handle)
{
    const fm_ep_group *group = op->group;
    const fm_ep_received *received = &handle->received;
    int32_t *begin = fm_ep_slot_at(op, group->plan.begin), *list = fm_ep_slot_at(op, group->plan.list);
    if (handle->arrangement == FM_EP_PLAIN) {
        memcpy(begin, received->source_begin, ((size_t)group->ranks + 1) * sizeof *begin);
        for (int item = 0; item < received->items; item++)
            list[item] = item;
        return;
    }
    for (int source = 0; source <= group->ranks; source++)
        begin[source] = received->choice_begin[received->source_begin[source]];
    memcpy(list, received->choice_row, (size_t)begin[group->ranks] * sizeof *list);
}

/** Casts the rows of the list into the slot, in its order. */
static void cast_rows(fm_ep_op *op, fm_ep_publication *publication, const int32_t *list, int items,
                      size_t stride)
{
    FM_SPAN_ARGS(span, "cast", "ep", "rows", NULL);
    span.args[0] = items;
    const fm_ep_group *group = op->group;
    const fm_ep_combine *combine = &op->as.combine;
    int hidden = group->options.hidden;
    size_t bytes = fm_ep_row_bytes(combine->format, hidden),
           scales = fm_ep_scale_bytes(combine->format, hidden);
    char *stage = fm_ep_slot_at(op, group->plan.stage),
         *stage_scales = fm_ep_slot_at(op, group->plan.stage_scales);
    uint32_t mode = fm_base_fp_enter();
    for (size_t i = 0; i < (size_t)items; i++)
        fm_ep_cast_row((const fm_bf16 *)(const void *)((const char *)combine->x + (size_t)list[i] * stride),
                       hidden, combine->format, stage + i * bytes, stage_scales + i * scales);
    fm_base_fp_leave(mode);
    publication->parts[FM_EP_PART_ROW] =
        (fm_ep_part){.offset = fm_ep_offset_of(group, stage), .stride = bytes, .bytes = bytes};
    publication->parts[FM_EP_PART_SCALES] =
        (fm_ep_part){.offset = fm_ep_offset_of(group, stage_scales), .stride = scales, .bytes = scales};
}

fm_status fm_ep_combine_post(fm_ep_group *group, const fm_ep_combine *combine, fm_ep_handle *handle,
                             fm_ep_op **out_op)
{
    FM_TRY(check_combine(group, combine, handle));
    fm_ep_op *op;
    fm_ep_publication *publication;
    FM_TRY(fm_ep_exchange_begin(group, FM_EP_KIND_COMBINE, &op, &publication));
    op->handle = handle;
    op->as.combine = *combine;
    op->receive = receive_combine;
    publication->rows = handle->received.rows;
    publication->detail =
        (uint64_t)handle->arrangement | (uint64_t)combine->format << 8 | handle->epoch << 16;
    publish_lists(op, handle);
    int32_t *list = fm_ep_slot_at(op, group->plan.list);
    const int32_t *begin = fm_ep_slot_at(op, group->plan.begin);
    int items = begin[group->ranks];
    size_t bytes = uncast_bytes(group, combine->format);
    size_t stride = combine->x_stride ? combine->x_stride : bytes;
    size_t weights = sizeof(float) * (handle->arrangement == FM_EP_PLAIN ? (size_t)handle->topk : 1);
    // Both or none, as they share one list.
    int staged = is_cast(combine) || !fm_ep_exchange_is_seen(group, combine->x, stride, publication->rows) ||
                 (combine->row_weights &&
                  !fm_ep_exchange_is_seen(group, combine->row_weights, weights, publication->rows));
    if (is_cast(combine))
        cast_rows(op, publication, list, items, stride);
    else
        fm_ep_exchange_part(op, &publication->parts[FM_EP_PART_ROW], staged, group->plan.stage, combine->x,
                            stride, bytes, items, list);
    if (combine->row_weights) {
        fm_ep_exchange_part(op, &publication->parts[FM_EP_PART_WEIGHTS], staged, group->plan.stage_weights,
                            combine->row_weights, weights, weights, items, list);
    }
    for (int i = 0; staged && i < items; i++)
        list[i] = i; // staged rows lie in the order of the list
    fm_ep_exchange_post(op);
    *out_op = op;
    return FM_OK;
}

fm_status fm_ep_combine_run(fm_ep_group *group, const fm_ep_combine *combine, fm_ep_handle *handle)
{
    fm_ep_op *op;
    FM_TRY(fm_ep_combine_post(group, combine, handle, &op));
    return fm_ep_op_wait(op);
}
