// Bulk through the memory that two ends on a machine share: what goes there, what falls back to the socket, and what a
// peer that lies about it gets.
#include "net_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/crc.h"

#include "net_address.h"
#include "net_frame.h"
#include "net_shake.h"

enum { BULK = 1 << 20, RAW_GRANULES = 4 };

static int same_here(void *context, uint32_t granules)
{
    (void)context;
    (void)granules;
    return 1;
}

// Two ends of a handshake agree on an area, or on none.
static void the_handshake_agrees(void **state)
{
    (void)state;
    static const uint8_t nonce[NET_NONCE_BYTES] = {1};
    const fm_net_security *const modes[] = {&net_keyed, &net_same_user};
    for (int round = 0; round < 8; round++) {
        const fm_net_security *security = modes[round % 2];
        uint32_t offered = round & 2 ? 7 : 0;
        int accepts = round & 4;
        const struct net_shake_offer caller_offer = {.args_bytes_max = 1000, .granules = offered};
        const struct net_shake_offer service_offer = {64, 1000, 1000, 0};
        struct net_shake ends[2];
        uint8_t message[NET_SHAKE_BYTES];
        uint8_t unused[NET_SHAKE_BYTES];
        assert_ok(fm_net_shake_begin(&ends[0], 1, security, &caller_offer, nonce, message));
        assert_ok(fm_net_shake_begin(&ends[1], 0, security, &service_offer, nonce, unused));
        ends[1].share = accepts ? same_here : NULL;
        int carried = fm_net_shake_carries_area(&ends[0], message);
        int has_answer = 1;
        for (int turn = 1; has_answer; turn ^= 1) {
            uint8_t answer[NET_SHAKE_BYTES];
            assert_ok(fm_net_shake_step(&ends[turn], message, answer, &has_answer));
            memcpy(message, answer, sizeof message);
            carried += turn == 0 && has_answer && fm_net_shake_carries_area(&ends[0], message);
        }
        assert_true(ends[0].done && ends[1].done);
        assert_int_equal(carried, offered != 0);
        assert_int_equal(ends[0].peer.granules, accepts ? offered : 0);
        assert_int_equal(ends[1].peer.granules, offered);
        assert_int_equal(ends[1].offer.granules, accepts ? offered : 0);
    }
}

// An area cannot be slipped into another message of the handshake, nor made larger than it was offered.
static void the_handshake_refuses_other_areas(void **state)
{
    (void)state;
    static const uint8_t nonce[NET_NONCE_BYTES] = {1};
    static const struct net_shake_offer offer = {64, 1000, 1000, 7};
    for (int round = 0; round < 3; round++) {
        struct net_shake caller;
        struct net_shake service;
        uint8_t message[NET_SHAKE_BYTES];
        uint8_t answer[NET_SHAKE_BYTES];
        int has_answer;
        const fm_net_security *security = round < 2 ? &net_keyed : &net_same_user;
        assert_ok(fm_net_shake_begin(&caller, 1, security, &offer, nonce, message));
        assert_ok(fm_net_shake_begin(&service, 0, security, &offer, nonce, answer));
        service.share = same_here;
        struct net_shake *to = &service;
        if (round) { // round 0: a keyed hello; 1: a challenge; 2: a welcome
            assert_ok(fm_net_shake_step(&service, message, answer, &has_answer));
            memcpy(message, answer, sizeof message);
            to = &caller;
        }
        fm_put_le32(message + 72, round == 2 ? 8 : 7);
        fm_put_le32(message + 92, fm_base_crc32c(0, message, 92));
        assert_fails(fm_net_shake_step(to, message, answer, &has_answer), FM_ERR_FORMAT, "shares an area of");
    }
}

struct bulk {
    fm_net_loop *loops[2]; // service, caller
    struct net_service service;
    struct net_client client;
};

static void begin_bulk(struct bulk *bulk, const fm_net_security *security, uint32_t service_shares,
                       uint32_t caller_shares)
{
    const fm_net_limits limits[] = {{.shared_bytes = service_shares}, {.shared_bytes = caller_shares}};
    memset(bulk, 0, sizeof *bulk);
    for (int i = 0; i < 2; i++)
        bulk->loops[i] = net_test_loop(&limits[i]);
    const char *address = net_unix_address("bulk");
    net_service_listen(&bulk->service, bulk->loops[0], address, security);
    net_client_connect(&bulk->client, bulk->loops[1], address, security);
    net_pump(bulk->loops, 2, &bulk->client.up, 1, 30000);
}

