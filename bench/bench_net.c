// lib/net: calls over sockets against the bare sockets below them.
//
// Caller and service sit on one CPU, so that what is timed is the work of both and two switches between them,
// not how long another CPU takes to wake. A bare socket pays for the same switches.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "bench_net_tls.h"
#include "fm_bench.h"

#include "fathom/mem.h"
#include "fathom/net.h"

enum method { READ = 1, WRITE = 2 };

enum { DEPTH_MAX = 16, HEAD_BYTES = 80 }; // a bare message has as much in front of its payload as a frame

struct shape {
    int tcp;
    fm_net_mode mode;
    enum method method;
    size_t bytes;
    int depth;
    int tls;
};

struct calls {
    struct shape shape;
    int plain; // nothing goes through shared memory
    struct calls
        *other; // where memory is shared, or TLS spoken: the same without; its data and buffer are these
    fm_net_key key;
    fm_net_tls *tls;
    unsigned char *data;   // what the service has, or the caller writes
    unsigned char *buffer; // where it goes
    char folder[32];
    cpu_set_t before; // CPUs of the calling thread

    fm_net_loop *service;
    pthread_t service_thread;
    fm_net_loop *loop;
    fm_net_conn *conn;
    int up;
    int outstanding;
    fm_status failed;

    int bare; // the caller's end
    int bare_service;
    struct bench_net_records *records[2]; // of its ends, where the calls speak TLS
    pthread_t bare_thread;
};

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    (void)request;
    *out_payload = ((struct calls *)context)->buffer;
    return FM_OK;
}

static void drop(void *context, fm_net_request *request)
{
    (void)context;
    (void)request;
}

static void serve(void *context, fm_net_request *request)
{
    struct calls *calls = context;
    const struct iovec payload = {calls->data, calls->shape.bytes};
    const fm_net_answer answer = {
        .body = {.payload = &payload,
                 .payload_count = request->method == READ && calls->shape.bytes ? 1 : 0}};
    if (fm_net_request_reply(request, &answer) < 0)
        abort(); // a benchmark without memory
}

static void *run_service(void *context)
{
    struct calls *calls = context;
    if (fm_net_loop_run(calls->service) < 0)
        abort();
    return NULL;
}

static int transfer(struct calls *calls, int caller, unsigned char *bytes, size_t size, int out)
{
    int fd = caller ? calls->bare : calls->bare_service;
    return calls->shape.tls ? bench_net_records_transfer(calls->records[caller], fd, bytes, size, out)
                            : bench_net_plain_transfer(fd, bytes, size, out);
}

// One exchange of the bare sockets, from the one side or the other.
static int exchange(struct calls *calls, int caller)
{
    unsigned char head[HEAD_BYTES] = {1};
    size_t bytes = calls->shape.bytes;
    int caller_sends = calls->shape.method == WRITE;
    int failed = transfer(calls, caller, head, sizeof head, caller);
    if (!failed && caller_sends)
        failed = transfer(calls, caller, caller ? calls->data : calls->buffer, bytes, caller);
    if (!failed)
        failed = transfer(calls, caller, head, sizeof head, !caller);
    if (!failed && !caller_sends)
        failed = transfer(calls, caller, caller ? calls->buffer : calls->data, bytes, !caller);
    return failed;
}

static void *run_bare_service(void *context)
{
    struct calls *calls = context;
    while (exchange(calls, 0) == 0)
        continue;
    return NULL;
}

static fm_status no_sockets(void)
{
    return fm_base_error_set_errno(FM_ERR_UNAVAILABLE, errno, "no sockets");
}

