// Calls over real sockets, both ends in one loop of one thread.
#include "net_peer.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/crc.h"

#include "net_address.h"

static const char *const any_port = "127.0.0.1:0";

enum { CLIENTS = 3, CALLS = 40 };

static const fm_net_security *security_of(fm_gen *gen, const char **out_address)
{
    switch (fm_gen_int(gen, 0, 2)) {
    case 0:
        *out_address = any_port;
        return &net_keyed;
    case 1:
        *out_address = net_unix_address("keyed");
        return &net_keyed;
    default:
        *out_address = net_unix_address("user");
        return &net_same_user;
    }
}

static void any_calls(fm_gen *gen)
{
    const char *address;
    const fm_net_security *security = security_of(gen, &address);
    const fm_net_limits limits = {.window = (uint32_t)fm_gen_int(gen, 1, 20),
                                  .reply_queue_bytes_max = (uint32_t)fm_gen_size(gen, 1, 1 << 20),
                                  .shared_bytes = (uint32_t)fm_gen_size(gen, 0, 32 << 20)};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, address, security);
    struct net_client clients[CLIENTS];
    static struct net_outcome outcomes[CALLS];
    for (int i = 0; i < CLIENTS; i++)
        net_client_connect(&clients[i], loop, fm_net_listener_address(listener), security);
    int64_t budget = 48 << 20; // bytes in all: large messages are rare, and sometimes as large as 8 MiB
    for (int i = 0; i < CALLS; i++) {
        uint32_t size = (uint32_t)fm_gen_size(gen, 0, fm_gen_chance(gen, 0.2) ? NET_PATTERN_BYTES : 100000);
        size = size < budget ? size : 0;
        budget -= size;
        uint32_t at = (uint32_t)fm_gen_int(gen, 0, NET_PATTERN_BYTES - (int64_t)size);
        enum net_method method = fm_gen_chance(gen, 0.5) ? NET_READ : NET_WRITE;
        assert_ok(
            net_client_call(&clients[fm_gen_int(gen, 0, CLIENTS - 1)], &outcomes[i], method, at, size, 0));
        if (fm_gen_chance(gen, 0.2))
            assert_ok(fm_net_loop_progress(loop, 0));
    }
    for (int i = 0; i < CALLS; i++) {
        net_until(loop, &outcomes[i].count, 1);
        if (outcomes[i].status < 0)
            fail_msg("call %d: %s", i, outcomes[i].message);
    }
    net_until(loop, &service.sent, CALLS);
    assert_int_equal(service.served, CALLS);
    fm_net_loop_free(loop);
    for (int i = 0; i < CALLS; i++)
        assert_int_equal(outcomes[i].count, 1);
    assert_int_equal(service.opened, service.closed);
}

static void calls_of_any_size_arrive_once_and_intact(void **state)
{
    (void)state;
    fm_gen_property(40, any_calls);
}

static void never(void *context, const fm_net_reply *reply)
{
    (void)context;
    (void)reply;
    fail_msg("done() of a call that was not accepted");
}

static void what_a_peer_does_not_accept_is_not_sent(void **state)
{
    (void)state;
    const fm_net_limits limits = {.args_bytes_max = 500, .payload_bytes_max = 1000};
    fm_net_loop *loops[] = {net_test_loop(&limits), net_test_loop(NULL)};
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loops[0], any_port, &net_keyed);
    struct net_client client;
    struct net_outcome outcome;
    net_client_connect(&client, loops[1], fm_net_listener_address(listener), &net_keyed);
    assert_ok(
        net_client_call(&client, &outcome, NET_WRITE, 5, 1001, 0)); // waits, as its peer is not known yet
    net_pump(loops, 2, &outcome.count, 1, 5000);
    assert_int_equal(outcome.status, FM_ERR_LIMIT);
    assert_int_equal(outcome.fate, FM_NET_UNSENT);
    assert_fails(net_client_call(&client, &outcome, NET_WRITE, 5, 1001, 0), FM_ERR_LIMIT,
                 "payload of 1001 bytes");
    assert_ok(net_client_call(&client, &outcome, NET_WRITE, 5, 1000, 0));
    net_pump(loops, 2, &outcome.count, 1, 5000);
    assert_ok(outcome.status);
    uint8_t args[501] = {0};
    const fm_net_call call = {
        .method = NET_FAIL, .body = {.args = args, .args_bytes = sizeof args}, .done = never};
    assert_fails(fm_net_conn_call(client.conn, &call), FM_ERR_LIMIT, "args of 501 bytes");
    fm_net_loop_free(loops[1]);
    fm_net_loop_free(loops[0]);
}

