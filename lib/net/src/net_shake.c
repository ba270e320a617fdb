#include "net_shake.h"

#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"

#include "net_area.h"
#include "net_frame.h"

static const uint8_t magic[4] = {'F', 'M', 'N', 0xF6};

enum {
    AT_MAGIC = 0,
    AT_STEP = 4,
    AT_VERSION_LOW = 5,
    AT_VERSION_HIGH = 6,
    AT_MODE = 7,
    AT_WINDOW = 8,
    AT_ARGS_MAX = 12,
    AT_PAYLOAD_MAX = 16,
    AT_REASON = 20,
    AT_CLUSTER = 24,
    AT_NONCE = 40, // or proof
    AT_GRANULES = 72,
    AT_ZERO = 76,
    AT_CRC = 92,
};

_Static_assert(AT_CRC + 4 == NET_SHAKE_BYTES, "the checksum ends the message");

static void finish(uint8_t *bytes)
{
    fm_put_le32(bytes + AT_CRC, fm_base_crc32c(0, bytes, AT_CRC));
}

// The caller's last message offers an area, the service's accepts it.
static int step_may_share(const struct net_shake *shake, uint8_t step)
{
    return step == NET_WELCOME || step == (shake->mode == FM_NET_KEYED ? NET_PROOF : NET_HELLO);
}

// A message of this end, but for its nonce or proof and its checksum.
static void compose(const struct net_shake *shake, uint8_t step, uint8_t *bytes)
{
    memset(bytes, 0, NET_SHAKE_BYTES);
    memcpy(bytes + AT_MAGIC, magic, sizeof magic);
    bytes[AT_STEP] = step;
    bytes[AT_VERSION_LOW] = bytes[AT_VERSION_HIGH] = NET_VERSION;
    bytes[AT_MODE] = (uint8_t)shake->mode;
    fm_put_le32(bytes + AT_WINDOW, shake->offer.window);
    fm_put_le32(bytes + AT_ARGS_MAX, shake->offer.args_bytes_max);
    fm_put_le32(bytes + AT_PAYLOAD_MAX, shake->offer.payload_bytes_max);
    if (step_may_share(shake, step))
        fm_put_le32(bytes + AT_GRANULES, shake->offer.granules);
    if (shake->caller)
        memcpy(bytes + AT_CLUSTER, shake->key.cluster_id, sizeof shake->key.cluster_id);
}

static void record(struct net_shake *shake, const uint8_t *bytes)
{
    memcpy(shake->messages[shake->count++], bytes, NET_SHAKE_BYTES);
}

void fm_net_shake_refuse(enum net_refusal reason, uint8_t out_message[NET_SHAKE_BYTES])
{
    struct net_shake nobody = {0};
    compose(&nobody, NET_REFUSAL, out_message);
    fm_put_le32(out_message + AT_REASON, reason);
    finish(out_message);
}

fm_status fm_net_shake_begin(struct net_shake *shake, int caller, const fm_net_security *security,
                             const struct net_shake_offer *offer, const uint8_t nonce[NET_NONCE_BYTES],
                             uint8_t out_message[NET_SHAKE_BYTES])
{
    int keyed = security->mode == FM_NET_KEYED;
    if (keyed && !security->key)
        return fm_base_error_set(FM_ERR_ARG, "no cluster key is given; this mode proves membership by one");
    *shake = (struct net_shake){.caller = caller, .mode = security->mode, .offer = *offer};
    if (keyed) {
        shake->key = *security->key;
        memcpy(shake->nonce, nonce, NET_NONCE_BYTES);
    }
    shake->expected = NET_HELLO;
    if (caller) {
        compose(shake, NET_HELLO, out_message);
        memcpy(out_message + AT_NONCE, shake->nonce, NET_NONCE_BYTES);
        finish(out_message);
        record(shake, out_message);
        shake->expected = keyed ? NET_CHALLENGE : NET_WELCOME;
    }
    return FM_OK;
}

// The proof in a message of the caller or the service, over all that were recorded and this one.
static fm_status prove(const struct net_shake *shake, int by_caller, const uint8_t *message,
                       uint8_t out_proof[NET_HASH_BYTES])
{
    static const char caller_label[] = "fathom net: proof of the caller";
    static const char service_label[] = "fathom net: proof of the service";
    uint8_t bare[NET_SHAKE_BYTES];
    memcpy(bare, message, NET_SHAKE_BYTES);
    memset(bare + AT_NONCE, 0, NET_HASH_BYTES);
    memset(bare + AT_CRC, 0, 4);
    uint8_t key[NET_HASH_BYTES];
    FM_TRY(fm_net_crypto_hkdf(shake->key.secret, shake->key.cluster_id, sizeof shake->key.cluster_id,
                              "fathom net: handshake", key, sizeof key));
    const char *label = by_caller ? caller_label : service_label;
    const struct net_bytes pieces[] = {
        {label, strlen(label)},
        {shake->messages, (size_t)shake->count * NET_SHAKE_BYTES},
        {bare, sizeof bare},
        {shake->binding, sizeof shake->binding},
    };
    fm_status status = fm_net_crypto_hmac(key, pieces, sizeof pieces / sizeof pieces[0], out_proof);
    fm_net_crypto_clear(key, sizeof key);
    return status;
}

