/*
 * The HTTP face, on libmicrohttpd with an event loop of our own. Everything here runs on the thread of
 * fm_model_http_run(), but for the two callbacks of the engine. An exchange (one request and its answer) is shared between
 * both threads: its mutex guards the answer and the connection's state. The connection is suspended while there is nothing
 * to send, and the engine's callbacks wake it.
 *
 * An exchange lives until its connection has let go of it and all of its choices have ended.
 */
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "serve_answer.h"
#include "serve_listen.h"
#include "serve_metrics.h"

extern const char fm_model_chat_page[]; // web/chat, embedded

struct peer {
    struct peer *next, *previous;
    int fd;
    uint64_t since_ns; // it owes a request, whole
    int answering;
    char address[64];
};

struct exchange {
    struct exchange *next, *previous; // those whose connection still holds them
    fm_http *http;
    struct peer *peer;
    struct MHD_Connection *connection;
    struct serve_bytes body; // none of one that is too large
    uint64_t received;       // bytes of the body
    const char *method;      // literal
    char path[64];
    int status, authorised, started;
    uint64_t begin_ns;

    pthread_mutex_t mutex;
    struct serve_answer answer;
    int has_answer, holders; // the connection, and each choice that has not ended
    int suspended;
    size_t read;       // bytes of answer.out that were sent
    uint64_t first_ns; // when the first token came
};

struct fm_http {
    fm_serve *serve;
    struct serve_face face;
    fm_http_options options;
    char *name;
    struct MHD_Daemon *daemon;
    int epoll_fd, wake_fd; // libmicrohttpd's set of sockets; what the engine's callbacks wake the loop by
    int port, draining, exchange_count;
    struct peer *peers;
    struct exchange *exchanges;
    uint64_t swept_ns;
    struct serve_metrics metrics;
    pthread_mutex_t metrics_mutex;
};

static void destroy_exchange(struct exchange *exchange)
{
    fm_base_mem_free(exchange->body.bytes);
    if (exchange->has_answer)
        fm_model_serve_answer_free(&exchange->answer);
    pthread_mutex_destroy(&exchange->mutex);
    fm_base_mem_free(exchange);
}

// One holder lets go. The mutex is held, and is not after.
static void let_go(struct exchange *exchange)
{
    int left = --exchange->holders;
    pthread_mutex_unlock(&exchange->mutex);
    if (left == 0)
        destroy_exchange(exchange);
}

// There is something for the connection to do. Locked.
static void wake(struct exchange *exchange)
{
    if (!exchange->suspended)
        return;
    exchange->suspended = 0;
    MHD_resume_connection(exchange->connection);
    int error = eventfd_write(exchange->http->wake_fd, 1);
    (void)error; // only a count that is full fails, and then the loop is awake
}

static void suspend(struct exchange *exchange)
{
    exchange->suspended = 1;
    MHD_suspend_connection(exchange->connection);
}

// The engine's thread.
static int on_token(void *context, const fm_serve_token *token)
{
    struct serve_choice *choice = context;
    struct exchange *exchange =
        (struct exchange *)((char *)choice->answer - offsetof(struct exchange, answer));
    uint64_t now = fm_base_clock_ns();
    pthread_mutex_lock(&exchange->mutex);
    if (!exchange->first_ns) {
        exchange->first_ns = now;
        pthread_mutex_lock(&exchange->http->metrics_mutex);
        fm_model_serve_metrics_observe(&exchange->http->metrics.first_token,
                                       (double)(now - exchange->begin_ns) * 1e-9);
        pthread_mutex_unlock(&exchange->http->metrics_mutex);
    }
    int stop = fm_model_serve_answer_token(choice, token);
    if (exchange->answer.call.stream)
        wake(exchange);
    pthread_mutex_unlock(&exchange->mutex);
    return stop;
}

