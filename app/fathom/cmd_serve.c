// `fathom serve`: a checkpoint behind OpenAI's API, with a chat page.
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "fathom/serve.h"
#include "fathom/text.h"
#include "generation.h"

struct serve_options {
    const char *model, *host, *name, *key_file, *dtype, *cache_dtype, *store;
    int64_t port, cache, store_bytes, running, waiting, chunk, body, connections, threads, workers, replicas,
        replan;
    double receive_s, answer_s, drain_s;
    int access_log, log_prompts, draft;
};

#define FIELD(name) offsetof(struct serve_options, name)
static const fm_option serve_schema[] = {
    {"model", FM_OPTION_STRING, FIELD(model), .metavar = "DIR", .required = 1,
     .help = "checkpoint in the Hugging Face layout, with its tokenizer"},
    {"host", FM_OPTION_STRING, FIELD(host), .value = "127.0.0.1", .metavar = "ADDRESS",
     .help = "address to listen on"},
    {"port", FM_OPTION_INT, FIELD(port), .value = "8000", .min = 0, .max = 65535,
     .help = "port to listen on; 0: any that is free"},
    {"api-key-file", FM_OPTION_STRING, FIELD(key_file), .metavar = "FILE",
     .help = "keys, one a line, of which clients must send one"},
    {"name", FM_OPTION_STRING, FIELD(name),
     .help = "what clients call the model; default: its folder's name"},
    {"dtype", FM_OPTION_CHOICE, FIELD(dtype), .value = "f32", .choices = "f32|bf16|fp8",
     .help = "what products with weights are computed in; other weights are rounded once, into memory"},
    {"cache-dtype", FM_OPTION_CHOICE, FIELD(cache_dtype), .value = "auto", .choices = "auto|f32|bf16|fp8",
     .help = "what the texts' caches are held in; auto: bf16 for fp8, else f32"},
    {"draft", FM_OPTION_FLAG, FIELD(draft), .value = "false",
     .help = "guess tokens with the model's head for multi-token prediction; answers stay the same"},
    {"cache", FM_OPTION_SIZE, FIELD(cache), .value = "0", .min = 0, .max = 1e15,
     .help = "memory for the texts' caches; 0: a quarter of what is available"},
    {"prefix-cache", FM_OPTION_STRING, FIELD(store), .metavar = "DIR",
     .help =
         "keep computed beginnings of texts there, which outlive the server; several servers may share it"},
    {"prefix-cache-size", FM_OPTION_SIZE, FIELD(store_bytes), .value = "16GiB", .min = 1 << 16, .max = 1e15,
     .help = "the most that the folder may hold; what was written first and not used since leaves first"},
    {"running", FM_OPTION_INT, FIELD(running), .value = "64", .min = 1, .max = 1024,
     .help = "requests that are answered together"},
    {"waiting", FM_OPTION_INT, FIELD(waiting), .value = "256", .min = 1, .max = 1 << 20,
     .help = "requests that wait beside them; more are refused"},
    {"chunk", FM_OPTION_INT, FIELD(chunk), .value = "256", .min = 1, .max = 1 << 20, .unit = "tokens",
     .help = "of prompts, computed beside the answers in a step"},
    {"expert-workers", FM_OPTION_INT, FIELD(workers), .value = "0", .min = 0, .max = FM_MODEL_WORKERS_MAX,
     .help =
         "threads that have experts of their own, placed by eplb from live loads; 0: all threads share all"},
    {"expert-replicas", FM_OPTION_INT, FIELD(replicas), .value = "1", .min = 0, .max = 1024,
     .help = "copies of busy experts in each layer, for each of these threads"},
    {"replan", FM_OPTION_INT, FIELD(replan), .value = "256", .min = 1, .max = 1 << 30, .unit = "steps",
     .help = "between two plans of where experts go"},
    {"body", FM_OPTION_SIZE, FIELD(body), .value = "4MiB", .min = 1, .max = 1 << 28,
     .help = "largest body of a request"},
    {"connections", FM_OPTION_INT, FIELD(connections), .value = "512", .min = 1, .max = 1 << 16,
     .help = "open at a time"},
    {"receive-timeout", FM_OPTION_REAL, FIELD(receive_s), .value = "30", .min = 0.1, .max = 86400,
     .unit = "s", .help = "for a request to arrive whole"},
    {"answer-timeout", FM_OPTION_REAL, FIELD(answer_s), .value = "600", .min = 0.1, .max = 86400, .unit = "s",
     .help = "for an answer"},
    {"drain", FM_OPTION_REAL, FIELD(drain_s), .value = "30", .min = 0, .max = 86400, .unit = "s",
     .help = "for running answers to end when the server stops"},
    {"access-log", FM_OPTION_FLAG, FIELD(access_log), .value = "true",
     .help = "a line of JSON on standard error for each request"},
    {"log-prompts", FM_OPTION_FLAG, FIELD(log_prompts), .value = "false",
     .help = "with the request's body in it"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "0", .min = 0, .max = 1024,
     .help = "0: as many as cores"},
    {0},
};