static void end_bulk(struct bulk *bulk)
{
    fm_net_loop_free(bulk->loops[1]);
    fm_net_loop_free(bulk->loops[0]);
}

// Both ways, at every size that decides something, and more at once than there is room for.
static void bulk_arrives(struct bulk *bulk)
{
    static const uint32_t sizes[] = {1,
                                     NET_AREA_PAYLOAD_MIN - 1,
                                     NET_AREA_PAYLOAD_MIN,
                                     NET_AREA_GRANULE,
                                     NET_AREA_GRANULE + 1,
                                     BULK + 12345,
                                     3 * BULK + 1};
    enum { SIZES = sizeof sizes / sizeof sizes[0], CALLS = 4 * SIZES };
    static struct net_outcome outcomes[CALLS];
    for (int i = 0; i < CALLS; i++)
        assert_ok(net_client_call(&bulk->client, &outcomes[i], i % 2 ? NET_READ : NET_WRITE,
                                  (uint32_t)(i / 2 % 2), sizes[i / 4], 0));
    for (int i = 0; i < CALLS; i++) {
        net_pump(bulk->loops, 2, &outcomes[i].count, 1, 30000);
        assert_ok(outcomes[i].status);
    }
}

static void bulk_goes_through_shared_memory_or_the_socket(void **state)
{
    (void)state;
    const fm_net_security *const modes[] = {&net_keyed, &net_same_user};
    static const uint32_t sizes[][2] = {
        {0, 0},                // as it comes
        {0, NET_AREA_GRANULE}, // room for one call
        {0, 1},
        {1, 0},
        {1, 1}, // one end or both want none
    };
    int fds = net_count_fds();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int mode = 0; mode < 2; mode++) {
            struct bulk bulk;
            begin_bulk(&bulk, modes[mode], sizes[i][0], sizes[i][1]);
            assert_int_equal(net_count_areas(), i < 2 ? 2 : 0);
            for (int round = 0; round < 2; round++) // places come back
                bulk_arrives(&bulk);
            end_bulk(&bulk);
            assert_int_equal(net_count_areas(), 0);
        }
    assert_int_equal(net_count_fds(), fds);
}

static void only_unix_sockets_share(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    struct net_client client;
    fm_net_listener *listener = net_service_listen(&service, loop, "127.0.0.1:0", &net_keyed);
    net_client_connect(&client, loop, fm_net_listener_address(listener), &net_keyed);
    net_until(loop, &client.up, 1);
    assert_int_equal(net_count_areas(), 0);
    fm_net_loop_free(loop);
}

/* A caller that lies: the handshake by user and then whatever it likes */

struct liar {
    int fd;
    uint8_t *area;
    uint32_t accepted;
};

static void send_with_fds(int socket, const void *bytes, size_t size, const int *fds, size_t count)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(4 * sizeof(int))];
    } control = {.header = {.cmsg_len = CMSG_LEN(count * sizeof(int)),
                            .cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS}};
    uint8_t copy[NET_SHAKE_BYTES];
    memcpy(copy, bytes, size);
    memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
    struct iovec piece = {copy, size};
    const struct msghdr message = {.msg_iov = &piece,
                                   .msg_iovlen = 1,
                                   .msg_control = count ? &control : NULL,
                                   .msg_controllen = count ? CMSG_SPACE(count * sizeof(int)) : 0};
    assert_int_equal(sendmsg(socket, &message, MSG_NOSIGNAL), (ssize_t)size);
}

static int new_area_fd(int add_seals)
{
    int fd = memfd_create("liar", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)RAW_GRANULES * NET_AREA_GRANULE), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, add_seals), 0);
    return fd;
}