static void on_end(void *context, fm_serve_finish how, int cached, const char *message)
{
    struct serve_choice *choice = context;
    struct exchange *exchange =
        (struct exchange *)((char *)choice->answer - offsetof(struct exchange, answer));
    if (message)
        fm_log_error("serve", "a request failed: %s", message);
    pthread_mutex_lock(&exchange->mutex);
    exchange->answer.failed |= how == FM_SERVE_FAILED;
    fm_model_serve_answer_end(choice, how, cached);
    if (exchange->answer.call.stream || exchange->answer.ended_count == exchange->answer.choice_count)
        wake(exchange);
    let_go(exchange);
}

static enum MHD_Result queue(struct exchange *exchange, int status, struct MHD_Response *response,
                             const char *type)
{
    if (!response)
        return MHD_NO;
    (void)MHD_add_response_header(response, "Content-Type", type);
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    if (status == 401)
        (void)MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (status == 429 || status == 503)
        (void)MHD_add_response_header(response, "Retry-After", "1");
    exchange->status = status;
    exchange->peer->answering = 1;
    enum MHD_Result result = MHD_queue_response(exchange->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result queue_text(struct exchange *exchange, int status, const char *type, const char *bytes,
                                  size_t length)
{
    // The library takes the bytes without const, and copies them.
    union {
        const char *in;
        void *out;
    } text = {bytes};
    return queue(exchange, status, MHD_create_response_from_buffer(length, text.out, MHD_RESPMEM_MUST_COPY),
                 type);
}

static enum MHD_Result queue_error(struct exchange *exchange, int status, const char *message)
{
    struct serve_bytes body = {0};
    enum MHD_Result result = MHD_NO;
    if (fm_model_serve_error_body(status, message, &body) == FM_OK)
        result = queue_text(exchange, status, "application/json", body.bytes, body.length);
    fm_base_mem_free(body.bytes);
    return result;
}

static int http_status_of(fm_status status)
{
    switch (status) {
    case FM_ERR_NOMEM:
    case FM_ERR_INTERNAL:
        return 500;
    case FM_ERR_BUSY:
        return 429;
    case FM_ERR_NOT_FOUND:
        return 404;
    default:
        return 400;
    }
}

// Compares all of both, so that time tells nothing of where they differ.
static int same_key(const char *given, const char *key)
{
    size_t length = strlen(given), expected = strlen(key);
    unsigned difference = length != expected;
    for (size_t i = 0; i < length; i++)
        difference |= (unsigned char)given[i] ^ (unsigned char)key[expected ? i % expected : 0];
    return difference == 0;
}

static int authorised(const struct exchange *exchange)
{
    const fm_http *http = exchange->http;
    if (!http->options.api_keys || strncmp(exchange->path, "/v1/", 4) != 0)
        return 1;
    const char *header = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Authorization");
    int good = 0;
    for (const char *const *key = http->options.api_keys; *key && header; key++)
        good |= strncmp(header, "Bearer ", 7) == 0 && same_key(header + 7, *key);
    return good;
}

// The bytes of a stream, as the connection takes them.
static ssize_t read_stream(void *context, uint64_t position, char *to, size_t size)
{
    struct exchange *exchange = context;
    (void)position;
    pthread_mutex_lock(&exchange->mutex);
    struct serve_bytes *out = &exchange->answer.out;
    size_t left = out->length - exchange->read, take = left < size ? left : size;
    ssize_t result = (ssize_t)take;
    if (take) {
        memcpy(to, out->bytes + exchange->read, take);
        exchange->read += take;
        if (exchange->read == out->length)
            exchange->read = out->length = 0; // memory is for what is not sent yet
    } else if (exchange->answer.ended_count == exchange->answer.choice_count) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        suspend(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return result;
}

static void cancel_all(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    for (int i = 0; i < exchange->answer.choice_count; i++)
        if (exchange->answer.choices[i].ticket && !exchange->answer.choices[i].ended)
            fm_model_serve_cancel(exchange->http->serve, exchange->answer.choices[i].ticket);
    pthread_mutex_unlock(&exchange->mutex);
}

// Gives every prompt `n` times to the engine. What was given when one is refused is cancelled.
static fm_status submit(struct exchange *exchange)
{
    struct serve_answer *answer = &exchange->answer;
    const struct serve_call *call = &answer->call;
    fm_status status = FM_OK;
    for (int i = 0; i < answer->choice_count && status == FM_OK; i++) {
        struct serve_choice *choice = &answer->choices[i];
        const struct serve_prompt *prompt = &call->prompts[i / call->n];
        fm_serve_request request = {.size = sizeof request,
                                    .prompt = prompt->ids,
                                    .prompt_count = prompt->count,
                                    .max_tokens = call->max_tokens,
                                    .sampling = call->sampling,
                                    .logprobs = call->logprobs,
                                    .top_logprobs = call->top_logprobs,
                                    .ignore_end = call->ignore_end,
                                    .on_token = on_token,
                                    .on_end = on_end,
                                    .context = choice};
        request.sampling.seed += (uint64_t)i; // each choice draws its own
        exchange->holders++;
        status = fm_model_serve_submit(exchange->http->serve, &request, &choice->ticket);
        if (status != FM_OK)
            exchange->holders--;
    }
    return status;
}

static fm_status start_answer(struct exchange *exchange, int chat)
{
    fm_http *http = exchange->http;
    struct serve_answer *answer = &exchange->answer;
    FM_TRY(fm_model_serve_call_read(&http->face, chat, exchange->body.bytes ? exchange->body.bytes : "",
                                    exchange->body.length, &answer->call));
    exchange->has_answer = 1;
    answer->face = &http->face;
    answer->created = (int64_t)time(NULL);
    snprintf(answer->id, sizeof answer->id, "%s-%016llx", chat ? "chatcmpl" : "cmpl",
             (unsigned long long)(exchange->begin_ns ^ (uint64_t)(uintptr_t)exchange));
    answer->choice_count = answer->call.prompt_count * answer->call.n;
    for (int i = 0; i < answer->choice_count; i++) {
        answer->choices[i].answer = answer;
        answer->choices[i].index = i;
    }
    pthread_mutex_lock(&exchange->mutex);
    fm_model_serve_answer_begin(answer);
    fm_status status = submit(exchange);
    pthread_mutex_unlock(&exchange->mutex);
    if (status != FM_OK)
        cancel_all(exchange);
    return status;
}

static enum MHD_Result begin_completion(struct exchange *exchange, int chat)
{
    exchange->started = 1;
    exchange->peer->answering = 1;
    fm_status status = start_answer(exchange, chat);
    if (status != FM_OK)
        return queue_error(exchange, http_status_of(status), fm_error_message());
    if (exchange->answer.call.stream)
        return queue(exchange, 200,
                     MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_stream, exchange, NULL),
                     "text/event-stream");
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->answer.ended_count < exchange->answer.choice_count)
        suspend(exchange);
    pthread_mutex_unlock(&exchange->mutex);
    return MHD_YES;
}

// All choices have ended.
static enum MHD_Result finish_completion(struct exchange *exchange)
{
    enum MHD_Result result;
    pthread_mutex_lock(&exchange->mutex);
    int cut = 0;
    for (int i = 0; i < exchange->answer.choice_count; i++)
        cut |= exchange->answer.choices[i].how == FM_SERVE_CANCELLED;
    if (exchange->answer.ended_count < exchange->answer.choice_count) {
        suspend(exchange);
        result = MHD_YES;
    } else if (exchange->answer.failed) {
        result = queue_error(exchange, 500,
                             "the answer could not be made: out of memory, or the model's output is "
                             "not a number");
    } else if (cut) {
        result = queue_error(exchange, 503, "the answer took too long, or the server is stopping");
    } else {
        result = queue_text(exchange, 200, "application/json", exchange->answer.out.bytes,
                            exchange->answer.out.length);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return result;
}

static enum MHD_Result show_models(struct exchange *exchange, int list)
{
    fm_json json = {0};
    enum MHD_Result result = MHD_NO;
    fm_base_json_begin(&json, NULL, '{');
    if (list) {
        fm_base_json_string(&json, "object", "list");
        fm_base_json_begin(&json, "data", '[');
        fm_base_json_begin(&json, NULL, '{');
    }
    fm_base_json_string(&json, "id", exchange->http->name);
    fm_base_json_string(&json, "object", "model");
    fm_base_json_int(&json, "created", 0);
    fm_base_json_string(&json, "owned_by", "fathom");
    fm_base_json_int(&json, "context", exchange->http->face.config->context);
    fm_base_json_end(&json);
    if (list) {
        fm_base_json_end(&json);
        fm_base_json_end(&json);
    }
    if (json.status == FM_OK)
        result = queue_text(exchange, 200, "application/json", json.text, json.length);
    return fm_base_json_finish(&json, NULL) < 0 ? MHD_NO : result;
}

static enum MHD_Result show_metrics(struct exchange *exchange)
{
    fm_http *http = exchange->http;
    fm_serve_stats stats;
    struct serve_bytes text = {0};
    enum MHD_Result result = MHD_NO;
    fm_model_serve_stats(http->serve, &stats);
    pthread_mutex_lock(&http->metrics_mutex);
    struct serve_metrics metrics = http->metrics;
    pthread_mutex_unlock(&http->metrics_mutex);
    if (fm_model_serve_metrics_write(&metrics, &stats, http->exchange_count, &text) == FM_OK)
        result = queue_text(exchange, 200, "text/plain; version=0.0.4", text.bytes, text.length);
    fm_base_mem_free(text.bytes);
    return result;
}

static enum MHD_Result serve_get(struct exchange *exchange)
{
    const char *path = exchange->path;
    if (strcmp(path, "/") == 0)
        return queue_text(exchange, 200, "text/html; charset=utf-8", fm_model_chat_page,
                          strlen(fm_model_chat_page));
    if (strcmp(path, "/health") == 0)
        return exchange->http->draining ? queue_text(exchange, 503, "text/plain", "stopping\n", 9)
                                        : queue_text(exchange, 200, "text/plain", "ok\n", 3);
    if (strcmp(path, "/metrics") == 0)
        return show_metrics(exchange);
    if (strcmp(path, "/v1/models") == 0)
        return show_models(exchange, 1);
    if (strncmp(path, "/v1/models/", 11) == 0 && strcmp(path + 11, exchange->http->name) == 0)
        return show_models(exchange, 0);
    if (strcmp(path, "/v1/completions") == 0 || strcmp(path, "/v1/chat/completions") == 0)
        return queue_error(exchange, 405, "use POST here");
    return queue_error(exchange, 404, "there is nothing at this path");
}

static enum MHD_Result serve_post(struct exchange *exchange)
{
    int chat = strcmp(exchange->path, "/v1/chat/completions") == 0;
    if (!chat && strcmp(exchange->path, "/v1/completions") != 0)
        return queue_error(exchange, 404, "there is nothing to POST to at this path");
    if (exchange->http->draining && !exchange->started)
        return queue_error(exchange, 503, "the server is stopping");
    return exchange->started ? finish_completion(exchange) : begin_completion(exchange, chat);
}

static struct exchange *begin_exchange(fm_http *http, struct MHD_Connection *connection, const char *url,
                                       const char *method)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct exchange *exchange = info && info->socket_context ? fm_base_mem_zalloc(1, sizeof *exchange) : NULL;
    if (!exchange)
        return NULL;
    exchange->http = http;
    exchange->peer = info->socket_context;
    exchange->connection = connection;
    exchange->method = strcmp(method, "GET") == 0    ? "GET"
                       : strcmp(method, "HEAD") == 0 ? "HEAD"
                       : strcmp(method, "POST") == 0 ? "POST"
                                                     : "other";
    snprintf(exchange->path, sizeof exchange->path, "%s", url);
    exchange->begin_ns = fm_base_clock_ns();
    exchange->holders = 1;
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->next = http->exchanges;
    if (exchange->next)
        exchange->next->previous = exchange;
    http->exchanges = exchange;
    http->exchange_count++;
    return exchange;
}

static enum MHD_Result refuse_body(struct exchange *exchange)
{
    char message[128];
    snprintf(message, sizeof message, "the body is too large: this server takes at most %lld bytes",
             (long long)exchange->http->options.body_bytes_max);
    return queue_error(exchange, 413, message);
}

// What can be refused before the body is read.
static enum MHD_Result check_head(struct exchange *exchange)
{
    const fm_http *http = exchange->http;
    const char *length = MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, "Content-Length");
    if (!authorised(exchange))
        return queue_error(exchange, 401, "a valid API key is missing: Authorization: Bearer KEY");
    if (length && strtoull(length, NULL, 10) > (unsigned long long)http->options.body_bytes_max)
        return refuse_body(exchange);
    return MHD_YES;
}

