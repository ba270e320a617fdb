// Operations in flight, faults, masks, rejoining, statistics.
#include <unistd.h>

#include "ep_private.h"
#include "ep_team.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { HIDDEN = 24, EXPERTS = 8, TOPK = 3, TOKENS = 12, FLIGHT = 4 };

/** A micro-batch: everything that its dispatch and combine need. */
struct batch {
    fm_ep_handle *handle;
    fm_ep_op *op;
    int32_t idx[TOKENS][TOPK];
    fm_bf16 x[TOKENS][HIDDEN], out[TOKENS][HIDDEN];
    fm_bf16 *rows;
    fm_ep_dispatch dispatch;
    fm_ep_combine combine;
};

static fm_status batch_make(fm_ep_group *group, struct batch *batch, uint64_t seed)
{
    FM_TRY(fm_ep_handle_create(group, FM_EP_EXPANDED, 4, &batch->handle));
    int64_t rows = fm_ep_handle_rows_max(batch->handle);
    batch->rows = fm_base_mem_zalloc((size_t)rows, sizeof batch->x[0]);
    fm_gen gen = fm_gen_seeded(seed * 64 + (uint64_t)fm_ep_group_rank(group));
    for (int t = 0; t < TOKENS; t++) {
        int first = (int)fm_gen_int(&gen, 0, EXPERTS - 1);
        for (int k = 0; k < TOPK; k++)
            batch->idx[t][k] = (first + k * 3) % EXPERTS;
        for (int i = 0; i < HIDDEN; i++)
            batch->x[t][i] = fm_f32_to_bf16((float)fm_gen_int(&gen, -8, 8));
    }
    batch->dispatch = (fm_ep_dispatch){.size = sizeof batch->dispatch,
                                       .tokens = TOKENS,
                                       .topk = TOPK,
                                       .topk_idx = &batch->idx[0][0],
                                       .x = batch->x,
                                       .recv_x = batch->rows,
                                       .recv_rows_max = rows};
    batch->combine =
        (fm_ep_combine){.size = sizeof batch->combine, .x = batch->rows, .out = &batch->out[0][0]};
    return batch->rows ? FM_OK : FM_ERR_NOMEM;
}

static void batch_free(struct batch *batch)
{
    fm_ep_handle_free(batch->handle);
    fm_base_mem_free(batch->rows);
}

/** Experts that do nothing: each token comes back `choices` times. */
static fm_status batch_check(const struct batch *batch, const int *choices)
{
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < HIDDEN; i++) {
            float want = fm_bf16_to_f32(batch->x[t][i]) * (float)choices[t];
            if (fm_bf16_to_f32(batch->out[t][i]) != want)
                return fm_base_error_set(FM_ERR_INTERNAL, "token %d is %f, expected %f", t,
                                         (double)fm_bf16_to_f32(batch->out[t][i]), (double)want);
        }
    return FM_OK;
}

static const int all_choices[TOKENS] = {3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3};

/* ---- several in flight ---- */

/** Ends an operation by waiting, or by testing now and then. */
static fm_status end(fm_ep_op *op, fm_gen *gen)
{
    if (fm_gen_chance(gen, 0.5))
        return fm_ep_op_wait(op);
    fm_wait wait = fm_base_wait_begin(20000);
    for (int done = 0; !done;) {
        FM_TRY(fm_ep_op_test(op, &done));
        if (!done)
            FM_TRY(fm_base_wait_step(&wait));
    }
    return FM_OK;
}

