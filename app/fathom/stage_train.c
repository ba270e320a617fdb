// Training: a small model of the V3 architecture on the data's tokens. It goes on from its last saved state.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/cpu.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/model_train.h"
#include "fathom/npy.h"
#include "fathom/progress.h"
#include "fathom/rng.h"
#include "generation.h"
#include "stage.h"
#include "train_chart.h"

struct train_options {
    const char *data, *dtype;
    int64_t steps, batch, length, seed, save_every;
    int64_t hidden, layers, heads, experts, topk, expert_intermediate, predict;
    double rate;
};

#define FIELD(name) offsetof(struct train_options, name)
static const fm_option train_schema[] = {
    {"data", FM_OPTION_STRING, FIELD(data), .value = "data", .help = "name of the data stage"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in"},
    {"steps", FM_OPTION_INT, FIELD(steps), .value = "400", .min = 1, .max = 1e9,
     .help = "steps of the schedule"},
    {"batch", FM_OPTION_INT, FIELD(batch), .value = "8", .min = 1, .max = 65536,
     .help = "sequences of a step"},
    {"length", FM_OPTION_INT, FIELD(length), .value = "128", .unit = "tokens", .min = 2, .max = 65536,
     .help = "tokens of a sequence"},
    {"rate", FM_OPTION_REAL, FIELD(rate), .value = "0.003", .min = 0, .max = 1,
     .help = "learning rate at its highest"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15,
     .help = "of weights and samples"},
    {"save-every", FM_OPTION_INT, FIELD(save_every), .value = "50", .unit = "steps", .min = 1, .max = 1e9,
     .help = "how often the state is saved"},
    {"hidden", FM_OPTION_INT, FIELD(hidden), .value = "256", .min = 16, .max = 16384,
     .help = "channels of a token"},
    {"layers", FM_OPTION_INT, FIELD(layers), .value = "4", .min = 2, .max = 128,
     .help = "layers, the first dense"},
    {"heads", FM_OPTION_INT, FIELD(heads), .value = "4", .min = 1, .max = 256, .help = "attention heads"},
    {"experts", FM_OPTION_INT, FIELD(experts), .value = "8", .min = 4, .max = 1024,
     .help = "routed experts of a layer, a multiple of 4"},
    {"topk", FM_OPTION_INT, FIELD(topk), .value = "2", .min = 1, .max = 64, .help = "experts of a token"},
    {"expert-intermediate", FM_OPTION_INT, FIELD(expert_intermediate), .value = "128", .min = 8, .max = 16384,
     .help = "channels inside an expert"},
    {"predict", FM_OPTION_INT, FIELD(predict), .value = "0", .min = 0, .max = 4,
     .help = "heads for multi-token prediction"},
    {0},
};

/** What the stage works with. */
struct job {
    struct fm_stage_run *run;
    const struct train_options *options;
    fm_npy *train, *held;
    const int32_t *ids, *held_ids;
    int64_t count, held_count;
    fm_trainer *trainer;
    float *losses; // of the steps done, and of those that a state before them had
    int32_t *batch;
    int vocab;
};

static fm_status open_ids(const struct job *job, const char *name, fm_npy **out_file, const int32_t **out_ids,
                          int64_t *out_count)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/%s", job->run->run_folder, job->options->data, name);
    FM_TRY(fm_base_npy_open(path, out_file));
    const fm_tensor *tensor = fm_base_npy_tensor(*out_file);
    int64_t least = job->options->length + 2 + job->options->predict;
    if (tensor->dtype != FM_DTYPE_I32 || tensor->ndim != 1)
        return fm_base_error_set(FM_ERR_FORMAT, "%s: expected one row of 32-bit ids", path);
    if (tensor->shape[0] < least)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s has %lld tokens; expected at least %lld for one sequence: use a larger "
                                 "corpus or a smaller length",
                                 path, (long long)tensor->shape[0], (long long)least);
    *out_ids = tensor->data;
    *out_count = tensor->shape[0];
    return FM_OK;
}

