// Many streams at once over real sockets, of whom some read slowly, some hang up and some never say all: those who read get
// their texts meanwhile, and nothing is left behind of any: memory, blocks, threads, files. And bodies that are too large.
#include "fm_test.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/serve.h"
#include "model_tiny.h"

/* Texts are shorter than a block of the cache, so that a kept one is one block, and five pieces of memory. */
enum { STREAMS = 64, ANSWER = 40, KEPT_PIECES = 5, HANG_MS = 120000, BODY_MAX = 1 << 16 };

struct server {
    fm_model *model;
    fm_tokenizer *tokenizer;
    fm_serve *serve;
    fm_http *http;
    pthread_t engine;
    int stop;
};

enum kind { READS, READS_LATE, HANGS_UP, SAYS_HALF };

struct client {
    enum kind kind;
    int fd; // -1: done
    size_t length;
    char text[1 << 15];
};

static void *step_engine(void *context)
{
    struct server *server = context;
    while (!__atomic_load_n(&server->stop, __ATOMIC_ACQUIRE))
        if (fm_model_serve_wait(server->serve, 20))
            assert_ok(fm_model_serve_step(server->serve));
    return NULL;
}

static void open_server(struct server *server, int receive_timeout_ms)
{
    const fm_model_config config = model_tiny_config(-1, -1);
    static const char text[] = "any text";
    fm_tokenizer_training training = {.size = sizeof training, .vocab = 257, .threads = 1};
    fm_model_options options = {.size = sizeof options, .threads = 1};
    fm_serve_options serve_options = {
        .size = sizeof serve_options, .running_max = 8, .waiting_max = 2 * STREAMS};
    *server = (struct server){0};
    assert_ok(fm_model_open_random(&config, &options, 3, &server->model));
    serve_options.cache_bytes = 16 * fm_model_session_block_bytes(server->model);
    assert_ok(fm_model_tokenizer_train(text, sizeof text - 1, &training, &server->tokenizer));
    assert_ok(fm_model_serve_open(server->model, &serve_options, &server->serve));
    fm_http_options http_options = {.size = sizeof http_options,
                                    .model_name = "tiny",
                                    .tokenizer = server->tokenizer,
                                    .body_bytes_max = BODY_MAX,
                                    .receive_timeout_ms = receive_timeout_ms,
                                    .log_fd = -1};
    assert_ok(fm_model_http_open(server->serve, server->model, &http_options, &server->http));
    assert_int_equal(pthread_create(&server->engine, NULL, step_engine, server), 0);
}

static void close_server(struct server *server)
{
    __atomic_store_n(&server->stop, 1, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(server->engine, NULL), 0);
    fm_model_serve_close(server->serve);
    fm_model_http_close(server->http);
    fm_model_tokenizer_close(server->tokenizer);
    fm_model_close(server->model);
}

static void dial(const struct server *server, struct client *client, enum kind kind)
{
    int small = 4096;
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)fm_model_http_port(server->http)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    client->kind = kind;
    client->length = 0;
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(client->fd >= 0);
    if (kind == READS_LATE) // so that the server cannot send all that there is
        assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
    assert_int_equal(connect(client->fd, (struct sockaddr *)&to, sizeof to), 0);
}

static void connect_client(const struct server *server, struct client *client, int number)
{
    char body[160], request[400];
    dial(server, client, (enum kind)(number % 4));
    int length =
        snprintf(body, sizeof body,
                 "{\"prompt\": [7, 8, 9, %d], \"max_tokens\": %d, \"temperature\": 0, \"ignore_eos\": true, "
                 "\"logprobs\": 5, \"stream\": true}",
                 number % 8, ANSWER);
    int size = snprintf(
        request, sizeof request,
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
        length, body);
    if (client->kind == SAYS_HALF)
        size -= 20;
    assert_int_equal(write(client->fd, request, (size_t)size), size);
    assert_int_equal(fcntl(client->fd, F_SETFL, O_NONBLOCK), 0);
}

