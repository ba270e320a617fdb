// What training has come to: the loss of held-out sequences, and how they load the experts.
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/span.h"
#include "train_job.h"

enum { HELD_OUT_SEQUENCES = 160, HALVES = 2 };

/** What each expert of each layer of experts got of the held-out sequences: [HALVES][layers][experts], the even and the odd
 * sequences apart, so that a placement planned from the ones is judged on the others. */
struct loads {
    const fm_model_config *config;
    int64_t *tokens;
};

static int64_t *loads_of(const struct loads *loads, int half, int layer)
{
    const fm_model_config *c = loads->config;
    return loads->tokens + ((int64_t)half * c->layers + layer) * c->experts;
}

static void add_loads(const struct fm_train_job *job, int half, const struct loads *loads)
{
    for (int layer = loads->config->dense_layers; layer < loads->config->layers; layer++) {
        const int64_t *more = fm_model_trainer_loads(job->trainer, layer);
        for (int e = 0; e < loads->config->experts; e++)
            loads_of(loads, half, layer)[e] += more[e];
    }
}

// The mean over sequences that lie evenly in the held-out tokens.
static fm_status held_out_loss(struct fm_train_job *job, const struct loads *loads, double *out_loss)
{
    FM_SPAN(span, "held-out loss", "train");
    const struct fm_train_options *o = job->options;
    int64_t width = job->width;
    double sum = 0;
    int count =
        job->held_count / width < HELD_OUT_SEQUENCES ? (int)(job->held_count / width) : HELD_OUT_SEQUENCES;
    for (int i = 0; i < count; i++) {
        double loss;
        int64_t at = (job->held_count - width) * i / (count > 1 ? count - 1 : 1);
        FM_TRY(fm_model_trainer_evaluate(job->trainer, job->held_ids + at, 1, (int)o->length, &loss));
        add_loads(job, i % HALVES, loads);
        sum += loss;
    }
    *out_loss = sum / count;
    return FM_OK;
}

// For the stage that balances: {"plan": [[tokens of each expert], ... for each layer], "judge": ...}.
static fm_status save_loads(const struct fm_train_job *job, const struct loads *loads)
{
    static const char *const names[HALVES] = {"plan", "judge"};
    const fm_model_config *config = loads->config;
    char path[FM_TRAIN_PATH_BYTES];
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    for (int half = 0; half < HALVES; half++) {
        fm_base_json_begin(&json, names[half], '[');
        for (int layer = config->dense_layers; layer < config->layers; layer++) {
            fm_base_json_begin(&json, NULL, '[');
            for (int e = 0; e < config->experts; e++)
                fm_base_json_int(&json, NULL, loads_of(loads, half, layer)[e]);
            fm_base_json_end(&json);
        }
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    fm_app_train_path(job, "loads.json", path);
    fm_status status = json.status == FM_OK ? fm_base_file_save(path, json.text, json.length) : FM_OK;
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}

fm_status fm_app_train_judge(struct fm_train_job *job, double *out_loss)
{
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    size_t count = (size_t)HALVES * (size_t)config->layers * (size_t)config->experts;
    struct loads loads = {config, fm_base_mem_zalloc(count, sizeof *loads.tokens)};
    if (!loads.tokens)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    fm_status status = held_out_loss(job, &loads, out_loss);
    if (status == FM_OK)
        status = save_loads(job, &loads);
    fm_base_mem_free(loads.tokens);
    return status;
}
