// What is known of one dispatch: who gets which tokens, what arrives, and where each row lies.
#include <string.h>

#include "ep_private.h"

void fm_ep_handle_free(fm_ep_handle *handle)
{
    if (!handle)
        return;
    void *const arrays[] = {handle->topk_idx,     handle->topk_weights, handle->send_begin,
                            handle->send_list,    handle->seen,         handle->expert_count,
                            handle->expert_begin, handle->expert_next,  handle->source_begin,
                            handle->item_token,   handle->recv_idx,     handle->choice_begin,
                            handle->choice_row,   handle->row_item,     handle->recv_weights,
                            handle->row_weight,   handle->row_at,       handle->row_scales_at};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        fm_base_mem_free(arrays[i]);
    fm_base_mem_free(handle);
}

static int64_t worst_rows(const fm_ep_group *group, fm_ep_arrangement arrangement, int alignment)
{
    int64_t items = (int64_t)group->ranks * group->options.tokens_max;
    int64_t experts = group->local_experts;
    if (arrangement == FM_EP_PLAIN)
        return items;
    if (arrangement == FM_EP_FIXED)
        return items * experts;
    // Each block that is not empty wastes at most alignment - 1 rows.
    int64_t blocks = group->plan.choices_max < experts ? group->plan.choices_max : experts;
    int64_t rows = group->plan.choices_max + blocks * (alignment - 1);
    return rows / alignment * alignment;
}

/** One array of the handle: fails later, once, for all of them. */
#define ALLOCATE(array, count)                                                      \
    do {                                                                            \
        handle->array = fm_base_mem_zalloc((size_t)(count), sizeof *handle->array); \
        failed |= !handle->array;                                                   \
    } while (0)

static fm_status allocate(fm_ep_handle *handle)
{
    const fm_ep_group *group = handle->group;
    size_t tokens = (size_t)group->options.tokens_max, topk = (size_t)group->options.topk_max;
    size_t ranks = (size_t)group->ranks, items = ranks * tokens, experts = (size_t)group->local_experts;
    size_t choices = (size_t)group->plan.choices_max;
    int failed = 0;
    ALLOCATE(topk_idx, tokens * topk);
    ALLOCATE(topk_weights, tokens * topk);
    ALLOCATE(send_begin, ranks + 1);
    ALLOCATE(send_list, tokens * (ranks < topk ? ranks : topk));
    ALLOCATE(seen, ranks);
    ALLOCATE(expert_count, experts);
    ALLOCATE(expert_begin, experts + 1);
    ALLOCATE(expert_next, experts);
    ALLOCATE(source_begin, ranks + 1);
    ALLOCATE(item_token, items);
    ALLOCATE(recv_idx, items * topk);
    ALLOCATE(recv_weights, items * topk);
    ALLOCATE(choice_begin, items + 1);
    ALLOCATE(choice_row, choices);
    ALLOCATE(row_at, handle->rows_max);
    ALLOCATE(row_scales_at, handle->rows_max);
    if (handle->arrangement != FM_EP_PLAIN) {
        ALLOCATE(row_item, handle->rows_max);
        ALLOCATE(row_weight, handle->rows_max);
    }
    if (failed)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a handle of %lld rows",
                                 (long long)handle->rows_max);
    return FM_OK;
}

fm_status fm_ep_handle_create(fm_ep_group *group, fm_ep_arrangement arrangement, int alignment,
                              fm_ep_handle **out_handle)
{
    if (arrangement < FM_EP_PLAIN || arrangement > FM_EP_FIXED)
        return fm_base_error_set(FM_ERR_ARG, "arrangement is %d; expected PLAIN, EXPANDED or FIXED",
                                 (int)arrangement);
    if (alignment < 1 || alignment > 1 << 16)
        return fm_base_error_set(FM_ERR_ARG, "alignment is %d; expected 1 to 65536 rows", alignment);
    int64_t rows_max = worst_rows(group, arrangement, alignment);
    if (rows_max > INT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a dispatch could receive %lld rows; a handle numbers 2^31",
                                 (long long)rows_max);
    fm_ep_handle *handle = fm_base_mem_zalloc(1, sizeof *handle);
    if (!handle)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a handle");
    *handle = (fm_ep_handle){
        .group = group, .arrangement = arrangement, .alignment = alignment, .rows_max = rows_max};
    fm_status status = allocate(handle);
    if (status < 0) {
        fm_ep_handle_free(handle);
        return status;
    }
    handle->received = (fm_ep_received){
        .local_experts = group->local_experts,
        .expert_count = handle->expert_count,
        .expert_begin = handle->expert_begin,
        .source_begin = handle->source_begin,
        .item_token = handle->item_token,
        .topk_idx = handle->recv_idx,
        .topk_weights = handle->recv_weights,
        .choice_begin = handle->choice_begin,
        .choice_row = handle->choice_row,
        .row_weight = handle->row_weight,
        .row_item = handle->row_item,
        .row_at = handle->row_at,
        .row_scales_at = handle->row_scales_at,
    };
    *out_handle = handle;
    return FM_OK;
}

int64_t fm_ep_handle_rows_max(const fm_ep_handle *handle)
{
    return handle->rows_max;
}

const fm_ep_received *fm_ep_handle_received(const fm_ep_handle *handle)
{
    return &handle->received;
}

