// Connections in TLS: who gets in and who is told why not, bulk both ways, and what a network between the ends can do.
#include "net_peer.h"
#include "fm_certs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/mem.h"

#include "net_address.h"
#include "net_frame.h"
#include "net_shake.h"
#include "net_tls.h"

static const char any_port[] = "127.0.0.1:0";

static fm_status new_tls(const char *cert, const char *key, const char *ca, fm_net_tls **out_tls)
{
    const fm_net_tls_options options = {.size = sizeof options,
                                        .cert = cert ? fm_test_cert(cert) : NULL,
                                        .key = key ? fm_test_cert(key) : NULL,
                                        .ca = ca ? fm_test_cert(ca) : NULL};
    return fm_net_tls_new(&options, out_tls);
}

// The member's TLS, or a skip where there is no way to have one.
static fm_net_tls *member(const char *name, const char *ca)
{
    char cert[64];
    char key[64];
    char authority[64];
    fm_net_tls *tls = NULL;
    snprintf(cert, sizeof cert, "%s.pem", name);
    snprintf(key, sizeof key, "%s.key", name);
    snprintf(authority, sizeof authority, "%s.pem", ca);
    fm_status status = new_tls(cert, key, authority, &tls);
    if (status == FM_ERR_UNSUPPORTED)
        fm_test_skip("built without TLS");
    assert_ok(status);
    return tls;
}

// The same with a list of what is revoked, and the name that services must have.
static fm_net_tls *careful(const char *name, const char *crl, const char *service)
{
    char cert[64];
    char key[64];
    fm_net_tls *tls;
    snprintf(cert, sizeof cert, "%s.pem", name);
    snprintf(key, sizeof key, "%s.key", name);
    const fm_net_tls_options options = {.size = sizeof options,
                                        .cert = fm_test_cert(cert),
                                        .key = fm_test_cert(key),
                                        .ca = fm_test_cert("ca.pem"),
                                        .crl = crl ? fm_test_cert(crl) : NULL,
                                        .name = service};
    assert_ok(fm_net_tls_new(&options, &tls));
    return tls;
}

static fm_net_security in_tls(fm_net_tls *tls, const fm_net_key *key)
{
    return (fm_net_security){.mode = FM_NET_KEYED, .key = key, .tls = tls};
}

static void files_are_read_with_care(void **state)
{
    (void)state;
    fm_net_tls *tls = member("a", "ca");
    fm_net_tls_free(tls);
    fm_net_tls_free(NULL);
    tls = NULL;
    assert_fails(new_tls(NULL, "a.key", "ca.pem", &tls), FM_ERR_ARG, "no file with the certificate is given");
    assert_fails(new_tls("a.pem", NULL, "ca.pem", &tls), FM_ERR_ARG, "private key");
    assert_fails(new_tls("a.pem", "a.key", NULL, &tls), FM_ERR_ARG, "the CA");
    assert_fails(new_tls("none.pem", "a.key", "ca.pem", &tls), FM_ERR_NOT_FOUND, "none.pem");
    assert_fails(new_tls("a.pem", "open.key", "ca.pem", &tls), FM_ERR_PERM, "chmod it to 600");
    assert_fails(new_tls("nonsense", "a.key", "ca.pem", &tls), FM_ERR_FORMAT, "nonsense is no certificate");
    assert_fails(new_tls("a.pem", "nonsense", "ca.pem", &tls), FM_ERR_FORMAT, "not the private key");
    assert_fails(new_tls("a.pem", "b.key", "ca.pem", &tls), FM_ERR_FORMAT,
                 "not the private key of the certificate");
    assert_fails(new_tls("a.pem", "locked.key", "ca.pem", &tls), FM_ERR_FORMAT, "without a password");
    assert_fails(new_tls("a.pem", "a.key", "nonsense", &tls), FM_ERR_FORMAT, "no CA's certificate");
    fm_net_tls_options options = {.size = sizeof options,
                                  .cert = fm_test_cert("a.pem"),
                                  .key = fm_test_cert("a.key"),
                                  .ca = fm_test_cert("ca.pem"),
                                  .crl = fm_test_cert("none.crl")};
    assert_fails(fm_net_tls_new(&options, &tls), FM_ERR_NOT_FOUND, "none.crl");
    options.crl = fm_test_cert("ca.pem");
    assert_fails(fm_net_tls_new(&options, &tls), FM_ERR_FORMAT, "no list of revoked certificates");
    options.crl = NULL;
    options.name = "";
    assert_fails(fm_net_tls_new(&options, &tls), FM_ERR_ARG, "expected 1 to 253");
    assert_null(tls);
}

