/*
 * The handshake that begins a connection: pure state, no I/O, no clock. Messages are 96 bytes, little-endian:
 *
 *     OFFSET  SIZE  FIELD
 *          0     4  magic: "FMN" and 0xF6
 *          4     1  step: 1 hello, 2 challenge, 3 proof, 4 welcome, 5 refusal
 *          5     1  lowest version of the wire format that the sender speaks
 *          6     1  highest; in a challenge and a welcome both are the version chosen
 *          7     1  mode: fm_net_mode
 *          8     4  window: requests that the sender takes at once (0 from the caller)
 *         12     4  bytes of args that the sender accepts
 *         16     4  bytes of a request's payload that the sender accepts (0 from the caller)
 *         20     4  refusal: reason; otherwise 0
 *         24    16  cluster id, from the caller alone; otherwise 0
 *         40    32  hello, challenge: nonce (0 when not keyed); proof, welcome: proof (0 when not keyed)
 *         72     4  granules of the shared area (net_area.h) whose descriptor goes with the caller's last message; in a
 *                   welcome as many when the service uses it, or 0; otherwise 0
 *         76    16  0
 *         92     4  CRC32C of bytes 0..91
 *         96
 *
 *     caller                             service
 *     hello(nonce)             ->
 *                              <-        challenge(nonce)
 *     proof(HMAC)              ->                                 the caller proves itself first, so that a
 *                              <-        welcome(HMAC)            stranger does not get as much as a MAC
 *
 * Not keyed: hello, welcome. Either end may refuse in the place of its next message and close.
 *
 * A proof is HMAC-SHA256 under a key derived from the cluster secret, over a label of its role, all messages
 * before it, its own message with the proof zeroed, and what binds it to the TLS connection below (zeros without
 * one). So it is bound to roles, versions, modes, limits, cluster and both nonces: it can be neither replayed, reflected nor moved to another connection. The secret,
 * salted with all four messages, gives the keys of the two directions by HKDF.
 */
#ifndef NET_SHAKE_H
#define NET_SHAKE_H

#include <stdint.h>

#include "fathom/net.h"

#include "net_crypto.h"
#include "net_tls.h"

enum {
    NET_SHAKE_BYTES = 96,
    NET_SHAKE_MESSAGES = 4,
    NET_NONCE_BYTES = 32,
};

enum net_shake_step {
    NET_HELLO = 1,
    NET_CHALLENGE,
    NET_PROOF,
    NET_WELCOME,
    NET_REFUSAL,
};

// Why a handshake is refused; on the wire, never renumbered.
enum net_refusal {
    NET_REFUSED_VERSION = 1,
    NET_REFUSED_CLUSTER,
    NET_REFUSED_MODE,
    NET_REFUSED_PROOF,
    NET_REFUSED_FULL,
    NET_REFUSED_FORMAT,
    NET_REFUSED_PLAIN, // the sender expects TLS
    NET_REFUSED_TLS,   // it does not
};

// What an end tells the other about itself.
struct net_shake_offer {
    uint32_t window;
    uint32_t args_bytes_max;
    uint32_t payload_bytes_max;
    uint32_t granules; // of the area to share: offered by the caller, accepted by the service
};

struct net_shake {
    int caller; // which end this is
    fm_net_mode mode;
    fm_net_key key;
    struct net_shake_offer offer; // this end's
    struct net_shake_offer peer;  // valid when done
    uint8_t nonce[NET_NONCE_BYTES];
    uint8_t binding[NET_TLS_BINDING_BYTES]; // set when TLS has it
    uint8_t expected;                       // step of the next message
    int done;
    // Service: asked, once the caller has proved itself, whether it shares the area of that many granules. NULL: no.
    int (*share)(void *context, uint32_t granules);
    void *share_context;
    unsigned count; // messages so far, both ways
    uint8_t messages[NET_SHAKE_MESSAGES][NET_SHAKE_BYTES];
};

// `nonce` is 32 fresh random bytes. The caller's first message goes to out_message; a service has none yet.
FM_MUST_USE fm_status fm_net_shake_begin(struct net_shake *shake, int caller, const fm_net_security *security,
                                         const struct net_shake_offer *offer,
                                         const uint8_t nonce[NET_NONCE_BYTES],
                                         uint8_t out_message[NET_SHAKE_BYTES]);
/*
 * Takes one message. *out_answer says whether out_message holds one to send: after a failure it is a refusal,
 * to be sent before closing. FM_OK with `done` set ends the handshake. FM_ERR_FORMAT, FM_ERR_VERSION,
 * FM_ERR_NET_AUTH, FM_ERR_NET_REFUSED (the peer is full), FM_ERR_NOMEM.
 */
FM_MUST_USE fm_status fm_net_shake_step(struct net_shake *shake, const uint8_t message[NET_SHAKE_BYTES],
                                        uint8_t out_message[NET_SHAKE_BYTES], int *out_answer);
// After a keyed handshake: what seals this end's frames, and what checks the other end's. FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_shake_seals(const struct net_shake *shake, fm_net_seal **out_sending,
                                         fm_net_seal **out_receiving);
// Whether this message of the caller, which it is sending, is the one that its area's descriptor goes with.
int fm_net_shake_carries_area(const struct net_shake *shake, const uint8_t message[NET_SHAKE_BYTES]);
// Overwrites what is secret.
void fm_net_shake_clear(struct net_shake *shake);
// A refusal for an end that has no state.
void fm_net_shake_refuse(enum net_refusal reason, uint8_t out_message[NET_SHAKE_BYTES]);

#endif
