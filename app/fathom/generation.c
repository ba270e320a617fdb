#include "generation.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/npy.h"

void fm_app_generation_release(struct fm_generation *g)
{
    fm_model_session_close(g->session);
    fm_model_close(g->model);
    fm_model_tokenizer_close(g->tokenizer);
    fm_base_mem_free(g->ids);
    fm_base_mem_free(g->logits);
    fm_base_mem_free(g->text);
    *g = (struct fm_generation){0};
}

fm_dtype fm_app_generation_dtype(const char *name)
{
    return strcmp(name, "fp8") == 0    ? FM_DTYPE_F8_E4M3
           : strcmp(name, "bf16") == 0 ? FM_DTYPE_BF16
                                       : FM_DTYPE_F32;
}

static fm_status take_ids(const char *text, struct fm_generation *g)
{
    size_t count = 1;
    for (const char *c = text; *c; c++)
        count += *c == ',';
    g->ids = fm_base_mem_zalloc(count, sizeof *g->ids);
    if (!g->ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tokens", count);
    for (const char *at = text;; at++) {
        char *end;
        long id = strtol(at, &end, 10);
        if (end == at || id < 0 || id > INT32_MAX || (*end && *end != ','))
            return fm_base_error_set(
                FM_ERR_ARG, "ids are \"%s\"; expected numbers with commas between them, such as 1,2,3", text);
        g->ids[g->prompt++] = (int32_t)id;
        at = end;
        if (!*end)
            return FM_OK;
    }
}

static fm_status open_tokenizer(const struct fm_generation_request *request, struct fm_generation *g)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/tokenizer.json", request->model);
    fm_status status = fm_model_tokenizer_open(path, &g->tokenizer);
    if (status == FM_ERR_NOT_FOUND && !request->prompt)
        return FM_OK; // ids need none
    return status;
}

static fm_status take_prompt(const struct fm_generation_request *request, struct fm_generation *g)
{
    size_t count = 0;
    if (!request->prompt == !request->ids)
        return fm_base_error_set(FM_ERR_ARG, "%s; expected a prompt as text or as ids",
                                 request->prompt ? "both were given" : "there is nothing to continue");
    FM_TRY(open_tokenizer(request, g));
    if (request->ids)
        return take_ids(request->ids, g);
    if (!request->prompt[0])
        return fm_base_error_set(FM_ERR_ARG, "the prompt is empty; expected some text to continue");
    FM_TRY(
        fm_model_tokenizer_encode(g->tokenizer, request->prompt, strlen(request->prompt), &g->ids, &count));
    if (count > INT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "the prompt has %zu tokens", count);
    g->prompt = (int)count;
    return FM_OK;
}

// Room for the prompt and what may follow, within the context.
static fm_status make_room(const struct fm_generation_request *request, struct fm_generation *g)
{
    const fm_model_config *config = fm_model_config_of(g->model);
    int64_t room = (int64_t)g->prompt + request->max_tokens;
    if (g->prompt > config->context)
        return fm_base_error_set(FM_ERR_LIMIT, "the prompt has %d tokens; the model's context has %d",
                                 g->prompt, config->context);
    room = room > config->context ? config->context : room;
    int32_t *ids = fm_base_mem_realloc(g->ids, (size_t)room + 1, sizeof *ids);
    if (!ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %lld tokens", (long long)room);
    g->ids = ids;
    g->count = g->prompt;
    return fm_model_session_open(g->model, (int)room, &g->session);
}

static fm_status feed_prompt(const struct fm_generation_request *request, struct fm_generation *g)
{
    int vocab = fm_model_config_of(g->model)->vocab, all = request->logits != NULL;
    size_t cells = 0;
    FM_TRY(fm_mul_size((size_t)vocab, all ? (size_t)g->prompt : 1, &cells));
    g->logits = fm_base_mem_zalloc(cells, sizeof *g->logits);
    if (!g->logits)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu logits", cells);
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(fm_model_feed(g->session, g->ids, g->prompt, all ? FM_MODEL_ALL : FM_MODEL_LAST, g->logits));
    g->prompt_seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    if (!all)
        return FM_OK;
    fm_tensor tensor;
    int64_t shape[2] = {g->prompt, vocab};
    FM_TRY(fm_base_tensor_init(&tensor, FM_DTYPE_F32, 2, shape, g->logits));
    FM_TRY(fm_base_npy_write(request->logits, &tensor));
    memmove(g->logits, g->logits + (int64_t)(g->prompt - 1) * vocab, (size_t)vocab * sizeof *g->logits);
    return FM_OK;
}

// The text so far; *out_stopped tells whether the stop text occurs in it, where it is then cut.
static fm_status take_text(const char *stop, struct fm_generation *g, int *out_stopped)
{
    char *text;
    size_t length;
    *out_stopped = 0;
    if (!g->tokenizer)
        return FM_OK;
    FM_TRY(fm_model_tokenizer_decode(g->tokenizer, g->ids + g->prompt, (size_t)(g->count - g->prompt), 1,
                                     &text, &length));
    fm_base_mem_free(g->text);
    g->text = text;
    char *found = stop && stop[0] ? strstr(text, stop) : NULL;
    if (found)
        *found = 0;
    *out_stopped = found != NULL;
    return FM_OK;
}

/* Steps between two plans of where experts go. */
enum { REPLAN = 64 };

static fm_status append(const struct fm_generation_request *request, struct fm_generation *g)
{
    const fm_model_config *config = fm_model_config_of(g->model);
    int stopped = 0;
    for (int64_t i = 0; i < request->max_tokens && g->count < config->context && !fm_base_interrupted();
         i++) {
        int32_t id;
        if (i > 0)
            FM_TRY(fm_model_feed(g->session, &g->ids[g->count - 1], 1, FM_MODEL_LAST, g->logits));
        if (i > 0 && request->expert_workers > 0)
            FM_TRY(fm_model_experts_turn(g->model, REPLAN));
        FM_TRY(fm_model_sample(g->logits, config->vocab, &request->sampling, g->count, &id));
        if (id == config->eos)
            break;
        g->ids[g->count++] = id;
        if (request->stop)
            FM_TRY(take_text(request->stop, g, &stopped));
        if (stopped)
            return FM_OK;
    }
    return take_text(NULL, g, &stopped);
}

fm_status fm_app_generation_run(const struct fm_generation_request *request, struct fm_generation *generation)
{
    fm_model_options options = {.size = sizeof options, .threads = request->threads, .dtype = request->dtype};
    FM_TRY(take_prompt(request, generation));
    FM_TRY(fm_model_open(request->model, &options, &generation->model));
    if (request->expert_workers > 0)
        FM_TRY(fm_model_experts_place(generation->model, request->expert_workers, request->expert_replicas));
    if (request->expert_workers > 0 && request->expert_loads)
        FM_TRY(fm_model_experts_plan(generation->model, request->expert_loads));
    FM_TRY(make_room(request, generation));
    FM_TRY(feed_prompt(request, generation));
    if (request->expert_workers > 0 && !request->expert_loads)
        FM_TRY(fm_model_experts_plan(generation->model, NULL));
    uint64_t begin = fm_base_clock_ns();
    FM_TRY(append(request, generation));
    generation->seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    return FM_OK;
}
