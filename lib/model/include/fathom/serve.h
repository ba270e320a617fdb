/**
 * @file serve.h
 * Many users on one model: an engine that batches their requests, and its HTTP face.
 *
 *     fm_serve *serve;
 *     FM_TRY(fm_model_serve_open(model, &options, &serve));
 *     ... fm_model_serve_submit(serve, &request, &ticket);            // any thread, at any time
 *     while (serving) {                                               // one thread
 *         fm_model_serve_wait(serve, 100);
 *         FM_TRY(fm_model_serve_step(serve));
 *     }
 *     fm_model_serve_close(serve);
 *
 * A step feeds one batch: the next token of every request that is being answered, and beside them up to
 * `chunk_tokens` of prompts, oldest request first, so that a long prompt delays nobody's answer by more than a chunk. A
 * request is admitted, in the order of submission, when the cache has blocks for its prompt. Where blocks run out later,
 * the request admitted last gives its own back and starts again, in front of the queue, with what it has written so far.
 * Requests whose texts begin alike share the whole blocks (of FM_MODEL_BLOCK tokens) of that beginning, while they run as well:
 * those who come together wait for the first of them to compute it. Blocks of finished requests stay until they are needed, the
 * last one, which need not be whole, to be copied. With a `store` a prompt also goes on from blocks that were computed before the program
 * began; a thread that steps waits for its disk.
 *
 * Where the model was opened with its head for multi-token prediction, a step feeds a guess behind each token that is being
 * answered (fm_model_draft_batch()): a right one gives two tokens in one step, a wrong one is taken back.
 *
 * A request's tokens are those that it would get alone (fm_model_feed(), fm_model_sample()), whatever else is running.
 */
#ifndef FATHOM_SERVE_H
#define FATHOM_SERVE_H

#include "fathom/chat.h"
#include "fathom/fs_kvcache.h"
#include "fathom/model.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_serve fm_serve;

/** Zero-initialise, then set `size`. */
typedef struct fm_serve_options {
    size_t size;
    int64_t cache_bytes; /**< of all caches; 0: a quarter of the memory that is available */
    int running_max;     /**< requests that are answered together; 0: 64 */
    int waiting_max;     /**< requests that wait beside them; 0: 256 */
    int chunk_tokens;    /**< of prompts in a step; 0: 256 */
    /** Where full blocks of all texts are kept beyond the end of the program, and looked up when a prompt comes; NULL:
     *  nowhere. Stays the caller's, and must outlive the engine. Several models may share one. */
    fm_fs_kvcache *store;
    /** Where the model's experts are placed (fm_model_experts_place()): steps between two plans from live loads; 0: 256. */
    int replan_steps;
} fm_serve_options;

/** FM_ERR_ARG: a negative option; FM_ERR_LIMIT: the cache holds no block (message: how large one is), or is larger than the
 *  memory that is there; FM_ERR_NOMEM. The
 *  model must outlive the engine, and nobody else may use it. */
FM_API FM_MUST_USE fm_status fm_model_serve_open(fm_model *model, const fm_serve_options *options,
                                                 fm_serve **out_serve);
/** Ends what is left as cancelled. No other call may run or follow. NULL is allowed. */
FM_API void fm_model_serve_close(fm_serve *serve);

/** A token that a request got; valid during the call. */
typedef struct fm_serve_token {
    int32_t id;
    float logprob;             /**< natural logarithm of its probability before temperature and cuts */
    int top_count;             /**< as asked for */
    const int32_t *top_ids;    /**< the likeliest, falling */
    const float *top_logprobs; /**< theirs */
} fm_serve_token;

typedef enum fm_serve_finish {
    FM_SERVE_STOP = 1,  /**< the model's end token, or on_token() said so */
    FM_SERVE_LENGTH,    /**< max_tokens, or the end of the context */
    FM_SERVE_CANCELLED, /**< by fm_model_serve_cancel() or close */
    FM_SERVE_FAILED,    /**< memory ran out, or the logits were not numbers */
} fm_serve_finish;

/** Zero-initialise, then set `size`. Callbacks come from the thread that steps, in order, and may submit and cancel but
 *  neither step nor close. */
typedef struct fm_serve_request {
    size_t size;
    const int32_t *prompt; /**< copied */
    int prompt_count;
    int max_tokens;
    fm_model_sampling sampling;
    int logprobs;     /**< 1: compute them */
    int top_logprobs; /**< 0 to FM_SERVE_TOP_MAX */
    int ignore_end;   /**< 1: the model's end token is a token like any other */
    /** Not called for the end token. Anything but 0 ends the request with FM_SERVE_STOP. */
    int (*on_token)(void *context, const fm_serve_token *token);
    /** Called once, last. `cached` prompt tokens were not computed again. `message` says what failed, or is NULL. */
    void (*on_end)(void *context, fm_serve_finish finish, int cached, const char *message);
    void *context;
} fm_serve_request;

#define FM_SERVE_TOP_MAX 20