// Completes and records this end's next message: with a nonce, a proof, or neither.
static fm_status answer(struct net_shake *shake, uint8_t step, uint8_t *out_message)
{
    uint8_t message[NET_SHAKE_BYTES];
    compose(shake, step, message);
    if (step == NET_CHALLENGE)
        memcpy(message + AT_NONCE, shake->nonce, NET_NONCE_BYTES);
    else if (shake->mode == FM_NET_KEYED)
        FM_TRY(prove(shake, shake->caller, message, message + AT_NONCE));
    finish(message);
    record(shake, message);
    memcpy(out_message, message, NET_SHAKE_BYTES);
    return FM_OK;
}

static fm_status check_proof(const struct net_shake *shake, const uint8_t *message)
{
    uint8_t proof[NET_HASH_BYTES] = {0};
    if (shake->mode == FM_NET_KEYED)
        FM_TRY(prove(shake, !shake->caller, message, proof));
    if (!fm_net_crypto_equal(proof, message + AT_NONCE, NET_HASH_BYTES))
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer does not have this cluster's key");
    return FM_OK;
}

static fm_status refused_by_peer(const uint8_t *message)
{
    // Nobody vouches for a refusal: it can only end what its sender could have ended by closing.
    switch (fm_get_le32(message + AT_REASON)) {
    case NET_REFUSED_VERSION:
        return fm_base_error_set(FM_ERR_VERSION, "the peer speaks version %d of the wire format, this end %d",
                                 message[AT_VERSION_HIGH], NET_VERSION);
    case NET_REFUSED_CLUSTER:
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer belongs to another cluster");
    case NET_REFUSED_MODE:
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer expects another way of proving membership");
    case NET_REFUSED_PROOF:
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer has another cluster key");
    case NET_REFUSED_FULL:
        return fm_base_error_set(FM_ERR_NET_REFUSED, "the peer has all the connections that it takes");
    case NET_REFUSED_PLAIN:
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "the peer expects TLS; this end has no certificate to show");
    case NET_REFUSED_TLS:
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer does not use TLS, as this end does");
    default:
        return fm_base_error_set(FM_ERR_NET_REFUSED, "the peer refused the handshake (reason %u)",
                                 fm_get_le32(message + AT_REASON));
    }
}

// What must hold of any message; says by which reason to refuse it.
static fm_status check_message(const struct net_shake *shake, const uint8_t *message,
                               enum net_refusal *out_reason)
{
    static const uint8_t zeros[AT_CRC - AT_ZERO];
    *out_reason = NET_REFUSED_TLS;
    if (message[0] == NET_TLS_FIRST_BYTE && message[1] == 3) // the version that all of TLS has there
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "the peer speaks TLS; this end was given no certificate for it");
    *out_reason = NET_REFUSED_FORMAT;
    if (memcmp(message + AT_MAGIC, magic, sizeof magic) != 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "no handshake: begins with %02x %02x %02x %02x, expected 46 4d 4e f6",
                                 message[0], message[1], message[2], message[3]);
    if (fm_get_le32(message + AT_CRC) != fm_base_crc32c(0, message, AT_CRC))
        return fm_base_error_set(FM_ERR_FORMAT, "the checksum of a handshake message is wrong");
    if (message[AT_STEP] == NET_REFUSAL)
        return refused_by_peer(message);
    *out_reason = NET_REFUSED_VERSION;
    if (message[AT_VERSION_LOW] > NET_VERSION || message[AT_VERSION_HIGH] < NET_VERSION)
        return fm_base_error_set(FM_ERR_VERSION,
                                 "the peer speaks versions %d to %d of the wire format, this end %d",
                                 message[AT_VERSION_LOW], message[AT_VERSION_HIGH], NET_VERSION);
    *out_reason = NET_REFUSED_MODE;
    if (message[AT_MODE] != (uint8_t)shake->mode)
        return fm_base_error_set(FM_ERR_NET_AUTH,
                                 "the peer proves itself by mode %d, this end expects mode %d",
                                 message[AT_MODE], (int)shake->mode);
    *out_reason = NET_REFUSED_FORMAT;
    if (message[AT_STEP] != shake->expected || memcmp(message + AT_ZERO, zeros, sizeof zeros) != 0 ||
        fm_get_le32(message + AT_REASON) != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "handshake message of step %d; expected step %d",
                                 message[AT_STEP], shake->expected);
    uint32_t granules = fm_get_le32(message + AT_GRANULES);
    if (granules && (!step_may_share(shake, message[AT_STEP]) || granules > NET_AREA_GRANULES_MAX ||
                     (shake->caller && granules != shake->offer.granules)))
        return fm_base_error_set(FM_ERR_FORMAT, "handshake message of step %d shares an area of %u granules",
                                 message[AT_STEP], granules);
    if (fm_get_le32(message + AT_ARGS_MAX) > NET_ARGS_BYTES_LIMIT ||
        fm_get_le32(message + AT_PAYLOAD_MAX) > NET_PAYLOAD_BYTES_LIMIT)
        return fm_base_error_set(FM_ERR_FORMAT, "the peer offers to accept more than the wire format has");
    *out_reason = NET_REFUSED_CLUSTER;
    if (!shake->caller &&
        memcmp(message + AT_CLUSTER, shake->key.cluster_id, sizeof shake->key.cluster_id) != 0)
        return fm_base_error_set(FM_ERR_NET_AUTH, "the peer belongs to another cluster");
    return FM_OK;
}