static fm_status overlap(fm_ep_group *group, void *context)
{
    (void)context;
    static _Thread_local struct batch batches[FLIGHT];
    int rank = fm_ep_group_rank(group);
    fm_gen gen = fm_gen_seeded((uint64_t)rank + 5); // each rank ends its operations in an order of its own
    for (int b = 0; b < FLIGHT; b++)
        FM_TRY(batch_make(group, &batches[b], (uint64_t)b));
    for (int round = 0; round < 30; round++) {
        int order[FLIGHT];
        for (int half = 0; half < 2; half++) {
            for (int b = 0; b < FLIGHT; b++) {
                struct batch *batch = &batches[b];
                FM_TRY(half ? fm_ep_combine_post(group, &batch->combine, batch->handle, &batch->op)
                            : fm_ep_dispatch_post(group, &batch->dispatch, batch->handle, &batch->op));
                order[b] = b;
            }
            fm_ep_op *one_more;
            if (fm_ep_dispatch_post(group, &batches[0].dispatch, batches[0].handle, &one_more) !=
                    FM_ERR_STATE ||
                fm_ep_barrier(group) != FM_ERR_BUSY)
                return fm_base_error_set(FM_ERR_INTERNAL, "more in flight than allowed");
            for (int b = FLIGHT - 1; b > 0; b--) {
                int other = (int)fm_gen_int(&gen, 0, b), swap = order[b];
                order[b] = order[other];
                order[other] = swap;
            }
            for (int b = 0; b < FLIGHT; b++)
                FM_TRY(end(batches[order[b]].op, &gen));
        }
        for (int b = 0; b < FLIGHT; b++)
            FM_TRY(batch_check(&batches[b], all_choices));
    }
    if (fm_ep_op_wait(batches[0].op) != FM_ERR_STATE)
        return fm_base_error_set(FM_ERR_INTERNAL, "an ended operation was waited for");
    for (int b = 0; b < FLIGHT; b++)
        batch_free(&batches[b]);
    return FM_OK;
}

static void operations_in_flight_end_in_any_order(void **state)
{
    (void)state;
    for (int per_node = 0; per_node <= 2; per_node += 2) {
        fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
        options.in_flight = FLIGHT;
        options.ranks_per_node = per_node;
        options.check = 1;
        ep_team_run(4, &options, overlap, NULL, NULL);
    }
}

/* ---- a rank that stops ---- */

struct stop {
    int victim;
    int at; /**< 0: before dispatch, 1: dispatch posted, 2: before combine, 3: combine posted, 4: at the end */
    int per_node;
    _Atomic int left; /**< ranks that have still to find out */
    char message[4][256];
};

/** What a survivor does: waits in vain, masks, and goes on. */
static fm_status wait_and_mask(fm_ep_group *group, fm_ep_op *op, struct stop *stop)
{
    fm_status status = fm_ep_op_wait(op);
    if (status != FM_ERR_TIMEOUT)
        return status;
    snprintf(stop->message[fm_ep_group_rank(group)], sizeof stop->message[0], "%s", fm_error_message());
    FM_TRY(fm_ep_group_mask(group, stop->victim, 1));
    return fm_ep_op_wait(op);
}

