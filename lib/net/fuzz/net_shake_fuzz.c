// Messages of a peer through the handshake. Whatever they are, who does not have the key does not come up.
//
// Byte 0: 1 = this end is the caller, 2 = by user, not keyed, 4 = checksums are mended first. Then messages.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"

#include "net_shake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const fm_net_key key = {{1, 2, 3}, {4, 5, 6}};
    static const struct net_shake_offer offer = {64, 1000, 1000, 0};
    static const uint8_t nonce[NET_NONCE_BYTES] = {7, 8, 9};
    if (size < 1)
        return 0;
    const fm_net_security security = {.mode = data[0] & 2 ? FM_NET_SAME_USER : FM_NET_KEYED, .key = &key};
    struct net_shake shake;
    uint8_t message[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    if (fm_net_shake_begin(&shake, data[0] & 1, &security, &offer, nonce, answer) < 0)
        abort();
    fm_status status = FM_OK;
    for (size_t at = 1; status == FM_OK && !shake.done && size - at >= NET_SHAKE_BYTES;
         at += NET_SHAKE_BYTES) {
        int has_answer;
        memcpy(message, data + at, sizeof message);
        if (data[0] & 4)
            fm_put_le32(message + 92, fm_base_crc32c(0, message, 92));
        status = fm_net_shake_step(&shake, message, answer, &has_answer);
        if (shake.count > NET_SHAKE_MESSAGES || (status < 0 && shake.done))
            abort();
    }
    if (shake.done && security.mode == FM_NET_KEYED)
        abort();
    fm_net_shake_clear(&shake);
    return 0;
}