static fm_status bare_pair(struct calls *calls)
{
    int ends[2] = {-1, -1};
    for (int i = 0; i < 2 && calls->shape.tls; i++)
        if (!(calls->records[i] = bench_net_records_new()))
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for records, or no AES-256-GCM");
    if (!calls->shape.tcp) {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            return no_sockets();
    } else {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof at;
        int on = 1;
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (bind(listener, (struct sockaddr *)&at, sizeof at) == 0 && listen(listener, 1) == 0 &&
            getsockname(listener, (struct sockaddr *)&at, &size) == 0 &&
            connect(ends[0], (struct sockaddr *)&at, sizeof at) == 0)
            ends[1] = accept(listener, NULL, NULL);
        close(listener);
        for (int i = 0; i < 2; i++)
            (void)setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (ends[1] < 0) {
            close(ends[0]);
            return no_sockets();
        }
    }
    calls->bare = ends[0];
    calls->bare_service = ends[1];
    if (pthread_create(&calls->bare_thread, NULL, run_bare_service, calls) == 0)
        return FM_OK;
    close(ends[0]);
    close(ends[1]);
    calls->bare = -1;
    return fm_base_error_set(FM_ERR_LIMIT, "no thread");
}

static void came_up(void *context, fm_net_conn *conn)
{
    (void)conn;
    ((struct calls *)context)->up = 1;
}

static void went_down(void *context, fm_net_conn *conn, fm_status status)
{
    (void)conn;
    ((struct calls *)context)->failed = status;
}

static fm_status begin_calls(struct calls *calls)
{
    char address[64] = "127.0.0.1:0";
    if (!calls->shape.tcp)
        snprintf(address, sizeof address, "unix:%s/%s", calls->folder, calls->plain ? "plain" : "socket");
    const fm_net_service service = {sizeof service, land, serve, drop, NULL, NULL, calls};
    fm_net_listener *listener = NULL;
    FM_TRY(fm_net_key_generate(&calls->key));
    if (calls->shape.tls)
        FM_TRY(bench_net_tls_new(calls->folder, &calls->tls));
    const fm_net_security security = {.mode = calls->shape.mode, .key = &calls->key, .tls = calls->tls};
    const fm_net_listen_options listening = {
        .size = sizeof listening, .service = &service, .security = security};
    const fm_net_connect_options connecting = {sizeof connecting, came_up, went_down, calls, security};
    const fm_net_loop_options options = {.size = sizeof options, .limits = {.shared_bytes = calls->plain}};
    FM_TRY(fm_net_loop_new(&options, &calls->loop));
    FM_TRY(fm_net_loop_new(&options, &calls->service));
    fm_status status = fm_net_loop_listen(calls->service, address, &listening, &listener);
    if (status == FM_OK)
        status =
            fm_net_loop_connect(calls->loop, fm_net_listener_address(listener), &connecting, &calls->conn);
    if (status == FM_OK && pthread_create(&calls->service_thread, NULL, run_service, calls) != 0)
        status = fm_base_error_set(FM_ERR_LIMIT, "no thread");
    if (status < 0) {
        fm_net_loop_free(calls->service); // a service without a thread is not stopped
        calls->service = NULL;
    }
    while (status == FM_OK && !calls->up) {
        status = fm_net_loop_progress(calls->loop, FM_NET_FOREVER);
        status = calls->failed < 0 ? calls->failed : status;
    }
    return status;
}

static void end_calls(struct calls *calls)
{
    fm_net_loop_free(calls->loop);
    if (calls->service) {
        fm_net_loop_stop(calls->service);
        pthread_join(calls->service_thread, NULL);
        fm_net_loop_free(calls->service);
    }
    fm_net_tls_free(calls->tls);
}

static void teardown(void *state)
{
    struct calls *calls = state;
    end_calls(calls);
    if (calls->other)
        end_calls(calls->other);
    fm_base_mem_free(calls->other);
    if (calls->bare >= 0) {
        close(calls->bare);
        pthread_join(calls->bare_thread, NULL);
        close(calls->bare_service);
    }
    for (int i = 0; i < 2; i++)
        bench_net_records_free(calls->records[i]);
    if (calls->folder[0])
        rmdir(calls->folder);
    (void)pthread_setaffinity_np(pthread_self(), sizeof calls->before, &calls->before);
    fm_base_mem_free(calls->data);
    fm_base_mem_free(calls->buffer);
    fm_base_mem_free(calls);
}