static fm_status survive(fm_ep_group *group, void *context)
{
    struct stop *stop = context;
    static _Thread_local struct batch batch;
    int rank = fm_ep_group_rank(group), ranks = fm_ep_group_ranks(group), is_victim = rank == stop->victim;
    FM_TRY(batch_make(group, &batch, 3));
    int choices[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        choices[t] = 0;
        for (int k = 0; k < TOPK; k++)
            choices[t] += batch.idx[t][k] / (EXPERTS / ranks) != stop->victim;
    }
    int points = 0;
    if (!is_victim || stop->at > points++) {
        FM_TRY(fm_ep_dispatch_post(group, &batch.dispatch, batch.handle, &batch.op));
        if (!is_victim)
            FM_TRY(wait_and_mask(group, batch.op, stop));
        else if (stop->at > points++)
            FM_TRY(fm_ep_op_wait(batch.op));
    }
    if (!is_victim || stop->at > 2) {
        FM_TRY(fm_ep_combine_post(group, &batch.combine, batch.handle, &batch.op));
        if (!is_victim)
            FM_TRY(wait_and_mask(group, batch.op, stop));
        else if (stop->at > 3)
            FM_TRY(fm_ep_op_wait(batch.op));
    }
    if (!is_victim) {
        if (stop->per_node == 0 && !fm_ep_group_is_masked(group, stop->victim))
            return fm_base_error_set(FM_ERR_INTERNAL, "nobody was missed");
        // A victim that posted its combine before it stopped is still in the sums, except where it should have fetched
        // rows for its node, and was masked before its own were read.
        int is_in = stop->at >= 3 && !(stop->per_node == 2 && rank == 3);
        FM_TRY(batch_check(&batch, is_in ? all_choices : choices));
        atomic_fetch_sub(&stop->left, 1);
    }
    fm_wait wait = fm_base_wait_begin(10000);
    while (is_victim && atomic_load(&stop->left) > 0)
        FM_TRY(fm_base_wait_step(&wait));
    // All come back, some long before the others, and it is as if nothing had been.
    fm_status status;
    while ((status = fm_ep_group_rejoin(group)) == FM_ERR_TIMEOUT)
        FM_TRY(fm_base_wait_step(&wait));
    FM_TRY(status);
    if (fm_ep_combine_post(group, &batch.combine, batch.handle, &batch.op) != FM_ERR_STATE)
        return fm_base_error_set(FM_ERR_INTERNAL, "a handle outlived the rejoining");
    FM_TRY(fm_ep_dispatch_run(group, &batch.dispatch, batch.handle));
    FM_TRY(fm_ep_combine_run(group, &batch.combine, batch.handle));
    FM_TRY(batch_check(&batch, all_choices));
    batch_free(&batch);
    return FM_OK;
}

static void a_rank_that_stops_is_named_masked_and_taken_back(void **state)
{
    (void)state;
    static const char *const operation[] = {"dispatch, epoch 1", "dispatch, epoch 1", "combine, epoch 2",
                                            "combine, epoch 2"};
    for (int per_node = 0; per_node <= 2; per_node += 2)
        for (int at = 0; at < 4; at++) {
            struct stop stop = {.victim = 2, .at = at, .per_node = per_node, .left = 3};
            fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
            options.ranks_per_node = per_node;
            options.timeout_ms = 200;
            // Timeouts need not be equal, and the victim's must outlast the survivors'.
            fm_ep_options each[4] = {options, options, options, options};
            each[2].timeout_ms = 20000;
            ep_team_run_each(4, each, survive, &stop, NULL);
            int named = 0;
            for (int r = 0; r < 4; r++)
                if (strstr(stop.message[r], operation[at]) && strstr(stop.message[r], "rank 2 has not"))
                    named++;
            assert_true(named > 0);
            if (per_node == 0)
                assert_int_equal(named, 3);
        }
}

/* ---- order, bad input ---- */

static fm_status diverge(fm_ep_group *group, void *context)
{
    (void)context;
    static _Thread_local struct batch batch;
    FM_TRY(batch_make(group, &batch, 1));
    fm_status status = fm_ep_group_rank(group) == 1
                           ? fm_ep_barrier(group)
                           : fm_ep_dispatch_run(group, &batch.dispatch, batch.handle);
    char message[256];
    snprintf(message, sizeof message, "%s", fm_error_message());
    batch_free(&batch);
    return status < 0 ? fm_base_error_set(status, "%s", message) : FM_OK;
}

static void operations_that_differ_are_an_error(void **state)
{
    (void)state;
    for (int per_node = 0; per_node <= 1; per_node++) {
        ep_outcome outcomes[2];
        fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
        options.ranks_per_node = per_node;
        ep_team_run(2, &options, diverge, NULL, outcomes);
        assert_int_equal(outcomes[0].status, FM_ERR_STATE);
        assert_int_equal(outcomes[1].status, FM_ERR_STATE);
        assert_non_null(strstr(outcomes[0].message, "dispatch, epoch 1: rank 1 posted barrier"));
    }
}