struct echo {
    int count;
    fm_status status;
    uint8_t buffer[100];
    uint32_t crc;
};

static void echoed(void *context, const fm_net_reply *reply)
{
    struct echo *echo = context;
    echo->count++;
    echo->status = reply->status;
}

static void a_checksum_that_is_known_is_believed_and_checked(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    struct echo echo = {0};
    const struct net_slice slice = {100, 1000};
    const struct iovec payload = {net_pattern() + 100, 1000};
    uint32_t crc = fm_base_crc32c(0, net_pattern() + 100, 1000);
    const fm_net_call call = {.method = NET_WRITE,
                              .body = {&slice, sizeof slice, &payload, 1, &crc},
                              .done = echoed,
                              .context = &echo};
    assert_ok(fm_net_conn_call(client.conn, &call));
    net_until(loop, &echo.count, 1);
    assert_ok(echo.status);
    crc ^= 1;
    assert_ok(fm_net_conn_call(client.conn, &call));
    net_until(loop, &echo.count, 2);
    assert_int_equal(echo.status, FM_ERR_NET_CLOSED);
    net_until(loop, &service.closed, 1);
    assert_int_equal(service.closed_status, FM_ERR_FORMAT);
    assert_int_equal(service.dropped, 1);
    fm_net_loop_free(loop);
}

static void a_reply_larger_than_its_buffer_is_skipped(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    struct echo echo = {0};
    const struct net_slice slice = {0, 300000};
    const fm_net_call call = {.method = NET_READ,
                              .body = {.args = &slice, .args_bytes = sizeof slice},
                              .reply_buffer = echo.buffer,
                              .reply_bytes = sizeof echo.buffer,
                              .done = echoed,
                              .context = &echo};
    assert_ok(fm_net_conn_call(client.conn, &call));
    struct net_outcome after;
    assert_ok(net_client_call(&client, &after, NET_READ, 9, 200000, 0));
    net_until(loop, &after.count, 1);
    assert_int_equal(echo.count, 1);
    assert_int_equal(echo.status, FM_ERR_LIMIT);
    assert_ok(after.status);
    for (size_t i = 0; i < sizeof echo.buffer; i++)
        assert_int_equal(echo.buffer[i], 0);
    fm_net_loop_free(loop);
}

static void listening_says_why_it_cannot(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listen_options options = net_service_options(&service, &net_keyed);
    fm_net_listener *first;
    fm_net_listener *second;
    assert_ok(fm_net_loop_listen(loop, ":0", &options, &first));
    const char *address = fm_net_listener_address(first);
    assert_memory_equal(address, "127.0.0.1:", 10); // loopback, unless told otherwise
    assert_fails(fm_net_loop_listen(loop, address, &options, &second), FM_ERR_EXISTS, address);
    assert_fails(fm_net_loop_listen(loop, "host", &options, &second), FM_ERR_ARG, "has no port");
    assert_fails(fm_net_loop_listen(loop, "192.0.2.1:0", &options, &second), FM_ERR_IO, "192.0.2.1:0");
    options.security.key = NULL;
    assert_fails(fm_net_loop_listen(loop, ":0", &options, &second), FM_ERR_ARG, "no cluster key");
    options.security.mode = FM_NET_SAME_USER;
    assert_fails(fm_net_loop_listen(loop, ":0", &options, &second), FM_ERR_ARG, "only a UNIX socket");

    const char *local = net_unix_address("listen");
    const char *path = local + strlen("unix:");
    struct stat info;
    assert_ok(fm_net_loop_listen(loop, local, &options, &first));
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    assert_fails(fm_net_loop_listen(loop, local, &options, &second), FM_ERR_EXISTS, "somebody does");
    fm_net_listener_close(first);
    assert_int_equal(access(path, F_OK), -1);

    // What a killed service leaves behind is replaced; what is no socket is not.
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    struct net_sockaddr at;
    assert_ok(fm_net_address_resolve(local, 1, &at));
    assert_int_equal(bind(stale, (struct sockaddr *)&at.storage, at.size), 0);
    close(stale);
    assert_ok(fm_net_loop_listen(loop, local, &options, &first));
    fm_net_listener_close(first);
    char file[FM_NET_ADDRESS_BYTES + 8];
    snprintf(file, sizeof file, "unix:%s", fm_test_file("precious", "x", 1));
    assert_fails(fm_net_loop_listen(loop, file, &options, &second), FM_ERR_EXISTS, "is no socket");
    assert_int_equal(access(file + strlen("unix:"), F_OK), 0);
    assert_fails(fm_net_loop_listen(loop, "unix:/no/such/folder/s", &options, &second), FM_ERR_IO,
                 "/no/such/folder");
    fm_net_loop_free(loop);
}

