#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "fathom/mem.h"
#include "fathom/span.h"

#include "net_sock.h"

enum {
    // Pieces handed to the kernel at once: 32 frames or more, by when the price of the call has vanished.
    BATCH_PIECES = 64,
    // The 16 calls that a peer usually has outstanding.
    SLOTS_AT_FIRST = 16,
};

static struct net_send *take_send(fm_net_worker *worker)
{
    struct net_send *send = worker->free_sends;
    if (send)
        worker->free_sends = send->next;
    else
        send = fm_base_mem_alloc(sizeof *send);
    return send;
}

void fm_net_sock_send_free(fm_net_worker *worker, struct net_send *send)
{
    fm_base_mem_free(send->block);
    send->next = worker->free_sends;
    worker->free_sends = send;
}

static fm_status add_payload(const struct iovec *payload, size_t count, struct net_send *send,
                             uint32_t *out_bytes)
{
    if (count > FM_NET_PIECES_MAX)
        return fm_base_error_set(FM_ERR_ARG, "payload of %zu pieces; at most %d are gathered", count,
                                 FM_NET_PIECES_MAX);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        if (payload[i].iov_len > NET_PAYLOAD_BYTES_LIMIT - bytes)
            return fm_base_error_set(FM_ERR_LIMIT, "payload of more than %d bytes", NET_PAYLOAD_BYTES_LIMIT);
        bytes += payload[i].iov_len;
        if (payload[i].iov_len)
            send->pieces[send->piece_count++] = payload[i];
    }
    *out_bytes = (uint32_t)bytes;
    return FM_OK;
}

// Puts the payload into the shared area, if it is worth it and the call has a place there.
static void share_payload(fm_net_ep *ep, struct net_place place, const fm_net_head *head,
                          struct net_send *send, struct net_frame *frame)
{
    if (frame->payload_bytes < NET_AREA_PAYLOAD_MIN || frame->payload_bytes > net_place_bytes(place))
        return;
    frame->payload_crc = head->payload_crc;
    uint32_t *crc = head->payload_crc_known ? NULL : &frame->payload_crc;
    if (crc)
        *crc = 0;
    fm_net_area_put(ep->area, place, &send->pieces[1], send->piece_count - 1, crc);
    frame->flags |= NET_FLAG_SHARED;
    send->piece_count = 1;
}

static fm_status seal_payload(fm_net_ep *ep, const struct net_send *send, const fm_net_head *head,
                              struct net_frame *frame)
{
    if (ep->seal)
        fm_net_seal_begin(ep->seal, NET_PART_PAYLOAD);
    for (unsigned i = 1; i < send->piece_count; i++) {
        const struct iovec *piece = &send->pieces[i];
        if (!head->payload_crc_known)
            frame->payload_crc =
                fm_net_frame_digest(frame->payload_crc, ep->seal, piece->iov_base, piece->iov_len);
        else if (ep->seal)
            fm_net_seal_update(ep->seal, piece->iov_base, piece->iov_len);
    }
    if (head->payload_crc_known)
        frame->payload_crc = head->payload_crc;
    return ep->seal ? fm_net_seal_end(ep->seal, frame->payload_tag) : FM_OK;
}

static fm_status fill_send(fm_net_ep *ep, struct net_frame *frame, const fm_net_head *head,
                           const struct iovec *payload, size_t payload_count, struct net_place place,
                           struct net_send *send)
{
    send->piece_count = 1; // the head, set below
    FM_TRY(add_payload(payload, payload_count, send, &frame->payload_bytes));
    if (!ep->caller && head->status < 0 && frame->payload_bytes)
        return fm_base_error_set(FM_ERR_ARG, "a reply of status %d with a payload", head->status);
    if (ep->caller && frame->payload_bytes > ep->peer.payload_bytes_max)
        return fm_base_error_set(FM_ERR_LIMIT, "payload of %u bytes; %s accepts %u", frame->payload_bytes,
                                 ep->name, ep->peer.payload_bytes_max);
    if (head->args_bytes > ep->peer.args_bytes_max)
        return fm_base_error_set(FM_ERR_LIMIT, "args of %u bytes; %s accepts %u", head->args_bytes, ep->name,
                                 ep->peer.args_bytes_max);
    uint8_t *at = send->head;
    size_t size = NET_FRAME_BYTES + (size_t)head->args_bytes;
    if (size > sizeof send->head) {
        at = send->block = fm_base_mem_alloc(size);
        if (!at)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes to send", size);
    }
    share_payload(ep, place, head, send, frame);
    int behind = net_frame_has_payload_behind(frame);
    if (behind)
        FM_TRY(seal_payload(ep, send, head, frame));
    FM_TRY(fm_net_frame_encode(frame, head->args, ep->seal, at));
    if (head->args_bytes)
        memcpy(at + NET_FRAME_BYTES, head->args, head->args_bytes);
    send->pieces[0] = (struct iovec){at, size};
    send->bytes = size + (behind ? frame->payload_bytes : 0);
    return FM_OK;
}