enum { CLIENTS = 3, CALLS = 40 };

static void any_calls(fm_gen *gen)
{
    fm_net_tls *tls[] = {member("a", "ca"), member("b", "ca")};
    const fm_net_limits limits = {.window = (uint32_t)fm_gen_int(gen, 1, 20),
                                  .reply_queue_bytes_max = (uint32_t)fm_gen_size(gen, 1, 1 << 20)};
    fm_net_loop *loops[] = {net_test_loop(&limits), net_test_loop(NULL)};
    struct net_service service = {0};
    fm_net_security security = in_tls(tls[0], &net_test_key);
    fm_net_listener *listener = net_service_listen(&service, loops[0], any_port, &security);
    struct net_client clients[CLIENTS];
    static struct net_outcome outcomes[CALLS];
    security.tls = tls[1];
    for (int i = 0; i < CLIENTS; i++)
        net_client_connect(&clients[i], loops[1], fm_net_listener_address(listener), &security);
    fm_net_tls_free(tls[0]); // who needs them has them
    fm_net_tls_free(tls[1]);
    int64_t budget = 12 << 20;
    for (int i = 0; i < CALLS; i++) {
        uint32_t size = (uint32_t)fm_gen_size(gen, 0, fm_gen_chance(gen, 0.2) ? NET_PATTERN_BYTES : 40000);
        size = size < budget ? size : 0;
        budget -= size;
        uint32_t at = (uint32_t)fm_gen_int(gen, 0, NET_PATTERN_BYTES - (int64_t)size);
        assert_ok(net_client_call(&clients[fm_gen_int(gen, 0, CLIENTS - 1)], &outcomes[i],
                                  fm_gen_chance(gen, 0.5) ? NET_READ : NET_WRITE, at, size, 0));
        for (int l = 0; l < 2 && fm_gen_chance(gen, 0.3); l++)
            assert_ok(fm_net_loop_progress(loops[l], 0));
    }
    for (int i = 0; i < CALLS; i++) {
        net_pump(loops, 2, &outcomes[i].count, 1, 30000);
        if (outcomes[i].status < 0)
            fail_msg("call %d: %s", i, outcomes[i].message);
    }
    assert_int_equal(service.served, CALLS);
    fm_net_loop_free(loops[1]);
    fm_net_loop_free(loops[0]);
    assert_int_equal(service.opened, service.closed);
}

static void a_good_pair_talks(void **state)
{
    (void)state;
    fm_gen_property(8, any_calls);
}

// Connects, and expects that it comes up.
static void expect_welcome(const fm_net_security *caller, const fm_net_security *service_security,
                           const char *host)
{
    char address[FM_NET_ADDRESS_BYTES];
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, service_security);
    snprintf(address, sizeof address, "%s%s", host, strchr(fm_net_listener_address(listener), ':'));
    net_client_connect(&client, loop, address, caller);
    net_until(loop, &client.up, 1);
    fm_net_loop_free(loop);
}

