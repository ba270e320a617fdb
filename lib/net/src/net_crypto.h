// The cryptography that the library needs; crypto/ is the only place that includes OpenSSL.
#ifndef NET_CRYPTO_H
#define NET_CRYPTO_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

enum {
    NET_HASH_BYTES = 32, // SHA-256
    // GMAC's full tag. Truncation would save 8 bytes a frame and weaken GMAC more than in proportion (NIST SP
    // 800-38D).
    NET_TAG_BYTES = 16,
    NET_SEAL_KEY_BYTES = 32, // AES-256
    NET_SEAL_SALT_BYTES = 4, // what the 96-bit nonce has left beside a 64-bit counter
};

// Random bytes from the operating system. FM_ERR_IO.
FM_MUST_USE fm_status fm_net_crypto_random(void *out_bytes, size_t size);
struct net_bytes {
    const void *at;
    size_t size;
};

// HMAC-SHA256 over the concatenated pieces. FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_crypto_hmac(const uint8_t key[NET_HASH_BYTES], const struct net_bytes *pieces,
                                         size_t count, uint8_t out_mac[NET_HASH_BYTES]);
// HKDF-SHA256 (RFC 5869), extract and expand. FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_crypto_hkdf(const uint8_t secret[NET_HASH_BYTES], const void *salt,
                                         size_t salt_bytes, const char *info, void *out_bytes, size_t size);
// 1 when equal, in a time that does not depend on where they differ.
int fm_net_crypto_equal(const void *a, const void *b, size_t size);
// Overwrites; the compiler does not leave it out.
void fm_net_crypto_clear(void *bytes, size_t size);

/*
 * One direction of a connection: GMAC (NIST SP 800-38D) under AES-256. The nonce is the salt, the number of
 * the frame and the part of it, all known to both ends and never repeated. So a tag that was valid once never
 * is again: a replayed, dropped or reordered frame fails like a changed one.
 */
typedef struct fm_net_seal fm_net_seal;

enum net_part {
    NET_PART_HEAD = 0,
    NET_PART_PAYLOAD = 1,
};

// FM_ERR_NOMEM.
FM_MUST_USE fm_status fm_net_seal_new(const uint8_t key[NET_SEAL_KEY_BYTES],
                                      const uint8_t salt[NET_SEAL_SALT_BYTES], fm_net_seal **out_seal);
void fm_net_seal_free(fm_net_seal *seal);
// The tag of a part of the present frame: begin, update any number of times, end. A failure inside OpenSSL
// shows at the end, as FM_ERR_INTERNAL. Each part of a frame is sealed at most once.
void fm_net_seal_begin(fm_net_seal *seal, enum net_part part);
void fm_net_seal_update(fm_net_seal *seal, const void *bytes, size_t size);
FM_MUST_USE fm_status fm_net_seal_end(fm_net_seal *seal, uint8_t out_tag[NET_TAG_BYTES]);
// Goes on to the next frame.
void fm_net_seal_advance(fm_net_seal *seal);

#endif