static void connecting_says_why_it_cannot(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_client client;
    struct net_outcome outcome;
    // A port that was free a moment ago.
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    char address[FM_NET_ADDRESS_BYTES];
    snprintf(address, sizeof address, "%s", fm_net_listener_address(listener));
    fm_net_listener_close(listener);
    const char *const refused[] = {address, net_unix_address("nobody")};
    for (int i = 0; i < 2; i++) {
        net_client_connect(&client, loop, refused[i], &net_keyed);
        assert_ok(net_client_call(&client, &outcome, NET_READ, 0, 10, 0));
        net_until(loop, &client.down, 1);
        assert_int_equal(client.down_status, FM_ERR_NET_REFUSED);
        assert_non_null(strstr(client.down_message, refused[i]));
        assert_int_equal(outcome.count, 1);
        assert_int_equal(outcome.status, FM_ERR_NET_REFUSED);
        assert_int_equal(outcome.fate, FM_NET_UNSENT);
    }
    fm_net_conn *conn;
    fm_net_connect_options options = {.size = sizeof options, .security = net_same_user};
    assert_fails(fm_net_loop_connect(loop, ":1", &options, &conn), FM_ERR_ARG, "only a UNIX socket");
    options.security.mode = FM_NET_KEYED;
    assert_fails(fm_net_loop_connect(loop, ":1", &options, &conn), FM_ERR_ARG, "no cluster key");
    options.security = net_keyed;
    assert_fails(fm_net_loop_connect(loop, "no-such-host.invalid:1", &options, &conn), FM_ERR_NOT_FOUND,
                 "no-such-host");
    fm_net_loop_free(loop);
}

static void loops_share_a_port(void **state)
{
    (void)state;
    fm_net_loop *loops[] = {net_test_loop(NULL), net_test_loop(NULL), net_test_loop(NULL)};
    static struct net_service services[2];
    fm_net_listener *listener;
    char address[FM_NET_ADDRESS_BYTES];
    for (int i = 0; i < 2; i++) {
        fm_net_listen_options options = net_service_options(&services[i], &net_keyed);
        options.shared_port = 1;
        assert_ok(fm_net_loop_listen(loops[i], i ? address : any_port, &options, &listener));
        snprintf(address, sizeof address, "%s", fm_net_listener_address(listener));
    }
    enum { MANY = 40 };
    struct net_client clients[MANY];
    for (int i = 0; i < MANY; i++)
        net_client_connect(&clients[i], loops[2], address, &net_keyed);
    for (int i = 0; i < MANY; i++)
        net_pump(loops, 3, &clients[i].up, 1, 10000);
    assert_true(services[0].opened > 0 && services[1].opened > 0); // else 2^-39
    for (int i = 0; i < 3; i++)
        fm_net_loop_free(loops[2 - i]);
}

static void one_connection_too_many_is_told_so(void **state)
{
    (void)state;
    const fm_net_limits limits = {.connections_max = 3};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client clients[4];
    for (int i = 0; i < 3; i++) {
        net_client_connect(&clients[i], loop, fm_net_listener_address(listener), &net_keyed);
        net_until(loop, &clients[i].up, 1);
    }
    net_client_connect(&clients[3], loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &clients[3].down, 1);
    assert_int_equal(clients[3].down_status, FM_ERR_NET_REFUSED);
    assert_non_null(strstr(clients[3].down_message, "all the connections that it takes"));
    fm_net_conn_close(clients[0].conn);
    net_until(loop, &service.closed, 1);
    net_client_connect(&clients[3], loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &clients[3].up, 1);
    fm_net_loop_free(loop);
}

