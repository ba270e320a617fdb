// Generation: the trained model, loaded back from its checkpoint, continues a prompt.
#include <stddef.h>
#include <stdio.h>

#include "fathom/cpu.h"
#include "fathom/mem.h"
#include "generation.h"
#include "generation_cache.h"
#include "stage.h"
#include "stage_files.h"

struct generate_options {
    const char *train, *model, *prompt, *dtype;
    int64_t max_tokens, top_k, seed, revisit, workers;
    double temperature, top_p;
};

#define FIELD(name) offsetof(struct generate_options, name)
static const fm_option generate_schema[] = {
    {"train", FM_OPTION_STRING, FIELD(train), .value = "train", .help = "name of the training stage"},
    {"model", FM_OPTION_STRING, FIELD(model), .value = "", .metavar = "DIR",
     .help = "a checkpoint of your own; empty: that of the training stage"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in"},
    {"prompt", FM_OPTION_STRING, FIELD(prompt), .value = "Water, n.", .help = "what to continue"},
    {"max-tokens", FM_OPTION_INT, FIELD(max_tokens), .value = "120", .min = 1, .max = 1 << 20,
     .help = "tokens to append at most"},
    {"temperature", FM_OPTION_REAL, FIELD(temperature), .value = "0.7", .min = 0, .max = 1000,
     .help = "0 takes the likeliest token, more is bolder"},
    {"top-p", FM_OPTION_REAL, FIELD(top_p), .value = "0.9", .min = 0, .max = 1,
     .help = "draw among the likeliest tokens that make up this share"},
    {"top-k", FM_OPTION_INT, FIELD(top_k), .value = "0", .min = 0, .max = 1 << 30,
     .help = "draw among so many likeliest tokens; 0: all"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the drawing"},
    {"revisit", FM_OPTION_INT, FIELD(revisit), .value = "128", .unit = "tokens", .min = 0, .max = 1 << 20,
     .help = "of a text that is then taken up again from the cache that fs has kept of it; 0: none"},
    {"expert-workers", FM_OPTION_INT, FIELD(workers), .value = "0", .min = 0, .max = FM_MODEL_WORKERS_MAX,
     .help = "threads that have experts of their own, placed by eplb from the loads that training measured, "
             "at most as "
             "many as cores; 0: all share all"},
    {0},
};

// Copies for each worker where experts have workers.
enum { REPLICAS = 1 };

// The loads that the trained model's experts got on held-out text; of somebody else's there are none.
static fm_status read_loads(const struct fm_stage_run *run, const struct generate_options *o,
                            const char *model, float **out_loads)
{
    char path[4096];
    fm_model_config config;
    if (o->workers == 0 || o->model[0])
        return FM_OK;
    snprintf(path, sizeof path, "%s/config.json", model);
    FM_TRY(fm_model_config_load(path, &config));
    snprintf(path, sizeof path, "%s/%s/loads.json", run->run_folder, o->train);
    return fm_app_loads_read(path, &config, out_loads);
}

// How unevenly the workers were loaded.
static void tell_experts(struct fm_stage_run *run, const fm_model *model)
{
    fm_model_expert_stats experts;
    fm_model_experts_stats(model, &experts);
    if (experts.load == 0)
        return;
    double mean = (double)experts.load / experts.workers;
    fm_app_stage_number(run, "busiest worker over the mean, experts in order",
                        (double)experts.busiest_in_order / mean, NULL);
    fm_app_stage_number(run, "busiest worker over the mean, planned with copies",
                        (double)experts.busiest / mean, NULL);
}

// A text taken up again: its beginning comes from the cache on the file system, which keeps blocks of 64 tokens.
static fm_status revisit(struct fm_stage_run *run, int stored, struct fm_generation *generation)
{
    const fm_cache_text text = {generation->prompt, stored, 8};
    char folder[128];
    fm_fs *fs;
    fm_cache_figures figures;
    if (stored == 0 || text.prompt + text.stored + text.more > fm_model_config_of(generation->model)->context)
        return FM_OK;
    fm_model_session_close(generation->session); // the engines have the model to themselves
    generation->session = NULL;
    snprintf(folder, sizeof folder, "%s/cache", run->name);
    FM_TRY(fm_app_stage_fs(run, &fs));
    fm_status status =
        fm_app_generation_revisit(generation->model, fs, folder, generation->ids, &text, &figures);
    fm_fs_close(fs);
    FM_TRY(status);
    fm_app_stage_number(run, "cache blocks put into fs", (double)figures.stored_blocks, NULL);
    fm_app_stage_number(run, "cache blocks found in fs", (double)figures.loaded_blocks, NULL);
    fm_app_stage_number(run, "cache hits", 100.0 * (double)figures.cached_tokens / (double)figures.tokens,
                        "% of the text");
    return FM_OK;
}

static fm_status run_generate(struct fm_stage_run *run, const void *given)
{
    const struct generate_options *o = given;
    struct fm_generation generation = {0};
    char model[4096];
    if (o->model[0])
        snprintf(model, sizeof model, "%s", o->model);
    else
        snprintf(model, sizeof model, "%s/%s/model", run->run_folder, o->train);
    struct fm_generation_request request = {
        .model = model,
        .prompt = o->prompt,
        .max_tokens = o->max_tokens,
        .dtype = fm_app_generation_dtype(o->dtype),
        .sampling = {o->temperature, o->top_p, (int)o->top_k, (uint64_t)o->seed},
    };
    float *loads = NULL;
    int cores = fm_base_cpu_threads();
    request.expert_workers = (int)o->workers < cores ? (int)o->workers : cores;
    request.expert_replicas = request.expert_workers > 1 ? REPLICAS * request.expert_workers : 0;
    fm_status status = read_loads(run, o, model, &loads);
    request.expert_loads = loads;
    if (status == FM_OK)
        status = fm_app_generation_run(&request, &generation);
    if (status == FM_OK) {
        tell_experts(run, generation.model);
        int appended = generation.count - generation.prompt;
        fm_app_stage_text(run, "prompt", "%s", o->prompt);
        fm_app_stage_text(run, "continuation", "%s", generation.text);
        fm_app_stage_number(run, "prompt tokens", generation.prompt, NULL);
        fm_app_stage_number(run, "tokens appended", appended, NULL);
        if (generation.seconds > 0)
            fm_app_stage_number(run, "decoding", appended / generation.seconds, "tokens/s");
        status = revisit(run, (int)o->revisit, &generation);
    }
    fm_app_generation_release(&generation);
    fm_base_mem_free(loads);
    return status;
}

const struct fm_stage fm_stage_generate = {
    .name = "generate",
    .summary = "a passage by the trained model, loaded back from its checkpoint",
    .schema = generate_schema,
    .options_size = sizeof(struct generate_options),
    .run = run_generate,
};