// Connects and expects that it comes to nothing, for a reason.
static void expect_refusal(const fm_net_security *caller, const fm_net_security *service_security,
                           fm_status status, const char *text)
{
    fm_net_loop *loops[] = {net_test_loop(NULL), net_test_loop(NULL)};
    struct net_service service = {0};
    struct net_client client;
    fm_net_listener *listener = net_service_listen(&service, loops[0], any_port, service_security);
    net_client_connect(&client, loops[1], fm_net_listener_address(listener), caller);
    net_pump(loops, 2, &client.down, 1, 30000);
    if (client.down_status != status || !strstr(client.down_message, text))
        fail_msg("status %d, \"%s\"; expected %d, \"%s\"", client.down_status, client.down_message, status,
                 text);
    assert_int_equal(service.opened, 0);
    fm_net_loop_free(loops[1]);
    fm_net_loop_free(loops[0]);
}

static void strangers_are_told_why(void **state)
{
    (void)state;
    const fm_net_key other_key = {{7, 7, 7}, {9}};
    fm_net_tls *a = member("a", "ca");
    fm_net_tls *b = member("b", "ca");
    fm_net_tls *foreign = member("foreign", "ca");
    fm_net_tls *old = member("old", "ca");
    const fm_net_security good = in_tls(a, &net_test_key);
    const struct {
        fm_net_security caller, service;
        const char *text;
    } cases[] = {
        {in_tls(foreign, &net_test_key), good, "refuses this end's certificate or its TLS"},
        {good, in_tls(foreign, &net_test_key), "its certificate is refused"},
        {in_tls(old, &net_test_key), good, "refuses this end's certificate or its TLS"},
        {good, in_tls(old, &net_test_key), "its certificate is refused: certificate has expired"},
        {net_keyed, good, "the peer expects TLS"},
        {good, net_keyed, "the peer does not use TLS"},
        {in_tls(b, &other_key), good, "another cluster key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        expect_refusal(&cases[i].caller, &cases[i].service, FM_ERR_NET_AUTH, cases[i].text);
    // A service that is full says so to callers in TLS, too.
    const fm_net_limits full = {.connections_max = 1};
    fm_net_loop *loop = net_test_loop(&full);
    struct net_service service = {0};
    struct net_client clients[2];
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &good);
    net_client_connect(&clients[0], loop, fm_net_listener_address(listener), &good);
    net_until(loop, &clients[0].up, 1);
    net_client_connect(&clients[1], loop, fm_net_listener_address(listener), &good);
    net_until(loop, &clients[1].down, 1);
    assert_int_equal(clients[1].down_status, FM_ERR_NET_REFUSED);
    assert_non_null(strstr(clients[1].down_message, "all the connections that it takes"));
    fm_net_loop_free(loop);
    fm_net_tls_free(a);
    fm_net_tls_free(b);
    fm_net_tls_free(foreign);
    fm_net_tls_free(old);
}

// named.pem is of "localhost", "*.fathom.test" and 127.0.0.1; a.pem has no name but in its subject.
static void services_are_known_by_name(void **state)
{
    (void)state;
    fm_net_tls_free(member("a", "ca"));                              // makes the files, or skips
    fm_net_tls *named = careful("named", NULL, "elsewhere.example"); // of no meaning for who listens
    fm_net_tls *a = careful("a", NULL, NULL);
    const fm_net_security services[] = {in_tls(named, &net_test_key), in_tls(a, &net_test_key)};
    static const struct {
        const char *name, *host;
        int is_right;
    } cases[] = {
        {"*", "127.0.0.1", 1},           {"*", "localhost", 1},
        {"localhost", "127.0.0.1", 1},   {"chunks.fathom.test", "127.0.0.1", 1},
        {"127.0.0.1", "localhost", 1},   {"127.0.0.2", "127.0.0.1", 0},
        {"fathom.test", "127.0.0.1", 0}, {"other.example", "localhost", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_net_tls *tls = careful("b", NULL, cases[i].name);
        const fm_net_security caller = in_tls(tls, &net_test_key);
        if (cases[i].is_right)
            expect_welcome(&caller, &services[0], cases[i].host);
        else
            expect_refusal(&caller, &services[0], FM_ERR_NET_AUTH, cases[i].name);
        expect_refusal(&caller, &services[1], FM_ERR_NET_AUTH, "among its subjectAltNames");
        fm_net_tls_free(tls);
    }
    fm_net_tls *subject = careful("b", NULL, "a"); // a subject is no name of a service
    const fm_net_security caller = in_tls(subject, &net_test_key);
    expect_refusal(&caller, &services[1], FM_ERR_NET_AUTH, "expected a among its subjectAltNames");
    fm_net_tls_free(subject);
    fm_net_tls_free(named);
    fm_net_tls_free(a);
}

// ca.crl revokes revoked.pem, stale.crl nothing but is past its next update, and other.crl is of the other CA.
static void revoked_certificates_are_refused(void **state)
{
    (void)state;
    fm_net_tls_free(member("a", "ca"));
    fm_net_tls *all[] = {careful("b", NULL, NULL), careful("revoked", NULL, NULL),
                         careful("a", "ca.crl", NULL), careful("a", "other.crl", NULL),
                         careful("a", "stale.crl", NULL)};
    const fm_net_security b = in_tls(all[0], &net_test_key), revoked = in_tls(all[1], &net_test_key);
    const fm_net_security strict = in_tls(all[2], &net_test_key), other = in_tls(all[3], &net_test_key);
    const fm_net_security stale = in_tls(all[4], &net_test_key);
    expect_welcome(&strict, &b, "127.0.0.1");
    expect_welcome(&b, &strict, "127.0.0.1");
    expect_welcome(&revoked, &b, "127.0.0.1"); // who has no list cannot know
    expect_refusal(&strict, &revoked, FM_ERR_NET_AUTH, "its certificate is refused: certificate revoked");
    expect_refusal(&revoked, &strict, FM_ERR_NET_AUTH, "refuses this end's certificate or its TLS");
    expect_refusal(&other, &b, FM_ERR_NET_AUTH, "unable to get certificate CRL");
    expect_refusal(&stale, &b, FM_ERR_NET_AUTH, "CRL has expired");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        fm_net_tls_free(all[i]);
}

// UNIX sockets are the kernel's to guard.
static void unix_sockets_take_no_notice(void **state)
{
    (void)state;
    fm_net_tls *a = member("a", "ca");
    const fm_net_security security = in_tls(a, &net_test_key);
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    net_service_listen(&service, loop, net_unix_address("plain"), &security);
    net_client_connect(&client, loop, net_unix_address("plain"), &net_keyed);
    net_until(loop, &client.up, 1);
    fm_net_loop_free(loop);
    fm_net_tls_free(a);
}

/* Between the ends */

static int raw_connect(const char *address)
{
    struct net_sockaddr at;
    assert_ok(fm_net_address_resolve(address, 0, &at));
    int fd = socket(at.storage.ss_family, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at.storage, at.size), 0);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

static int raw_listen(char address[FM_NET_ADDRESS_BYTES])
{
    struct net_sockaddr at;
    struct net_sockaddr bound = {.size = sizeof bound.storage};
    assert_ok(fm_net_address_resolve(any_port, 1, &at));
    int fd = socket(at.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at.storage, at.size), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&bound.storage, &bound.size), 0);
    fm_net_address_name(&bound, address);
    return fd;
}

