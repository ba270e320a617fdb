// Any bytes are sent to a server as a connection's: the first says in pieces of what size. Whatever they are, the server
// answers or hangs up, and then nothing of them is left: no exchange, no running request, no block.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/serve.h"

#include "../test/model_tiny.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Of the whole process: opening takes longer than answering. */
static fm_model *model;
static fm_serve *serve;
static fm_http *http;

static void check(int good)
{
    if (!good)
        abort();
}

static void open_server(void)
{
    const fm_model_config config = model_tiny_config(0, 1);
    static const char template[] = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}";
    static const char text[] = "any text";
    static const char *const keys[] = {"key", NULL};
    static fm_tokenizer *tokenizer;
    static fm_chat *chat;
    fm_tokenizer_training training = {.size = sizeof training, .vocab = 257, .threads = 1};
    fm_model_options options = {.size = sizeof options, .threads = 1};
    fm_serve_options serve_options = {.size = sizeof serve_options, .cache_bytes = 1 << 20, .running_max = 4};
    check(fm_model_open_random(&config, &options, 3, &model) == FM_OK);
    check(fm_model_tokenizer_train(text, sizeof text - 1, &training, &tokenizer) == FM_OK);
    check(fm_model_chat_parse(template, sizeof template - 1, "t", NULL, NULL, &chat) == FM_OK);
    check(fm_model_serve_open(model, &serve_options, &serve) == FM_OK);
    fm_http_options http_options = {.size = sizeof http_options,
                                    .model_name = "tiny",
                                    .tokenizer = tokenizer,
                                    .chat = chat,
                                    .add_bos = 1,
                                    .api_keys = keys,
                                    .body_bytes_max = 4096,
                                    .receive_timeout_ms = 200,
                                    .log_fd = -1};
    check(fm_model_http_open(serve, model, &http_options, &http) == FM_OK);
}

static void turn(void)
{
    fm_model_http_run(http, 0);
    check(fm_model_serve_step(serve) == FM_OK);
}

static int connect_to_server(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)fm_model_http_port(http)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    check(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    check(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    return fd;
}

// Takes what there is; tells whether the server has ended the connection.
static int ended(int fd)
{
    char space[4096];
    ssize_t got = read(fd, space, sizeof space);
    return got == 0 || (got < 0 && errno != EAGAIN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_serve_stats stats;
    if (!http)
        open_server();
    if (size < 1 || size > 1 << 16)
        return 0;
    int fd = connect_to_server(), over = 0;
    size_t piece = data[0] ? data[0] : size;
    for (size_t at = 1; at < size && !over;) {
        size_t part = size - at < piece ? size - at : piece;
        ssize_t sent = send(fd, data + at, part, MSG_NOSIGNAL);
        at += sent > 0 ? (size_t)sent : 0;
        turn();
        over = ended(fd) || (sent < 0 && errno != EAGAIN);
    }
    (void)shutdown(fd, SHUT_WR);
    // Ten times what an idle connection is allowed, a hundred times over for machines that are busy.
    for (uint64_t until = fm_base_clock_ns() + 200ull * 1000000000; !over; over = ended(fd)) {
        turn();
        check(fm_base_clock_ns() < until);
    }
    close(fd);
    do {
        turn();
        fm_model_serve_stats(serve, &stats);
    } while (fm_model_http_busy(http) || stats.running + stats.waiting > 0);
    check(stats.blocks_running == 0);
    return 0;
}
