#include "metrics.h"

#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/mem.h"

enum {
    PEERS = 8, // scrapers at once: there is one, or two while they are exchanged
    REQUEST_BYTES = 4096,
    BACKLOG = 8
};

// A scraper that sends nothing keeps its place so long.
static const int64_t patience_ns = 10000000000;

struct peer {
    fm_fs_metrics *metrics;
    fm_net_watch watch; // fd below 0: nobody
    fm_net_timer timer;
    char request[REQUEST_BYTES];
    size_t received;
    struct fm_fs_metrics_text reply;
    size_t sent;
};

struct fm_fs_metrics {
    fm_net_loop *loop;
    void (*write)(void *context, struct fm_fs_metrics_text *text);
    void *context;
    fm_net_watch watch;
    struct peer peers[PEERS];
    char address[FM_NET_ADDRESS_BYTES];
};

/* Text */

static void print(struct fm_fs_metrics_text *text, const char *format, ...) FM_PRINTF(2, 3);
static void print(struct fm_fs_metrics_text *text, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || length >= (int)sizeof line)
        text->failed = 1;
    if (text->failed)
        return;
    if ((size_t)length > text->capacity - text->size) {
        size_t capacity = 2 * text->capacity + 4096;
        char *moved = fm_base_mem_realloc(text->bytes, capacity, 1);
        if (!moved) {
            text->failed = 1;
            return;
        }
        text->bytes = moved;
        text->capacity = capacity;
    }
    memcpy(text->bytes + text->size, line, (size_t)length);
    text->size += (size_t)length;
}

void fm_fs_metrics_begin(struct fm_fs_metrics_text *text, const char *name, const char *type,
                         const char *help)
{
    print(text, "# HELP fathom_fs_%s %s\n# TYPE fathom_fs_%s %s\n", name, help, name, type);
}

void fm_fs_metrics_value(struct fm_fs_metrics_text *text, const char *name, const char *label,
                         const char *label_value, double value)
{
    if (label)
        print(text, "fathom_fs_%s{%s=\"%s\"} %.17g\n", name, label, label_value, value);
    else
        print(text, "fathom_fs_%s %.17g\n", name, value);
}

void fm_fs_metrics_histogram(struct fm_fs_metrics_text *text, const char *name, const char *label,
                             const char *label_value, const double *bounds, const uint64_t *counts,
                             size_t count, double sum)
{
    uint64_t below = 0;
    for (size_t i = 0; i < count; i++) {
        below += counts[i];
        print(text, "fathom_fs_%s_bucket{%s=\"%s\",le=\"%g\"} %llu\n", name, label, label_value, bounds[i],
              (unsigned long long)below);
    }
    below += counts[count];
    print(text, "fathom_fs_%s_bucket{%s=\"%s\",le=\"+Inf\"} %llu\n", name, label, label_value,
          (unsigned long long)below);
    print(text, "fathom_fs_%s_sum{%s=\"%s\"} %.17g\n", name, label, label_value, sum);
    print(text, "fathom_fs_%s_count{%s=\"%s\"} %llu\n", name, label, label_value, (unsigned long long)below);
}

void fm_fs_metrics_one(struct fm_fs_metrics_text *text, const char *name, const char *type, const char *help,
                       double value)
{
    fm_fs_metrics_begin(text, name, type, help);
    fm_fs_metrics_value(text, name, NULL, NULL, value);
}

// By the names that Prometheus' own libraries give these.
static void print_process(struct fm_fs_metrics_text *text)
{
    struct timespec cpu;
    char *statm;
    size_t length;
    unsigned long long pages = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    print(text,
          "# HELP process_cpu_seconds_total Processor time.\n# TYPE process_cpu_seconds_total counter\n"
          "process_cpu_seconds_total %.3f\n",
          (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9);
    if (fm_base_file_read("/proc/self/statm", 256, &statm, &length) < 0)
        return;
    if (sscanf(statm, "%*u %llu", &pages) == 1)
        print(text,
              "# HELP process_resident_memory_bytes Resident memory.\n"
              "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes %llu\n",
              pages * (unsigned long long)sysconf(_SC_PAGESIZE));
    fm_base_mem_free(statm);
}

/* A scraper */

static void peer_end(struct peer *peer)
{
    fm_fs_metrics *metrics = peer->metrics;
    fm_net_watch_stop(metrics->loop, &peer->watch);
    fm_net_timer_stop(metrics->loop, &peer->timer);
    close(peer->watch.fd);
    fm_base_mem_free(peer->reply.bytes);
    *peer = (struct peer){.metrics = metrics, .watch = {.fd = -1}};
}

static void peer_late(void *context)
{
    peer_end(context);
}

static void print_head(struct fm_fs_metrics_text *head, const char *status, size_t bytes)
{
    print(head,
          "HTTP/1.1 %s\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: %zu\r\n"
          "Connection: close\r\n\r\n",
          status, bytes);
}

static void compose(struct peer *peer)
{
    struct fm_fs_metrics_text body = {0};
    const char *status = "200 OK";
    if (strncmp(peer->request, "GET ", 4) != 0) {
        status = "405 Method Not Allowed";
    } else if (strncmp(peer->request + 4, "/metrics", 8) != 0 || !strchr(" ?", peer->request[12])) {
        status = "404 Not Found";
    } else {
        print_process(&body);
        peer->metrics->write(peer->metrics->context, &body);
        if (body.failed) {
            status = "500 Internal Server Error";
            body.size = 0;
        }
    }
    print_head(&peer->reply, status, body.size);
    for (size_t at = 0; at < body.size && !peer->reply.failed; at += 256) // print() takes a line at a time
        print(&peer->reply, "%.*s", (int)(body.size - at < 256 ? body.size - at : 256), body.bytes + at);
    fm_base_mem_free(body.bytes);
}

static void peer_send(struct peer *peer)
{
    while (peer->sent < peer->reply.size) {
        ssize_t sent =
            send(peer->watch.fd, peer->reply.bytes + peer->sent, peer->reply.size - peer->sent, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR))
            return; // the watch says when there is room
        if (sent <= 0)
            break;
        peer->sent += (size_t)sent;
    }
    peer_end(peer);
}