// Carries one connection, and may flip a bit of a byte, or stop there.
struct relay {
    int listener, ends[2]; // to the caller, to the service
    size_t count[2];
    int from; // whose bytes are changed
    size_t place;
    enum { CARRY, FLIP, CUT } change;
    const uint8_t *needle; // 32 bytes that are looked for in what passes
    int found;
};

static void relay_carry(struct relay *relay, int from)
{
    uint8_t bytes[1 << 16];
    ssize_t size = recv(relay->ends[from], bytes, sizeof bytes, 0);
    if (size == 0 || (size < 0 && errno != EAGAIN))
        shutdown(relay->ends[!from], SHUT_WR);
    if (size <= 0)
        return;
    relay->found |= relay->needle && memmem(bytes, (size_t)size, relay->needle, 32) != NULL;
    size_t begin = relay->count[from];
    relay->count[from] += (size_t)size;
    if (from == relay->from && relay->place >= begin && relay->place < begin + (size_t)size) {
        if (relay->change == FLIP)
            bytes[relay->place - begin] ^= 4;
        if (relay->change == CUT) {
            (void)!send(relay->ends[!from], bytes, relay->place - begin, MSG_NOSIGNAL);
            shutdown(relay->ends[0], SHUT_RDWR);
            shutdown(relay->ends[1], SHUT_RDWR);
            return;
        }
    }
    // Whole: the ends read all that comes.
    assert_int_equal(fcntl(relay->ends[!from], F_SETFL, 0), 0);
    (void)!send(relay->ends[!from], bytes, (size_t)size, MSG_NOSIGNAL);
    assert_int_equal(fcntl(relay->ends[!from], F_SETFL, O_NONBLOCK), 0);
}