// A body without a length may turn out too large, and libmicrohttpd takes no answer while a body comes in. So the rest is
// read and dropped until it ends, for the client to be told; the connection is cut where it goes on for too long.
static enum MHD_Result take_body(struct exchange *exchange, const char *upload, size_t size)
{
    enum { READ_TIMES = 64 }; // 256 MiB at the default limit; receive_timeout_ms bounds the time
    uint64_t limit = (uint64_t)exchange->http->options.body_bytes_max;
    exchange->received += size;
    if (exchange->received <= limit)
        return fm_model_serve_bytes_add(&exchange->body, upload, size) < 0 ? MHD_NO : MHD_YES;
    fm_base_mem_free(exchange->body.bytes);
    exchange->body = (struct serve_bytes){0};
    return exchange->received / READ_TIMES < limit ? MHD_YES : MHD_NO;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state)
{
    fm_http *http = context;
    struct exchange *exchange = *state;
    (void)version;
    if (!exchange) {
        *state = exchange = begin_exchange(http, connection, url, method);
        return exchange ? check_head(exchange) : MHD_NO;
    }
    if (*upload_size) {
        size_t size = *upload_size;
        *upload_size = 0;
        return take_body(exchange, upload, size);
    }
    if (exchange->received > (uint64_t)http->options.body_bytes_max)
        return refuse_body(exchange);
    if (exchange->method[0] == 'P')
        return serve_post(exchange);
    if (exchange->method[0] == 'o')
        return queue_error(exchange, 405, "use GET or POST");
    return serve_get(exchange);
}

