#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "fathom/mem.h"
#include "fathom/span.h"

#include "net_sock.h"

enum {
    // Stages that are kept for the next who receives. Usually few are in use at once; after a burst of peers
    // that sent halves of messages the rest goes back.
    FREE_STAGES_MAX = 16,
};

static int stage_take(fm_net_ep *ep)
{
    fm_net_worker *worker = ep->worker;
    union net_stage_memory *memory = worker->free_stages;
    if (memory) {
        worker->free_stages = memory->next;
        worker->free_stage_count--;
    } else {
        memory = fm_base_mem_alloc(sizeof *memory);
    }
    ep->stage.bytes = memory ? memory->bytes : NULL;
    ep->stage.begin = ep->stage.end = 0;
    return memory != NULL;
}

void fm_net_sock_stage_release(fm_net_ep *ep)
{
    fm_net_worker *worker = ep->worker;
    if (!ep->stage.bytes)
        return;
    union net_stage_memory *memory = (union net_stage_memory *)(void *)ep->stage.bytes;
    if (worker->free_stage_count == FREE_STAGES_MAX) {
        fm_base_mem_free(memory);
    } else {
        memory->next = worker->free_stages;
        worker->free_stages = memory;
        worker->free_stage_count++;
    }
    ep->stage.bytes = NULL;
    ep->stage.begin = ep->stage.end = 0;
}

static void take_request_end(fm_net_ep *ep)
{
    void *request = ep->request;
    ep->request = NULL;
    ep->worker->upcalls->request(request, FM_OK);
}

// The payload of the frame, out of its place in the shared area.
static fm_status take_shared(const fm_net_ep *ep, struct net_place place, void *landing)
{
    const struct net_frame *frame = &ep->stage.frame;
    uint32_t crc = fm_net_area_get(ep->area, place, landing, frame->payload_bytes);
    if (crc != frame->payload_crc)
        return fm_base_error_set(FM_ERR_FORMAT, "payload checksum is %08x, computed %08x from shared memory",
                                 frame->payload_crc, crc);
    return FM_OK;
}

static fm_status take_request(fm_net_ep *ep)
{
    const struct net_frame *frame = &ep->stage.frame;
    fm_net_head head = {
        .method = frame->code,
        .timeout_ns = FM_NET_FOREVER,
        .args = ep->stage.args,
        .args_bytes = frame->args_bytes,
        .payload_bytes = frame->payload_bytes,
        .payload_crc = frame->payload_crc,
    };
    if (frame->timeout_us > 0 && frame->timeout_us < INT64_MAX / 1000)
        head.timeout_ns = (int64_t)frame->timeout_us * 1000;
    void *landing = NULL;
    void *request;
    FM_TRY(ep->worker->upcalls->header(ep->cookie, frame->id, &head, &request, &landing));
    ep->request = request; // from here on it is given back, whatever happens
    if (ep->state != NET_EP_UP)
        return FM_OK;
    if (frame->place.count)
        FM_TRY(fm_net_sock_reach_add(ep, frame->id, frame->place));
    if (net_frame_has_payload_behind(frame)) {
        fm_net_stage_land(&ep->stage, landing);
        return FM_OK;
    }
    if (frame->payload_bytes && landing)
        FM_TRY(take_shared(ep, frame->place, landing));
    take_request_end(ep);
    return FM_OK;
}

// The args of a reply are told at the end of its payload, when other bytes may lie in their place.
static fm_status keep_args(fm_net_ep *ep)
{
    uint32_t bytes = ep->stage.frame.args_bytes;
    if (bytes > ep->reply_args_room) {
        uint8_t *args = fm_base_mem_realloc(ep->reply_args, bytes, 1);
        if (!args)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u bytes of a reply", bytes);
        ep->reply_args = args;
        ep->reply_args_room = bytes;
    }
    if (bytes)
        memcpy(ep->reply_args, ep->stage.args, bytes);
    return FM_OK;
}

static void take_reply_end(fm_net_ep *ep, const uint8_t *args)
{
    const struct net_frame *frame = &ep->stage.frame;
    fm_net_head head = {
        .status = (fm_status)frame->code,
        .message = (frame->flags & NET_FLAG_MESSAGE) != 0,
        .args = args,
        .args_bytes = frame->args_bytes,
        .payload_bytes = frame->payload_bytes,
        .payload_crc = frame->payload_crc,
    };
    struct net_slot *slot = fm_net_sock_slot(ep, ep->reply_slot);
    void *cookie = slot->cookie;
    size_t room = slot->bytes;
    fm_net_sock_slot_release(ep, slot);
    if (ep->reply_status < 0)
        (void)fm_base_error_set(ep->reply_status,
                                "%s answers with a payload of %u bytes; the reply buffer has %zu", ep->name,
                                frame->payload_bytes, room);
    ep->worker->upcalls->done(cookie, ep->reply_status, &head);
}