struct service {
    fm_model *model;
    fm_tokenizer *tokenizer;
    fm_chat *chat;
    fm_fs *fs;
    fm_fs_kvcache *store;
    fm_serve *serve;
    fm_http *http;
    int add_bos;
    char *key_text;
    const char **keys;
    char name[256];
    int stop; // read by the engine's thread
};

// Closed in the order that serve.h asks for.
static void release(struct service *service)
{
    fm_model_serve_close(service->serve);
    fm_model_http_close(service->http);
    fm_fs_kvcache_close(service->store);
    fm_fs_close(service->fs);
    fm_model_chat_close(service->chat);
    fm_model_tokenizer_close(service->tokenizer);
    fm_model_close(service->model);
    fm_base_mem_free(service->key_text);
    fm_base_mem_free(service->keys);
}

// Lines of the file, in place; empty ones and those that begin with '#' are none.
static fm_status read_keys(const char *path, struct service *service)
{
    size_t length, lines = 1, count = 0;
    struct stat info;
    FM_TRY(fm_base_file_read(path, 1 << 20, &service->key_text, &length));
    if (stat(path, &info) == 0 && (info.st_mode & (S_IRGRP | S_IROTH)))
        fprintf(stderr, "fathom: warning: others can read %s; chmod 600 would keep its keys to you\n", path);
    char *text = fm_base_mem_realloc(service->key_text, length + 1, 1);
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the keys");
    service->key_text = text;
    text[length] = 0;
    for (size_t i = 0; i < length; i++)
        lines += text[i] == '\n';
    service->keys = fm_base_mem_zalloc(lines + 1, sizeof *service->keys);
    if (!service->keys)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the keys");
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\r\n"));)
        if (*line && *line != '#')
            service->keys[count++] = line;
    if (count == 0)
        return fm_base_error_set(FM_ERR_FORMAT, "%s has no key; expected one a line", path);
    return FM_OK;
}

// Says before loading what loading would find out slowly.
static fm_status check_memory(const char *directory)
{
    char path[4096];
    uint64_t available, size = 0;
    struct stat info;
    for (int i = 0; i < 1000; i++) {
        snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", directory, 1, i);
        if (i == 0)
            snprintf(path, sizeof path, "%s/model.safetensors", directory);
        if (stat(path, &info) < 0)
            continue;
        size = (uint64_t)info.st_size;
        for (int shard = 2; shard <= i; shard++) {
            snprintf(path, sizeof path, "%s/model-%05d-of-%05d.safetensors", directory, shard, i);
            if (stat(path, &info) == 0)
                size += (uint64_t)info.st_size;
        }
        break;
    }
    FM_TRY(fm_base_space_memory(&available));
    if (size > available)
        return fm_base_error_set(FM_ERR_LIMIT, "the weights in %s have %s; %s of memory are available",
                                 directory, fm_base_text_bytes((double)size).text,
                                 fm_base_text_bytes((double)available).text);
    return FM_OK;
}

static fm_status read_add_bos(const char *directory, int *out_add)
{
    char path[4096];
    fm_doc *doc;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", directory);
    fm_status status = fm_base_doc_load(path, &doc);
    if (status == FM_ERR_NOT_FOUND)
        return FM_OK;
    FM_TRY(status);
    if (fm_base_doc_type(fm_base_doc_get(doc, "add_bos_token")) == FM_DOC_BOOL)
        status = fm_base_doc_bool(fm_base_doc_get(doc, "add_bos_token"), "add_bos_token", out_add);
    fm_base_doc_free(doc);
    return status;
}

static void name_model(const struct serve_options *options, char *name, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", options->model);
    for (size_t end = strlen(path); end > 1 && path[end - 1] == '/'; end--)
        path[end - 1] = 0;
    const char *slash = strrchr(path, '/');
    snprintf(name, size, "%s", options->name ? options->name : slash && slash[1] ? slash + 1 : path);
}

static fm_status open_store(const struct serve_options *options, struct service *service)
{
    fm_fs_kvcache_options cache = {.size = sizeof cache, .bytes_max = (uint64_t)options->store_bytes};
    if (!options->store)
        return FM_OK;
    FM_TRY(fm_fs_open(options->store, FM_FS_CREATE, &service->fs));
    return fm_fs_kvcache_open(service->fs, "blocks", &cache, &service->store);
}