static void running_out_of_descriptors_is_survived(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    // The caller's socket is there; the service finds none to accept it with.
    int lowest = dup(0);
    close(lowest);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)lowest, before.rlim_max}), 0);
    uint64_t cpu = fm_base_clock_thread_cpu_ns();
    net_rest(loop, 250);
    cpu = fm_base_clock_thread_cpu_ns() - cpu;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(client.up, 0);
    assert_true(cpu < 100 * 1000000); // it waits; it does not spin
    net_until(loop, &client.up, 1);
    struct net_outcome outcome;
    assert_ok(net_client_call(&client, &outcome, NET_READ, 3, 1000, 0));
    net_until(loop, &outcome.count, 1);
    assert_ok(outcome.status);
    fm_net_loop_free(loop);
}

static void deadlines_end_what_is_not_answered(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    struct net_outcome slow;
    struct net_outcome other;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &client.up, 1);
    uint64_t begin_ns = fm_base_clock_ns();
    assert_ok(net_client_call(&client, &slow, NET_HOLD, 0, 0, 60 * 1000000));
    assert_ok(net_client_call(&client, &other, NET_HOLD, 0, 0, 0));
    net_until(loop, &service.served, 2);
    int64_t deadline = service.held[0]->deadline_ns;
    assert_true(deadline > (int64_t)begin_ns && deadline <= fm_net_loop_now_ns(loop) + 61 * 1000000);
    net_until(loop, &client.down, 1);
    assert_true(fm_base_clock_ns() - begin_ns >= 60 * 1000000);
    assert_int_equal(slow.status, FM_ERR_TIMEOUT);
    assert_int_equal(other.status, FM_ERR_NET_CLOSED);
    assert_int_equal(client.down_status, FM_ERR_TIMEOUT);
    net_until(loop, &service.closed, 1);
    assert_null(service.held[0]->conn);
    net_service_release(&service);
    net_until(loop, &service.sent, 2);
    fm_net_loop_free(loop);
}

// A child of fork() that was not exec'd still has every descriptor: what this process closes is closed all the same, and
// epoll says no more of it.
static void a_forked_child_keeps_nothing_open(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &client.up, 1);
    pid_t child = fork();
    if (child == 0) {
        alarm(20); // should the test fail before it ends this
        pause();
        _exit(0);
    }
    assert_true(child > 0);
    fm_net_conn_close(client.conn);
    fm_net_listener_close(listener);
    net_until(loop, &service.closed, 1);
    for (int i = 0; i < 10; i++)
        assert_ok(fm_net_loop_progress(loop, 0));
    fm_net_loop_free(loop);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

// Either end may close at any moment; every call completes once, every request is answered or dropped once.
static void any_close(fm_gen *gen)
{
    const char *address;
    const fm_net_security *security = security_of(gen, &address);
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, address, security);
    struct net_client client;
    static struct net_outcome outcomes[30];
    int made[30];
    net_client_connect(&client, loop, fm_net_listener_address(listener), security);
    int64_t close_at = fm_gen_int(gen, 0, 29);
    for (int i = 0; i < 30; i++) {
        uint32_t size = (uint32_t)fm_gen_size(gen, 0, 1 << 20);
        enum net_method method = (enum net_method)fm_gen_int(gen, NET_READ, NET_HOLD);
        made[i] =
            net_client_call(&client, &outcomes[i], method, 0, method == NET_HOLD ? 0 : size, 0) == FM_OK;
        if (fm_gen_chance(gen, 0.4))
            assert_ok(fm_net_loop_progress(loop, 0));
        if (i == close_at && client.conn)
            fm_net_conn_close(client.conn);
    }
    if (fm_gen_chance(gen, 0.5)) {
        net_until(loop, &client.down, 1);
        net_until(loop, &service.closed, service.opened);
        net_service_release(&service);
    }
    fm_net_loop_free(loop);
    for (int i = 0; i < 30; i++)
        assert_int_equal(outcomes[i].count, made[i]);
    assert_int_equal(service.opened, service.closed);
}

static void closing_at_any_moment(void **state)
{
    (void)state;
    fm_gen_property(40, any_close);
}

