#include "net_frame.h"

#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"

static const uint8_t magic[4] = {'F', 'M', 'N', 0xF5};

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_KIND = 5,
    AT_FLAGS = 6,
    AT_ID = 8,
    AT_CODE = 16,
    AT_ARGS_BYTES = 20,
    AT_PAYLOAD_BYTES = 24,
    AT_PAYLOAD_CRC = 28,
    AT_TIMEOUT = 32,
    AT_PAYLOAD_TAG = 40,
    AT_PLACE_FIRST = 56,
    AT_PLACE_COUNT = 58,
    AT_CRC = 60,
    AT_TAG = 64,
};

_Static_assert(AT_TAG + NET_TAG_BYTES == NET_FRAME_BYTES, "the tag ends the header");

static fm_status head_tag(const uint8_t *bytes, const void *args, size_t args_bytes, fm_net_seal *seal,
                          uint8_t out_tag[NET_TAG_BYTES])
{
    fm_net_seal_begin(seal, NET_PART_HEAD);
    fm_net_seal_update(seal, bytes, AT_TAG);
    fm_net_seal_update(seal, args, args_bytes);
    return fm_net_seal_end(seal, out_tag);
}

static uint32_t head_crc(const uint8_t *bytes, const void *args, size_t args_bytes)
{
    return fm_base_crc32c(fm_base_crc32c(0, bytes, AT_CRC), args, args_bytes);
}

fm_status fm_net_frame_encode(const struct net_frame *frame, const void *args, fm_net_seal *seal,
                              uint8_t out_bytes[NET_FRAME_BYTES])
{
    uint8_t bytes[NET_FRAME_BYTES] = {0};
    memcpy(bytes + AT_MAGIC, magic, sizeof magic);
    bytes[AT_VERSION] = NET_VERSION;
    bytes[AT_KIND] = frame->kind;
    fm_put_le16(bytes + AT_FLAGS, frame->flags);
    fm_put_le64(bytes + AT_ID, frame->id);
    fm_put_le32(bytes + AT_CODE, frame->code);
    fm_put_le32(bytes + AT_ARGS_BYTES, frame->args_bytes);
    fm_put_le32(bytes + AT_PAYLOAD_BYTES, frame->payload_bytes);
    fm_put_le32(bytes + AT_PAYLOAD_CRC, frame->payload_crc);
    fm_put_le64(bytes + AT_TIMEOUT, frame->timeout_us);
    memcpy(bytes + AT_PAYLOAD_TAG, frame->payload_tag, NET_TAG_BYTES);
    fm_put_le16(bytes + AT_PLACE_FIRST, frame->place.first);
    fm_put_le16(bytes + AT_PLACE_COUNT, frame->place.count);
    fm_put_le32(bytes + AT_CRC, head_crc(bytes, args, frame->args_bytes));
    if (seal) {
        FM_TRY(head_tag(bytes, args, frame->args_bytes, seal, bytes + AT_TAG));
        fm_net_seal_advance(seal);
    }
    memcpy(out_bytes, bytes, sizeof bytes);
    return FM_OK;
}

static fm_status check_place(const struct net_frame *frame, const struct net_frame_limits *limits)
{
    const struct net_place *place = &frame->place;
    int shared = (frame->flags & NET_FLAG_SHARED) != 0;
    // A caller knows the place of its own call; only a request names it.
    if (frame->kind == NET_REPLY ? place->first || place->count
                                 : (uint32_t)place->first + place->count > limits->granules ||
                                       (place->count == 0 && place->first != 0))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "frame whose place is %u granules from %u, in a shared area of %u",
                                 place->count, place->first, limits->granules);
    if (shared && (limits->granules == 0 || frame->payload_bytes == 0 ||
                   (frame->kind == NET_REQUEST && frame->payload_bytes > net_place_bytes(*place))))
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "frame with %u bytes of payload in a place of %u shared granules",
                                 frame->payload_bytes, place->count);
    return FM_OK;
}