static void log_exchange(const struct exchange *exchange)
{
    const fm_http *http = exchange->http;
    fm_json json = {0};
    int tokens = 0, prompt = 0;
    for (int i = 0; i < exchange->answer.choice_count; i++)
        tokens += exchange->answer.choices[i].tokens;
    for (int i = 0; i < exchange->answer.call.prompt_count; i++)
        prompt += exchange->answer.call.prompts[i].count;
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_real(&json, "time", (double)fm_base_clock_unix_ns() * 1e-9);
    fm_base_json_string(&json, "peer", exchange->peer->address);
    fm_base_json_string(&json, "method", exchange->method);
    fm_base_json_string(&json, "path", exchange->path);
    fm_base_json_int(&json, "status", exchange->status);
    fm_base_json_real(&json, "ms", (double)(fm_base_clock_ns() - exchange->begin_ns) * 1e-6);
    if (exchange->has_answer) {
        fm_base_json_int(&json, "prompt_tokens", prompt);
        fm_base_json_int(&json, "tokens", tokens);
        if (exchange->first_ns)
            fm_base_json_real(&json, "first_token_ms",
                              (double)(exchange->first_ns - exchange->begin_ns) * 1e-6);
    }
    if (http->options.log_bodies && exchange->body.bytes)
        fm_base_json_string(&json, "body", exchange->body.bytes);
    fm_base_json_end(&json);
    struct serve_bytes line = {0};
    if (json.status == FM_OK && fm_model_serve_bytes_add(&line, json.text, json.length) == FM_OK &&
        fm_model_serve_bytes_add(&line, "\n", 1) == FM_OK) {
        ssize_t written = write(http->options.log_fd, line.bytes, line.length);
        (void)written; // a log that cannot be written must not stop the server
    }
    fm_base_mem_free(line.bytes);
    fm_status status = fm_base_json_finish(&json, NULL);
    (void)status;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode how)
{
    fm_http *http = context;
    struct exchange *exchange = *state;
    (void)connection;
    (void)how;
    if (!exchange)
        return;
    *state = NULL;
    cancel_all(exchange);
    exchange->peer->since_ns = fm_base_clock_ns();
    exchange->peer->answering = 0;
    pthread_mutex_lock(&http->metrics_mutex);
    fm_model_serve_metrics_count(&http->metrics, exchange->status);
    pthread_mutex_unlock(&http->metrics_mutex);
    *(exchange->previous ? &exchange->previous->next : &http->exchanges) = exchange->next;
    if (exchange->next)
        exchange->next->previous = exchange->previous;
    http->exchange_count--;
    pthread_mutex_lock(&exchange->mutex);
    if (http->options.log_fd >= 0)
        log_exchange(exchange);
    exchange->peer = NULL;
    let_go(exchange);
}

