// Four ranks, one round: tokens go to their experts, each expert scales what it gets, and the results are summed at home.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/ep.h"

enum { RANKS = 4, EXPERTS = 8, TOPK = 2, TOKENS = 3, HIDDEN = 16 };

static fm_ep_world *world;

static fm_status round_trip(fm_ep_group *group)
{
    int rank = fm_ep_group_rank(group);
    int32_t idx[TOKENS][TOPK];
    float weights[TOKENS][TOPK];
    fm_bf16 x[TOKENS][HIDDEN], y[TOKENS][HIDDEN];
    for (int t = 0; t < TOKENS; t++) {
        for (int k = 0; k < TOPK; k++) {
            idx[t][k] = (3 * rank + 2 * t + 5 * k) % EXPERTS;
            weights[t][k] = 0.5f;
        }
        for (int i = 0; i < HIDDEN; i++)
            x[t][i] = fm_f32_to_bf16((float)(rank + 1));
    }

    fm_ep_handle *handle;
    FM_TRY(fm_ep_handle_create(group, FM_EP_EXPANDED, 1, &handle));
    int64_t rows_max = fm_ep_handle_rows_max(handle);
    fm_bf16(*rows)[HIDDEN] = calloc((size_t)rows_max, sizeof *rows);
    if (!rows)
        return FM_ERR_NOMEM;
    fm_ep_dispatch dispatch = {.size = sizeof dispatch,
                               .tokens = TOKENS,
                               .topk = TOPK,
                               .topk_idx = &idx[0][0],
                               .topk_weights = &weights[0][0],
                               .x = x,
                               .recv_x = rows,
                               .recv_rows_max = rows_max};
    FM_TRY(fm_ep_dispatch_run(group, &dispatch, handle));

    const fm_ep_received *received = fm_ep_handle_received(handle);
    for (int e = 0; e < received->local_experts; e++) // expert e multiplies by its number
        for (int r = received->expert_begin[e]; r < received->expert_begin[e + 1]; r++)
            for (int i = 0; i < HIDDEN; i++) {
                float factor = (float)(rank * received->local_experts + e);
                rows[r][i] = fm_f32_to_bf16(factor * fm_bf16_to_f32(rows[r][i]));
            }

    fm_ep_combine combine = {
        .size = sizeof combine, .x = &rows[0][0], .topk_weights = &weights[0][0], .out = &y[0][0]};
    FM_TRY(fm_ep_combine_run(group, &combine, handle));
    for (int t = 0; t < TOKENS; t++)
        printf("rank %d, token %d: experts %d and %d, x = %g, y = %g\n", rank, t, idx[t][0], idx[t][1],
               (double)fm_bf16_to_f32(x[t][0]), (double)fm_bf16_to_f32(y[t][0]));
    free(rows);
    fm_ep_handle_free(handle);
    return FM_OK;
}

static void *live(void *argument)
{
    fm_ep_options options = {
        .size = sizeof options, .hidden = HIDDEN, .experts = EXPERTS, .topk_max = TOPK, .tokens_max = TOKENS};
    fm_ep_group *group = NULL;
    fm_status status = fm_ep_group_create(world, *(const int *)argument, &options, &group);
    if (status == FM_OK)
        status = round_trip(group);
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    fm_ep_group_free(group);
    return status < 0 ? argument : NULL;
}

int main(void)
{
    pthread_t threads[RANKS];
    int ranks[RANKS], failed = 0;
    if (fm_ep_world_create(RANKS, &world) < 0)
        return 1;
    for (int r = 0; r < RANKS; r++) {
        ranks[r] = r;
        if (pthread_create(&threads[r], NULL, live, &ranks[r]) != 0)
            return 1;
    }
    for (int r = 0; r < RANKS; r++) {
        void *bad;
        pthread_join(threads[r], &bad);
        failed |= bad != NULL;
    }
    fm_ep_world_free(world);
    return failed;
}