static void relay_step(struct relay *relay, const char *service)
{
    if (relay->ends[0] < 0) {
        relay->ends[0] = accept4(relay->listener, NULL, NULL, SOCK_NONBLOCK);
        if (relay->ends[0] >= 0)
            relay->ends[1] = raw_connect(service);
    }
    for (int from = 0; from < 2 && relay->ends[0] >= 0; from++)
        relay_carry(relay, from);
}

// A read and a write through the relay; returns how many went well. `down` is how the connection ended before it was closed.
static int session(struct relay *relay, const fm_net_security *security, fm_status *out_down,
                   fm_status *out_closed)
{
    enum { SIZE = 60000 }; // what the sockets hold, so that the relay never blocks
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    static struct net_outcome outcomes[2];
    char address[FM_NET_ADDRESS_BYTES];
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, security);
    relay->listener = raw_listen(address);
    relay->ends[0] = relay->ends[1] = -1;
    relay->count[0] = relay->count[1] = 0;
    net_client_connect(&client, loop, address, security);
    memset(outcomes, 0, sizeof outcomes);
    assert_ok(net_client_call(&client, &outcomes[0], NET_READ, 0, SIZE, 0));
    assert_ok(net_client_call(&client, &outcomes[1], NET_WRITE, 0, SIZE, 0));
    uint64_t end_ns = fm_base_clock_ns() + 30000000000u;
    while (!client.down && outcomes[0].count + outcomes[1].count < 2) {
        relay_step(relay, fm_net_listener_address(listener));
        assert_ok(fm_net_loop_progress(loop, 100000));
        assert_true(fm_base_clock_ns() < end_ns);
    }
    for (int i = 0; i < 20; i++) { // whoever noticed, the other one sees the end
        relay_step(relay, fm_net_listener_address(listener));
        assert_ok(fm_net_loop_progress(loop, 0));
    }
    *out_down = client.down ? client.down_status : FM_OK;
    *out_closed = service.closed_status;
    int good = 0;
    for (int i = 0; i < 2; i++) {
        good += outcomes[i].count == 1 && outcomes[i].status == FM_OK;
        assert_int_not_equal(outcomes[i].status, FM_ERR_INTERNAL); // wrong bytes under a good status
    }
    fm_net_loop_free(loop);
    close(relay->listener);
    close(relay->ends[0]);
    close(relay->ends[1]);
    return good;
}

static void nothing_is_readable_on_the_way(void **state)
{
    (void)state;
    fm_net_tls *a = member("a", "ca");
    const fm_net_security security = in_tls(a, &net_test_key);
    fm_status down;
    fm_status closed;
    struct relay relay = {.needle = net_pattern() + 2000, .from = -1};
    assert_int_equal(session(&relay, &net_keyed, &down, &closed), 2);
    assert_true(relay.found); // without TLS it is
    relay.found = 0;
    assert_int_equal(session(&relay, &security, &down, &closed), 2);
    assert_false(relay.found);
    fm_net_tls_free(a);
}