static fm_model_config shape_of(const struct train_options *o, int vocab)
{
    int experts = (int)o->experts;
    return (fm_model_config){
        .family = FM_MODEL_V3,
        .vocab = vocab,
        .hidden = (int)o->hidden,
        .intermediate = (int)o->hidden * 2,
        .layers = (int)o->layers,
        .dense_layers = 1,
        .heads = (int)o->heads,
        .q_lora = (int)o->hidden / 2,
        .kv_lora = (int)o->hidden / 4,
        .nope = 32,
        .rope = 16,
        .value = 32,
        .experts = experts,
        .expert_intermediate = (int)o->expert_intermediate,
        .shared_experts = 1,
        .topk = (int)o->topk,
        .groups = experts % 4 ? 1 : 4,
        .topk_groups = experts % 4 ? 1 : 2,
        .gate = FM_MODEL_SIGMOID,
        .correction_bias = 1,
        .normalise_topk = 1,
        .routed_scale = 1,
        .epsilon = 1e-6,
        .rope_theta = 10000,
        .context = (int)o->length > 1024 ? (int)o->length : 1024,
        .predict_layers = (int)o->predict,
        .bos = -1,
        .eos = 0,
    };
}

static void path_in(const struct job *job, const char *name, char path[static 4096])
{
    snprintf(path, 4096, "%s/%s", job->run->folder, name);
}

// Resumes where a state was saved for these options; a state of another shape begins anew.
static fm_status open_trainer(struct job *job)
{
    const struct train_options *o = job->options;
    fm_model_config config = shape_of(o, job->vocab);
    fm_model_training training = FM_MODEL_TRAINING_INIT;
    char path[4096], losses[4096];
    char *kept = NULL;
    size_t size = 0;
    training.steps = o->steps;
    training.warmup_steps = o->steps / 10;
    training.rate = o->rate;
    training.rate_end = o->rate / 10;
    training.seed = (uint64_t)o->seed;
    training.dtype = fm_app_generation_dtype(o->dtype);
    FM_TRY(fm_model_trainer_open(&config, &training, &job->trainer));
    path_in(job, "state.safetensors", path);
    path_in(job, "losses.f32", losses);
    if (fm_base_file_read(losses, (size_t)o->steps * sizeof *job->losses, &kept, &size) < 0)
        return FM_OK; // nothing was saved
    fm_status status = fm_model_trainer_load(job->trainer, path);
    int64_t done = fm_model_trainer_steps(job->trainer);
    if (status == FM_OK && (size_t)done * sizeof *job->losses <= size && done <= o->steps) {
        memcpy(job->losses, kept, (size_t)done * sizeof *job->losses);
    } else { // of other options, or torn: from the beginning
        fm_model_trainer_close(job->trainer);
        job->trainer = NULL;
        status = fm_model_trainer_open(&config, &training, &job->trainer);
    }
    fm_base_mem_free(kept);
    return status;
}

// The state last: a loss curve that is too long is cut, one that is too short has no use.
static fm_status save_state(const struct job *job)
{
    char path[4096];
    size_t done = (size_t)fm_model_trainer_steps(job->trainer);
    path_in(job, "losses.f32", path);
    FM_TRY(fm_base_file_save(path, job->losses, done * sizeof *job->losses));
    path_in(job, "state.safetensors", path);
    return fm_model_trainer_save(job->trainer, path, NULL);
}

// A sequence from anywhere; where depends on the seed and its number alone.
static void draw_batch(const struct job *job, int64_t step)
{
    const struct train_options *o = job->options;
    int64_t width = o->length + 1 + o->predict;
    for (int64_t s = 0; s < o->batch; s++) {
        uint64_t drawn = fm_base_rng_at((uint64_t)o->seed, 2, (uint64_t)(step * o->batch + s));
        int64_t at = (int64_t)(fm_rng_to_double(drawn) * (double)(job->count - width + 1));
        memcpy(job->batch + s * width, job->ids + at, (size_t)width * sizeof *job->batch);
    }
}