static fm_status enqueue(fm_net_ep *ep, struct net_frame *frame, const fm_net_head *head,
                         const struct iovec *payload, size_t payload_count, struct net_place place,
                         void *cookie)
{
    struct net_send *send = take_send(ep->worker);
    if (!send)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a message");
    send->next = NULL;
    send->cookie = cookie;
    send->id = frame->id;
    send->is_reply = !ep->caller;
    send->piece = 0;
    send->block = NULL;
    fm_status status = fill_send(ep, frame, head, payload, payload_count, place, send);
    if (status < 0) {
        fm_net_sock_send_free(ep->worker, send);
        return status;
    }
    *ep->sends_end = send;
    ep->sends_end = &send->next;
    ep->send_bytes += send->bytes;
    if (ep->state != NET_EP_UP)
        return FM_OK;
    if (!ep->blocked)
        net_list_append(&ep->worker->dirty, &ep->dirty);
    if (!ep->caller && ep->send_bytes > ep->worker->limits.reply_queue_bytes_max)
        ep->paused = 1; // and not a byte of its requests is read until what waits has halved
    return FM_OK;
}

struct net_slot *fm_net_sock_slot(const fm_net_ep *ep, uint64_t id)
{
    uint32_t place = (uint32_t)id;
    if (place >= ep->slot_count)
        return NULL;
    struct net_slot *slot = &ep->slots[place];
    return slot->active && slot->generation == (uint32_t)(id >> 32) ? slot : NULL;
}

void fm_net_sock_slot_release(fm_net_ep *ep, struct net_slot *slot)
{
    slot->active = 0;
    if (slot->place.count)
        fm_net_area_give_back(ep->area, slot->place);
    slot->place.count = 0;
    slot->generation++;
    slot->next_free = ep->slot_free;
    ep->slot_free = (uint32_t)(slot - ep->slots) + 1;
}