void fm_ep_handle_send(fm_ep_handle *handle, int tokens, int topk, const int32_t *topk_idx,
                       const float *topk_weights)
{
    int ranks = handle->group->ranks, local = handle->group->local_experts;
    size_t choices = (size_t)tokens * (size_t)topk;
    handle->tokens = tokens;
    handle->topk = topk;
    handle->has_weights = topk_weights != NULL;
    handle->is_received = 0;
    if (choices > 0)
        memcpy(handle->topk_idx, topk_idx, choices * sizeof *topk_idx);
    if (choices > 0 && topk_weights)
        memcpy(handle->topk_weights, topk_weights, choices * sizeof *topk_weights);

    // Counted first, then filled in; `seen` holds the last token that a rank was given, so that each counts once.
    int32_t *begin = handle->send_begin, *seen = handle->seen;
    memset(begin, 0, ((size_t)ranks + 1) * sizeof *begin);
    for (int fill = 0; fill < 2; fill++) {
        memset(seen, 0xFF, (size_t)ranks * sizeof *seen); // -1
        for (int t = 0; t < tokens; t++)
            for (int k = 0; k < topk; k++) {
                int32_t expert = handle->topk_idx[(size_t)t * (size_t)topk + (size_t)k];
                if (expert < 0 || seen[expert / local] == t)
                    continue;
                seen[expert / local] = t;
                if (fill)
                    handle->send_list[begin[expert / local]++] = t;
                else
                    begin[expert / local + 1]++;
            }
        if (!fill) {
            for (int rank = 0; rank < ranks; rank++)
                begin[rank + 1] += begin[rank];
        } else { // each begin has moved to its end, which is the next one's begin
            memmove(begin + 1, begin, (size_t)ranks * sizeof *begin);
            begin[0] = 0;
        }
    }
}

/** The choices of one item: local expert numbers, weights, and how many each expert gets. */
static void learn_item(fm_ep_handle *handle, const fm_ep_view *view, int i, int item)
{
    const fm_ep_group *group = handle->group;
    int topk = handle->received.topk, local = group->local_experts, first = group->rank * local;
    int row = view->list[i], choices = 0;
    const int32_t *idx = fm_ep_view_row(view, FM_EP_PART_IDX, row);
    const float *weights = view->publication->parts[FM_EP_PART_WEIGHTS].bytes
                               ? fm_ep_view_row(view, FM_EP_PART_WEIGHTS, row)
                               : NULL;
    int32_t *out_idx = handle->recv_idx + (size_t)item * (size_t)topk;
    float *out_weights = handle->recv_weights + (size_t)item * (size_t)topk;
    for (int k = 0; k < topk; k++) {
        int is_local = idx[k] >= first && idx[k] < first + local;
        out_idx[k] = is_local ? idx[k] - first : -1;
        out_weights[k] = is_local && weights ? weights[k] : 0.0f;
        choices += is_local;
        if (is_local)
            handle->expert_count[idx[k] - first]++;
    }
    handle->item_token[item] = view->origin ? view->origin[row] : row;
    handle->choice_begin[item + 1] = handle->choice_begin[item] + choices;
}

/** Where each expert's block begins; returns the rows of all. */
static int64_t place_blocks(fm_ep_handle *handle)
{
    const fm_ep_group *group = handle->group;
    int64_t at = 0, step = (int64_t)group->ranks * group->options.tokens_max;
    for (int e = 0; e < group->local_experts; e++) {
        handle->expert_begin[e] = handle->expert_next[e] = (int32_t)at;
        if (handle->arrangement == FM_EP_FIXED)
            at += step;
        else
            at += ((int64_t)handle->expert_count[e] + handle->alignment - 1) / handle->alignment *
                  handle->alignment;
    }
    handle->expert_begin[group->local_experts] = (int32_t)at;
    return at;
}

static void place_rows(fm_ep_handle *handle)
{
    fm_ep_received *received = &handle->received;
    size_t topk = (size_t)received->topk;
    if (handle->arrangement == FM_EP_PLAIN) {
        memset(handle->expert_begin, 0, ((size_t)received->local_experts + 1) * sizeof *handle->expert_begin);
        received->rows = received->items;
    } else {
        received->rows = (int)place_blocks(handle);
        memset(handle->row_item, 0xFF, (size_t)received->rows * sizeof *handle->row_item); // -1
        memset(handle->row_weight, 0, (size_t)received->rows * sizeof *handle->row_weight);
    }
    for (int item = 0; item < received->items; item++) {
        int32_t *row = handle->choice_row + handle->choice_begin[item];
        for (size_t k = 0; k < topk; k++) {
            int32_t expert = handle->recv_idx[(size_t)item * topk + k];
            if (expert < 0)
                continue;
            if (handle->arrangement == FM_EP_PLAIN) {
                *row++ = item;
                continue;
            }
            *row = handle->expert_next[expert]++;
            handle->row_item[*row] = item;
            handle->row_weight[*row++] = handle->recv_weights[(size_t)item * topk + k];
        }
    }
}

void fm_ep_handle_receive(fm_ep_handle *handle)
{
    const fm_ep_group *group = handle->group;
    memset(handle->expert_count, 0, (size_t)group->local_experts * sizeof *handle->expert_count);
    handle->received.topk = handle->topk;
    handle->choice_begin[0] = 0;
    int item = 0;
    for (int source = 0; source < group->ranks; source++) {
        handle->source_begin[source] = item;
        for (int i = 0; i < group->views[source].count; i++)
            learn_item(handle, &group->views[source], i, item++);
    }
    handle->source_begin[group->ranks] = item;
    handle->received.items = item;
    place_rows(handle);
    handle->is_received = 1;
}