static struct liar lie(fm_net_loop *loop, const char *address, const int *fds, size_t count)
{
    static const struct net_shake_offer offer = {.args_bytes_max = 1000, .granules = RAW_GRANULES};
    static const uint8_t nonce[NET_NONCE_BYTES];
    struct liar liar = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
    struct net_sockaddr at;
    struct net_shake shake;
    uint8_t message[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    assert_ok(fm_net_address_resolve(address, 0, &at));
    assert_int_equal(connect(liar.fd, (struct sockaddr *)&at.storage, at.size), 0);
    assert_ok(fm_net_shake_begin(&shake, 1, &net_same_user, &offer, nonce, message));
    send_with_fds(liar.fd, message, sizeof message, fds, count);
    ssize_t size = -1;
    for (int i = 0; i < 100000 && size < 0; i++) {
        assert_ok(fm_net_loop_progress(loop, 1000000));
        size = recv(liar.fd, message, sizeof message, MSG_DONTWAIT);
    }
    assert_int_equal(size, NET_SHAKE_BYTES);
    assert_ok(fm_net_shake_step(&shake, message, answer, &has_answer));
    liar.accepted = shake.peer.granules;
    return liar;
}

static void end_lie(struct liar *liar)
{
    close(liar->fd);
    if (liar->area)
        munmap(liar->area, (size_t)RAW_GRANULES * NET_AREA_GRANULE);
}

static const int sealed = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// What is no area is not used, what comes too much is closed, and the connection works all the same.
static void strange_offers_fall_back(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("offers");
    net_service_listen(&service, loop, address, &net_same_user);
    int good = new_area_fd(sealed);
    int loose = new_area_fd(F_SEAL_GROW);
    const struct {
        int fds[4];
        size_t count;
        uint32_t accepted;
    } cases[] = {
        {{0}, 0, 0},
        {{loose}, 1, 0},
        {{good}, 1, RAW_GRANULES},
        {{good, good}, 2, RAW_GRANULES},
        {{loose, good, good, good}, 4, 0},
    };
    int fds = net_count_fds();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct liar liar = lie(loop, address, cases[i].fds, cases[i].count);
        assert_int_equal(liar.accepted, cases[i].accepted);
        // Descriptors with later messages go nowhere.
        struct net_frame frame = {.kind = NET_REQUEST, .code = NET_FAIL};
        uint8_t head[NET_FRAME_BYTES];
        assert_ok(fm_net_frame_encode(&frame, NULL, NULL, head));
        send_with_fds(liar.fd, head, sizeof head, cases[i].fds, cases[i].count);
        net_until(loop, &service.served, (int)i + 1);
        assert_int_equal(net_count_fds(), fds + 2); // the liar's end and the service's
        end_lie(&liar);
        net_until(loop, &service.closed, (int)i + 1);
        assert_int_equal(net_count_fds(), fds);
    }
    close(good);
    close(loose);
    fm_net_loop_free(loop);
}