static void any_damage(fm_gen *gen)
{
    fm_net_tls *a = member("a", "ca");
    const fm_net_security security = in_tls(a, &net_test_key);
    fm_status down;
    fm_status closed;
    // Each end sends some 62,000 bytes. In the first hundreds there are versions that TLS bids everybody ignore.
    struct relay relay = {.from = (int)fm_gen_int(gen, 0, 1), .change = fm_gen_chance(gen, 0.5) ? FLIP : CUT};
    relay.place = (size_t)fm_gen_size(gen, relay.change == FLIP ? 600 : 0, 60000);
    assert_true(session(&relay, &security, &down, &closed) < 2);
    assert_true(down < 0);
    fm_net_tls_free(a);
}

static void damage_ends_the_connection(void **state)
{
    (void)state;
    fm_gen_property(40, any_damage);
}

// Who has certificates that both ends trust, and stands between them, but has no cluster key: it can read the handshake
// that goes through it, and must not be able to become the other end by passing it on.
static void certificates_alone_are_not_enough(void **state)
{
    (void)state;
    fm_net_tls *a = member("a", "ca");
    fm_net_tls *b = member("b", "ca");
    const fm_net_security security = in_tls(a, &net_test_key);
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    char address[FM_NET_ADDRESS_BYTES];
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &security);
    int middle = raw_listen(address);
    net_client_connect(&client, loop, address, &security);
    int ends[2] = {-1, -1};
    struct net_tls_session *sessions[2];
    int up[2] = {0, 0};
    uint8_t bytes[4096];
    size_t carried = 0;
    size_t size;
    fm_status why;
    for (int i = 0; i < 100000 && !client.down; i++) {
        assert_ok(fm_net_loop_progress(loop, 100000));
        if (ends[0] < 0) {
            ends[0] = accept4(middle, NULL, NULL, SOCK_NONBLOCK);
            if (ends[0] < 0)
                continue;
            ends[1] = raw_connect(fm_net_listener_address(listener));
            for (int e = 0; e < 2; e++)
                assert_ok(fm_net_tls_session_new(b, ends[e], e ? "127.0.0.1" : NULL, &sessions[e]));
        }
        for (int e = 0; e < 2; e++)
            if (!up[e])
                up[e] = fm_net_tls_handshake(sessions[e], &why) == NET_TLS_DONE;
        for (int e = 0; e < 2 && up[0] && up[1]; e++)
            if (fm_net_tls_read(sessions[e], bytes, sizeof bytes, &size, &why) == NET_TLS_DONE) {
                carried += size;
                (void)!fm_net_tls_write(sessions[!e], bytes, size, &size, &why);
            }
    }
    assert_int_equal(client.down, 1);
    assert_true(carried >= 4 * (size_t)NET_SHAKE_BYTES); // hello, challenge, proof, and the refusal
    assert_int_equal(client.down_status, FM_ERR_NET_AUTH);
    assert_non_null(strstr(client.down_message, "another cluster key"));
    assert_int_equal(service.opened, 0);
    for (int e = 0; e < 2; e++) {
        fm_net_tls_session_free(sessions[e]);
        close(ends[e]);
    }
    close(middle);
    fm_net_loop_free(loop);
    fm_net_tls_free(a);
    fm_net_tls_free(b);
}

