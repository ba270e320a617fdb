// Experts' networks in BF16 and FP8, by grouped products, against those in f32, one expert after the other.
#include "fm_test.h"

#include "fathom/rng.h"
#include "model_small.h"
#include "model_trainer.h"

// Widths with a whole and a part of a block of 128; groups of none, one, and more rows than a block.
enum { HIDDEN = 160, WIDTH = 144, EXPERTS = 4, ROWS = 200 };
static const int64_t offsets[EXPERTS + 1] = {0, 37, 37, 38, ROWS};

static fm_trainer *opened(fm_dtype dtype)
{
    fm_model_config config = model_small_config();
    config.hidden = HIDDEN;
    config.experts = EXPERTS;
    config.expert_intermediate = WIDTH;
    config.groups = config.topk_groups = 1;
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_trainer *trainer = NULL;
    training.threads = 1;
    training.deviation = 0.05;
    training.dtype = dtype;
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    return trainer;
}

/** What a forward and a backward give. */
struct results {
    float out[ROWS * HIDDEN], din[ROWS * HIDDEN];
    float gradients[EXPERTS * 3 * HIDDEN * WIDTH];
};

static void draw(uint64_t seed, float scale, float *out, size_t count)
{
    fm_rng rng = fm_base_rng_begin(seed, 1);
    for (size_t i = 0; i < count; i++)
        out[i] = scale * (float)fm_rng_normal(&rng);
}

static void put_rows(struct fm_trainer *lane, const struct fm_model_layer *layer, const float *x,
                     fm_gemm_quantised *out)
{
    fm_gemm_operand rows;
    assert_ok(fm_model_rows_round(lane, layer, ROWS, x, &rows));
    assert_ok(fm_model_rows_take(lane, &rows, ROWS, out));
    for (int64_t i = 0; i < ROWS; i++)
        fm_model_rows_put(out, i, fm_model_rows_at(&rows, i), fm_model_rows_scales(&rows, i));
}

static void run(fm_dtype dtype, int is_queued, struct results *out)
{
    static float x[ROWS * HIDDEN], dy[ROWS * HIDDEN];
    fm_trainer *trainer = opened(dtype);
    struct fm_trainer *lane = &trainer->lanes[0];
    struct fm_model_layer *layer = &lane->model.weights.layers[1];
    struct fm_model_moe_saved saved = {0};
    struct fm_model_queue queue = {0};
    int64_t *to_offsets;
    struct fm_model_mlp **experts;
    draw(1, 1, x, ROWS * HIDDEN);
    draw(2, 1e-2f, dy, ROWS * HIDDEN);
    assert_ok(fm_model_weights_round(trainer));
    assert_ok(fm_model_rows_round(lane, layer, ROWS, x, &saved.x_rows));
    assert_ok(fm_model_moe_take(lane, ROWS, EXPERTS, &saved, &to_offsets, &experts));
    memcpy(to_offsets, offsets, sizeof offsets);
    for (int e = 0; e < EXPERTS; e++)
        experts[e] = &layer->experts[e];
    put_rows(lane, layer, x, &saved.in);
    put_rows(lane, layer, dy, &saved.drows);
    assert_ok(fm_model_grouped_run(lane, &saved));
    memcpy(out->out, saved.out, sizeof out->out);
    lane->model.compute.queue = is_queued ? &queue : NULL;
    assert_ok(fm_model_grouped_back(lane, &saved, out->din));
    lane->model.compute.queue = NULL;
    memset(saved.drows.data, 0xFF, ROWS * HIDDEN); // what waits does not look at it any more
    assert_ok(fm_model_queue_run(&queue, &lane->model.compute));
    memcpy(out->gradients, layer->experts[0].gate.gradient, sizeof out->gradients);
    fm_model_queue_free(&queue);
    assert_int_equal(fm_model_trainer_products(trainer, dtype), dtype == FM_DTYPE_F32 ? 0 : 3 * 9);
    fm_model_trainer_close(trainer);
}

static void check(fm_dtype dtype, double least, double most)
{
    static struct results wanted, is, queued;
    run(FM_DTYPE_F32, 0, &wanted);
    run(dtype, 0, &is);
    run(dtype, 1, &queued);
    assert_memory_equal(&is, &queued, sizeof is);
    double each[] = {model_small_noise(is.out, wanted.out, ROWS * HIDDEN),
                     model_small_noise(is.din, wanted.din, ROWS * HIDDEN),
                     model_small_noise(is.gradients, wanted.gradients, EXPERTS * 3 * HIDDEN * WIDTH)};
    for (int i = 0; i < 3; i++)
        if (!(each[i] > least && each[i] < most))
            fail_msg("result %d: noise %g", i, each[i]);
    for (size_t i = 0; i < 3 * HIDDEN * WIDTH; i++) // of the expert without rows
        assert_true(is.gradients[3 * HIDDEN * WIDTH + i] == 0);
}

static void bf16_is_off_by_its_rounding(void **state)
{
    (void)state;
    check(FM_DTYPE_BF16, 1e-4, 1e-2);
}

static void fp8_is_off_by_its_rounding(void **state)
{
    (void)state;
    check(FM_DTYPE_F8_E4M3, 1e-2, 8e-2);
}

static void f32_waits_as_well(void **state)
{
    static struct results at_once, queued;
    (void)state;
    run(FM_DTYPE_F32, 0, &at_once);
    run(FM_DTYPE_F32, 1, &queued);
    assert_memory_equal(&at_once, &queued, sizeof at_once);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16_is_off_by_its_rounding),
                                       cmocka_unit_test(fp8_is_off_by_its_rounding),
                                       cmocka_unit_test(f32_waits_as_well)};
    return fm_test_run("model_train_experts", tests);
}
