// `fathom bench serve`: how long users wait for the engine under a load that arrives on its own time.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/doc.h"
#include "fathom/interrupt.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/serve.h"
#include "fathom/text.h"
#include "generation.h"

struct bench_options {
    const char *model, *config, *arrivals, *dtype, *cache_dtype;
    int64_t requests, prompt, shared, answer, running, chunk, cache, seed, threads, workers, replicas, replan;
    double rate;
    int draft;
};

#define FIELD(name) offsetof(struct bench_options, name)
static const fm_option bench_schema[] = {
    {"model", FM_OPTION_STRING, FIELD(model), .metavar = "DIR",
     .help = "checkpoint in the Hugging Face layout"},
    {"config", FM_OPTION_STRING, FIELD(config), .metavar = "FILE",
     .help = "config.json of a model with random weights, instead of a checkpoint"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in"},
    {"cache-dtype", FM_OPTION_CHOICE, FIELD(cache_dtype), .value = "auto", .choices = "auto|f32|bf16|fp8",
     .help = "what the texts' caches are held in; auto: bf16 for fp8, else f32"},
    {"draft", FM_OPTION_FLAG, FIELD(draft), .value = "false",
     .help = "guess tokens with the model's head for multi-token prediction"},
    {"arrivals", FM_OPTION_STRING, FIELD(arrivals), .metavar = "FILE",
     .help = "recorded load, JSON: [[seconds, prompt tokens, answer tokens], ...], instead of a drawn one"},
    {"requests", FM_OPTION_INT, FIELD(requests), .value = "64", .min = 1, .max = 1e6,
     .help = "drawn requests"},
    {"rate", FM_OPTION_REAL, FIELD(rate), .value = "8", .min = 1e-3, .max = 1e6, .unit = "1/s",
     .help = "of drawn arrivals, a Poisson process"},
    {"prompt", FM_OPTION_INT, FIELD(prompt), .value = "64", .min = 1, .max = 1 << 20, .unit = "tokens",
     .help = "mean length of drawn prompts; they are within half and one and a half of it"},
    {"shared", FM_OPTION_INT, FIELD(shared), .value = "0", .min = 0, .max = 1 << 20, .unit = "tokens",
     .help = "with which all prompts begin alike"},
    {"answer", FM_OPTION_INT, FIELD(answer), .value = "32", .min = 1, .max = 1 << 20, .unit = "tokens",
     .help = "length of answers"},
    {"running", FM_OPTION_INT, FIELD(running), .value = "64", .min = 1, .max = 1024,
     .help = "requests that are answered together"},
    {"chunk", FM_OPTION_INT, FIELD(chunk), .value = "256", .min = 1, .max = 1 << 20, .unit = "tokens",
     .help = "of prompts in a step"},
    {"cache", FM_OPTION_SIZE, FIELD(cache), .value = "0", .min = 0, .max = 1e15,
     .help = "memory for caches; 0: a quarter of what is available"},
    {"expert-workers", FM_OPTION_INT, FIELD(workers), .value = "0", .min = 0, .max = FM_MODEL_WORKERS_MAX,
     .help =
         "threads that have experts of their own, placed by eplb from live loads; 0: all threads share all"},
    {"expert-replicas", FM_OPTION_INT, FIELD(replicas), .value = "1", .min = 0, .max = 1024,
     .help = "copies of busy experts in each layer, for each of these threads"},
    {"replan", FM_OPTION_INT, FIELD(replan), .value = "256", .min = 1, .max = 1 << 30, .unit = "steps",
     .help = "between two plans of where experts go"},
    {"seed", FM_OPTION_INT, FIELD(seed), .value = "1", .min = 0, .max = 1e15, .help = "of the drawing"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "0", .min = 0, .max = 1024,
     .help = "0: as many as cores"},
    {0},
};

struct user {
    double arrives_s;
    int prompt, answer, tokens, cached, ended;
    uint64_t begin_ns, first_ns, last_ns;
    fm_serve_finish how;
};

struct load {
    fm_model *model;
    fm_serve *serve;
    struct user *users;
    int count, ended;
    int32_t *ids; // of the longest prompt
    double *values;
    double seconds;
};

static void release(struct load *load)
{
    fm_model_serve_close(load->serve);
    fm_model_close(load->model);
    fm_base_mem_free(load->users);
    fm_base_mem_free(load->ids);
    fm_base_mem_free(load->values);
}

static fm_status reserve(struct load *load, size_t count, int longest)
{
    load->count = (int)count;
    load->users = fm_base_mem_zalloc(count, sizeof *load->users);
    load->values = fm_base_mem_zalloc(count, sizeof *load->values);
    load->ids = fm_base_mem_zalloc((size_t)longest, sizeof *load->ids);
    return load->users && load->values && load->ids
               ? FM_OK
               : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu requests", count);
}

static fm_status draw_load(const struct bench_options *options, struct load *load)
{
    fm_rng rng = fm_base_rng_begin((uint64_t)options->seed, 1);
    double at = 0;
    FM_TRY(reserve(load, (size_t)options->requests, (int)(2 * options->prompt + options->shared)));
    for (int i = 0; i < load->count; i++) {
        int64_t low = (options->prompt + 1) / 2;
        at -= log(1 - fm_rng_double(&rng)) / options->rate;
        load->users[i].arrives_s = at;
        load->users[i].prompt =
            (int)(options->shared + low + (int64_t)fm_base_rng_below(&rng, (uint64_t)options->prompt));
        load->users[i].answer = (int)options->answer;
    }
    return FM_OK;
}

static fm_status read_row(const fm_doc *row, int context, double earliest, struct user *user)
{
    int64_t prompt, answer;
    FM_TRY(fm_base_doc_expect(row, "an arrival", FM_DOC_ARRAY));
    FM_TRY(fm_base_doc_real(fm_base_doc_at(row, 0), "seconds", &user->arrives_s));
    FM_TRY(fm_base_doc_int(fm_base_doc_at(row, 1), "prompt tokens", 1, context - 1, &prompt));
    FM_TRY(fm_base_doc_int(fm_base_doc_at(row, 2), "answer tokens", 1, context, &answer));
    if (user->arrives_s < earliest)
        return fm_base_doc_error(FM_ERR_FORMAT, row, "arrivals are not in the order of their time");
    user->prompt = (int)prompt;
    user->answer = (int)answer;
    return FM_OK;
}

static fm_status read_load(const char *path, struct load *load)
{
    int context = fm_model_config_of(load->model)->context;
    fm_doc *doc;
    FM_TRY(fm_base_doc_load(path, &doc));
    fm_status status = fm_base_doc_expect(doc, "arrivals", FM_DOC_ARRAY);
    if (status == FM_OK && fm_base_doc_count(doc) == 0)
        status = fm_base_doc_error(FM_ERR_FORMAT, doc, "no arrivals");
    if (status == FM_OK)
        status = reserve(load, fm_base_doc_count(doc), context);
    for (int i = 0; i < load->count && status == FM_OK; i++)
        status = read_row(fm_base_doc_at(doc, (size_t)i), context, i ? load->users[i - 1].arrives_s : 0,
                          &load->users[i]);
    fm_base_doc_free(doc);
    return status;
}

static int on_token(void *context, const fm_serve_token *token)
{
    struct user *user = context;
    (void)token;
    user->last_ns = fm_base_clock_ns();
    if (user->tokens++ == 0)
        user->first_ns = user->last_ns;
    return 0;
}

static void on_end(void *context, fm_serve_finish how, int cached, const char *message)
{
    struct user *user = context;
    (void)message;
    user->how = how;
    user->cached = cached;
    user->ended = 1;
}

static fm_status submit(const struct bench_options *options, struct load *load, int index)
{
    struct user *user = &load->users[index];
    int vocab = fm_model_config_of(load->model)->vocab;
    uint64_t ticket;
    for (int i = 0; i < user->prompt; i++)
        load->ids[i] = (int32_t)(fm_base_rng_at((uint64_t)options->seed,
                                                i < options->shared ? 2 : 3 + (uint64_t)index, (uint64_t)i) %
                                 (uint64_t)vocab);
    fm_serve_request request = {.size = sizeof request,
                                .prompt = load->ids,
                                .prompt_count = user->prompt,
                                .max_tokens = user->answer,
                                .ignore_end = 1,
                                .on_token = on_token,
                                .on_end = on_end,
                                .context = user};
    user->begin_ns = fm_base_clock_ns();
    return fm_model_serve_submit(load->serve, &request, &ticket);
}

// Requests come when they come, whether or not those before them are answered.
static fm_status run_load(const struct bench_options *options, struct load *load)
{
    uint64_t begin = fm_base_clock_ns();
    for (int next = 0, work = 1; next < load->count || work;) {
        FM_TRY(fm_base_interrupt_check());
        double now = (double)(fm_base_clock_ns() - begin) * 1e-9;
        for (; next < load->count && load->users[next].arrives_s <= now; next++)
            FM_TRY(submit(options, load, next));
        work = fm_model_serve_wait(load->serve, next < load->count ? 1 : 0);
        FM_TRY(fm_model_serve_step(load->serve));
    }
    load->seconds = (double)(fm_base_clock_ns() - begin) * 1e-9;
    return FM_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// Median and 99th of a hundred, of milliseconds.
static void summarise(struct load *load, int count, double *out_median, double *out_p99)
{
    *out_median = *out_p99 = 0; // nothing was measured
    if (count == 0)
        return;
    qsort(load->values, (size_t)count, sizeof *load->values, by_value);
    *out_median = load->values[count / 2];
    *out_p99 = load->values[(count * 99 - 1) / 100 < count ? (count * 99 - 1) / 100 : count - 1];
}

// The busiest worker's share of the experts over the mean.
static double imbalance(const fm_model_expert_stats *experts, int64_t busiest)
{
    return experts->load ? (double)busiest * experts->workers / (double)experts->load : 1;
}

static fm_status show(struct load *load, int as_json)
{
    double first, first_p99, each, each_p99;
    int count = 0, answered = 0;
    fm_serve_stats stats;
    fm_model_serve_stats(load->serve, &stats);
    for (int i = 0; i < load->count; i++)
        if (load->users[i].tokens > 0)
            load->values[answered++] = (double)(load->users[i].first_ns - load->users[i].begin_ns) * 1e-6;
    summarise(load, answered, &first, &first_p99);
    for (int i = 0; i < load->count; i++)
        if (load->users[i].tokens > 1)
            load->values[count++] = (double)(load->users[i].last_ns - load->users[i].first_ns) * 1e-6 /
                                    (load->users[i].tokens - 1);
    summarise(load, count, &each, &each_p99);
    double hits = (double)stats.cached_tokens / fmax((double)(stats.cached_tokens + stats.prompt_tokens), 1);
    double accepted = (double)stats.accepted_tokens / fmax((double)stats.drafted_tokens, 1);
    if (!as_json) {
        printf("%d requests in %.2f s: %.1f tokens/s, %.2f requests/s\n", answered, load->seconds,
               (double)stats.tokens / load->seconds, answered / load->seconds);
        printf("first token    %.2f ms median, %.2f ms 99th percentile\n", first, first_p99);
        printf("each after it  %.2f ms median, %.2f ms 99th percentile\n", each, each_p99);
        printf("prompts        %lld tokens computed, %lld (%.0f %%) found in caches\n",
               (long long)stats.prompt_tokens, (long long)stats.cached_tokens, 100 * hits);
        if (stats.drafted_tokens)
            printf("guesses        %lld, of which %lld (%.0f %%) were right\n",
                   (long long)stats.drafted_tokens, (long long)stats.accepted_tokens, 100 * accepted);
        printf("steps          %lld, with %.1f tokens each; %lld preemptions\n", (long long)stats.steps,
               (double)stats.tokens / fmax((double)stats.steps, 1), (long long)stats.preemptions);
        if (stats.experts.workers)
            printf("experts        busiest of %d workers over the mean %.3f; in order and without copies "
                   "%.3f; %lld "
                   "plans\n",
                   stats.experts.workers, imbalance(&stats.experts, stats.experts.busiest),
                   imbalance(&stats.experts, stats.experts.busiest_in_order), (long long)stats.experts.plans);
        return FM_OK;
    }
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "requests", answered);
    fm_base_json_real(&json, "seconds", load->seconds);
    fm_base_json_real(&json, "tokens_per_s", (double)stats.tokens / load->seconds);
    fm_base_json_real(&json, "first_token_ms_median", first);
    fm_base_json_real(&json, "first_token_ms_p99", first_p99);
    fm_base_json_real(&json, "token_ms_median", each);
    fm_base_json_real(&json, "token_ms_p99", each_p99);
    fm_base_json_real(&json, "cache_hits", hits);
    fm_base_json_int(&json, "drafted_tokens", stats.drafted_tokens);
    fm_base_json_real(&json, "accepted", accepted);
    fm_base_json_int(&json, "steps", stats.steps);
    fm_base_json_int(&json, "preemptions", stats.preemptions);
    if (stats.experts.workers) {
        fm_base_json_int(&json, "expert_workers", stats.experts.workers);
        fm_base_json_real(&json, "expert_imbalance", imbalance(&stats.experts, stats.experts.busiest));
        fm_base_json_real(&json, "expert_imbalance_in_order",
                          imbalance(&stats.experts, stats.experts.busiest_in_order));
        fm_base_json_int(&json, "expert_plans", stats.experts.plans);
        fm_base_json_int(&json, "expert_moves", stats.experts.moves);
    }
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status open_load(const struct bench_options *options, struct load *load)
{
    fm_model_config config;
    fm_model_options model_options = {.size = sizeof model_options,
                                      .threads = (int)options->threads,
                                      .dtype = fm_app_generation_dtype(options->dtype),
                                      .predict = options->draft};
    if (strcmp(options->cache_dtype, "auto") != 0)
        model_options.cache_dtype = fm_app_generation_dtype(options->cache_dtype);
    if (!options->model == !options->config)
        return fm_base_error_set(FM_ERR_ARG, "%s; expected one of --model and --config",
                                 options->model ? "both were given" : "there is no model");
    if (options->model) {
        FM_TRY(fm_model_open(options->model, &model_options, &load->model));
    } else {
        FM_TRY(fm_model_config_load(options->config, &config));
        FM_TRY(fm_model_open_random(&config, &model_options, (uint64_t)options->seed, &load->model));
    }
    if (options->workers > 0)
        FM_TRY(
            fm_model_experts_place(load->model, (int)options->workers,
                                   (int)(options->workers > 1 ? options->workers * options->replicas : 0)));
    FM_TRY(options->arrivals ? read_load(options->arrivals, load) : draw_load(options, load));
    fm_serve_options serve_options = {.size = sizeof serve_options,
                                      .cache_bytes = options->cache,
                                      .running_max = (int)options->running,
                                      .waiting_max = load->count,
                                      .chunk_tokens = (int)options->chunk,
                                      .replan_steps = (int)options->replan};
    return fm_model_serve_open(load->model, &serve_options, &load->serve);
}

static fm_status run_bench_serve(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct bench_options *options = given;
    struct load load = {0};
    (void)out_exit;
    FM_TRY(fm_base_interrupt_install());
    fm_status status = open_load(options, &load);
    if (status == FM_OK)
        status = run_load(options, &load);
    fm_base_interrupt_restore();
    if (status == FM_OK)
        status = show(&load, invocation->json);
    release(&load);
    return status;
}

static const fm_command bench_serve = {
    .name = "serve",
    .summary = "load a model with requests that arrive on their own time",
    .details = "Prompts are random tokens. Shown are the time to the first token (waiting for a place "
               "included), the time "
               "of each token after it, throughput, and what prompts found in caches.",
    .options = bench_schema,
    .options_size = sizeof(struct bench_options),
    .has_json = 1,
    .run = run_bench_serve,
};

static const fm_command *const benches[] = {&bench_serve, NULL};

const fm_command fm_cmd_bench = {
    .name = "bench",
    .summary = "measure a whole service",
    .children = benches,
};