// The service's half of sharing: whoever sent this has proved itself.
static void share(struct net_shake *shake, const uint8_t *message)
{
    uint32_t granules = fm_get_le32(message + AT_GRANULES);
    shake->offer.granules =
        granules && shake->share && shake->share(shake->share_context, granules) ? granules : 0;
}

// The part of a step that depends on the step.
static fm_status take(struct net_shake *shake, const uint8_t *message, uint8_t *out_message, int *out_answer)
{
    int keyed = shake->mode == FM_NET_KEYED;
    if (shake->expected == NET_PROOF || shake->expected == NET_WELCOME)
        FM_TRY(check_proof(shake, message));
    record(shake, message);
    switch (shake->expected) {
    case NET_HELLO:
        if (!keyed)
            share(shake, message);
        FM_TRY(answer(shake, keyed ? NET_CHALLENGE : NET_WELCOME, out_message));
        *out_answer = 1;
        shake->expected = NET_PROOF;
        shake->done = !keyed;
        return FM_OK;
    case NET_CHALLENGE:
        FM_TRY(answer(shake, NET_PROOF, out_message));
        *out_answer = 1;
        shake->expected = NET_WELCOME;
        return FM_OK;
    case NET_PROOF:
        share(shake, message);
        FM_TRY(answer(shake, NET_WELCOME, out_message));
        *out_answer = 1;
        shake->done = 1;
        return FM_OK;
    default:
        shake->done = 1;
        return FM_OK;
    }
}

fm_status fm_net_shake_step(struct net_shake *shake, const uint8_t message[NET_SHAKE_BYTES],
                            uint8_t out_message[NET_SHAKE_BYTES], int *out_answer)
{
    *out_answer = 0;
    if (shake->done)
        return fm_base_error_set(FM_ERR_STATE, "the handshake is over");
    enum net_refusal reason;
    fm_status status = check_message(shake, message, &reason);
    if (status == FM_OK) {
        reason = NET_REFUSED_PROOF;
        status = take(shake, message, out_message, out_answer);
    }
    if (status == FM_OK) {
        shake->peer = (struct net_shake_offer){
            fm_get_le32(message + AT_WINDOW), fm_get_le32(message + AT_ARGS_MAX),
            fm_get_le32(message + AT_PAYLOAD_MAX), fm_get_le32(message + AT_GRANULES)};
    } else if (message[AT_STEP] != NET_REFUSAL) {
        // Two ends that refuse each other's refusals would not end; and no peer is told of our lack of
        // memory.
        fm_net_shake_refuse(reason, out_message);
        *out_answer = status != FM_ERR_NOMEM;
    }
    return status;
}

fm_status fm_net_shake_seals(const struct net_shake *shake, fm_net_seal **out_sending,
                             fm_net_seal **out_receiving)
{
    static const char *info[2] = {"fathom net: service to caller", "fathom net: caller to service"};
    fm_net_seal *seals[2] = {NULL, NULL}; // by "the caller sends"
    fm_status status = FM_OK;
    for (int i = 0; i < 2 && status == FM_OK; i++) {
        uint8_t bytes[NET_SEAL_KEY_BYTES + NET_SEAL_SALT_BYTES];
        status = fm_net_crypto_hkdf(shake->key.secret, shake->messages, sizeof shake->messages, info[i],
                                    bytes, sizeof bytes);
        if (status == FM_OK)
            status = fm_net_seal_new(bytes, bytes + NET_SEAL_KEY_BYTES, &seals[i]);
        fm_net_crypto_clear(bytes, sizeof bytes);
    }
    if (status != FM_OK) {
        fm_net_seal_free(seals[0]);
        return status;
    }
    *out_sending = seals[shake->caller ? 1 : 0];
    *out_receiving = seals[shake->caller ? 0 : 1];
    return FM_OK;
}

int fm_net_shake_carries_area(const struct net_shake *shake, const uint8_t message[NET_SHAKE_BYTES])
{
    return shake->caller && message[AT_STEP] != NET_REFUSAL && fm_get_le32(message + AT_GRANULES) != 0;
}

void fm_net_shake_clear(struct net_shake *shake)
{
    fm_net_crypto_clear(shake, sizeof *shake);
}
