// Peers that do not keep to the protocol, and a network between members that changes what it carries.
#include "net_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/mem.h"

#include "net_address.h"
#include "net_frame.h"
#include "net_shake.h"

static const int64_t ms = 1000000;

static int raw_socket(const char *address, struct net_sockaddr *at)
{
    assert_ok(fm_net_address_resolve(address, 0, at));
    int fd = socket(at->storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0);
    return fd;
}

static int raw_connect(const char *address)
{
    struct net_sockaddr at;
    int fd = raw_socket(address, &at);
    int result = connect(fd, (struct sockaddr *)&at.storage, at.size);
    assert_true(result == 0 || errno == EINPROGRESS);
    return fd;
}

static int raw_listen(const char *address)
{
    struct net_sockaddr at;
    int fd = raw_socket(address, &at);
    assert_int_equal(bind(fd, (struct sockaddr *)&at.storage, at.size), 0);
    assert_int_equal(listen(fd, 16), 0);
    return fd;
}

static void raw_send(fm_net_loop *loop, int fd, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    for (int i = 0; size > 0 && i < 20000; i++) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return; // closed already: what the test waits for
        if (sent > 0) {
            at += sent;
            size -= (size_t)sent;
        }
        assert_ok(fm_net_loop_progress(loop, 0));
    }
}

static void raw_receive(fm_net_loop *loop, int fd, void *bytes, size_t size)
{
    uint8_t *at = bytes;
    for (int i = 0; size > 0 && i < 100000; i++) {
        ssize_t received = recv(fd, at, size, 0);
        if (received > 0) {
            at += received;
            size -= (size_t)received;
        } else {
            assert_true(received < 0 && errno == EAGAIN);
        }
        assert_ok(fm_net_loop_progress(loop, 0));
    }
    assert_int_equal(size, 0);
}

// Runs the loop until the other end closes, and closes.
static void raw_expect_close(fm_net_loop *loop, int fd, int limit_ms)
{
    uint8_t bytes[1000];
    uint64_t end_ns = fm_base_clock_ns() + (uint64_t)limit_ms * 1000000;
    for (;;) {
        ssize_t received = recv(fd, bytes, sizeof bytes, 0);
        if (received == 0 || (received < 0 && errno != EAGAIN))
            break;
        if (fm_base_clock_ns() > end_ns)
            fail_msg("the connection is still open after %d ms", limit_ms);
        assert_ok(fm_net_loop_progress(loop, ms));
    }
    close(fd);
}