// A good area, and requests whose payload is not what their header says, or not where.
static void lies_about_a_payload_end_the_connection(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("payloads");
    net_service_listen(&service, loop, address, &net_same_user);
    const struct {
        struct net_frame frame;
        int change; // after the sum was taken
        fm_status status;
    } cases[] = {
        {{.place = {0, 1}, .payload_bytes = 50000}, 0, FM_OK},
        {{.place = {0, 1}, .payload_bytes = 50000}, 1, FM_ERR_FORMAT},
        {{.place = {3, 1}, .payload_bytes = NET_AREA_GRANULE}, 0, FM_OK},
        {{.place = {4, 1}, .payload_bytes = 50000}, 0, FM_ERR_FORMAT},
        {{.place = {3, 2}, .payload_bytes = 50000}, 0, FM_ERR_FORMAT},
        {{.place = {65535, 65535}, .payload_bytes = 50000}, 0, FM_ERR_FORMAT},
        {{.place = {0, 1}, .payload_bytes = NET_AREA_GRANULE + 1}, 0, FM_ERR_FORMAT},
        {{.place = {0, 0}, .payload_bytes = 50000}, 0, FM_ERR_FORMAT},
        {{.place = {0, 1}, .payload_bytes = 0}, 0, FM_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = new_area_fd(sealed);
        struct liar liar = lie(loop, address, &fd, 1);
        liar.area =
            mmap(NULL, (size_t)RAW_GRANULES * NET_AREA_GRANULE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        assert_ptr_not_equal(liar.area, MAP_FAILED);
        close(fd);
        struct net_frame frame = cases[i].frame;
        const struct net_slice slice = {3, frame.payload_bytes};
        frame.kind = NET_REQUEST;
        frame.code = NET_WRITE;
        frame.flags = NET_FLAG_SHARED;
        frame.args_bytes = sizeof slice;
        frame.payload_crc = fm_base_crc32c(0, net_pattern() + slice.at, slice.size);
        if (cases[i].status == FM_OK || cases[i].change)
            memcpy(liar.area + (size_t)frame.place.first * NET_AREA_GRANULE, net_pattern() + slice.at,
                   slice.size);
        liar.area[(size_t)RAW_GRANULES * NET_AREA_GRANULE - 1] ^= (uint8_t)(cases[i].change != 0);
        liar.area[17] ^= (uint8_t)(cases[i].change != 0);
        uint8_t head[NET_FRAME_BYTES];
        assert_ok(fm_net_frame_encode(&frame, &slice, NULL, head));
        int served = service.served;
        assert_int_equal(send(liar.fd, head, sizeof head, MSG_NOSIGNAL), sizeof head);
        assert_int_equal(send(liar.fd, &slice, sizeof slice, MSG_NOSIGNAL), sizeof slice);
        if (cases[i].status == FM_OK)
            net_until(loop, &service.sent, service.sent + 1);
        else
            net_until(loop, &service.closed, (int)i + 1);
        assert_int_equal(service.served, served + (cases[i].status == FM_OK));
        end_lie(&liar);
        net_until(loop, &service.closed, (int)i + 1);
        assert_int_equal(service.closed_status,
                         cases[i].status == FM_OK ? FM_ERR_NET_CLOSED : cases[i].status);
    }
    assert_int_equal(service.dropped, 1); // what landed, and was not what its header said
    fm_net_loop_free(loop);
    assert_int_equal(net_count_areas(), 0);
}

// A service that answers from a place that the call does not have, or with other bytes than it says.
static void lies_about_a_reply_end_the_connection(void **state)
{
    (void)state;
    const char *address = net_unix_address("replies");
    struct net_sockaddr at;
    assert_ok(fm_net_address_resolve(address, 0, &at));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at.storage, at.size), 0);
    assert_int_equal(listen(listener, 1), 0);
    static const struct {
        uint32_t room, says;
    } cases[] = {{50000, 50000}, {50000, NET_AREA_GRANULE + 1}, {100, 50000}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static const struct net_shake_offer offer = {64, 1000, 1000, 0};
        static const uint8_t nonce[NET_NONCE_BYTES];
        fm_net_loop *loop = net_test_loop(NULL);
        struct net_client client;
        struct net_outcome outcome;
        struct net_shake shake;
        uint8_t message[NET_SHAKE_BYTES];
        uint8_t answer[NET_SHAKE_BYTES];
        int has_answer;
        net_client_connect(&client, loop, address, &net_same_user);
        int fd = accept(listener, NULL, NULL);
        assert_ok(fm_net_loop_progress(loop, 0)); // it has connected already, and says hello
        assert_int_equal(recv(fd, message, sizeof message, MSG_WAITALL), NET_SHAKE_BYTES);
        assert_ok(fm_net_shake_begin(&shake, 0, &net_same_user, &offer, nonce, answer));
        shake.share = same_here; // without even having the descriptor
        assert_ok(fm_net_shake_step(&shake, message, answer, &has_answer));
        assert_int_equal(send(fd, answer, sizeof answer, MSG_NOSIGNAL), NET_SHAKE_BYTES);
        net_until(loop, &client.up, 1);
        assert_ok(net_client_call(&client, &outcome, NET_READ, 0, cases[i].room, 0));
        uint8_t head[NET_FRAME_BYTES + sizeof(struct net_slice)];
        size_t got = 0;
        while (got < sizeof head) {
            assert_ok(fm_net_loop_progress(loop, 0));
            ssize_t size = recv(fd, head + got, sizeof head - got, MSG_DONTWAIT);
            got += size > 0 ? (size_t)size : 0;
        }
        const struct net_frame reply = {.kind = NET_REPLY,
                                        .flags = NET_FLAG_SHARED,
                                        .id = fm_get_le64(head + 8),
                                        .payload_bytes = cases[i].says,
                                        .payload_crc = 1};
        assert_ok(fm_net_frame_encode(&reply, NULL, NULL, head));
        assert_int_equal(send(fd, head, NET_FRAME_BYTES, MSG_NOSIGNAL), NET_FRAME_BYTES);
        net_until(loop, &client.down, 1);
        assert_int_equal(client.down_status, FM_ERR_FORMAT);
        assert_int_equal(outcome.count, 1);
        assert_int_equal(outcome.status, FM_ERR_FORMAT);
        close(fd);
        fm_net_loop_free(loop);
    }
    close(listener);
    assert_int_equal(net_count_areas(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_handshake_agrees),
        cmocka_unit_test(the_handshake_refuses_other_areas),
        cmocka_unit_test(bulk_goes_through_shared_memory_or_the_socket),
        cmocka_unit_test(only_unix_sockets_share),
        cmocka_unit_test(strange_offers_fall_back),
        cmocka_unit_test(lies_about_a_payload_end_the_connection),
        cmocka_unit_test(lies_about_a_reply_end_the_connection),
    };
    return fm_test_run("net.share", tests);
}