/**
 * Queues a request. FM_ERR_ARG: a field (message: which); FM_ERR_LIMIT: prompt and answer cannot fit into the context or the
 * cache; FM_ERR_BUSY: as many wait already as may; FM_ERR_NOMEM. No callback comes where it fails.
 */
FM_API FM_MUST_USE fm_status fm_model_serve_submit(fm_serve *serve, const fm_serve_request *request,
                                                   uint64_t *out_ticket);
/** Ends a request at the next step; nothing happens where it has ended. */
FM_API void fm_model_serve_cancel(fm_serve *serve, uint64_t ticket);

/** Computes one batch, if there is one. A request's failure is its own; FM_ERR_NOMEM etc. are never returned for it. */
FM_API FM_MUST_USE fm_status fm_model_serve_step(fm_serve *serve);
/** Waits until there is something to compute, at most `timeout_ms`; tells whether there is. */
FM_API int fm_model_serve_wait(fm_serve *serve, int timeout_ms);

/** Sums since the engine was opened, and what is now. */
typedef struct fm_serve_stats {
    int running, waiting;
    int64_t blocks_total, blocks_running, blocks_kept; /**< kept: of finished requests */
    int64_t blocks_shared; /**< that running requests would need more, if none went on from another's */
    int64_t prompt_tokens, cached_tokens, tokens; /**< computed, found in a cache, generated */
    int64_t drafted_tokens, accepted_tokens;      /**< guesses that were fed, and those that were right */
    int64_t stored_blocks, loaded_blocks;         /**< put into the store, read from it */
    int64_t steps, preemptions;
    int64_t finished[FM_SERVE_FAILED + 1]; /**< by fm_serve_finish */
    fm_model_expert_stats experts;         /**< since they were placed */
} fm_serve_stats;
FM_API void fm_model_serve_stats(fm_serve *serve, fm_serve_stats *out_stats);

/**
 * The HTTP face, as OpenAI's API has it:
 *
 *     GET  /                      the chat page
 *     GET  /v1/models, /v1/models/NAME
 *     POST /v1/completions        prompt: text, tokens, or a list of them
 *     POST /v1/chat/completions   messages, by the model's chat template
 *     GET  /health, /metrics      "ok", or 503 once stopping; Prometheus' text format
 *
 * Read are model, prompt, messages, max_tokens, max_completion_tokens, temperature, top_p, n, seed, stop, stream,
 * stream_options.include_usage, logprobs, top_logprobs, and beyond OpenAI's top_k, ignore_eos and chat_template_kwargs
 * (variables of the template). What would change an answer and is not there (tools, echo, penalties, ...) is refused by
 * name; logprobs have the shape of chats in completions too; U+0000 in an answer comes as U+007F. An answer is streamed as
 * server-sent events, or comes whole.
 *
 * One thread runs it (fm_model_http_run()); another steps the engine. A client that reads slowly keeps nobody waiting: its
 * text waits in memory, at most as long as its answer. A client that hangs up ends its requests.
 */
typedef struct fm_http fm_http;

/** Zero-initialise, then set `size`. */
typedef struct fm_http_options {
    size_t size;
    const char *host;       /**< address to listen on; NULL: 127.0.0.1 */
    int port;               /**< 0: any that is free */
    const char *model_name; /**< what clients call it; copied */
    const fm_tokenizer *tokenizer;
    const fm_chat *chat;         /**< NULL: completions alone */
    int add_bos;                 /**< text prompts begin with the model's first token */
    const char *const *api_keys; /**< NULL-terminated; NULL: /v1 is open to all. Borrowed */
    int connections_max;         /**< 0: 512 */
    int64_t body_bytes_max;      /**< 0: 4 MiB; more is refused (413), and cut where 64 times as much comes */
    int receive_timeout_ms;      /**< for a request to arrive whole, and of idle connections; 0: 30 s */
    int answer_timeout_ms;       /**< from request to the end of its answer; 0: 10 minutes */
    int log_fd;                  /**< where a line of JSON for each request goes; -1: nowhere */
    int log_bodies;              /**< 1: lines hold the bodies, which are prompts */
} fm_http_options;

/** Listens. FM_ERR_EXISTS: the port is in use; FM_ERR_PERM: it is a privileged one; FM_ERR_ARG: the host is no address of this
 *  machine; FM_ERR_IO; FM_ERR_NOMEM. The engine, tokenizer and chat must outlive it. */
FM_API FM_MUST_USE fm_status fm_model_http_open(fm_serve *serve, fm_model *model,
                                                const fm_http_options *options, fm_http **out_http);
FM_API int fm_model_http_port(const fm_http *http);
/** Serves for `timeout_ms` at most, then returns. */
FM_API void fm_model_http_run(fm_http *http, int timeout_ms);
/** From now on new work is refused (503); what runs goes on. The thread that runs it calls this. */
FM_API void fm_model_http_drain(fm_http *http);
/** Connections whose answers are under way. */
FM_API int fm_model_http_busy(const fm_http *http);
/** After the engine has stopped stepping and was closed. Cuts what is left. NULL is allowed. */
FM_API void fm_model_http_close(fm_http *http);

#ifdef __cplusplus
}
#endif
#endif