// The caller's half of a handshake by user.
static int raw_caller(fm_net_loop *loop, const char *address)
{
    static const struct net_shake_offer offer = {.args_bytes_max = 1000};
    static const uint8_t nonce[NET_NONCE_BYTES];
    struct net_shake shake;
    uint8_t message[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    int fd = raw_connect(address);
    assert_ok(fm_net_shake_begin(&shake, 1, &net_same_user, &offer, nonce, message));
    raw_send(loop, fd, message, sizeof message);
    raw_receive(loop, fd, message, sizeof message);
    assert_ok(fm_net_shake_step(&shake, message, answer, &has_answer));
    assert_true(shake.done);
    return fd;
}

// The service's half.
static int raw_service(fm_net_loop *loop, int listener)
{
    static const struct net_shake_offer offer = {64, 1000, NET_PATTERN_BYTES, 0};
    static const uint8_t nonce[NET_NONCE_BYTES];
    struct net_shake shake;
    uint8_t message[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    assert_true(fd >= 0);
    assert_ok(fm_net_shake_begin(&shake, 0, &net_same_user, &offer, nonce, answer));
    raw_receive(loop, fd, message, sizeof message);
    assert_ok(fm_net_shake_step(&shake, message, answer, &has_answer));
    raw_send(loop, fd, answer, sizeof answer);
    return fd;
}

static void raw_frame(fm_net_loop *loop, int fd, const struct net_frame *frame, const void *args)
{
    uint8_t head[NET_FRAME_BYTES];
    assert_ok(fm_net_frame_encode(frame, args, NULL, head));
    raw_send(loop, fd, head, sizeof head);
    raw_send(loop, fd, args, frame->args_bytes);
}

static void any_garbage(fm_gen *gen)
{
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("garbage");
    net_service_listen(&service, loop, address, fm_gen_chance(gen, 0.5) ? &net_keyed : &net_same_user);
    for (int i = 0; i < 10; i++) {
        static uint8_t bytes[300000];
        size_t size = (size_t)fm_gen_size(gen, NET_SHAKE_BYTES, sizeof bytes);
        fm_gen_fill(gen, bytes, size);
        int fd = raw_connect(address);
        raw_send(loop, fd, bytes, size);
        raw_expect_close(loop, fd, 2000);
    }
    assert_int_equal(service.opened, 0);
    fm_net_loop_free(loop);
}

static void garbage_is_closed(void **state)
{
    (void)state;
    fm_gen_property(10, any_garbage);
}

static void strangers_do_not_keep_members_out(void **state)
{
    (void)state;
    enum { STRANGERS = 200 };
    int fds = net_count_fds();
    const fm_net_limits limits = {
        .handshakes_max = 8, .connections_max = 20, .handshake_timeout_ns = 300 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    const char *address = net_unix_address("strangers");
    net_service_listen(&service, loop, address, &net_keyed);
    struct net_client members[14];
    int strangers[STRANGERS];
    for (int i = 0; i < STRANGERS; i++) {
        strangers[i] = raw_connect(address);
        if (i % 20 == 0) {
            net_client_connect(&members[i / 20], loop, address, &net_keyed);
            net_until(loop, &members[i / 20].up, 1);
        }
        assert_ok(fm_net_loop_progress(loop, 0));
    }
    for (int i = 0; i < STRANGERS; i++)
        raw_expect_close(loop, strangers[i], 2000);
    for (int i = 10; i < 14; i++) // several at once, who do not displace each other
        net_client_connect(&members[i], loop, address, &net_keyed);
    for (int i = 10; i < 14; i++)
        net_until(loop, &members[i].up, 1);
    assert_int_equal(service.opened, 14);
    assert_int_equal(service.closed, 0);
    fm_net_loop_free(loop);
    assert_int_equal(net_count_fds(), fds);
}

static void a_handshake_in_drops_is_given_up(void **state)
{
    (void)state;
    const fm_net_limits limits = {.handshake_timeout_ns = 100 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    const char *address = net_unix_address("drops");
    net_service_listen(&service, loop, address, &net_keyed);
    int fd = raw_connect(address);
    uint64_t begin_ns = fm_base_clock_ns();
    for (int i = 0; i < 30; i++) { // each byte in time, the whole not
        raw_send(loop, fd, "F", 1);
        net_rest(loop, 5);
    }
    raw_expect_close(loop, fd, 2000);
    assert_true(fm_base_clock_ns() - begin_ns < 5000 * (uint64_t)ms);
    assert_int_equal(service.opened, 0);

    // The caller's side: a service that accepts and says nothing.
    int silent = raw_listen(net_unix_address("silent"));
    struct net_client client;
    net_client_connect(&client, loop, net_unix_address("silent"), &net_keyed);
    net_until(loop, &client.down, 1);
    assert_int_equal(client.down_status, FM_ERR_TIMEOUT);
    close(silent);
    fm_net_loop_free(loop);
}

static void who_does_not_have_the_key_is_told_why(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("auth");
    net_service_listen(&service, loop, address, &net_keyed);
    fm_net_key other_secret = net_test_key;
    fm_net_key other_cluster = net_test_key;
    other_secret.secret[31] ^= 1;
    other_cluster.cluster_id[0] ^= 1;
    const struct {
        fm_net_security security;
        const char *text;
    } cases[] = {
        {{.mode = FM_NET_KEYED, .key = &other_secret}, "another cluster key"},
        {{.mode = FM_NET_KEYED, .key = &other_cluster}, "another cluster"},
        {{.mode = FM_NET_SAME_USER}, "another way of proving"},
    };
    for (size_t i = 0; i < 3; i++) {
        struct net_client client;
        struct net_outcome outcome;
        net_client_connect(&client, loop, address, &cases[i].security);
        assert_ok(net_client_call(&client, &outcome, NET_READ, 0, 1000, 0));
        net_until(loop, &client.down, 1);
        assert_int_equal(client.down_status, FM_ERR_NET_AUTH);
        if (!strstr(client.down_message, cases[i].text))
            fail_msg("message \"%s\" lacks \"%s\"", client.down_message, cases[i].text);
        assert_int_equal(outcome.status, FM_ERR_NET_AUTH);
        assert_int_equal(outcome.fate, FM_NET_UNSENT);
    }
    assert_int_equal(service.opened + service.served, 0);
    fm_net_loop_free(loop);
}

static void another_user_is_refused(void **state)
{
    (void)state;
    enum { NOBODY = 65534 };
    if (geteuid() != 0)
        fm_test_skip("only root can become another user");
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("users");
    net_service_listen(&service, loop, address, &net_same_user);
    // Open the doors that would keep the other user from getting as far as the check.
    assert_int_equal(chmod(fm_test_tmpdir(), 0755), 0);
    assert_int_equal(chmod(address + strlen("unix:"), 0666), 0);
    for (int other = 0; other < 2; other++) {
        assert_int_equal(seteuid(other ? NOBODY : 0), 0);
        int fd = raw_connect(address);
        assert_int_equal(seteuid(0), 0);
        if (other)
            raw_expect_close(loop, fd, 2000);
        else
            close(fd);
    }
    // The other way round: a caller finds a service of another user.
    assert_int_equal(chmod(fm_test_tmpdir(), 0777), 0);
    assert_int_equal(seteuid(NOBODY), 0);
    int listener = raw_listen(net_unix_address("theirs"));
    assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(fm_test_tmpdir(), 0700), 0);
    struct net_client client;
    net_client_connect(&client, loop, net_unix_address("theirs"), &net_same_user);
    net_until(loop, &client.down, 1);
    assert_int_equal(client.down_status, FM_ERR_NET_AUTH);
    assert_non_null(strstr(client.down_message, "belongs to user 65534"));
    close(listener);
    assert_int_equal(service.opened, 0);
    fm_net_loop_free(loop);
}

static void callers_that_break_the_protocol_are_closed(void **state)
{
    (void)state;
    const fm_net_limits limits = {
        .args_bytes_max = 100, .payload_bytes_max = 1000, .stall_timeout_ns = 60 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    const char *address = net_unix_address("callers");
    net_service_listen(&service, loop, address, &net_same_user);
    const uint8_t args[200] = {0};
    const struct {
        struct net_frame frame;
        fm_status status;
    } cases[] = {
        {{.kind = NET_REQUEST, .code = NET_READ, .args_bytes = 101}, FM_ERR_LIMIT},
        {{.kind = NET_REQUEST, .code = NET_WRITE, .payload_bytes = 1001}, FM_ERR_LIMIT},
        {{.kind = NET_REQUEST, .code = NET_WRITE, .payload_bytes = UINT32_MAX}, FM_ERR_LIMIT},
        {{.kind = NET_REPLY}, FM_ERR_FORMAT},
        {{.kind = 9}, FM_ERR_FORMAT},
        {{.kind = NET_REQUEST, .flags = 2}, FM_ERR_FORMAT},
        {{.kind = NET_REQUEST, .payload_tag = {1}}, FM_OK}, // means nothing without a payload
        {{.kind = NET_REQUEST, .payload_bytes = 10, .payload_crc = 1},
         FM_ERR_TIMEOUT}, // half of it never comes
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = raw_caller(loop, address);
        service.closed_status = FM_OK;
        int before = service.closed;
        raw_frame(loop, fd, &cases[i].frame, args);
        if (cases[i].status < 0)
            raw_expect_close(loop, fd, 3000);
        else
            close(fd);
        net_until(loop, &service.closed, before + 1);
        assert_int_equal(service.closed_status, cases[i].status ? cases[i].status : FM_ERR_NET_CLOSED);
    }
    assert_int_equal(service.landed, 1);
    assert_int_equal(service.dropped, 1);

    // A payload whose checksum is wrong.
    int fd = raw_caller(loop, address);
    raw_frame(loop, fd, &(struct net_frame){.kind = NET_REQUEST, .payload_bytes = 10, .payload_crc = 1},
              args);
    raw_send(loop, fd, args, 10);
    raw_expect_close(loop, fd, 3000);
    assert_int_equal(service.dropped, 2);

    // A part of a header.
    fd = raw_caller(loop, address);
    raw_send(loop, fd, "FMN\xF5", 4);
    raw_expect_close(loop, fd, 3000);
    assert_int_equal(service.closed_status, FM_ERR_TIMEOUT);
    fm_net_loop_free(loop);
}

static void more_requests_than_the_window_are_not_taken(void **state)
{
    (void)state;
    const fm_net_limits limits = {.window = 4};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    const char *address = net_unix_address("window");
    net_service_listen(&service, loop, address, &net_same_user);
    int fd = raw_caller(loop, address);
    for (uint64_t i = 0; i < 5; i++)
        raw_frame(loop, fd, &(struct net_frame){.kind = NET_REQUEST, .id = i, .code = NET_HOLD}, NULL);
    raw_expect_close(loop, fd, 3000);
    assert_int_equal(service.served, 4);
    assert_int_equal(service.closed_status, FM_ERR_FORMAT);
    net_service_release(&service);
    net_until(loop, &service.sent, 4);
    fm_net_loop_free(loop);
}

// A caller that sends without end and reads nothing costs a bounded number of answers.
static void requests_that_are_refused_are_bounded_too(void **state)
{
    (void)state;
    const fm_net_limits limits = {
        .window = 1000000, .reply_queue_bytes_max = 20000, .stall_timeout_ns = 100 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    const char *address = net_unix_address("flood");
    net_service_listen(&service, loop, address, &net_same_user);
    int fd = raw_caller(loop, address);
    static uint8_t frames[2000][NET_FRAME_BYTES];
    for (uint64_t i = 0; i < 2000; i++)
        assert_ok(fm_net_frame_encode(&(struct net_frame){.kind = NET_REQUEST, .id = i, .code = 77}, NULL,
                                      NULL, frames[i]));
    for (int i = 0; i < 20 && service.closed == 0; i++)
        raw_send(loop, fd, frames, sizeof frames);
    // An unread answer of 90 bytes costs the kernel a buffer of 768; it takes a few hundred before ours fill.
    assert_true(service.served < 5000);
    net_until(loop, &service.closed, 1);
    assert_int_equal(service.closed_status, FM_ERR_TIMEOUT);
    close(fd);
    fm_net_loop_free(loop);
}

static void services_that_break_the_protocol_are_left(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    const char *address = net_unix_address("services");
    int listener = raw_listen(address);
    const uint8_t bytes[2000] = {0};
    const struct {
        struct net_frame frame; // id 0 is that of the first call
        fm_status down_status;
    } cases[] = {
        {{.kind = NET_REPLY, .id = 1}, FM_ERR_FORMAT},                 // to no call
        {{.kind = NET_REPLY, .id = (uint64_t)1 << 32}, FM_ERR_FORMAT}, // to a call of another time
        {{.kind = NET_REPLY, .id = UINT64_MAX}, FM_ERR_FORMAT},
        {{.kind = NET_REQUEST, .id = 0}, FM_ERR_FORMAT},
        {{.kind = NET_REPLY, .code = 1}, FM_ERR_FORMAT},
        {{.kind = NET_REPLY, .payload_bytes = 100, .payload_crc = 5}, FM_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct net_client client;
        struct net_outcome outcome;
        net_client_connect(&client, loop, address, &net_same_user);
        assert_ok(net_client_call(&client, &outcome, NET_READ, 0, 100, 0));
        int fd = raw_service(loop, listener);
        uint8_t request[NET_FRAME_BYTES + sizeof(struct net_slice)];
        raw_receive(loop, fd, request, sizeof request);
        raw_frame(loop, fd, &cases[i].frame, NULL);
        raw_send(loop, fd, bytes, cases[i].frame.payload_bytes);
        net_until(loop, &client.down, 1);
        assert_int_equal(client.down_status, cases[i].down_status);
        assert_int_equal(outcome.count, 1);
        assert_int_equal(outcome.status, cases[i].down_status);
        close(fd);
    }

    // Answers twice; answers a request that it has not read to its end.
    for (int early = 0; early < 2; early++) {
        struct net_client client;
        struct net_outcome outcome;
        net_client_connect(&client, loop, address, &net_same_user);
        int fd = raw_service(loop, listener);
        net_until(loop, &client.up, 1);
        assert_ok(net_client_call(&client, &outcome, early ? NET_WRITE : NET_READ, 0,
                                  early ? NET_PATTERN_BYTES : 0, 0));
        uint8_t request[NET_FRAME_BYTES + sizeof(struct net_slice)];
        raw_receive(loop, fd, request, sizeof request);
        raw_frame(loop, fd, &(struct net_frame){.kind = NET_REPLY}, NULL);
        if (!early)
            raw_frame(loop, fd, &(struct net_frame){.kind = NET_REPLY}, NULL);
        net_until(loop, &client.down, 1);
        assert_int_equal(client.down_status, FM_ERR_FORMAT);
        assert_non_null(strstr(client.down_message, early ? "still being sent" : "not made"));
        assert_int_equal(outcome.count, 1);
        close(fd);
    }
    close(listener);
    fm_net_loop_free(loop);
}

// Carries the bytes of one connection, and changes them on the way.
struct proxy {
    fm_net_loop *loop;
    int listener;
    int ends[2];     // to the caller, to the service
    size_t count[2]; // bytes carried from the caller, from the service
    int changed;     // direction, and place, of the change
    size_t place;
    enum { CARRY, FLIP, DROP, REPEAT, STOP } change;
    uint8_t bit;
    uint8_t recorded[4096]; // from the caller
};

static void proxy_begin(struct proxy *proxy, fm_net_loop *loop, const char *address)
{
    *proxy = (struct proxy){.loop = loop, .ends = {-1, -1}, .listener = raw_listen(address)};
}

static void proxy_end(struct proxy *proxy, const char *address)
{
    close(proxy->listener);
    close(proxy->ends[0]);
    close(proxy->ends[1]);
    unlink(address + strlen("unix:"));
}

static void proxy_carry(struct proxy *proxy, int from)
{
    uint8_t bytes[4096];
    uint8_t out[8192];
    size_t out_size = 0;
    ssize_t size = recv(proxy->ends[from], bytes, sizeof bytes, MSG_DONTWAIT);
    if (size == 0)
        shutdown(proxy->ends[!from], SHUT_WR);
    for (ssize_t i = 0; i < size; i++) {
        size_t place = proxy->count[from]++;
        if (from == 0 && place < sizeof proxy->recorded)
            proxy->recorded[place] = bytes[i];
        int hit = proxy->change != CARRY && from == proxy->changed && place == proxy->place;
        if (proxy->change == STOP && from == proxy->changed && place >= proxy->place)
            continue;
        if (!(hit && proxy->change == DROP))
            out[out_size++] = hit && proxy->change == FLIP ? (uint8_t)(bytes[i] ^ proxy->bit) : bytes[i];
        if (hit && proxy->change == REPEAT)
            out[out_size++] = bytes[i];
    }
    (void)!send(proxy->ends[!from], out, out_size, MSG_NOSIGNAL);
}

static void proxy_step(struct proxy *proxy, const char *service)
{
    if (proxy->ends[0] < 0) {
        proxy->ends[0] = accept4(proxy->listener, NULL, NULL, SOCK_NONBLOCK);
        if (proxy->ends[0] >= 0)
            proxy->ends[1] = raw_connect(service);
    }
    for (int from = 0; from < 2 && proxy->ends[0] >= 0; from++)
        proxy_carry(proxy, from);
}

enum { SESSION_CALLS = 4 };

// A session through the proxy; returns how many of its calls succeeded.
static int session(struct proxy *proxy, struct net_service *service, const char *through, const char *to)
{
    static struct net_outcome outcomes[SESSION_CALLS];
    struct net_client client;
    *service = (struct net_service){0};
    net_client_connect(&client, proxy->loop, through, &net_keyed);
    assert_ok(net_client_call(&client, &outcomes[0], NET_WRITE, 0, 300, 100 * ms));
    assert_ok(net_client_call(&client, &outcomes[1], NET_READ, 100, 500, 100 * ms));
    assert_ok(net_client_call(&client, &outcomes[2], NET_WRITE, 0, 0, 100 * ms));
    assert_ok(net_client_call(&client, &outcomes[3], NET_READ, 7, 40, 100 * ms));
    int ended = 0;
    while (ended < SESSION_CALLS) {
        proxy_step(proxy, to);
        assert_ok(fm_net_loop_progress(proxy->loop, ms / 10));
        ended = 0;
        for (int i = 0; i < SESSION_CALLS; i++)
            ended += outcomes[i].count;
    }
    int good = 0;
    for (int i = 0; i < SESSION_CALLS; i++) {
        assert_int_equal(outcomes[i].count, 1);
        assert_int_not_equal(outcomes[i].status, FM_ERR_INTERNAL); // wrong bytes that were taken for good
        good += outcomes[i].status == FM_OK;
    }
    if (client.conn)
        fm_net_conn_close(client.conn);
    net_until(proxy->loop, &client.down, 1);
    return good;
}

static void whatever_the_network_changes_is_noticed(void **state)
{
    (void)state;
    const fm_net_limits limits = {.stall_timeout_ns = 30 * ms, .handshake_timeout_ns = 30 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service;
    const char *to = net_unix_address("proxied");
    const char *through = net_unix_address("proxy");
    net_service_listen(&service, loop, to, &net_keyed);
    fm_gen gen = fm_gen_seeded(1);
    struct proxy proxy;
    proxy_begin(&proxy, loop, through);
    assert_int_equal(session(&proxy, &service, through, to), SESSION_CALLS);
    const size_t sizes[2] = {proxy.count[0], proxy.count[1]};
    assert_int_equal(sizes[0], 2 * NET_SHAKE_BYTES + 4 * (NET_FRAME_BYTES + sizeof(struct net_slice)) + 300);
    assert_int_equal(sizes[1], 2 * NET_SHAKE_BYTES + 4 * NET_FRAME_BYTES + 540);
    proxy_end(&proxy, through);
    for (int from = 0; from < 2; from++)
        for (size_t place = 0; place < sizes[from]; place += place < 600 ? 1 : 37) {
            proxy_begin(&proxy, loop, through);
            proxy.changed = from;
            proxy.place = place;
            // A bit of every byte; the other changes here and there, for they differ only in where they are
            // noticed.
            proxy.change = place % 29 == 28 ? (fm_gen_chance(&gen, 0.5) ? DROP : REPEAT) : FLIP;
            if (place % 151 == 150)
                proxy.change = STOP;
            proxy.bit = (uint8_t)(1 << fm_gen_int(&gen, 0, 7));
            assert_true(session(&proxy, &service, through, to) < SESSION_CALLS);
            proxy_end(&proxy, through);
        }
    fm_net_loop_free(loop);
}

static void a_recorded_session_gets_nothing(void **state)
{
    (void)state;
    const fm_net_limits limits = {.handshake_timeout_ns = 50 * ms};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service;
    const char *to = net_unix_address("recorded");
    const char *through = net_unix_address("recorder");
    struct proxy proxy;
    net_service_listen(&service, loop, to, &net_keyed);
    proxy_begin(&proxy, loop, through);
    assert_int_equal(session(&proxy, &service, through, to), SESSION_CALLS);
    service = (struct net_service){0};
    // All at once, and the hello alone, waiting for the challenge first.
    int fd = raw_connect(to);
    raw_send(loop, fd, proxy.recorded, proxy.count[0]);
    raw_expect_close(loop, fd, 2000);
    fd = raw_connect(to);
    uint8_t challenge[NET_SHAKE_BYTES];
    raw_send(loop, fd, proxy.recorded, NET_SHAKE_BYTES);
    raw_receive(loop, fd, challenge, sizeof challenge);
    raw_send(loop, fd, proxy.recorded + NET_SHAKE_BYTES, proxy.count[0] - NET_SHAKE_BYTES);
    raw_expect_close(loop, fd, 2000);
    assert_int_equal(service.opened + service.served, 0);
    proxy_end(&proxy, through);
    fm_net_loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(garbage_is_closed),
        cmocka_unit_test(strangers_do_not_keep_members_out),
        cmocka_unit_test(a_handshake_in_drops_is_given_up),
        cmocka_unit_test(who_does_not_have_the_key_is_told_why),
        cmocka_unit_test(another_user_is_refused),
        cmocka_unit_test(callers_that_break_the_protocol_are_closed),
        cmocka_unit_test(more_requests_than_the_window_are_not_taken),
        cmocka_unit_test(requests_that_are_refused_are_bounded_too),
        cmocka_unit_test(services_that_break_the_protocol_are_left),
        cmocka_unit_test(whatever_the_network_changes_is_noticed),
        cmocka_unit_test(a_recorded_session_gets_nothing),
    };
    return fm_test_run("net.hostile", tests);
}
