// Attention in training by mla against the f32 one, forward and backward.
#include "fm_test.h"

#include "fathom/rng.h"
#include "model_small.h"
#include "model_trainer.h"

enum { HIDDEN = 48, HEADS = 3, LATENT = 24, SEQUENCES = 3, LENGTH = 70, TOKENS = SEQUENCES * LENGTH };

/** Widths that mla takes, and such that have to be filled up. */
struct widths {
    int nope, rope, value;
};

static fm_trainer *opened(const struct widths *widths, fm_dtype dtype)
{
    fm_model_config config = model_small_config();
    config.layers = 1;
    config.hidden = HIDDEN;
    config.heads = HEADS;
    config.kv_lora = LATENT;
    config.nope = widths->nope;
    config.rope = widths->rope;
    config.value = widths->value;
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_trainer *trainer = NULL;
    training.threads = 1;
    training.deviation = 0.3;
    training.dtype = dtype;
    assert_ok(fm_model_trainer_open(&config, &training, &trainer));
    return trainer;
}

struct results {
    float out[TOKENS * HIDDEN], dx[TOKENS * HIDDEN], dlatents[LATENT * HIDDEN];
};

static void run(const struct widths *widths, fm_dtype dtype, struct results *out)
{
    static float x[TOKENS * HIDDEN], dy[TOKENS * HIDDEN];
    const struct fm_model_batch batch = {SEQUENCES, LENGTH, TOKENS};
    fm_trainer *trainer = opened(widths, dtype);
    struct fm_trainer *lane = &trainer->lanes[0];
    struct fm_model_layer *layer = &lane->model.weights.layers[0];
    struct fm_model_attention_saved saved;
    fm_rng rng = fm_base_rng_begin(8, 8);
    for (int i = 0; i < TOKENS * HIDDEN; i++) {
        x[i] = (float)fm_rng_normal(&rng);
        dy[i] = 1e-2f * (float)fm_rng_normal(&rng);
    }
    assert_int_equal(lane->mla != NULL, dtype != FM_DTYPE_F32);
    assert_ok(fm_model_attention_forward(lane, layer, &batch, x, out->out, &saved));
    assert_ok(fm_model_attention_back(lane, layer, &batch, &saved, dy, out->dx));
    memcpy(out->dlatents, layer->kv_a.gradient, sizeof out->dlatents);
    fm_model_trainer_close(trainer);
}

static void it_is_off_by_the_rounding_of_bf16(void **state)
{
    static const struct widths widths[] = {{32, 16, 32}, {8, 4, 6}, {20, 8, 40}};
    static struct results wanted, is;
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        run(&widths[i], FM_DTYPE_F32, &wanted);
        run(&widths[i], FM_DTYPE_BF16, &is);
        double each[] = {model_small_noise(is.out, wanted.out, TOKENS * HIDDEN),
                         model_small_noise(is.dx, wanted.dx, TOKENS * HIDDEN),
                         model_small_noise(is.dlatents, wanted.dlatents, LATENT * HIDDEN)};
        for (int j = 0; j < 3; j++)
            if (!(each[j] > 1e-4 && each[j] < 2e-2))
                fail_msg("widths %zu, result %d: noise %g", i, j, each[j]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(it_is_off_by_the_rounding_of_bf16)};
    return fm_test_run("model_train_mla", tests);
}
