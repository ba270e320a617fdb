// Experts with workers: the same bits, counts that are those of the route, plans that even out what was counted.
#include "fm_test.h"

#include "fathom/model.h"

enum { VOCAB = 64, EXPERTS = 8, LAYERS = 3, COUNT = 60, MOST = 2 };

static fm_model *open_model(fm_dtype dtype, int threads, int topk)
{
    const fm_model_config config = {.family = FM_MODEL_V3,
                                    .vocab = VOCAB,
                                    .hidden = 128,
                                    .intermediate = 128,
                                    .layers = LAYERS,
                                    .dense_layers = 1,
                                    .heads = 2,
                                    .kv_lora = 32,
                                    .nope = 16,
                                    .rope = 16,
                                    .value = 16,
                                    .experts = EXPERTS,
                                    .expert_intermediate = 128,
                                    .shared_experts = topk > 1,
                                    .topk = topk,
                                    .groups = 1,
                                    .topk_groups = 1,
                                    .gate = FM_MODEL_SIGMOID,
                                    .routed_scale = 1,
                                    .epsilon = 1e-6,
                                    .rope_theta = 10000,
                                    .context = 256,
                                    .bos = -1,
                                    .eos = -1};
    fm_model_options options = {.size = sizeof options, .threads = threads, .dtype = dtype};
    fm_model *model;
    assert_ok(fm_model_open_random(&config, &options, 3, &model));
    return model;
}

// A text of which `different` tokens are not the same: its logits, a long call and short ones.
static fm_status read_text(fm_model *model, int different, float *logits)
{
    int32_t ids[COUNT + 4];
    fm_model_session *session;
    for (int i = 0; i < COUNT + 4; i++)
        ids[i] = i < different ? (i * 7 + 3) % VOCAB : 5;
    FM_TRY(fm_model_session_open(model, 0, &session));
    fm_status status = fm_model_feed(session, ids, COUNT, FM_MODEL_ALL, logits);
    for (int i = COUNT; i < COUNT + 4 && status == FM_OK; i++)
        status = fm_model_feed(session, &ids[i], 1, FM_MODEL_ALL, logits + (ptrdiff_t)i * VOCAB);
    fm_model_session_close(session);
    return status;
}

static void workers_change_no_bit(void **state)
{
    static const fm_dtype types[] = {FM_DTYPE_F32, FM_DTYPE_BF16, FM_DTYPE_F8_E4M3};
    static float wanted[(COUNT + 4) * VOCAB], got[(COUNT + 4) * VOCAB];
    (void)state;
    for (int type = 0; type < 3; type++) {
        fm_model *model = open_model(types[type], MOST, 2);
        assert_ok(read_text(model, COUNT, wanted));
        for (int workers = 1; workers <= MOST; workers++)
            for (int replicas = 0; replicas <= EXPERTS * (workers - 1); replicas += EXPERTS) {
                assert_ok(fm_model_experts_place(model, workers, replicas));
                for (int plan = 0; plan < 2; plan++) {
                    memset(got, 0, sizeof got);
                    assert_ok(read_text(model, COUNT, got));
                    assert_memory_equal(got, wanted, sizeof got);
                    assert_ok(fm_model_experts_plan(model, NULL));
                }
            }
        fm_model_close(model);
    }
}

static void loads_are_the_routes(void **state)
{
    enum { WORKERS = 2, UNIT = 8 };
    static float logits[(COUNT + 4) * VOCAB];
    int32_t ids[COUNT];
    fm_model *model = open_model(FM_DTYPE_F32, WORKERS, 2);
    fm_model_session *session;
    fm_model_expert_stats stats;
    int64_t load = 0, busiest = 0, workers = 0;
    (void)state;
    fm_model_experts_stats(model, &stats);
    assert_int_equal(stats.workers, 0);
    assert_ok(fm_model_experts_place(model, WORKERS, 2));
    for (int i = 0; i < COUNT; i++)
        ids[i] = i % VOCAB;
    assert_ok(fm_model_session_open(model, 0, &session));
    assert_ok(fm_model_feed(session, ids, COUNT, FM_MODEL_LAST, logits));
    for (int layer = 1; layer < LAYERS; layer++) {
        const int64_t *rows = fm_model_expert_loads(model, layer);
        int64_t sums[WORKERS] = {0};
        for (int e = 0; e < EXPERTS; e++)
            sums[e / (EXPERTS / WORKERS)] += (rows[e] + UNIT - 1) / UNIT;
        load += sums[0] + sums[1];
        busiest += sums[0] > sums[1] ? sums[0] : sums[1];
    }
    fm_model_experts_stats(model, &stats);
    assert_int_equal(stats.load, load);
    assert_int_equal(stats.busiest_in_order, busiest);
    for (int i = 0; i < stats.workers; i++)
        workers += stats.worker_load[i];
    assert_int_equal(workers, load);
    assert_true(stats.busiest * WORKERS >= load && stats.busiest <= load);
    fm_model_session_close(session);
    fm_model_close(model);
}