static void name_peer(struct MHD_Connection *connection, struct peer *peer)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    int yes = 1;
    peer->fd = info ? info->connect_fd : -1;
    // Tokens shall not wait for the client's acknowledgement of those before.
    (void)setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    if (info && info->client_addr &&
        getnameinfo(info->client_addr,
                    info->client_addr->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                             : sizeof(struct sockaddr_in),
                    peer->address, sizeof peer->address, NULL, 0, NI_NUMERICHOST) != 0)
        peer->address[0] = 0;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode what)
{
    fm_http *http = context;
    struct peer *peer = *socket_context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        peer = fm_base_mem_zalloc(1, sizeof *peer);
        *socket_context = peer; // without one, every request of the connection is refused
        if (!peer)
            return;
        name_peer(connection, peer);
        peer->since_ns = fm_base_clock_ns();
        peer->next = http->peers;
        if (peer->next)
            peer->next->previous = peer;
        http->peers = peer;
    } else if (peer) {
        *(peer->previous ? &peer->previous->next : &http->peers) = peer->next;
        if (peer->next)
            peer->next->previous = peer->previous;
        fm_base_mem_free(peer);
        *socket_context = NULL;
    }
}

static int hung_up(int fd)
{
    char byte;
    ssize_t got = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

// Cuts those who send too slowly, and ends answers that nobody waits for or that take too long.
static void sweep(fm_http *http)
{
    uint64_t now = fm_base_clock_ns();
    for (const struct peer *peer = http->peers; peer; peer = peer->next)
        if (!peer->answering && now - peer->since_ns > (uint64_t)http->options.receive_timeout_ms * 1000000u)
            shutdown(peer->fd, SHUT_RDWR);
    for (struct exchange *exchange = http->exchanges; exchange; exchange = exchange->next)
        if (exchange->started &&
            (now - exchange->begin_ns > (uint64_t)http->options.answer_timeout_ms * 1000000u ||
             hung_up(exchange->peer->fd)))
            cancel_all(exchange);
}

void fm_model_http_run(fm_http *http, int timeout_ms)
{
    enum { SWEEP_MS = 200 };
    MHD_UNSIGNED_LONG_LONG limit;
    int wait = timeout_ms < SWEEP_MS ? timeout_ms : SWEEP_MS;
    if (MHD_get_timeout(http->daemon, &limit) == MHD_YES && limit < (MHD_UNSIGNED_LONG_LONG)wait)
        wait = (int)limit;
    struct pollfd entries[] = {{.fd = http->epoll_fd, .events = POLLIN},
                               {.fd = http->wake_fd, .events = POLLIN}};
    (void)poll(entries, 2, wait);
    eventfd_t count;
    int error = eventfd_read(http->wake_fd, &count);
    (void)error; // there may be nothing to read
    (void)MHD_run(http->daemon);
    if (fm_base_clock_ns() - http->swept_ns > SWEEP_MS * 1000000ull) {
        sweep(http);
        http->swept_ns = fm_base_clock_ns();
    }
}

static void set_defaults(fm_http_options *options)
{
    if (!options->host)
        options->host = "127.0.0.1";
    if (!options->connections_max)
        options->connections_max = 512;
    if (!options->body_bytes_max)
        options->body_bytes_max = 4 << 20;
    if (!options->receive_timeout_ms)
        options->receive_timeout_ms = 30000;
    if (!options->answer_timeout_ms)
        options->answer_timeout_ms = 600000;
}

static void quiet(void *context, const char *format, va_list list)
{
    (void)context;
    (void)format;
    (void)list; // what clients do wrong is in the access log
}

static fm_status start_daemon(fm_http *http, int fd)
{
    const fm_http_options *options = &http->options;
    // A client that takes none of its answer for a minute is cut.
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, on_request, http,
        MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)options->connections_max, MHD_OPTION_CONNECTION_TIMEOUT, 60u, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, http, MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)32768, MHD_OPTION_END);
    if (!http->daemon)
        return fm_base_error_set(FM_ERR_IO, "libmicrohttpd does not start");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    http->epoll_fd = info ? info->epoll_fd : -1;
    return FM_OK;
}