static fm_status train(struct job *job, double *out_tokens_per_s)
{
    const struct train_options *o = job->options;
    fm_progress progress;
    int64_t first = fm_model_trainer_steps(job->trainer), tokens = o->batch * o->length;
    fm_status status = FM_OK;
    fm_base_progress_begin(&progress, "train", "tokens", (uint64_t)((o->steps - first) * tokens));
    uint64_t begin = fm_base_clock_ns(), saving = 0;
    while (status == FM_OK && fm_model_trainer_steps(job->trainer) < o->steps) {
        int64_t step = fm_model_trainer_steps(job->trainer);
        fm_model_step_result result = {0};
        char label[64];
        draw_batch(job, step);
        status = fm_model_trainer_step(job->trainer, job->batch, (int)o->batch, (int)o->length, &result);
        if (status < 0)
            break;
        job->losses[step] = (float)result.loss;
        snprintf(label, sizeof label, "train: step %lld, loss %.3f", (long long)step + 1, result.loss);
        fm_base_progress_label(&progress, label);
        fm_base_progress_update(&progress, (uint64_t)((step + 1 - first) * tokens));
        int interrupted = fm_base_interrupted();
        if ((step + 1) % o->save_every == 0 || step + 1 == o->steps || interrupted) {
            uint64_t from = fm_base_clock_ns();
            status = save_state(job);
            saving += fm_base_clock_ns() - from;
        }
        if (status == FM_OK && interrupted)
            status = fm_base_interrupt_check();
    }
    fm_base_progress_finish(&progress, status);
    double seconds = (double)(fm_base_clock_ns() - begin - saving) * 1e-9;
    int64_t steps = fm_model_trainer_steps(job->trainer) - first;
    *out_tokens_per_s = seconds > 0 ? (double)(steps * tokens) / seconds : 0;
    return status;
}

enum { HELD_OUT_SEQUENCES = 160 };

// The mean over sequences that lie evenly in the held-out tokens.
static fm_status held_out_loss(struct job *job, double *out_loss)
{
    const struct train_options *o = job->options;
    int64_t width = o->length + 1 + o->predict;
    double sum = 0;
    int count =
        job->held_count / width < HELD_OUT_SEQUENCES ? (int)(job->held_count / width) : HELD_OUT_SEQUENCES;
    for (int i = 0; i < count; i++) {
        double loss;
        int64_t at = (job->held_count - width) * i / (count > 1 ? count - 1 : 1);
        FM_TRY(fm_model_trainer_evaluate(job->trainer, job->held_ids + at, 1, (int)o->length, &loss));
        sum += loss;
    }
    *out_loss = sum / count;
    return FM_OK;
}