struct bad_inputs {
    fm_status status[16];
    char message[16][256];
    int count;
};

static void refused(struct bad_inputs *bad, fm_status status)
{
    bad->status[bad->count] = status;
    snprintf(bad->message[bad->count++], sizeof bad->message[0], "%s", fm_error_message());
}

static fm_status feed_badly(fm_ep_group *group, void *context)
{
    struct bad_inputs *bad = context;
    static _Thread_local struct batch batch;
    FM_TRY(batch_make(group, &batch, 1));
    if (fm_ep_group_rank(group) == 0) {
        fm_ep_op *op;
        fm_ep_dispatch d = batch.dispatch;
        d.tokens = TOKENS + 1;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        d = batch.dispatch;
        d.topk = TOPK + 1;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        d = batch.dispatch;
        batch.idx[2][1] = EXPERTS;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        batch.idx[2][1] = -1;
        d.x_format = FM_EP_FP8_F32;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        d = batch.dispatch;
        d.x = NULL;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        d = batch.dispatch;
        d.cached = 1;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        d = batch.dispatch;
        d.x_stride = 2;
        refused(bad, fm_ep_dispatch_post(group, &d, batch.handle, &op));
        refused(bad, fm_ep_combine_post(group, &batch.combine, batch.handle, &op));
        refused(bad, fm_ep_group_mask(group, 0, 1));
        refused(bad, fm_ep_group_mask(group, 7, 1));
    }
    // Nothing was posted, so all is well still; and too little room is the error of one rank alone.
    fm_ep_dispatch d = batch.dispatch;
    d.recv_rows_max = fm_ep_group_rank(group) == 1 ? 1 : d.recv_rows_max;
    fm_status status = fm_ep_dispatch_run(group, &d, batch.handle);
    if (fm_ep_group_rank(group) == 1)
        refused(bad, status);
    else
        FM_TRY(status);
    d.cached = 1;
    d.recv_rows_max = batch.dispatch.recv_rows_max;
    FM_TRY(fm_ep_dispatch_run(group, &d, batch.handle));
    FM_TRY(fm_ep_combine_run(group, &batch.combine, batch.handle));
    int choices[TOKENS];
    for (int t = 0; t < TOKENS; t++)
        choices[t] = t == 2 && fm_ep_group_rank(group) == 0 ? TOPK - 1 : TOPK;
    FM_TRY(batch_check(&batch, choices));
    batch_free(&batch);
    return FM_OK;
}

static void bad_input_is_refused_and_uses_no_epoch(void **state)
{
    (void)state;
    struct bad_inputs bad = {.count = 0};
    fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
    ep_team_run(2, &options, feed_badly, &bad, NULL);
    static const struct {
        fm_status status;
        const char *text;
    } want[] = {
        {FM_ERR_ARG, "tokens is 13; expected 0 to 12"},
        {FM_ERR_ARG, "topk is 4; expected 1 to 3"},
        {FM_ERR_ARG, "token 2, lane 1 is 8"},
        {FM_ERR_ARG, "x_format is 1 and recv_format 0"},
        {FM_ERR_ARG, "x or x_scales is NULL"},
        {FM_ERR_STATE, "cached"},
        {FM_ERR_ARG, "x_stride is 2 bytes"},
        {FM_ERR_STATE, "the handle has seen no dispatch"},
        {FM_ERR_ARG, "this rank itself"},
        {FM_ERR_ARG, "expected 0 to 1"},
        {FM_ERR_LIMIT, "but recv_rows_max is 1"},
    };
    assert_int_equal(bad.count, sizeof want / sizeof want[0]);
    for (int i = 0; i < bad.count; i++) {
        assert_int_equal(bad.status[i], want[i].status);
        assert_non_null(strstr(bad.message[i], want[i].text));
    }
}

/* ---- checksums, statistics ---- */