static int shares_memory(const struct shape *shape)
{
    return !shape->tcp && shape->bytes >= 32 << 10;
}

// The same calls over the socket alone, without TLS.
static fm_status begin_other(struct calls *calls)
{
    struct calls *plain = calls->other = fm_base_mem_zalloc(1, sizeof *plain);
    if (!plain)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    plain->shape = calls->shape;
    plain->shape.tls = 0;
    plain->plain = 1;
    plain->data = calls->data;
    plain->buffer = calls->buffer;
    memcpy(plain->folder, calls->folder, sizeof plain->folder);
    return begin_calls(plain);
}

// The threads made below inherit the one CPU.
static void stay_here(struct calls *calls)
{
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET((size_t)sched_getcpu(), &here);
    (void)pthread_getaffinity_np(pthread_self(), sizeof calls->before, &calls->before);
    (void)pthread_setaffinity_np(pthread_self(), sizeof here, &here);
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct calls *calls = fm_base_mem_zalloc(1, sizeof *calls);
    if (!calls)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    calls->shape = *(const struct shape *)given->argument;
    calls->bare = -1;
    stay_here(calls);
    size_t room = calls->shape.bytes ? calls->shape.bytes : 1;
    calls->data = fm_bench_alloc(room);
    calls->buffer = fm_bench_alloc(room);
    if (!calls->data || !calls->buffer) {
        teardown(calls);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for twice %zu bytes", room);
    }
    fm_bench_fill(given->seed, calls->data, room);
    memset(calls->buffer, 0xA5, room); // so that its pages are there
    snprintf(calls->folder, sizeof calls->folder, "/tmp/fathom-bench-XXXXXX");
    fm_status status = FM_OK;
    if (!mkdtemp(calls->folder))
        status = fm_base_error_set_errno(FM_ERR_IO, errno, "cannot make %s", calls->folder);
    if (status == FM_OK)
        status = begin_calls(calls);
    if (status == FM_OK && (shares_memory(&calls->shape) || calls->shape.tls))
        status = begin_other(calls);
    if (status == FM_OK)
        status = bare_pair(calls);
    if (status < 0) {
        teardown(calls);
        return status;
    }
    *out_state = calls;
    return FM_OK;
}

static void done(void *context, const fm_net_reply *reply)
{
    struct calls *calls = context;
    calls->outstanding--;
    if (reply->status < 0)
        calls->failed = reply->status;
}

static fm_status run_calls(void *state, int threads)
{
    (void)threads;
    struct calls *calls = state;
    const struct iovec payload = {calls->data, calls->shape.bytes};
    fm_net_call call = {.method = calls->shape.method, .done = done, .context = calls};
    if (calls->shape.method == WRITE) {
        call.body.payload = &payload;
        call.body.payload_count = 1;
    } else {
        call.reply_buffer = calls->buffer;
        call.reply_bytes = calls->shape.bytes;
    }
    for (int i = 0; i < calls->shape.depth; i++) {
        FM_TRY(fm_net_conn_call(calls->conn, &call));
        calls->outstanding++;
    }
    while (calls->outstanding > 0 && calls->failed == FM_OK)
        FM_TRY(fm_net_loop_progress(calls->loop, FM_NET_FOREVER));
    return calls->failed;
}

static fm_status run_other(void *state, int threads)
{
    return run_calls(((struct calls *)state)->other, threads);
}

static fm_status run_bare(void *state, int threads)
{
    (void)threads;
    struct calls *calls = state;
    if (exchange(calls, 1) != 0)
        return fm_base_error_set(FM_ERR_IO, "the bare socket closed");
    return FM_OK;
}

static uint64_t hash_buffer(const void *state)
{
    const struct calls *calls = state;
    return fm_bench_hash(0, calls->buffer, calls->shape.bytes);
}