// Loads of the experts on the held-out tokens, for placement: {"loads": [[...], ...]}.
static fm_status save_loads(const struct job *job)
{
    char path[4096];
    fm_json json = {0};
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    fm_base_json_begin(&json, NULL, '[');
    for (int layer = config->dense_layers; layer < config->layers; layer++) {
        const int64_t *loads = fm_model_trainer_loads(job->trainer, layer);
        fm_base_json_begin(&json, NULL, '[');
        for (int e = 0; e < config->experts; e++)
            fm_base_json_int(&json, NULL, loads[e]);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    path_in(job, "loads.json", path);
    fm_status status = json.status == FM_OK ? fm_base_file_save(path, json.text, json.length) : FM_OK;
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}

static fm_status copy_tokenizer(const struct job *job)
{
    char path[4096];
    char *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s/%s/tokenizer.json", job->run->run_folder, job->options->data);
    FM_TRY(fm_base_file_read(path, (size_t)1 << 30, &bytes, &size));
    path_in(job, "model/tokenizer.json", path);
    fm_status status = fm_base_file_save(path, bytes, size);
    fm_base_mem_free(bytes);
    return status;
}

static fm_status finish(struct job *job, double rate)
{
    const struct train_options *o = job->options;
    char path[4096];
    double held_out = 0, last = 0;
    const fm_model_config *config = fm_model_config_of(fm_model_trainer_model(job->trainer));
    int64_t active, parameters = fm_model_config_parameters(config, &active);
    int64_t tail = o->steps < 50 ? o->steps : 50;
    FM_TRY(held_out_loss(job, &held_out));
    draw_batch(job, o->steps); // one more batch, for the loads that it makes
    FM_TRY(fm_model_trainer_evaluate(job->trainer, job->batch, (int)o->batch, (int)o->length, &last));
    FM_TRY(save_loads(job));
    path_in(job, "model", path);
    FM_TRY(fm_model_trainer_export(job->trainer, FM_DTYPE_BF16, path));
    FM_TRY(copy_tokenizer(job));
    FM_TRY(fm_app_train_chart(job->run->folder, job->losses, o->steps, held_out));
    double mean = 0;
    for (int64_t i = o->steps - tail; i < o->steps; i++)
        mean += (double)job->losses[i] / (double)tail;
    fm_app_stage_number(job->run, "parameters", (double)parameters, NULL);
    fm_app_stage_number(job->run, "parameters that a token meets", (double)active, NULL);
    fm_app_stage_number(job->run, "tokens trained on", (double)(o->steps * o->batch * o->length), NULL);
    if (rate > 0)
        fm_app_stage_number(job->run, "training", rate, "tokens/s");
    fm_app_stage_number(job->run, "loss, last 50 steps", mean, "nats/token");
    fm_app_stage_number(job->run, "loss, held out", held_out, "nats/token");
    fm_dtype dtype = fm_app_generation_dtype(o->dtype);
    if (dtype != FM_DTYPE_F32)
        fm_app_stage_number(job->run, dtype == FM_DTYPE_BF16 ? "products in BF16" : "products in FP8",
                            (double)fm_model_trainer_products(job->trainer, dtype), NULL);
    fm_app_stage_text(job->run, "model", "%s", path);
    return FM_OK;
}

static fm_status vocab_of(struct job *job)
{
    int32_t last = 0;
    for (int64_t i = 0; i < job->count; i++)
        last = job->ids[i] > last ? job->ids[i] : last;
    for (int64_t i = 0; i < job->held_count; i++)
        last = job->held_ids[i] > last ? job->held_ids[i] : last;
    job->vocab = last + 1;
    return FM_OK;
}

static fm_status run_job(struct job *job)
{
    const struct train_options *o = job->options;
    double rate = 0;
    FM_TRY(open_ids(job, "train.npy", &job->train, &job->ids, &job->count));
    FM_TRY(open_ids(job, "held_out.npy", &job->held, &job->held_ids, &job->held_count));
    FM_TRY(vocab_of(job));
    job->losses = fm_base_mem_zalloc((size_t)o->steps, sizeof *job->losses);
    job->batch = fm_base_mem_zalloc((size_t)(o->batch * (o->length + 1 + o->predict)), sizeof *job->batch);
    if (!job->losses || !job->batch)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a batch");
    FM_TRY(open_trainer(job));
    FM_TRY(train(job, &rate));
    return finish(job, rate);
}

static fm_status run_train(struct fm_stage_run *run, const void *given)
{
    struct job job = {.run = run, .options = given};
    fm_status status = run_job(&job);
    fm_model_trainer_close(job.trainer);
    fm_base_mem_free(job.losses);
    fm_base_mem_free(job.batch);
    fm_base_npy_close(job.train);
    fm_base_npy_close(job.held);
    return status;
}

const struct fm_stage fm_stage_train = {
    .name = "train",
    .summary = "a small mixture-of-experts model, trained from random weights",
    .schema = train_schema,
    .options_size = sizeof(struct train_options),
    .run = run_train,
};
