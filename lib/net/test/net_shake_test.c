#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/crc.h"

#include "net_frame.h"
#include "net_shake.h"

static const struct net_shake_offer caller_offer = {.args_bytes_max = 1000};
static const struct net_shake_offer service_offer = {64, 2000, 3000, 0};

// Two ends, and the last message of each.
struct pair {
    struct net_shake caller, service;
    uint8_t message[NET_SHAKE_BYTES];
    int count;
    uint8_t transcript[8][NET_SHAKE_BYTES];
};

static fm_net_key key_of(uint8_t cluster, uint8_t secret)
{
    fm_net_key key;
    memset(key.cluster_id, cluster, sizeof key.cluster_id);
    memset(key.secret, secret, sizeof key.secret);
    return key;
}

static void begin(struct pair *pair, fm_net_mode caller_mode, const fm_net_key *caller_key,
                  fm_net_mode service_mode, const fm_net_key *service_key, fm_gen *gen)
{
    uint8_t nonces[2][NET_NONCE_BYTES];
    fm_gen_fill(gen, nonces, sizeof nonces);
    const fm_net_security caller = {.mode = caller_mode, .key = caller_key};
    const fm_net_security service = {.mode = service_mode, .key = service_key};
    memset(pair, 0, sizeof *pair);
    assert_ok(fm_net_shake_begin(&pair->caller, 1, &caller, &caller_offer, nonces[0], pair->message));
    assert_ok(
        fm_net_shake_begin(&pair->service, 0, &service, &service_offer, nonces[1], pair->transcript[0]));
}

// Passes messages between the ends until both are done or one fails; `change` may alter message number `at`.
static fm_status run(struct pair *pair, int at, void (*change)(uint8_t *message, void *context),
                     void *context)
{
    for (int turn = 0; turn < 8; turn++) {
        struct net_shake *to = turn % 2 ? &pair->caller : &pair->service;
        if (turn == at && change)
            change(pair->message, context);
        memcpy(pair->transcript[pair->count++], pair->message, NET_SHAKE_BYTES);
        uint8_t answer[NET_SHAKE_BYTES];
        int has_answer;
        fm_status status = fm_net_shake_step(to, pair->message, answer, &has_answer);
        memcpy(pair->message, answer, NET_SHAKE_BYTES);
        if (status < 0)
            return status;
        if (!has_answer)
            break;
    }
    return pair->caller.done && pair->service.done ? FM_OK : fm_base_error_set(FM_ERR_STATE, "not done");
}

static void members_meet(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    fm_net_key key = key_of(1, 2);
    struct pair pair;
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_ok(run(&pair, -1, NULL, NULL));
    assert_int_equal(pair.count, 4);
    assert_int_equal(pair.caller.peer.window, 64);
    assert_int_equal(pair.caller.peer.args_bytes_max, 2000);
    assert_int_equal(pair.caller.peer.payload_bytes_max, 3000);
    assert_int_equal(pair.service.peer.args_bytes_max, 1000);

    // What one end seals, the other opens; the two directions have different keys.
    fm_net_seal *seals[4];
    uint8_t tags[4][NET_TAG_BYTES];
    assert_ok(fm_net_shake_seals(&pair.caller, &seals[0], &seals[1]));
    assert_ok(fm_net_shake_seals(&pair.service, &seals[2], &seals[3]));
    for (int i = 0; i < 4; i++) {
        fm_net_seal_begin(seals[i], NET_PART_HEAD);
        assert_ok(fm_net_seal_end(seals[i], tags[i]));
        fm_net_seal_free(seals[i]);
    }
    assert_memory_equal(tags[0], tags[3], NET_TAG_BYTES);
    assert_memory_equal(tags[1], tags[2], NET_TAG_BYTES);
    assert_memory_not_equal(tags[0], tags[1], NET_TAG_BYTES);

    // The secret itself is in no message.
    for (int i = 0; i < pair.count; i++)
        for (size_t at = 0; at + sizeof key.secret <= NET_SHAKE_BYTES; at++)
            assert_memory_not_equal(pair.transcript[i] + at, key.secret, sizeof key.secret);
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    assert_fails(fm_net_shake_step(&pair.caller, pair.transcript[3], answer, &has_answer), FM_ERR_STATE,
                 "over");
    assert_false(has_answer);
    fm_net_shake_clear(&pair.caller);
    for (size_t i = 0; i < sizeof key.secret; i++)
        assert_int_equal(pair.caller.key.secret[i], 0);
}

static void users_meet_without_a_key(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(2);
    struct pair pair;
    begin(&pair, FM_NET_SAME_USER, NULL, FM_NET_SAME_USER, NULL, &gen);
    assert_ok(run(&pair, -1, NULL, NULL));
    assert_int_equal(pair.count, 2);
    assert_int_equal(pair.caller.peer.window, 64);
}