fm_status fm_model_http_open(fm_serve *serve, fm_model *model, const fm_http_options *options,
                             fm_http **out_http)
{
    int fd = -1;
    fm_serve_stats stats;
    fm_http *http = fm_base_mem_zalloc(1, sizeof *http);
    char *name = fm_base_mem_strdup(options->model_name);
    if (!http || !name) {
        fm_base_mem_free(http);
        fm_base_mem_free(name);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the server");
    }
    fm_model_serve_stats(serve, &stats);
    http->serve = serve;
    http->name = name;
    http->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    http->options = *options;
    set_defaults(&http->options);
    http->face = (struct serve_face){
        fm_model_config_of(model),          options->tokenizer, options->chat, name, options->add_bos,
        stats.blocks_total * FM_MODEL_BLOCK};
    pthread_mutex_init(&http->metrics_mutex, NULL);
    fm_status status = http->wake_fd < 0
                           ? fm_base_error_set_errno(FM_ERR_IO, errno, "no event descriptor")
                           : fm_model_serve_listen(http->options.host, options->port, &fd, &http->port);
    if (status == FM_OK) {
        status = start_daemon(http, fd);
        if (status != FM_OK)
            close(fd);
    }
    if (status != FM_OK) {
        fm_model_http_close(http);
        return status;
    }
    *out_http = http;
    return FM_OK;
}

int fm_model_http_port(const fm_http *http)
{
    return http->port;
}

void fm_model_http_drain(fm_http *http)
{
    http->draining = 1;
}

int fm_model_http_busy(const fm_http *http)
{
    return http->exchange_count;
}

void fm_model_http_close(fm_http *http)
{
    if (!http)
        return;
    for (struct exchange *exchange = http->exchanges; exchange; exchange = exchange->next) {
        pthread_mutex_lock(&exchange->mutex);
        wake(exchange); // libmicrohttpd stops only when nothing is suspended
        pthread_mutex_unlock(&exchange->mutex);
    }
    if (http->daemon)
        MHD_stop_daemon(http->daemon); // ends every exchange, and closes the socket
    if (http->wake_fd >= 0)
        close(http->wake_fd);
    pthread_mutex_destroy(&http->metrics_mutex);
    fm_base_mem_free(http->name);
    fm_base_mem_free(http);
}
