// What a choice of experts means for traffic.
#include <string.h>

#include "ep_private.h"

fm_status fm_ep_choices_check(const int32_t *topk_idx, int tokens, int topk, int experts)
{
    for (int t = 0; t < tokens; t++) {
        const int32_t *choice = topk_idx + (size_t)t * (size_t)topk;
        for (int k = 0; k < topk; k++) {
            if (choice[k] < -1 || choice[k] >= experts)
                return fm_base_error_set(
                    FM_ERR_ARG, "topk_idx: token %d, lane %d is %d; expected -1 or an expert below %d", t, k,
                    choice[k], experts);
            for (int before = 0; before < k; before++)
                if (choice[k] >= 0 && choice[before] == choice[k])
                    return fm_base_error_set(
                        FM_ERR_ARG, "topk_idx: token %d chooses expert %d on lanes %d and %d; expected once",
                        t, choice[k], before, k);
        }
    }
    return FM_OK;
}

static fm_status check_layout(const int32_t *topk_idx, int tokens, int topk, int experts, int ranks,
                              int ranks_per_node)
{
    if (tokens < 0 || topk < 1 || topk > FM_EP_TOPK_MAX || ranks < 1 || ranks > FM_EP_RANKS_MAX ||
        experts < 1 || experts % ranks != 0 || ranks_per_node < 0)
        return fm_base_error_set(
            FM_ERR_ARG,
            "tokens is %d, topk %d, experts %d, ranks %d, ranks_per_node %d; expected tokens from 0, "
            "topk 1 to %d, ranks 1 to %d, experts a multiple of the ranks, ranks_per_node from 0",
            tokens, topk, experts, ranks, ranks_per_node, FM_EP_TOPK_MAX, FM_EP_RANKS_MAX);
    if (tokens > 0 && !topk_idx)
        return fm_base_error_set(FM_ERR_ARG, "topk_idx is NULL; expected [%d][%d]", tokens, topk);
    return fm_ep_choices_check(topk_idx, tokens, topk, experts);
}

static int is_first_of(const int32_t *choice, int lane, int divisor)
{
    for (int before = 0; before < lane; before++)
        if (choice[before] >= 0 && choice[before] / divisor == choice[lane] / divisor)
            return 0;
    return 1;
}

fm_status fm_ep_layout(const int32_t *topk_idx, int tokens, int topk, int experts, int ranks,
                       int ranks_per_node, int32_t *out_tokens_per_rank, int32_t *out_tokens_per_node,
                       int32_t *out_tokens_per_expert, uint8_t *out_in_rank)
{
    FM_TRY(check_layout(topk_idx, tokens, topk, experts, ranks, ranks_per_node));
    int node_ranks = ranks_per_node == 0 || ranks_per_node > ranks ? ranks : ranks_per_node;
    int per_rank = experts / ranks, per_node = per_rank * node_ranks;
    size_t nodes = (size_t)((ranks + node_ranks - 1) / node_ranks);
    if (out_tokens_per_rank)
        memset(out_tokens_per_rank, 0, (size_t)ranks * sizeof *out_tokens_per_rank);
    if (out_tokens_per_node)
        memset(out_tokens_per_node, 0, nodes * sizeof *out_tokens_per_node);
    if (out_tokens_per_expert)
        memset(out_tokens_per_expert, 0, (size_t)experts * sizeof *out_tokens_per_expert);
    if (out_in_rank)
        memset(out_in_rank, 0, (size_t)tokens * (size_t)ranks);
    for (int t = 0; t < tokens; t++) {
        const int32_t *choice = topk_idx + (size_t)t * (size_t)topk;
        for (int k = 0; k < topk; k++) {
            if (choice[k] < 0)
                continue;
            if (out_tokens_per_expert)
                out_tokens_per_expert[choice[k]]++;
            if (out_tokens_per_rank && is_first_of(choice, k, per_rank))
                out_tokens_per_rank[choice[k] / per_rank]++;
            if (out_tokens_per_node && is_first_of(choice, k, per_node))
                out_tokens_per_node[choice[k] / per_node]++;
            if (out_in_rank)
                out_in_rank[(size_t)t * (size_t)ranks + (size_t)(choice[k] / per_rank)] = 1;
        }
    }
    return FM_OK;
}