// Who refuses, what it reports, and what the other end makes of the refusal.
static void check_refusal(const struct pair *pair, fm_status reported, fm_status status, const char *text)
{
    assert_int_equal(reported, status);
    int to_caller = pair->count % 2;
    struct pair copy = *pair;
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    assert_int_equal(pair->message[4], NET_REFUSAL);
    assert_fails(
        fm_net_shake_step(to_caller ? &copy.caller : &copy.service, pair->message, answer, &has_answer),
        status, text);
    assert_false(has_answer);
}

static void strangers_are_refused_with_a_reason(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    fm_net_key key = key_of(1, 2);
    fm_net_key other_secret = key_of(1, 3);
    fm_net_key other_cluster = key_of(9, 2);
    struct pair pair;
    begin(&pair, FM_NET_KEYED, &other_secret, FM_NET_KEYED, &key, &gen);
    check_refusal(&pair, run(&pair, -1, NULL, NULL), FM_ERR_NET_AUTH, "another cluster key");
    assert_int_equal(pair.count, 3); // by the service, before it proved anything itself
    begin(&pair, FM_NET_KEYED, &other_cluster, FM_NET_KEYED, &key, &gen);
    check_refusal(&pair, run(&pair, -1, NULL, NULL), FM_ERR_NET_AUTH, "another cluster");
    assert_int_equal(pair.count, 1);
    begin(&pair, FM_NET_SAME_USER, NULL, FM_NET_KEYED, &key, &gen);
    check_refusal(&pair, run(&pair, -1, NULL, NULL), FM_ERR_NET_AUTH, "another way of proving");
    begin(&pair, FM_NET_KEYED, &key, FM_NET_SAME_USER, NULL, &gen);
    check_refusal(&pair, run(&pair, -1, NULL, NULL), FM_ERR_NET_AUTH, "another way of proving");
    const fm_net_security keyless = {.mode = FM_NET_KEYED, .key = NULL};
    assert_fails(fm_net_shake_begin(&pair.caller, 1, &keyless, &caller_offer, key.secret, pair.message),
                 FM_ERR_ARG, "no cluster key");
    uint8_t refusal[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    fm_net_shake_refuse(NET_REFUSED_FULL, refusal);
    assert_fails(fm_net_shake_step(&pair.caller, refusal, answer, &has_answer), FM_ERR_NET_REFUSED,
                 "all the connections");
}

static void mend(uint8_t *message)
{
    fm_put_le32(message + 92, fm_base_crc32c(0, message, 92));
}

static void speak_version_2(uint8_t *message, void *context)
{
    (void)context;
    message[5] = message[6] = 2;
    mend(message);
}

static void other_versions_are_refused_with_a_reason(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(4);
    fm_net_key key = key_of(1, 2);
    struct pair pair;
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    check_refusal(&pair, run(&pair, 0, speak_version_2, NULL), FM_ERR_VERSION, "the peer speaks version 1");
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_fails(run(&pair, 0, speak_version_2, NULL), FM_ERR_VERSION,
                 "versions 2 to 2 of the wire format, this end 1");
}

static void flip(uint8_t *message, void *context)
{
    unsigned bit = *(unsigned *)context;
    message[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (bit / 8 < 92)
        mend(message);
}

// Every bit of every message, with the checksum mended: nobody comes up, except where both ends see the
// change before anything was proved, and then the proofs differ.
static void no_bit_can_be_changed(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(5);
    fm_net_key key = key_of(1, 2);
    for (int message = 0; message < 4; message++)
        for (unsigned bit = 0; bit < 8 * NET_SHAKE_BYTES; bit += message == 3 ? 1 : 3) {
            struct pair pair;
            begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
            assert_true(run(&pair, message, flip, &bit) < 0);
            assert_false(pair.caller.done);
        }
}

static void recorded_messages_open_nothing(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(6);
    fm_net_key key = key_of(1, 2);
    struct pair recorded;
    struct pair pair;
    begin(&recorded, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_ok(run(&recorded, -1, NULL, NULL));
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    // To a service: hello and proof of another time.
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_ok(fm_net_shake_step(&pair.service, recorded.transcript[0], answer, &has_answer));
    assert_fails(fm_net_shake_step(&pair.service, recorded.transcript[2], answer, &has_answer),
                 FM_ERR_NET_AUTH, "does not have");
    // To a caller: challenge and welcome of another time.
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_ok(fm_net_shake_step(&pair.caller, recorded.transcript[1], answer, &has_answer));
    assert_fails(fm_net_shake_step(&pair.caller, recorded.transcript[3], answer, &has_answer),
                 FM_ERR_NET_AUTH, "does not have");
    // A caller's own messages, reflected.
    begin(&pair, FM_NET_KEYED, &key, FM_NET_KEYED, &key, &gen);
    assert_true(fm_net_shake_step(&pair.caller, pair.message, answer, &has_answer) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(members_meet),
        cmocka_unit_test(users_meet_without_a_key),
        cmocka_unit_test(strangers_are_refused_with_a_reason),
        cmocka_unit_test(other_versions_are_refused_with_a_reason),
        cmocka_unit_test(no_bit_can_be_changed),
        cmocka_unit_test(recorded_messages_open_nothing),
    };
    return fm_test_run("net.shake", tests);
}