// Closes without waiting for what is under way.
static void hang_up(struct client *client)
{
    struct linger at_once = {.l_onoff = 1};
    assert_int_equal(setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
    close(client->fd);
    client->fd = -1;
}

// Takes what has come; tells whether the server has ended it.
static int receive(struct client *client)
{
    ssize_t got = read(client->fd, client->text + client->length, sizeof client->text - 1 - client->length);
    if (got > 0) {
        client->length += (size_t)got;
        client->text[client->length] = 0;
        assert_true(client->length + 1 < sizeof client->text);
    }
    return got == 0 || (got < 0 && errno != EAGAIN);
}

// Serves, and has every client of the kind do what it does, until all of them are done.
static void serve_until_done(struct server *server, struct client *clients, enum kind kind)
{
    uint64_t until = fm_base_clock_ns() + (uint64_t)HANG_MS * 1000000;
    for (int left = 1; left;) {
        left = 0;
        fm_model_http_run(server->http, 5);
        for (struct client *client = clients; client < clients + STREAMS; client++) {
            if (client->fd < 0 || client->kind != kind)
                continue;
            int ended = receive(client);
            if (kind == HANGS_UP && client->length > 0) {
                hang_up(client);
            } else if (ended) {
                close(client->fd);
                client->fd = -1;
            }
            left += client->fd >= 0;
        }
        assert_true(fm_base_clock_ns() < until);
    }
}

// The answer's text in place of all that was received: chunks put together, then what events say.
static void keep_text(struct client *client)
{
    char *from = strstr(client->text, "\r\n\r\n"), *to = client->text;
    assert_non_null(from);
    assert_true(strncmp(client->text, "HTTP/1.1 200", 12) == 0);
    from += 4;
    for (long size; (size = strtol(from, &from, 16)) > 0; from += size + 2) {
        memmove(to, from + 2, (size_t)size);
        to += size;
        from += 2;
    }
    *to = 0;
    assert_non_null(strstr(client->text, "data: [DONE]"));
    static const char key[] = "\"text\":";
    int count = 0;
    to = client->text;
    for (char *at = client->text; (at = strstr(at, key)); count++) {
        at += sizeof key - 1 + strspn(at + sizeof key - 1, " ");
        size_t size = strcspn(at, ",}");
        memmove(to, at, size);
        to += size;
        at += size;
    }
    *to = 0;
    assert_true(count >= 1);
}

static int entries(const char *folder)
{
    int count = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}

/** What a round leaves, without kept texts: nothing more than the one before it. */
struct left {
    int threads, files;
    int64_t memory;
};

// Waits until nothing is under way, and no more memory is held than `before` (NULL: any): the engine's thread gives back
// what a request held a moment after it is counted as ended.
static struct left look(struct server *server, const struct left *before)
{
    fm_serve_stats stats;
    struct left left;
    uint64_t until = fm_base_clock_ns() + (uint64_t)HANG_MS * 1000000;
    do {
        fm_model_http_run(server->http, 5);
        fm_model_serve_stats(server->serve, &stats);
        left = (struct left){entries("/proc/self/task"), entries("/proc/self/fd"),
                             (int64_t)fm_base_mem_live() - KEPT_PIECES * stats.blocks_kept};
        if (fm_base_clock_ns() >= until)
            fail_msg("%d exchanges, %d running, %d waiting, %lld pieces of memory are left",
                     fm_model_http_busy(server->http), stats.running, stats.waiting, (long long)left.memory);
    } while (fm_model_http_busy(server->http) || stats.running + stats.waiting > 0 ||
             (before && left.memory > before->memory));
    assert_int_equal(stats.blocks_running, 0);
    return left;
}

static struct left round_of_streams(struct server *server, const struct left *before)
{
    struct client *clients = fm_base_mem_zalloc(STREAMS, sizeof *clients);
    assert_non_null(clients);
    for (int i = 0; i < STREAMS; i++) {
        connect_client(server, &clients[i], i);
        fm_model_http_run(server->http, 0);
    }
    serve_until_done(server, clients, READS); // while the others read nothing
    serve_until_done(server, clients, HANGS_UP);
    serve_until_done(server, clients, SAYS_HALF); // until their time is over
    serve_until_done(server, clients, READS_LATE);
    for (int i = 0; i < STREAMS; i++) {
        if (clients[i].kind != READS && clients[i].kind != READS_LATE)
            continue;
        keep_text(&clients[i]);
        for (int j = 0; j < i; j++) // one prompt, one text, however it was read
            if (i % 8 == j % 8)
                assert_string_equal(clients[i].text, clients[j].text);
    }
    fm_base_mem_free(clients);
    return look(server, before);
}

static void streams_leave_nothing_behind(void **state)
{
    struct server server;
    (void)state;
    open_server(&server, 1000);
    struct left first = round_of_streams(&server, NULL), second = round_of_streams(&server, &first);
    assert_int_equal(second.threads, first.threads);
    assert_int_equal(second.files, first.files);
    close_server(&server);
}

// Sends chunks of a body of no stated length, until all are sent or the server has ended it; what it answers is in `client`.
static void send_chunks(struct server *server, struct client *client, size_t body_bytes)
{
    static const char head[] =
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    enum { CHUNK = 1 << 14 };
    uint64_t until = fm_base_clock_ns() + (uint64_t)HANG_MS * 1000000;
    size_t length = 0, sent = 0, most = body_bytes + body_bytes / CHUNK * 16 + 256;
    char *bytes = fm_base_mem_alloc(most);
    assert_non_null(bytes);
    length += (size_t)snprintf(bytes, most, "%s", head);
    for (size_t i = 0; i < body_bytes; i += CHUNK) {
        length += (size_t)snprintf(bytes + length, most - length, "%x\r\n", CHUNK);
        memset(bytes + length, ' ', CHUNK);
        length += CHUNK;
        length += (size_t)snprintf(bytes + length, most - length, "\r\n");
    }
    length += (size_t)snprintf(bytes + length, most - length, "0\r\n\r\n");
    dial(server, client, READS);
    assert_int_equal(fcntl(client->fd, F_SETFL, O_NONBLOCK), 0);
    while (!receive(client)) {
        ssize_t took = send(client->fd, bytes + sent, length - sent, MSG_NOSIGNAL);
        sent += took > 0 ? (size_t)took : 0;
        fm_model_http_run(server->http, 1);
        assert_true(fm_base_clock_ns() < until);
    }
    close(client->fd);
    fm_base_mem_free(bytes);
}

static void a_body_that_grows_too_large_is_refused_readably(void **state)
{
    struct server server;
    struct client *client = fm_base_mem_zalloc(1, sizeof *client);
    (void)state;
    assert_non_null(client);
    open_server(&server, HANG_MS);
    send_chunks(&server, client, 16 * (size_t)BODY_MAX);
    assert_true(strncmp(client->text, "HTTP/1.1 413", 12) == 0);
    assert_non_null(strstr(client->text, "body_too_large"));
    assert_non_null(strstr(client->text, "at most 65536 bytes"));
    send_chunks(&server, client, BODY_MAX); // as large as can be, and no JSON
    assert_true(strncmp(client->text, "HTTP/1.1 400", 12) == 0);
    send_chunks(&server, client, 80 * (size_t)BODY_MAX); // for too long to be read to its end
    assert_int_equal(client->length, 0);
    look(&server, NULL);
    close_server(&server);
    fm_base_mem_free(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_leave_nothing_behind),
        cmocka_unit_test(a_body_that_grows_too_large_is_refused_readably),
    };
    return fm_test_run("serve_http", tests);
}