// A slow reader's replies wait in bounded number; when it reads again, requests that were staged meanwhile
// are served.
static void a_slow_reader_is_left_waiting_and_then_served(void **state)
{
    (void)state;
    enum { REQUESTS = 64, SIZE = 1 << 20 };
    const fm_net_limits limits = {.reply_queue_bytes_max = 2 << 20};
    fm_net_loop *loops[] = {net_test_loop(&limits), net_test_loop(&limits)};
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loops[0], any_port, &net_keyed);
    struct net_client slow;
    struct net_client other;
    static struct net_outcome outcomes[REQUESTS];
    struct net_outcome quick;
    net_client_connect(&slow, loops[1], fm_net_listener_address(listener), &net_keyed);
    net_pump(loops, 2, &slow.up, 1, 5000);
    for (int i = 0; i < REQUESTS; i++)
        assert_ok(net_client_call(&slow, &outcomes[i], NET_READ, 0, SIZE, 0));
    assert_ok(fm_net_loop_progress(loops[1], 0)); // sends them all, and reads no more
    net_rest(loops[0], 100);
    // 2 MiB wait here, a few more lie in the kernel.
    assert_true(service.served >= 3 && service.served < 20);
    net_client_connect(&other, loops[0], fm_net_listener_address(listener), &net_keyed);
    assert_ok(net_client_call(&other, &quick, NET_READ, 1, SIZE, 0));
    net_until(loops[0], &quick.count, 1); // nobody else waits
    assert_ok(quick.status);
    for (int i = 0; i < REQUESTS; i++) {
        net_pump(loops, 2, &outcomes[i].count, 1, 10000);
        assert_ok(outcomes[i].status);
    }
    fm_net_loop_free(loops[1]);
    fm_net_loop_free(loops[0]);
}

static void a_reader_that_stopped_is_given_up(void **state)
{
    (void)state;
    // No shared memory: there all replies would have their places, and none would wait for the reader.
    const fm_net_limits limits = {
        .stall_timeout_ns = 150 * 1000000, .reply_queue_bytes_max = 1 << 20, .shared_bytes = 1};
    fm_net_loop *loops[] = {net_test_loop(&limits), net_test_loop(NULL)};
    struct net_service service = {0};
    fm_net_listener *listener =
        net_service_listen(&service, loops[0], net_unix_address("stalled"), &net_keyed);
    struct net_client client;
    static struct net_outcome outcomes[10];
    net_client_connect(&client, loops[1], fm_net_listener_address(listener), &net_keyed);
    net_pump(loops, 2, &client.up, 1, 5000);
    for (int i = 0; i < 10; i++)
        assert_ok(net_client_call(&client, &outcomes[i], NET_READ, 0, 1 << 20, 0));
    assert_ok(fm_net_loop_progress(loops[1], 0));
    net_until(loops[0], &service.closed, 1);
    assert_int_equal(service.closed_status, FM_ERR_TIMEOUT);
    assert_int_equal(service.sent, service.served);
    net_pump(loops, 2, &client.down, 1, 5000);
    fm_net_loop_free(loops[1]);
    fm_net_loop_free(loops[0]);
}

static void a_loop_nests_in_another(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &net_keyed);
    struct net_client client;
    struct net_outcome outcome;
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    assert_ok(net_client_call(&client, &outcome, NET_READ, 0, 3 << 20, 0));
    struct pollfd entry = {.fd = fm_net_loop_fd(loop), .events = POLLIN};
    for (int i = 0; i < 100000 && outcome.count == 0; i++) {
        int64_t wait = fm_net_loop_wait_ns(loop);
        poll(&entry, 1, wait > 1000000000 ? 1000 : (int)(wait / 1000000));
        assert_ok(fm_net_loop_progress(loop, 0));
    }
    assert_int_equal(outcome.count, 1);
    assert_ok(outcome.status);
    assert_true(fm_net_loop_wait_ns(loop) > 0);
    fm_net_loop_free(loop);
}

struct pipe_watch {
    fm_net_loop *loop;
    fm_net_watch watch;
    int bytes;
};

static void pipe_ready(void *context, uint32_t events)
{
    struct pipe_watch *own = context;
    char byte;
    assert_true(events & EPOLLIN);
    own->bytes += (int)read(own->watch.fd, &byte, 1);
    if (own->bytes == 3)
        fm_net_watch_stop(own->loop, &own->watch);
}

struct alarm {
    fm_net_loop *loop;
    fm_net_timer timer;
    int rung;
};

static void ring(void *context)
{
    struct alarm *alarm = context;
    alarm->rung++;
}

static void set_alarm(void *context, fm_net_conn *conn, fm_status status)
{
    struct alarm *alarm = context;
    (void)conn;
    (void)status;
    assert_ok(fm_net_timer_start(alarm->loop, &alarm->timer, 20 * 1000000));
}

