// Trains a model of two layers to count modulo 32, and lets it count on.
#include <stdio.h>

#include "fathom/model_train.h"

enum { VOCAB = 32, BATCH = 8, LENGTH = 16, STEPS = 80 };

static fm_status train(fm_trainer *trainer)
{
    fm_model_step_result result = {0};
    for (int step = 0; step < STEPS; step++) {
        int32_t ids[BATCH][LENGTH + 1]; // each token's target is its right neighbour
        for (int s = 0; s < BATCH; s++)
            for (int i = 0; i <= LENGTH; i++)
                ids[s][i] = (step * 5 + s * 3 + i) % VOCAB;
        FM_TRY(fm_model_trainer_step(trainer, &ids[0][0], BATCH, LENGTH, &result));
    }
    printf("loss after %d steps: %.3f nats per token\n", STEPS, result.loss);
    return FM_OK;
}

static fm_status count_on(fm_model *model)
{
    fm_model_session *session;
    int32_t ids[3] = {5, 6, 7}, next;
    float logits[VOCAB];
    FM_TRY(fm_model_session_open(model, 0, &session));
    fm_status status = fm_model_feed(session, ids, 3, FM_MODEL_LAST, logits);
    printf("5 6 7");
    for (int i = 0; i < 6 && status == FM_OK; i++) {
        status = fm_model_sample(logits, VOCAB, &(fm_model_sampling){0}, i, &next);
        if (status == FM_OK)
            status = fm_model_feed(session, &next, 1, FM_MODEL_LAST, logits);
        printf(" %d", (int)next);
    }
    printf("\n");
    fm_model_session_close(session);
    return status;
}

int main(void)
{
    fm_model_config config = {.family = FM_MODEL_V3,
                              .vocab = VOCAB,
                              .hidden = 32,
                              .intermediate = 64,
                              .layers = 2,
                              .dense_layers = 1,
                              .heads = 2,
                              .kv_lora = 16,
                              .nope = 16,
                              .rope = 8,
                              .value = 16,
                              .experts = 4,
                              .expert_intermediate = 32,
                              .shared_experts = 1,
                              .topk = 2,
                              .groups = 1,
                              .topk_groups = 1,
                              .gate = FM_MODEL_SIGMOID,
                              .correction_bias = 1,
                              .normalise_topk = 1,
                              .routed_scale = 1,
                              .epsilon = 1e-6,
                              .rope_theta = 10000,
                              .context = 64,
                              .bos = -1,
                              .eos = -1};
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    fm_trainer *trainer;
    training.steps = STEPS;
    training.warmup_steps = 5;
    training.rate = 1e-2;
    fm_status status = fm_model_trainer_open(&config, &training, &trainer);
    if (status == FM_OK)
        status = train(trainer);
    if (status == FM_OK)
        status = count_on(fm_model_trainer_model(trainer));
    if (status < 0)
        fprintf(stderr, "model_count: %s\n", fm_error_message());
    else
        fm_model_trainer_close(trainer);
    return status < 0;
}