static fm_status grow_slots(fm_net_ep *ep)
{
    uint32_t count = ep->slot_count ? 2 * ep->slot_count : SLOTS_AT_FIRST;
    struct net_slot *slots = fm_base_mem_realloc(ep->slots, count, sizeof *slots);
    if (!slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %u outstanding calls", count);
    ep->slots = slots;
    for (uint32_t place = count; place-- > ep->slot_count;) {
        slots[place] = (struct net_slot){.next_free = ep->slot_free};
        ep->slot_free = place + 1;
    }
    ep->slot_count = count;
    return FM_OK;
}

// A place for what the call may carry either way; none where neither way is bulk, or the area is full: then the socket
// carries it, so that nobody waits for a place.
static struct net_place choose_place(fm_net_ep *ep, const struct iovec *payload, size_t payload_count,
                                     size_t reply_bytes)
{
    size_t bytes = reply_bytes < NET_AREA_PAYLOAD_MIN ? 0 : reply_bytes;
    size_t sent = 0;
    for (size_t i = 0; ep->area && i < payload_count; i++)
        sent += payload[i].iov_len;
    if (sent >= NET_AREA_PAYLOAD_MIN && sent > bytes)
        bytes = sent;
    return ep->area ? fm_net_area_take(ep->area, bytes) : (struct net_place){0, 0};
}

fm_status fm_net_sock_call(fm_net_ep *ep, const fm_net_head *head, const struct iovec *payload,
                           size_t payload_count, void *reply_buffer, size_t reply_bytes, void *call_cookie)
{
    if (ep->state == NET_EP_CLOSING)
        return fm_base_error_set(FM_ERR_NET_CLOSED, "the connection to %s is closing", ep->name);
    if (ep->state != NET_EP_UP || !ep->caller)
        return fm_base_error_set(FM_ERR_STATE, "calls go from the end that connected, once it is up");
    if (!ep->slot_free)
        FM_TRY(grow_slots(ep));
    uint32_t index = ep->slot_free - 1;
    struct net_slot *slot = &ep->slots[index];
    struct net_place place = choose_place(ep, payload, payload_count, reply_bytes);
    struct net_frame frame = {
        .kind = NET_REQUEST,
        .id = (uint64_t)slot->generation << 32 | index,
        .code = head->method,
        .args_bytes = head->args_bytes,
        // Rounded up: 0 would mean for ever.
        .timeout_us = head->timeout_ns == FM_NET_FOREVER ? 0 : (uint64_t)head->timeout_ns / 1000 + 1,
        .place = place,
    };
    fm_status status = enqueue(ep, &frame, head, payload, payload_count, place, NULL);
    if (status < 0) {
        if (place.count)
            fm_net_area_give_back(ep->area, place);
        return status;
    }
    ep->slot_free = slot->next_free;
    slot->cookie = call_cookie;
    slot->buffer = reply_buffer;
    slot->bytes = reply_bytes;
    slot->active = 1;
    slot->sent = 0;
    slot->place = place;
    return FM_OK;
}

fm_status fm_net_sock_reply(fm_net_ep *ep, uint64_t id, const fm_net_head *head, const struct iovec *payload,
                            size_t payload_count, void *reply_cookie)
{
    struct net_frame frame = {
        .kind = NET_REPLY,
        .flags = head->message ? NET_FLAG_MESSAGE : 0,
        .id = id,
        .code = (uint32_t)head->status,
        .args_bytes = head->args_bytes,
    };
    struct net_reach *reach = ep->reach_count ? fm_net_sock_reach(ep, id) : NULL;
    struct net_place place = reach ? reach->place : (struct net_place){0, 0};
    fm_status status = enqueue(ep, &frame, head, payload, payload_count, place, reply_cookie);
    if (status == FM_OK && reach)
        fm_net_sock_reach_remove(ep, reach);
    return status;
}

// The first pieces of the queue, in order.
static size_t gather(const fm_net_ep *ep, struct iovec *batch, size_t *out_bytes)
{
    size_t count = 0;
    size_t bytes = 0;
    for (const struct net_send *send = ep->sends; send && count < BATCH_PIECES; send = send->next)
        for (unsigned i = send->piece; i < send->piece_count && count < BATCH_PIECES; i++) {
            batch[count++] = send->pieces[i];
            bytes += send->pieces[i].iov_len;
        }
    *out_bytes = bytes;
    return count;
}

// A frame has left this process.
static void finish_send(fm_net_ep *ep, struct net_send *send)
{
    ep->sends = send->next;
    if (!ep->sends)
        ep->sends_end = &ep->sends;
    ep->send_bytes -= send->bytes;
    int is_reply = send->is_reply;
    void *cookie = send->cookie;
    struct net_slot *slot = is_reply ? NULL : fm_net_sock_slot(ep, send->id);
    if (slot)
        slot->sent = 1;
    fm_net_sock_send_free(ep->worker, send);
    if (is_reply)
        ep->worker->upcalls->sent(cookie, FM_OK);
}

static void consume(fm_net_ep *ep, size_t bytes)
{
    while (bytes > 0 && ep->sends) {
        struct net_send *send = ep->sends;
        struct iovec *piece = &send->pieces[send->piece];
        size_t part = bytes < piece->iov_len ? bytes : piece->iov_len;
        piece->iov_base = (uint8_t *)piece->iov_base + part;
        piece->iov_len -= part;
        bytes -= part;
        if (piece->iov_len == 0 && ++send->piece == send->piece_count)
            finish_send(ep, send); // may close the endpoint, which leaves its queue alone
    }
}

static ssize_t send_pieces(fm_net_ep *ep, struct iovec *pieces, size_t count)
{
    if (ep->tls)
        return fm_net_sock_tls_send(ep, pieces, count);
    if (count == 1)
        return send(ep->fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL);
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = count};
    return sendmsg(ep->fd, &message, MSG_NOSIGNAL);
}

void fm_net_sock_flush(fm_net_ep *ep)
{
    FM_SPAN_ARGS(span, "send", "net", "bytes", NULL);
    int progress = 0;
    ep->blocked = 0;
    while (ep->sends && ep->state == NET_EP_UP && !ep->blocked) {
        struct iovec batch[BATCH_PIECES];
        size_t bytes;
        size_t count = gather(ep, batch, &bytes);
        ssize_t sent = send_pieces(ep, batch, count);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN) {
            fm_net_sock_ep_fail(ep,
                                fm_base_error_set_errno(FM_ERR_NET_CLOSED, errno, "sending to %s", ep->name));
            return;
        }
        ep->blocked = sent < (ssize_t)bytes;
        if (sent > 0) {
            progress = 1;
            span.args[0] += sent;
            consume(ep, (size_t)sent);
        }
    }
    if (ep->state != NET_EP_UP)
        return;
    if (ep->paused && ep->send_bytes <= ep->worker->limits.reply_queue_bytes_max / 2) {
        // Frames may lie in the stage already, of which epoll will not tell: they are looked at first.
        ep->paused = 0;
        net_list_append(&ep->worker->resumable, &ep->resume);
    }
    fm_net_sock_ep_moved(ep, progress);
    fm_net_sock_ep_interest(ep);
}