// A timer that is set by a callback, before the loop falls asleep, is not overslept.
static void callbacks_set_timers(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct alarm alarm = {.loop = loop, .timer = {.fire = ring, .context = &alarm}};
    const fm_net_connect_options options = {
        .size = sizeof options, .down = set_alarm, .context = &alarm, .security = net_keyed};
    fm_net_conn *conn;
    assert_ok(fm_net_loop_connect(loop, net_unix_address("nobody"), &options, &conn)); // fails at once
    for (int i = 0; i < 10 && !alarm.rung; i++)
        assert_ok(fm_net_loop_progress(loop, FM_NET_FOREVER));
    assert_int_equal(alarm.rung, 1);
    fm_net_loop_free(loop);
}

static void descriptors_are_watched(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fm_net_loop *loop = net_test_loop(NULL);
    struct pipe_watch own = {.loop = loop};
    own.watch = (fm_net_watch){.fd = ends[0], .events = EPOLLIN, .ready = pipe_ready, .context = &own};
    assert_ok(fm_net_watch_start(loop, &own.watch));
    assert_fails(fm_net_watch_start(loop, &own.watch), FM_ERR_EXISTS, "set already");
    assert_int_equal(write(ends[1], "abcd", 4), 4);
    net_until(loop, &own.bytes, 3);
    net_rest(loop, 5);
    assert_int_equal(own.bytes, 3);
    fm_net_watch_stop(loop, &own.watch); // no effect
    fm_net_watch bad = {.fd = -1, .events = EPOLLIN};
    assert_fails(fm_net_watch_start(loop, &bad), FM_ERR_ARG, "-1");
    assert_ok(fm_net_watch_start(loop, &own.watch)); // forgotten with its loop
    fm_net_loop_free(loop);
    close(ends[0]);
    close(ends[1]);
}

static fm_status whole_life(void *context)
{
    const fm_net_security *security = context;
    fm_net_loop *loop;
    FM_TRY(fm_net_loop_new(NULL, &loop));
    struct net_service service = {0};
    struct net_client client = {.loop = loop};
    static struct net_outcome outcomes[3];
    memset(outcomes, 0, sizeof outcomes);
    fm_net_listener *listener;
    const fm_net_listen_options listening = net_service_options(&service, security);
    const fm_net_connect_options connecting = {.size = sizeof connecting, .security = *security};
    fm_status status = fm_net_loop_listen(loop, net_unix_address("life"), &listening, &listener);
    if (status == FM_OK)
        status = fm_net_loop_connect(loop, fm_net_listener_address(listener), &connecting, &client.conn);
    for (int i = 0; i < 3 && status == FM_OK; i++)
        status =
            net_client_call(&client, &outcomes[i], i ? NET_READ : NET_WRITE, 0, i == 2 ? 100000 : 1000, 0);
    for (int i = 0; i < 3 && status == FM_OK; i++) {
        net_until(loop, &outcomes[i].count, 1);
        // A refusal on one side shows as a connection that ended on the other.
        status = outcomes[i].status == FM_ERR_NET_CLOSED ? FM_ERR_NOMEM : outcomes[i].status;
    }
    fm_net_loop_free(loop);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    int fds = net_count_fds();
    fm_net_security modes[] = {net_keyed, net_same_user};
    for (int i = 0; i < 2; i++)
        fm_test_each_alloc_fails(whole_life, &modes[i]);
    assert_int_equal(net_count_fds(), fds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_of_any_size_arrive_once_and_intact),
        cmocka_unit_test(what_a_peer_does_not_accept_is_not_sent),
        cmocka_unit_test(a_checksum_that_is_known_is_believed_and_checked),
        cmocka_unit_test(a_reply_larger_than_its_buffer_is_skipped),
        cmocka_unit_test(listening_says_why_it_cannot),
        cmocka_unit_test(connecting_says_why_it_cannot),
        cmocka_unit_test(loops_share_a_port),
        cmocka_unit_test(one_connection_too_many_is_told_so),
        cmocka_unit_test(running_out_of_descriptors_is_survived),
        cmocka_unit_test(deadlines_end_what_is_not_answered),
        cmocka_unit_test(a_forked_child_keeps_nothing_open),
        cmocka_unit_test(closing_at_any_moment),
        cmocka_unit_test(a_slow_reader_is_left_waiting_and_then_served),
        cmocka_unit_test(a_reader_that_stopped_is_given_up),
        cmocka_unit_test(a_loop_nests_in_another),
        cmocka_unit_test(callbacks_set_timers),
        cmocka_unit_test(descriptors_are_watched),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("net.sock", tests);
}
