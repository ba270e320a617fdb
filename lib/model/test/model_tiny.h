/* The least model that a server takes, whose tokens are bytes, and one more. */
#ifndef MODEL_TINY_H
#define MODEL_TINY_H

#include "fathom/model.h"

static inline fm_model_config model_tiny_config(int bos, int eos)
{
    return (fm_model_config){.family = FM_MODEL_V2,
                             .vocab = 257,
                             .hidden = 16,
                             .intermediate = 16,
                             .layers = 1,
                             .dense_layers = 1,
                             .heads = 1,
                             .kv_lora = 16,
                             .nope = 16,
                             .rope = 16,
                             .value = 16,
                             .gate = FM_MODEL_SOFTMAX,
                             .routed_scale = 1,
                             .epsilon = 1e-6,
                             .rope_theta = 10000,
                             .context = 64,
                             .bos = bos,
                             .eos = eos};
}

#endif
