/* A model small enough to train in a test: what tests change of it they say. And how far its results are off. */
#ifndef MODEL_SMALL_H
#define MODEL_SMALL_H

#include <math.h>
#include <stddef.h>

#include "fathom/model.h"

/** V3 with all that it has but heads for multi-token prediction: 2 layers, the first dense, 6 experts in 3 groups. */
static inline fm_model_config model_small_config(void)
{
    fm_model_config config = {.family = FM_MODEL_V3,
                              .vocab = 40,
                              .hidden = 24,
                              .intermediate = 40,
                              .layers = 2,
                              .dense_layers = 1,
                              .heads = 2,
                              .q_lora = 16,
                              .kv_lora = 12,
                              .nope = 8,
                              .rope = 4,
                              .value = 6,
                              .experts = 6,
                              .expert_intermediate = 16,
                              .shared_experts = 1,
                              .topk = 2,
                              .groups = 3,
                              .topk_groups = 2,
                              .gate = FM_MODEL_SIGMOID,
                              .correction_bias = 1,
                              .normalise_topk = 1,
                              .routed_scale = 1.5,
                              .epsilon = 1e-6,
                              .rope_theta = 100,
                              .context = 96,
                              .bos = -1,
                              .eos = -1};
    return config;
}

/** The noise in `is` over the size of what is wanted. */
static inline double model_small_noise(const float *is, const float *wanted, size_t count)
{
    double off = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        off += ((double)is[i] - (double)wanted[i]) * ((double)is[i] - (double)wanted[i]);
        size += (double)wanted[i] * (double)wanted[i];
    }
    return sqrt(off / size);
}

#endif