// Bytes that are no TLS, TLS that ends, and who says nothing: none costs more than its own connection, and only for a while.
static void strangers_cost_nothing(void **state)
{
    (void)state;
    fm_net_tls *a = member("a", "ca");
    const fm_net_security security = in_tls(a, &net_test_key);
    const fm_net_limits limits = {.handshake_timeout_ns = 300 * 1000000};
    fm_net_loop *loop = net_test_loop(&limits);
    struct net_service service = {0};
    fm_net_listener *listener = net_service_listen(&service, loop, any_port, &security);
    fm_gen gen = fm_gen_seeded(7);
    int fds = net_count_fds();
    for (int round = 0; round < 30; round++) {
        static const uint8_t record[] = {NET_TLS_FIRST_BYTE, 3, 1, 0x01, 0x00, 1, 0, 0, 0xFC, 3, 3};
        uint8_t bytes[2000];
        size_t size = (size_t)fm_gen_int(&gen, 1, sizeof bytes);
        fm_gen_fill(&gen, bytes, sizeof bytes);
        if (round % 3)
            memcpy(bytes, record, sizeof record);
        if (round % 3 == 2)
            size = (size_t)fm_gen_int(&gen, 1, 200); // half of a hello, and nothing more
        int fd = raw_connect(fm_net_listener_address(listener));
        (void)!send(fd, bytes, size, MSG_NOSIGNAL);
        if (round % 2)
            shutdown(fd, SHUT_WR);
        int closed = 0;
        for (int i = 0; i < 30000 && !closed; i++) {
            assert_ok(fm_net_loop_progress(loop, 1000000));
            ssize_t got = recv(fd, bytes, sizeof bytes, 0);
            closed = got == 0 || (got < 0 && errno != EAGAIN);
        }
        assert_true(closed);
        close(fd);
    }
    struct net_client client;
    struct net_outcome outcome = {.status = FM_ERR_TIMEOUT};
    // A member gets in, if this machine lets it within the strangers' time.
    for (int i = 0; i < 50 && outcome.status == FM_ERR_TIMEOUT; i++) {
        net_client_connect(&client, loop, fm_net_listener_address(listener), &security);
        assert_ok(net_client_call(&client, &outcome, NET_READ, 0, 100000, 0));
        net_until(loop, &outcome.count, 1);
    }
    assert_ok(outcome.status);
    assert_int_equal(net_count_fds(), fds + 2);
    assert_int_equal(service.opened, 1);
    fm_net_loop_free(loop);
    fm_net_tls_free(a);
}

static fm_status whole_life(void *context)
{
    (void)context;
    fm_net_tls *tls;
    FM_TRY(new_tls("a.pem", "a.key", "ca.pem", &tls));
    const fm_net_security security = in_tls(tls, &net_test_key);
    fm_net_loop *loop = NULL;
    fm_net_listener *listener;
    struct net_service service = {0};
    struct net_client client = {0};
    struct net_outcome outcome = {0};
    const fm_net_listen_options listening = net_service_options(&service, &security);
    const fm_net_connect_options connecting = {.size = sizeof connecting, .security = security};
    fm_status status = fm_net_loop_new(NULL, &loop);
    if (status == FM_OK)
        status = fm_net_loop_listen(loop, any_port, &listening, &listener);
    if (status == FM_OK)
        status = fm_net_loop_connect(loop, fm_net_listener_address(listener), &connecting, &client.conn);
    if (status == FM_OK)
        status = net_client_call(&client, &outcome, NET_WRITE, 0, 50000, 0);
    if (status == FM_OK) {
        net_until(loop, &outcome.count, 1);
        // A refusal on one side shows as a connection that ended on the other.
        status = outcome.status == FM_ERR_NET_CLOSED ? FM_ERR_NOMEM : outcome.status;
    }
    fm_net_loop_free(loop);
    fm_net_tls_free(tls);
    return status;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_net_tls_free(member("a", "ca")); // makes the files, or skips
    int fds = net_count_fds();
    fm_test_each_alloc_fails(whole_life, NULL);
    assert_int_equal(net_count_fds(), fds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_read_with_care),
        cmocka_unit_test(a_good_pair_talks),
        cmocka_unit_test(strangers_are_told_why),
        cmocka_unit_test(services_are_known_by_name),
        cmocka_unit_test(revoked_certificates_are_refused),
        cmocka_unit_test(unix_sockets_take_no_notice),
        cmocka_unit_test(nothing_is_readable_on_the_way),
        cmocka_unit_test(damage_ends_the_connection),
        cmocka_unit_test(certificates_alone_are_not_enough),
        cmocka_unit_test(strangers_cost_nothing),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("net.tls", tests);
}