static void peer_ready(void *context, uint32_t events)
{
    struct peer *peer = context;
    (void)events;
    if (peer->reply.size) {
        peer_send(peer);
        return;
    }
    ssize_t got =
        recv(peer->watch.fd, peer->request + peer->received, sizeof peer->request - 1 - peer->received, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got > 0)
        peer->received += (size_t)got;
    peer->request[peer->received] = 0;
    if (got <= 0 || peer->received == sizeof peer->request - 1) {
        peer_end(peer);
        return;
    }
    if (!strstr(peer->request, "\r\n\r\n"))
        return;
    compose(peer);
    fm_net_watch_stop(peer->metrics->loop, &peer->watch);
    peer->watch.events = EPOLLOUT;
    if (peer->reply.failed || fm_net_watch_start(peer->metrics->loop, &peer->watch) < 0)
        peer_end(peer);
    else
        peer_send(peer);
}

static void accept_one(void *context, uint32_t events)
{
    fm_fs_metrics *metrics = context;
    struct peer *peer = metrics->peers;
    (void)events;
    int fd = accept4(metrics->watch.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return; // it went away again, or there are no descriptors; the next one is told of anew
    while (peer < metrics->peers + PEERS && peer->watch.fd >= 0)
        peer++;
    if (peer == metrics->peers + PEERS) {
        close(fd);
        return;
    }
    peer->watch = (fm_net_watch){.fd = fd, .events = EPOLLIN, .ready = peer_ready, .context = peer};
    peer->timer = (fm_net_timer){.fire = peer_late, .context = peer};
    if (fm_net_watch_start(metrics->loop, &peer->watch) < 0) {
        close(fd);
        peer->watch.fd = -1;
    } else if (fm_net_timer_start(metrics->loop, &peer->timer, patience_ns) < 0) {
        peer_end(peer);
    }
}

/* Listening */

static fm_status bind_to(fm_fs_metrics *metrics, const fm_net_address *address)
{
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
    struct addrinfo *found;
    struct sockaddr_storage bound;
    socklen_t length = sizeof bound;
    char port[8];
    const int one = 1;
    snprintf(port, sizeof port, "%u", (unsigned)address->port);
    int error =
        getaddrinfo(strcmp(address->host, "*") == 0 ? "0.0.0.0" : address->host, port, &hints, &found);
    if (error)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "cannot resolve host \"%s\": %s", address->host,
                                 gai_strerror(error));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    metrics->watch.fd = fd;
    int bad = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
              bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0 ||
              getsockname(fd, (struct sockaddr *)&bound, &length) != 0;
    int failure = errno;
    freeaddrinfo(found);
    if (bad)
        return fm_base_file_error(failure, "listening for scrapers at %s:%s", address->host, port);
    fm_net_address named = *address;
    if (getnameinfo((struct sockaddr *)&bound, length, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0 &&
        sscanf(port, "%hu", &named.port) != 1)
        named.port = address->port;
    fm_net_address_format(&named, metrics->address);
    return FM_OK;
}

fm_status fm_fs_metrics_open(fm_net_loop *loop, const char *address,
                             void (*write)(void *context, struct fm_fs_metrics_text *text), void *context,
                             fm_fs_metrics **out_metrics)
{
    fm_net_address parsed;
    FM_TRY(fm_net_address_parse(address, &parsed));
    if (parsed.family != FM_NET_TCP)
        return fm_base_error_set(FM_ERR_ARG, "%s: scrapers come over TCP; expected host:port", address);
    fm_fs_metrics *metrics = fm_base_mem_zalloc(1, sizeof *metrics);
    if (!metrics)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for metrics");
    *metrics = (fm_fs_metrics){.loop = loop, .write = write, .context = context};
    metrics->watch = (fm_net_watch){.fd = -1, .events = EPOLLIN, .ready = accept_one, .context = metrics};
    for (int i = 0; i < PEERS; i++)
        metrics->peers[i] = (struct peer){.metrics = metrics, .watch = {.fd = -1}};
    fm_status status = bind_to(metrics, &parsed);
    if (status == FM_OK)
        status = fm_net_watch_start(loop, &metrics->watch);
    if (status < 0) {
        if (metrics->watch.fd >= 0)
            close(metrics->watch.fd);
        fm_base_mem_free(metrics);
        return status;
    }
    *out_metrics = metrics;
    return FM_OK;
}

const char *fm_fs_metrics_address(const fm_fs_metrics *metrics)
{
    return metrics->address;
}

void fm_fs_metrics_close(fm_fs_metrics *metrics)
{
    if (!metrics)
        return;
    for (int i = 0; i < PEERS; i++)
        if (metrics->peers[i].watch.fd >= 0)
            peer_end(&metrics->peers[i]);
    fm_net_watch_stop(metrics->loop, &metrics->watch);
    close(metrics->watch.fd);
    fm_base_mem_free(metrics);
}
