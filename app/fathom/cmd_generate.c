// `fathom generate`: a checkpoint's continuation of a prompt.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "commands.h"
#include "fathom/interrupt.h"
#include "generation.h"

struct generate_options {
    const char *model, *prompt, *ids, *stop, *logits, *dtype;
    int64_t max_tokens, top_k, seed, threads, workers, replicas;
    double temperature, top_p;
};

#define FIELD(name) offsetof(struct generate_options, name)
static const fm_option generate_schema[] = {
    {"model", FM_OPTION_STRING, FIELD(model), .metavar = "DIR", .required = 1,
     .help = "checkpoint in the Hugging Face layout"},
    {"prompt", FM_OPTION_STRING, FIELD(prompt), .metavar = "TEXT",
     .help = "the prompt; needs tokenizer.json in DIR"},
    {"ids", FM_OPTION_STRING, FIELD(ids), .metavar = "1,2,3", .help = "the prompt as token ids"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in"},
    {"max-tokens", FM_OPTION_INT, FIELD(max_tokens), .value = "64", .min = 0, .max = 1 << 20,
     .help = "tokens to append at most"},
    {"temperature", FM_OPTION_REAL, FIELD(temperature), .value = "0", .min = 0, .max = 1000,
     .help = "0 takes the likeliest token, more is bolder"},
    {"top-p", FM_OPTION_REAL, FIELD(top_p), .value = "1", .min = 0, .max = 1,
     .help = "draw among the likeliest tokens that make up this share"},
    {"top-k", FM_OPTION_INT, FIELD(top_k), .value = "0", .min = 0, .max = 1 << 30,
     .help = "draw among so many likeliest tokens; 0: all"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the drawing"},
    {"stop", FM_OPTION_STRING, FIELD(stop), .metavar = "TEXT", .help = "end in front of this text"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "0", .min = 0, .max = 1024,
     .help = "0: as many as cores"},
    {"expert-workers", FM_OPTION_INT, FIELD(workers), .value = "0", .min = 0, .max = FM_MODEL_WORKERS_MAX,
     .help = "threads that have experts of their own, placed by eplb from measured loads; 0: all share all"},
    {"expert-replicas", FM_OPTION_INT, FIELD(replicas), .value = "1", .min = 0, .max = 1024,
     .help = "copies of busy experts in each layer, for each of these threads"},
    {"logits", FM_OPTION_STRING, FIELD(logits), .metavar = "FILE",
     .help = "write the prompt's logits as .npy, float32 [prompt tokens, vocabulary]"},
    {0},
};

static void json_ids(fm_json *json, const char *key, const int32_t *ids, int count)
{
    fm_base_json_begin(json, key, '[');
    for (int i = 0; i < count; i++)
        fm_base_json_int(json, NULL, ids[i]);
    fm_base_json_end(json);
}

static fm_status show_json(const struct fm_generation *g)
{
    fm_json json = {0};
    int appended = g->count - g->prompt;
    fm_base_json_begin(&json, NULL, '{');
    json_ids(&json, "prompt_ids", g->ids, g->prompt);
    json_ids(&json, "ids", g->ids + g->prompt, appended);
    fm_base_json_string(&json, "text", g->text);
    fm_base_json_real(&json, "tokens_per_s", g->seconds > 0 ? appended / g->seconds : 0);
    fm_model_expert_stats experts;
    fm_model_experts_stats(g->model, &experts);
    if (experts.workers) {
        fm_base_json_int(&json, "expert_workers", experts.workers);
        fm_base_json_int(&json, "expert_load", experts.load);
        fm_base_json_int(&json, "expert_busiest", experts.busiest);
        fm_base_json_int(&json, "expert_busiest_in_order", experts.busiest_in_order);
        fm_base_json_int(&json, "expert_plans", experts.plans);
    }
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status show(const struct fm_generation *g)
{
    if (g->text) {
        puts(g->text);
        return FM_OK;
    }
    for (int i = g->prompt; i < g->count; i++)
        printf("%s%" PRId32, i > g->prompt ? "," : "", g->ids[i]);
    printf("\n");
    return FM_OK;
}

static fm_status run_generate(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct generate_options *o = given;
    struct fm_generation generation = {0};
    struct fm_generation_request request = {
        .model = o->model,
        .prompt = o->prompt,
        .ids = o->ids,
        .stop = o->stop,
        .logits = o->logits,
        .max_tokens = o->max_tokens,
        .threads = (int)o->threads,
        .dtype = fm_app_generation_dtype(o->dtype),
        .sampling = {o->temperature, o->top_p, (int)o->top_k, (uint64_t)o->seed},
        .expert_workers = (int)o->workers,
        .expert_replicas = (int)(o->workers > 1 ? o->workers * o->replicas : 0),
    };
    (void)out_exit;
    FM_TRY(fm_base_interrupt_install());
    fm_status status = fm_app_generation_run(&request, &generation);
    fm_base_interrupt_restore();
    if (status == FM_OK)
        status = invocation->json ? show_json(&generation) : show(&generation);
    fm_app_generation_release(&generation);
    return status;
}

const fm_command fm_cmd_generate = {
    .name = "generate",
    .summary = "continue a prompt with a checkpoint",
    .options = generate_schema,
    .options_size = sizeof(struct generate_options),
    .has_json = 1,
    .run = run_generate,
};