static fm_status add(fm_bench *bench, const char *name, const struct shape *shape, double ratio)
{
    const char *bare = shape->tls ? "bare_aes_gcm" : "bare_socket";
    const char *other = shares_memory(shape) ? "over_socket" : shape->tls ? "keyed" : NULL;
    return fm_bench_add(
        bench,
        &(fm_bench_case){
            .name = name,
            .argument = shape,
            .bytes = (double)shape->bytes * shape->depth,
            .items = shape->depth,
            .mode = FM_BENCH_IN_SMOKE,
            .threads = 1,
            .setup = setup,
            .run = run_calls,
            .hash = shape->bytes ? hash_buffer : NULL,
            .teardown = teardown,
            .peers = {{.name = shape->depth == 1 ? bare : NULL,
                       .run = run_bare,
                       .same_result = shape->bytes != 0},
                      {.name = other, .run = run_other, .same_result = shape->bytes != 0}},
            // What goes through shared memory must gain by it, else the socket would do as well.
            .goals = {shares_memory(shape)
                          ? (fm_bench_goal){FM_BENCH_RATIO, .peer = "over_socket", .must = 1.1}
                          : (fm_bench_goal){ratio > 0 ? FM_BENCH_RATIO : 0, .peer = bare, .must = ratio}},
        });
}

static fm_status cases(fm_bench *bench)
{
    static const struct {
        const char *name;
        struct shape shape;
        // To a bare socket: a call may take half as long again. In TLS to one that seals and opens records with the
        // same cipher: OpenSSL's own work on a record of some bytes is more than the cipher's, and CRCs are on top of bulk.
        double ratio;
    } list[] = {
        {"nop.tcp_keyed", {1, FM_NET_KEYED, READ, 0, 1, 0}, 1 / 1.5},
        {"nop.unix_user", {0, FM_NET_SAME_USER, READ, 0, 1, 0}, 1 / 1.5},
        {"nop.unix_keyed", {0, FM_NET_KEYED, READ, 0, 1, 0}, 0},
        {"nop_by_16.tcp_keyed", {1, FM_NET_KEYED, READ, 0, DEPTH_MAX, 0}, 0},
        {"nop_by_16.unix_user", {0, FM_NET_SAME_USER, READ, 0, DEPTH_MAX, 0}, 0},
        {"read_4KiB.tcp_keyed", {1, FM_NET_KEYED, READ, 4 << 10, 1, 0}, 0},
        {"read_4KiB.unix_user", {0, FM_NET_SAME_USER, READ, 4 << 10, 1, 0}, 0},
        {"read_64KiB.unix_keyed", {0, FM_NET_KEYED, READ, 64 << 10, 1, 0}, 0},
        {"read_64KiB.unix_user", {0, FM_NET_SAME_USER, READ, 64 << 10, 1, 0}, 0},
        {"read_1MiB.tcp_keyed", {1, FM_NET_KEYED, READ, 1 << 20, 1, 0}, 0},
        {"read_1MiB.unix_keyed", {0, FM_NET_KEYED, READ, 1 << 20, 1, 0}, 0},
        {"read_1MiB.unix_user", {0, FM_NET_SAME_USER, READ, 1 << 20, 1, 0}, 0},
        {"write_1MiB.tcp_keyed", {1, FM_NET_KEYED, WRITE, 1 << 20, 1, 0}, 0},
        {"write_1MiB.unix_user", {0, FM_NET_SAME_USER, WRITE, 1 << 20, 1, 0}, 0},
        {"nop.tcp_tls", {1, FM_NET_KEYED, READ, 0, 1, 1}, 1 / 2.5},
        {"read_1MiB.tcp_tls", {1, FM_NET_KEYED, READ, 1 << 20, 1, 1}, 0.55},
        {"write_1MiB.tcp_tls", {1, FM_NET_KEYED, WRITE, 1 << 20, 1, 1}, 0.55},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        FM_TRY(add(bench, list[i].name, &list[i].shape, list[i].ratio));
    return FM_OK;
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "net", "Measures lib/net: calls over sockets against bare sockets", cases};
    return fm_bench_main(&program, argc, argv);
}