// One token over and over goes to one expert, which one worker would compute alone; a copy of it halves that.
static void plans_even_out_what_was_counted(void **state)
{
    static float wanted[(COUNT + 4) * VOCAB], got[(COUNT + 4) * VOCAB];
    fm_model *model = open_model(FM_DTYPE_BF16, 2, 1);
    fm_model_expert_stats before, after;
    (void)state;
    assert_ok(read_text(model, 0, wanted));
    assert_ok(fm_model_experts_place(model, 2, 0)); // without copies: it cannot be evened out
    assert_ok(read_text(model, 0, got));
    fm_model_experts_stats(model, &before);
    assert_int_equal(before.busiest, before.load);
    assert_int_equal(before.busiest_in_order, before.load);
    assert_ok(fm_model_experts_place(model, 2, 2));
    assert_ok(read_text(model, 0, got));
    fm_model_experts_stats(model, &before);
    int flipped = 0;
    for (int turn = 0; turn < 2 + LAYERS; turn++) {
        assert_ok(fm_model_experts_turn(model, 2));
        fm_model_experts_stats(model, &after);
        flipped += after.plans > before.plans;
    }
    assert_true(after.plans <= LAYERS - 1 && after.moves >= after.plans);
    before = after;
    assert_ok(read_text(model, 0, got));
    assert_memory_equal(got, wanted, sizeof got);
    fm_model_experts_stats(model, &after);
    // 60 rows are 8 units, which halve; of the four calls with one row each all is one worker's.
    int64_t layers = LAYERS - 1;
    assert_int_equal(after.load - before.load, layers * (8 + 4));
    assert_int_equal(after.busiest - before.busiest, layers * (4 + 4));
    assert_int_equal(after.busiest_in_order - before.busiest_in_order, layers * (8 + 4));
    assert_true(flipped > 0 || before.plans == 0);
    fm_model_close(model);
}

static fm_status place_and_read(void *context)
{
    static float logits[(COUNT + 4) * VOCAB];
    fm_model *model = context;
    fm_status status = fm_model_experts_place(model, 2, 3);
    if (status == FM_OK)
        status = read_text(model, COUNT, logits);
    if (status == FM_OK)
        status = fm_model_experts_plan(model, NULL);
    if (status == FM_OK)
        status = fm_model_experts_turn(model, 1);
    assert_ok(fm_model_experts_place(model, 0, 0));
    return status;
}

static void missing_memory_is_survived(void **state)
{
    (void)state;
    fm_model *model = open_model(FM_DTYPE_F8_E4M3, 2, 2);
    assert_ok(place_and_read(model)); // what the model keeps for good it has from here on
    fm_test_each_alloc_fails(place_and_read, model);
    fm_model_close(model);
}

static void bad_placements_are_refused(void **state)
{
    fm_model *model = open_model(FM_DTYPE_F32, 2, 2);
    float loads[LAYERS * EXPERTS] = {0};
    (void)state;
    assert_fails(fm_model_experts_plan(model, NULL), FM_ERR_STATE, "not placed");
    assert_fails(fm_model_experts_turn(model, 1), FM_ERR_STATE, "not placed");
    assert_fails(fm_model_experts_place(model, 3, 0), FM_ERR_ARG, "expected 1 to 2");
    assert_fails(fm_model_experts_place(model, 0, 1), FM_ERR_ARG, "0 workers");
    assert_fails(fm_model_experts_place(model, 2, EXPERTS + 1), FM_ERR_ARG, "expected 0 to 8");
    assert_fails(fm_model_experts_place(model, 2, -1), FM_ERR_ARG, "-1 replicas");
    assert_ok(fm_model_experts_place(model, 2, EXPERTS));
    assert_fails(fm_model_experts_turn(model, 0), FM_ERR_ARG, "every 0");
    loads[EXPERTS + 2] = -1;
    assert_fails(fm_model_experts_plan(model, loads), FM_ERR_ARG, "expert 2");
    fm_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_change_no_bit),           cmocka_unit_test(loads_are_the_routes),
        cmocka_unit_test(plans_even_out_what_was_counted), cmocka_unit_test(missing_memory_is_survived),
        cmocka_unit_test(bad_placements_are_refused),
    };
    return fm_test_run("model_experts", tests);
}
