// `fathom generate`: a checkpoint's continuation of a prompt.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/model.h"
#include "fathom/npy.h"

struct generate_options {
    const char *model, *ids, *logits;
    int64_t max_tokens, top_k, seed, threads;
    double temperature, top_p;
};

#define FIELD(name) offsetof(struct generate_options, name)
static const fm_option generate_schema[] = {
    {"model", FM_OPTION_STRING, FIELD(model), .metavar = "DIR", .required = 1,
     .help = "checkpoint in the Hugging Face layout"},
    {"ids", FM_OPTION_STRING, FIELD(ids), .metavar = "1,2,3", .required = 1,
     .help = "the prompt as token ids"},
    {"max-tokens", FM_OPTION_INT, FIELD(max_tokens), .value = "64", .min = 0, .max = 1 << 20,
     .help = "tokens to append at most"},
    {"temperature", FM_OPTION_REAL, FIELD(temperature), .value = "0", .min = 0, .max = 1000,
     .help = "0 takes the likeliest token, more is bolder"},
    {"top-p", FM_OPTION_REAL, FIELD(top_p), .value = "1", .min = 0, .max = 1,
     .help = "draw among the likeliest tokens that make up this share"},
    {"top-k", FM_OPTION_INT, FIELD(top_k), .value = "0", .min = 0, .max = 1 << 30,
     .help = "draw among so many likeliest tokens; 0: all"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the drawing"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "0", .min = 0, .max = 1024,
     .help = "0: as many as cores"},
    {"logits", FM_OPTION_STRING, FIELD(logits), .metavar = "FILE",
     .help = "write the prompt's logits as .npy, float32 [prompt tokens, vocabulary]"},
    {0},
};

/** What a generation holds; everything is freed by release(). */
struct generation {
    fm_model *model;
    fm_model_session *session;
    int32_t *ids; // the prompt, then what is appended
    int prompt, count;
    float *logits; // [prompt, vocab], of which the first row is reused later
    double seconds;
};

static void release(struct generation *g)
{
    fm_model_session_close(g->session);
    fm_model_close(g->model);
    fm_base_mem_free(g->ids);
    fm_base_mem_free(g->logits);
}

// "1,2,3" into g->ids with room for `room` more.
static fm_status read_ids(const char *text, int64_t room, struct generation *g)
{
    size_t count = 1;
    for (const char *c = text; *c; c++)
        count += *c == ',';
    g->ids = fm_base_mem_zalloc(count + (size_t)room, sizeof *g->ids);
    if (!g->ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tokens", count + (size_t)room);
    for (const char *at = text;; at++) {
        char *end;
        long id = strtol(at, &end, 10);
        if (end == at || id < 0 || id > INT32_MAX || (*end && *end != ','))
            return fm_base_error_set(
                FM_ERR_ARG, "--ids is \"%s\"; expected numbers with commas between them, such as 1,2,3",
                text);
        g->ids[g->prompt++] = (int32_t)id;
        if (!*end)
            break;
        at = end;
    }
    g->count = g->prompt;
    return FM_OK;
}

static fm_status feed_prompt(const struct generate_options *options, struct generation *g)
{
    int vocab = fm_model_config_of(g->model)->vocab, all = options->logits != NULL;
    size_t cells = 0;
    FM_TRY(fm_mul_size((size_t)vocab, all ? (size_t)g->prompt : 1, &cells));
    g->logits = fm_base_mem_zalloc(cells, sizeof *g->logits);
    if (!g->logits)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu logits", cells);
    FM_TRY(fm_model_feed(g->session, g->ids, g->prompt, all ? FM_MODEL_ALL : FM_MODEL_LAST, g->logits));
    if (!all)
        return FM_OK;
    fm_tensor tensor;
    int64_t shape[2] = {g->prompt, vocab};
    FM_TRY(fm_base_tensor_init(&tensor, FM_DTYPE_F32, 2, shape, g->logits));
    FM_TRY(fm_base_npy_write(options->logits, &tensor));
    memmove(g->logits, g->logits + (int64_t)(g->prompt - 1) * vocab, (size_t)vocab * sizeof *g->logits);
    return FM_OK;
}

static fm_status generate(const struct generate_options *options, struct generation *g)
{
    const fm_model_config *config = fm_model_config_of(g->model);
    fm_model_sampling sampling = {options->temperature, options->top_p, (int)options->top_k,
                                  (uint64_t)options->seed};
    FM_TRY(fm_model_session_open(g->model, 0, &g->session));
    FM_TRY(feed_prompt(options, g));
    uint64_t begin = fm_base_clock_ns();
    for (int64_t i = 0; i < options->max_tokens && g->count < config->context && !fm_base_interrupted();
         i++) {
        int32_t id;
        FM_TRY(fm_model_sample(g->logits, config->vocab, &sampling, g->count, &id));
        if (id == config->eos)
            break;
        g->ids[g->count++] = id;
        if (i + 1 < options->max_tokens && g->count < config->context)
            FM_TRY(fm_model_feed(g->session, &id, 1, FM_MODEL_LAST, g->logits));
    }
    g->seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    return FM_OK;
}

static void json_ids(fm_json *json, const char *key, const int32_t *ids, int count)
{
    fm_base_json_begin(json, key, '[');
    for (int i = 0; i < count; i++)
        fm_base_json_int(json, NULL, ids[i]);
    fm_base_json_end(json);
}

static fm_status show(const struct generation *g, int as_json)
{
    double rate = g->seconds > 0 ? (g->count - g->prompt) / g->seconds : 0;
    if (!as_json) {
        for (int i = g->prompt; i < g->count; i++)
            printf("%s%" PRId32, i > g->prompt ? "," : "", g->ids[i]);
        printf("\n");
        return FM_OK;
    }
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    json_ids(&json, "prompt_ids", g->ids, g->prompt);
    json_ids(&json, "ids", g->ids + g->prompt, g->count - g->prompt);
    fm_base_json_real(&json, "tokens_per_s", rate);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_generate(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct generate_options *options = given;
    struct generation g = {0};
    fm_model_options model_options = {.size = sizeof model_options, .threads = (int)options->threads};
    (void)out_exit;
    FM_TRY(fm_base_interrupt_install());
    fm_status status = read_ids(options->ids, options->max_tokens, &g);
    if (status == FM_OK)
        status = fm_model_open(options->model, &model_options, &g.model);
    if (status == FM_OK)
        status = generate(options, &g);
    fm_base_interrupt_restore();
    if (status == FM_OK)
        status = show(&g, invocation->json);
    release(&g);
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