/** Rank 1 spoils a row after it was posted and before rank 0, which is held back, reads it. */
static fm_status spoil(fm_ep_group *group, void *context)
{
    _Atomic int *spoiled = context;
    static _Thread_local struct batch batch;
    FM_TRY(batch_make(group, &batch, 1));
    if (fm_ep_group_rank(group) == 0)
        while (!atomic_load(spoiled))
            usleep(100);
    FM_TRY(fm_ep_dispatch_post(group, &batch.dispatch, batch.handle, &batch.op));
    if (fm_ep_group_rank(group) == 1) {
        for (int t = 0; t < TOKENS; t++)
            batch.x[t][HIDDEN - 1] ^= 1;
        atomic_store(spoiled, 1);
    }
    fm_status status = fm_ep_op_wait(batch.op);
    char message[256];
    snprintf(message, sizeof message, "%s", fm_error_message());
    batch_free(&batch);
    return status < 0 ? fm_base_error_set(status, "%s", message) : FM_OK;
}

static void a_spoiled_row_is_found(void **state)
{
    (void)state;
    _Atomic int spoiled = 0;
    ep_outcome outcomes[2];
    fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
    options.check = 1;
    ep_team_run(2, &options, spoil, &spoiled, outcomes);
    assert_int_equal(outcomes[0].status, FM_ERR_FORMAT);
    assert_non_null(strstr(outcomes[0].message, "dispatch, epoch 1: row "));
    assert_non_null(strstr(outcomes[0].message, "of rank 1 has checksum"));
}

struct volumes {
    fm_ep_stats stats[8];
    fm_ep_peer_stats from_0[8];
};

static fm_status travel(fm_ep_group *group, void *context)
{
    struct volumes *volumes = context;
    int rank = fm_ep_group_rank(group);
    static _Thread_local struct batch batch;
    FM_TRY(batch_make(group, &batch, 1));
    for (int t = 0; t < TOKENS; t++)
        for (int k = 0; k < TOPK; k++)
            batch.idx[t][k] = k; // experts 0..2: all ranks of node 0 but the last
    FM_TRY(fm_ep_dispatch_run(group, &batch.dispatch, batch.handle));
    volumes->stats[rank] = fm_ep_group_stats(group);
    FM_TRY(fm_ep_group_peer_stats(group, 0, &volumes->from_0[rank]));
    batch_free(&batch);
    return FM_OK;
}

static void a_token_crosses_once_for_a_node(void **state)
{
    (void)state;
    struct volumes volumes;
    fm_ep_options options = ep_team_options(HIDDEN, EXPERTS, TOPK, TOKENS);
    options.ranks_per_node = 4;
    ep_team_run(8, &options, travel, &volumes, NULL); // one expert a rank
    uint64_t row = HIDDEN * 2, record = row + TOPK * 4, remote = 0, direct = 0;
    for (int r = 0; r < 8; r++) {
        remote += volumes.stats[r].bytes_remote;
        direct += volumes.stats[r].bytes_direct;
        assert_int_equal(volumes.stats[r].operations, 1);
        assert_int_equal(volumes.from_0[r].dispatch_rows, r < 3 ? TOKENS : 0);
    }
    // Four ranks of node 1 send each token to three ranks of node 0: once across, with its choices.
    assert_int_equal(remote, 4 * TOKENS * record);
    assert_int_equal(direct, 3 * 4 * TOKENS * row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_in_flight_end_in_any_order),
        cmocka_unit_test(a_rank_that_stops_is_named_masked_and_taken_back),
        cmocka_unit_test(operations_that_differ_are_an_error),
        cmocka_unit_test(bad_input_is_refused_and_uses_no_epoch),
        cmocka_unit_test(a_spoiled_row_is_found),
        cmocka_unit_test(a_token_crosses_once_for_a_node),
    };
    return fm_test_run("ep_exchange", tests);
}
