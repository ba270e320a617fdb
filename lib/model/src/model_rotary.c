/* Rotary embedding, with YaRN as DeepSeek's models use it: frequencies between `beta_fast` and `beta_slow` rotations over
 * the original context are blended into ones that are slower by `factor`, and scores are sharpened by `mscale`. */
#include "model_private.h"

#include <math.h>

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

// The channel pair that turns `rotations` times over the original context.
static double turning_pair(const fm_model_config *config, double rotations)
{
    return config->rope * log(config->yarn.original_context / (rotations * 2 * M_PI)) /
           (2 * log(config->rope_theta));
}

static double frequency(const fm_model_config *config, int pair)
{
    const fm_model_yarn *yarn = &config->yarn;
    double plain = pow(config->rope_theta, -2.0 * pair / config->rope);
    if (yarn->factor == 0)
        return plain;
    double low = fmax(floor(turning_pair(config, yarn->beta_fast)), 0);
    double high = fmin(ceil(turning_pair(config, yarn->beta_slow)), config->rope - 1);
    if (low == high)
        high += 0.001; // a step, not a division by zero
    double slow = fmin(fmax((pair - low) / (high - low), 0), 1);
    return plain / yarn->factor * slow + plain * (1 - slow);
}

fm_status fm_model_rotary_open(const fm_model_config *config, struct fm_model_rotary *out_rotary)
{
    const fm_model_yarn *yarn = &config->yarn;
    struct fm_model_rotary rotary = {.pairs = config->rope / 2, .positions = config->context};
    size_t count = (size_t)rotary.positions * (size_t)rotary.pairs;
    rotary.cosines = fm_base_mem_zalloc(count, sizeof(float));
    rotary.sines = fm_base_mem_zalloc(count, sizeof(float));
    if (!rotary.cosines || !rotary.sines) {
        fm_model_rotary_close(&rotary);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the rotary embedding of %d positions",
                                 config->context);
    }
    double stretch = yarn->factor == 0 ? 1
                                       : yarn_scale(yarn->factor, yarn->mscale) /
                                             yarn_scale(yarn->factor, yarn->mscale_all_dim);
    for (int pair = 0; pair < rotary.pairs; pair++) {
        double turn = frequency(config, pair);
        for (int position = 0; position < rotary.positions; position++) {
            size_t at = (size_t)position * (size_t)rotary.pairs + (size_t)pair;
            rotary.cosines[at] = (float)(cos(position * turn) * stretch);
            rotary.sines[at] = (float)(sin(position * turn) * stretch);
        }
    }
    double sharpen = yarn->factor == 0 ? 1 : yarn_scale(yarn->factor, yarn->mscale_all_dim);
    rotary.softmax_scale = (float)(sharpen * sharpen / sqrt(config->nope + config->rope));
    *out_rotary = rotary;
    return FM_OK;
}

void fm_model_rotary_close(struct fm_model_rotary *rotary)
{
    fm_base_mem_free(rotary->cosines);
    fm_base_mem_free(rotary->sines);
    *rotary = (struct fm_model_rotary){0};
}

void fm_model_rotary_apply(const struct fm_model_rotary *rotary, int position, int direction, float *channels)
{
    const float *cosines = rotary->cosines + (size_t)position * (size_t)rotary->pairs;
    const float *sines = rotary->sines + (size_t)position * (size_t)rotary->pairs;
    for (int i = 0; i < rotary->pairs; i++) {
        float even = channels[2 * i], odd = channels[2 * i + 1], sine = (float)direction * sines[i];
        channels[2 * i] = even * cosines[i] - odd * sine;
        channels[2 * i + 1] = even * sine + odd * cosines[i];
    }
}
