#include "net_stage.h"

#include <string.h>

_Static_assert(NET_FRAME_BYTES + NET_ARGS_BYTES_LIMIT <= NET_STAGE_BYTES,
               "a header and its args fit in the stage");

int fm_net_stage_space(struct net_stage *stage, struct iovec out_pieces[2])
{
    int count = 0;
    if (stage->in_payload && stage->landing)
        out_pieces[count++] =
            (struct iovec){stage->landing + stage->landed, stage->frame.payload_bytes - stage->landed};
    if (stage->begin > 0) {
        memmove(stage->bytes, stage->bytes + stage->begin, stage->end - stage->begin);
        stage->end -= stage->begin;
        stage->begin = 0;
    }
    out_pieces[count++] = (struct iovec){stage->bytes + stage->end, NET_STAGE_BYTES - stage->end};
    return count;
}

// `size` more bytes of the payload lie at the landing place.
static void account(struct net_stage *stage, uint32_t size)
{
    if (stage->landing)
        stage->crc = fm_net_frame_digest(stage->crc, stage->seal, stage->landing + stage->landed, size);
    stage->landed += size;
}

static uint32_t smaller(size_t a, uint32_t b)
{
    return a < b ? (uint32_t)a : b;
}

void fm_net_stage_received(struct net_stage *stage, size_t size)
{
    if (stage->in_payload && stage->landing) {
        uint32_t direct = smaller(size, stage->frame.payload_bytes - stage->landed);
        account(stage, direct);
        size -= direct;
    }
    stage->end += (uint32_t)size;
}

void fm_net_stage_land(struct net_stage *stage, void *landing)
{
    stage->in_payload = 1;
    stage->landing = landing;
    stage->landed = 0;
    stage->crc = 0;
    if (stage->seal && landing)
        fm_net_seal_begin(stage->seal, NET_PART_PAYLOAD);
}

static void frame_is_over(struct net_stage *stage)
{
    stage->in_payload = 0;
    if (stage->seal)
        fm_net_seal_advance(stage->seal);
}

static fm_status check_payload(struct net_stage *stage)
{
    if (!stage->landing)
        return FM_OK;
    if (stage->crc != stage->frame.payload_crc)
        return fm_base_error_set(FM_ERR_FORMAT, "payload checksum is %08x, computed %08x",
                                 stage->frame.payload_crc, stage->crc);
    uint8_t tag[NET_TAG_BYTES] = {0};
    if (stage->seal)
        FM_TRY(fm_net_seal_end(stage->seal, tag));
    if (!fm_net_crypto_equal(tag, stage->frame.payload_tag, NET_TAG_BYTES))
        return fm_base_error_set(FM_ERR_NET_AUTH, "payload does not carry the right tag");
    return FM_OK;
}

static fm_status step_payload(struct net_stage *stage, enum net_stage_event *out_event)
{
    uint32_t size = smaller(stage->end - stage->begin, stage->frame.payload_bytes - stage->landed);
    if (stage->landing && size)
        memcpy(stage->landing + stage->landed, stage->bytes + stage->begin, size);
    stage->begin += size;
    account(stage, size);
    *out_event = NET_STAGE_MORE;
    if (stage->landed < stage->frame.payload_bytes)
        return FM_OK;
    FM_TRY(check_payload(stage));
    frame_is_over(stage);
    *out_event = NET_STAGE_END;
    return FM_OK;
}

fm_status fm_net_stage_step(struct net_stage *stage, enum net_stage_event *out_event)
{
    if (stage->in_payload)
        return step_payload(stage, out_event);
    const uint8_t *head = stage->bytes + stage->begin;
    uint32_t staged = stage->end - stage->begin;
    *out_event = NET_STAGE_MORE;
    if (staged < NET_FRAME_BYTES)
        return FM_OK;
    struct net_frame frame;
    FM_TRY(fm_net_frame_decode(head, &stage->limits, &frame));
    if (staged - NET_FRAME_BYTES < frame.args_bytes)
        return FM_OK;
    FM_TRY(fm_net_frame_verify(head, head + NET_FRAME_BYTES, frame.args_bytes, stage->seal));
    stage->frame = frame;
    stage->args = head + NET_FRAME_BYTES;
    stage->begin += NET_FRAME_BYTES + frame.args_bytes;
    if (!net_frame_has_payload_behind(&frame))
        frame_is_over(stage);
    *out_event = NET_STAGE_HEAD;
    return FM_OK;
}