static fm_status check_fields(const struct net_frame *frame, const struct net_frame_limits *limits)
{
    if (frame->kind != limits->kind)
        return fm_base_error_set(FM_ERR_FORMAT, "frame of kind %d; expected %d", frame->kind, limits->kind);
    if (frame->args_bytes > limits->args_bytes_max)
        return fm_base_error_set(FM_ERR_LIMIT, "frame with %u bytes of args; at most %u are accepted",
                                 frame->args_bytes, limits->args_bytes_max);
    if (frame->payload_bytes > limits->payload_bytes_max)
        return fm_base_error_set(FM_ERR_LIMIT, "frame with %u bytes of payload; at most %u are accepted",
                                 frame->payload_bytes, limits->payload_bytes_max);
    if (frame->payload_bytes == 0 && frame->payload_crc != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "frame with a checksum of an empty payload");
    FM_TRY(check_place(frame, limits));
    uint32_t flags = frame->flags & ~(uint32_t)NET_FLAG_SHARED;
    if (frame->kind == NET_REQUEST) {
        if (flags != 0)
            return fm_base_error_set(FM_ERR_FORMAT, "request with flags 0x%x; expected 0", frame->flags);
        return FM_OK;
    }
    fm_status status = (fm_status)frame->code;
    if (status > 0 || frame->timeout_us != 0 || (status < 0 && frame->payload_bytes != 0) ||
        (flags & ~(uint32_t)NET_FLAG_MESSAGE) != 0 || (flags != 0 && status == 0))
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "reply with status %d, %u bytes of payload and flags 0x%x; expected status 0, or a "
            "negative one without payload",
            status, frame->payload_bytes, frame->flags);
    return FM_OK;
}

fm_status fm_net_frame_decode(const uint8_t bytes[NET_FRAME_BYTES], const struct net_frame_limits *limits,
                              struct net_frame *out_frame)
{
    if (memcmp(bytes + AT_MAGIC, magic, sizeof magic) != 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "no frame: begins with %02x %02x %02x %02x, expected 46 4d 4e f5", bytes[0],
                                 bytes[1], bytes[2], bytes[3]);
    if (bytes[AT_VERSION] != NET_VERSION)
        return fm_base_error_set(FM_ERR_VERSION, "frame of version %d; expected %d", bytes[AT_VERSION],
                                 NET_VERSION);
    struct net_frame frame = {
        .kind = bytes[AT_KIND],
        .flags = fm_get_le16(bytes + AT_FLAGS),
        .id = fm_get_le64(bytes + AT_ID),
        .code = fm_get_le32(bytes + AT_CODE),
        .args_bytes = fm_get_le32(bytes + AT_ARGS_BYTES),
        .payload_bytes = fm_get_le32(bytes + AT_PAYLOAD_BYTES),
        .payload_crc = fm_get_le32(bytes + AT_PAYLOAD_CRC),
        .timeout_us = fm_get_le64(bytes + AT_TIMEOUT),
        .place = {fm_get_le16(bytes + AT_PLACE_FIRST), fm_get_le16(bytes + AT_PLACE_COUNT)},
    };
    memcpy(frame.payload_tag, bytes + AT_PAYLOAD_TAG, NET_TAG_BYTES);
    FM_TRY(check_fields(&frame, limits));
    *out_frame = frame;
    return FM_OK;
}

fm_status fm_net_frame_verify(const uint8_t bytes[NET_FRAME_BYTES], const void *args, size_t args_bytes,
                              fm_net_seal *seal)
{
    uint32_t crc = head_crc(bytes, args, args_bytes);
    if (crc != fm_get_le32(bytes + AT_CRC))
        return fm_base_error_set(FM_ERR_FORMAT, "frame header checksum is %08x, computed %08x",
                                 fm_get_le32(bytes + AT_CRC), crc);
    uint8_t tag[NET_TAG_BYTES] = {0};
    if (seal)
        FM_TRY(head_tag(bytes, args, args_bytes, seal, tag));
    if (!fm_net_crypto_equal(tag, bytes + AT_TAG, NET_TAG_BYTES))
        return fm_base_error_set(FM_ERR_NET_AUTH, "frame header does not carry the right tag");
    return FM_OK;
}

uint32_t fm_net_frame_digest(uint32_t crc, fm_net_seal *seal, const void *bytes, size_t size)
{
    if (seal)
        fm_net_seal_update(seal, bytes, size);
    return fm_base_crc32c(crc, bytes, size);
}