static fm_status open_service(const struct serve_options *options, struct service *service)
{
    char path[4096];
    fm_model_options model_options = {.size = sizeof model_options,
                                      .threads = (int)options->threads,
                                      .dtype = fm_app_generation_dtype(options->dtype),
                                      .predict = options->draft};
    if (strcmp(options->cache_dtype, "auto") != 0)
        model_options.cache_dtype = fm_app_generation_dtype(options->cache_dtype);
    fm_serve_options serve_options = {.size = sizeof serve_options,
                                      .cache_bytes = options->cache,
                                      .running_max = (int)options->running,
                                      .waiting_max = (int)options->waiting,
                                      .chunk_tokens = (int)options->chunk,
                                      .replan_steps = (int)options->replan};
    if (options->key_file)
        FM_TRY(read_keys(options->key_file, service));
    if (model_options.dtype == FM_DTYPE_F32) // others are packed, and checked where that is done
        FM_TRY(check_memory(options->model));
    FM_TRY(fm_model_open(options->model, &model_options, &service->model));
    if (options->workers > 0)
        FM_TRY(
            fm_model_experts_place(service->model, (int)options->workers,
                                   (int)(options->workers > 1 ? options->workers * options->replicas : 0)));
    snprintf(path, sizeof path, "%s/tokenizer.json", options->model);
    FM_TRY(fm_model_tokenizer_open(path, &service->tokenizer));
    FM_TRY(read_add_bos(options->model, &service->add_bos));
    fm_status status = fm_model_chat_open(options->model, &service->chat);
    if (status == FM_ERR_NOT_FOUND)
        fprintf(stderr, "fathom: no chat template in %s: /v1/completions alone is served\n", options->model);
    else
        FM_TRY(status);
    FM_TRY(open_store(options, service));
    serve_options.store = service->store;
    FM_TRY(fm_model_serve_open(service->model, &serve_options, &service->serve));
    name_model(options, service->name, sizeof service->name);
    fm_http_options http_options = {.size = sizeof http_options,
                                    .host = options->host,
                                    .port = (int)options->port,
                                    .model_name = service->name,
                                    .tokenizer = service->tokenizer,
                                    .chat = service->chat,
                                    .add_bos = service->add_bos,
                                    .api_keys = service->keys,
                                    .connections_max = (int)options->connections,
                                    .body_bytes_max = options->body,
                                    .receive_timeout_ms = (int)(options->receive_s * 1000),
                                    .answer_timeout_ms = (int)(options->answer_s * 1000),
                                    .log_fd = options->access_log ? STDERR_FILENO : -1,
                                    .log_bodies = options->log_prompts};
    return fm_model_http_open(service->serve, service->model, &http_options, &service->http);
}

static void *step_engine(void *context)
{
    struct service *service = context;
    while (!__atomic_load_n(&service->stop, __ATOMIC_ACQUIRE))
        if (fm_model_serve_wait(service->serve, 100) && fm_model_serve_step(service->serve) < 0)
            fm_log_error("serve", "%s", fm_error_message());
    return NULL;
}

// Until the first signal; then what runs may end, for `drain_s`.
static void run_http(const struct serve_options *options, struct service *service)
{
    while (!fm_base_interrupted())
        fm_model_http_run(service->http, 200);
    fprintf(stderr, "fathom: stopping; %d answers are under way\n", fm_model_http_busy(service->http));
    fm_model_http_drain(service->http);
    uint64_t until = fm_base_clock_ns() + (uint64_t)(options->drain_s * 1e9);
    while (fm_model_http_busy(service->http) && fm_base_clock_ns() < until)
        fm_model_http_run(service->http, 50);
}

static fm_status run_serve(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct serve_options *options = given;
    struct service service = {0};
    pthread_t engine;
    (void)invocation;
    (void)out_exit;
    FM_TRY(fm_base_interrupt_install());
    fm_status status = open_service(options, &service);
    if (status == FM_OK) {
        int error = pthread_create(&engine, NULL, step_engine, &service);
        if (error)
            status = fm_base_error_set_errno(FM_ERR_NOMEM, error, "no thread for the engine");
    }
    if (status == FM_OK) {
        printf("serving %s on http://%s:%d\n", service.name, options->host, fm_model_http_port(service.http));
        fflush(stdout);
        run_http(options, &service);
        __atomic_store_n(&service.stop, 1, __ATOMIC_RELEASE);
        pthread_join(engine, NULL);
    }
    fm_base_interrupt_restore();
    release(&service);
    return status;
}

const fm_command fm_cmd_serve = {
    .name = "serve",
    .summary = "put a checkpoint behind OpenAI's API, with a chat page",
    .details =
        "Answers /v1/models, /v1/completions, /v1/chat/completions, /health and /metrics; the page is at /.\n"
        "Requests are batched as they come. The first SIGINT or SIGTERM refuses new ones and lets running "
        "ones end.",
    .options = serve_schema,
    .options_size = sizeof(struct serve_options),
    .run = run_serve,
};