static fm_status take_reply(fm_net_ep *ep)
{
    const struct net_frame *frame = &ep->stage.frame;
    struct net_slot *slot = fm_net_sock_slot(ep, frame->id);
    if (!slot)
        return fm_base_error_set(FM_ERR_FORMAT, "reply to a call that was not made");
    if (!slot->sent)
        return fm_base_error_set(FM_ERR_FORMAT, "reply to a call that is still being sent");
    ep->reply_slot = frame->id;
    ep->reply_status = frame->payload_bytes > slot->bytes ? FM_ERR_LIMIT : FM_OK;
    if (frame->payload_bytes == 0) {
        take_reply_end(ep, ep->stage.args);
        return FM_OK;
    }
    if (frame->flags & NET_FLAG_SHARED) {
        if (frame->payload_bytes > net_place_bytes(slot->place))
            return fm_base_error_set(FM_ERR_FORMAT, "reply of %u bytes in a place of %zu",
                                     frame->payload_bytes, net_place_bytes(slot->place));
        if (ep->reply_status == FM_OK)
            FM_TRY(take_shared(ep, slot->place, slot->buffer));
        take_reply_end(ep, ep->stage.args);
        return FM_OK;
    }
    FM_TRY(keep_args(ep));
    fm_net_stage_land(&ep->stage, ep->reply_status == FM_OK ? slot->buffer : NULL);
    return FM_OK;
}

static fm_status take(fm_net_ep *ep, enum net_stage_event event)
{
    if (event == NET_STAGE_HEAD)
        return ep->caller ? take_reply(ep) : take_request(ep);
    if (ep->caller)
        take_reply_end(ep, ep->reply_args);
    else
        take_request_end(ep);
    return FM_OK;
}

// Looks at staged bytes until more are needed, the endpoint ends, or too many replies wait.
static void process(fm_net_ep *ep)
{
    while (ep->state == NET_EP_UP && !ep->paused) {
        enum net_stage_event event;
        fm_status status = fm_net_stage_step(&ep->stage, &event);
        if (status == FM_OK && event == NET_STAGE_MORE)
            return;
        if (status == FM_OK)
            status = take(ep, event);
        if (status < 0) {
            fm_net_sock_ep_fail(ep, fm_base_error_prefix(status, "from %s", ep->name));
            return;
        }
    }
}

static void after_process(fm_net_ep *ep, int progress)
{
    if (ep->state != NET_EP_UP)
        return;
    if (ep->stage.begin == ep->stage.end)
        fm_net_sock_stage_release(ep);
    fm_net_sock_ep_moved(ep, progress);
    fm_net_sock_ep_interest(ep);
}

// The plain call where it does, which is with every small message: it is a tenth of a microsecond cheaper.
static ssize_t receive_pieces(fm_net_ep *ep, struct iovec *pieces, int count)
{
    if (ep->tls)
        return fm_net_sock_tls_receive(ep, pieces, count);
    if (count == 1)
        return recv(ep->fd, pieces[0].iov_base, pieces[0].iov_len, 0);
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = (size_t)count};
    return recvmsg(ep->fd, &message, 0);
}

void fm_net_sock_receive(fm_net_ep *ep)
{
    FM_SPAN_ARGS(span, "receive", "net", "bytes", NULL);
    if (!ep->stage.bytes && !stage_take(ep)) {
        fm_net_sock_ep_fail(ep, fm_base_error_set(FM_ERR_NOMEM, "no memory to receive from %s", ep->name));
        return;
    }
    struct iovec pieces[2];
    int count = fm_net_stage_space(&ep->stage, pieces);
    ssize_t size = receive_pieces(ep, pieces, count);
    if (size == 0) {
        fm_net_sock_ep_fail(ep, fm_base_error_set(FM_ERR_NET_CLOSED, "%s closed the connection", ep->name));
        return;
    }
    if (size < 0 && errno != EAGAIN && errno != EINTR) {
        fm_net_sock_ep_fail(ep,
                            fm_base_error_set_errno(FM_ERR_NET_CLOSED, errno, "receiving from %s", ep->name));
        return;
    }
    if (size > 0) {
        span.args[0] = size;
        fm_net_stage_received(&ep->stage, (size_t)size);
        process(ep);
    }
    after_process(ep, size > 0);
}

void fm_net_sock_resume(fm_net_ep *ep)
{
    if (ep->stage.bytes)
        process(ep);
    if (ep->tls && ep->state == NET_EP_UP && !ep->paused)
        fm_net_sock_receive(ep);
    else
        after_process(ep, 0);
}
