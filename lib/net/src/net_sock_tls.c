#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "net_sock.h"

enum {
    // Bytes taken before others get their turn: a peer that sends faster than they are decrypted would keep the loop.
    READ_AT_ONCE = 1 << 20,
};

// What TLS ran into, as errno would tell it: EAGAIN, also when the endpoint has failed, which its state says.
static ssize_t not_now(fm_net_ep *ep, enum net_tls_result result, fm_status why)
{
    if (result == NET_TLS_FAILED)
        fm_net_sock_ep_fail(ep, fm_base_error_prefix(why, "%s", ep->name));
    else if (result == NET_TLS_BLOCKED)
        ep->blocked = 1;
    errno = EAGAIN;
    return -1;
}

// The other end does not speak TLS: it is told in its own language, or tells us in it. Returns whether it was so.
static int meets_plain_text(fm_net_ep *ep)
{
    uint8_t bytes[NET_SHAKE_BYTES];
    uint8_t answer[NET_SHAKE_BYTES];
    int has_answer;
    if (ep->tls_heard)
        return 0;
    ssize_t size = recv(ep->fd, bytes, sizeof bytes, MSG_PEEK);
    ep->tls_heard = size > 0;
    if (size <= 0 || bytes[0] == NET_TLS_FIRST_BYTE || (ep->caller && bytes[0] != 'F'))
        return 0; // what else a service may send, an alert, TLS can tell
    fm_status why = FM_ERR_FORMAT;
    if (ep->caller) {
        // Nobody vouches for a refusal, and it ends no more than closing would.
        if (size == sizeof bytes)
            why = fm_net_shake_step(ep->shake, bytes, answer, &has_answer);
        if (size < (ssize_t)sizeof bytes || why == FM_OK)
            why = fm_base_error_set(FM_ERR_FORMAT, "the peer does not speak TLS");
        why = fm_base_error_prefix(why, "handshake with %s", ep->name);
    } else {
        fm_net_shake_refuse(NET_REFUSED_PLAIN, answer);
        (void)!send(ep->fd, answer, sizeof answer, MSG_NOSIGNAL);
        why =
            fm_base_error_set(FM_ERR_NET_AUTH, "%s does not speak TLS, which this service expects", ep->name);
    }
    fm_net_sock_ep_fail(ep, why);
    return 1;
}

int fm_net_sock_tls_shake(fm_net_ep *ep)
{
    if (ep->tls_up)
        return 1;
    if (meets_plain_text(ep))
        return 0;
    fm_status why = FM_OK;
    ep->blocked = 0;
    enum net_tls_result result = fm_net_tls_handshake(ep->tls, &why);
    if (result == NET_TLS_DONE) {
        why = fm_net_tls_binding(ep->tls, ep->shake->binding);
        result = why < 0 ? NET_TLS_FAILED : NET_TLS_DONE;
    }
    if (result != NET_TLS_DONE)
        (void)not_now(ep, result, why);
    ep->tls_up = result == NET_TLS_DONE;
    fm_net_sock_ep_interest(ep);
    return ep->tls_up;
}

// Reads until the piece is full or there is no more, or it is the others' turn.
static enum net_tls_result fill(fm_net_ep *ep, struct iovec piece, size_t *total, fm_status *out_why)
{
    for (size_t at = 0, size; at < piece.iov_len && *total < READ_AT_ONCE; at += size, *total += size) {
        enum net_tls_result result =
            fm_net_tls_read(ep->tls, (uint8_t *)piece.iov_base + at, piece.iov_len - at, &size, out_why);
        if (result != NET_TLS_DONE)
            return result;
        if (!fm_net_tls_has_more(ep->tls)) { // asking would cost a call of the kernel
            *total += size;
            return NET_TLS_WAIT;
        }
    }
    return NET_TLS_DONE;
}

ssize_t fm_net_sock_tls_receive(fm_net_ep *ep, const struct iovec *pieces, int count)
{
    size_t total = 0;
    fm_status why = FM_OK;
    enum net_tls_result result = NET_TLS_DONE;
    for (int i = 0; i < count && result == NET_TLS_DONE && total < READ_AT_ONCE; i++)
        result = fill(ep, pieces[i], &total, &why);
    // What came before a failure is valid, and the failure comes again.
    if (result == NET_TLS_DONE || (result == NET_TLS_FAILED && total)) {
        net_list_append(&ep->worker->resumable, &ep->resume);
        return (ssize_t)total;
    }
    ssize_t none = not_now(ep, result, why);
    return total ? (ssize_t)total : none;
}

// The next bytes to write: a piece where it is long, else as many as are at hand, put together.
static struct iovec next_bytes(const struct iovec *pieces, size_t count, size_t skip, uint8_t *record)
{
    while (count && skip >= pieces->iov_len) {
        skip -= pieces->iov_len;
        pieces++;
        count--;
    }
    if (!count)
        return (struct iovec){NULL, 0};
    if (pieces->iov_len - skip >= NET_TLS_RECORD_BYTES)
        return (struct iovec){(uint8_t *)pieces->iov_base + skip, pieces->iov_len - skip};
    size_t size = 0;
    for (; count && size < NET_TLS_RECORD_BYTES; pieces++, count--, skip = 0) {
        size_t part = pieces->iov_len - skip;
        part = part < NET_TLS_RECORD_BYTES - size ? part : NET_TLS_RECORD_BYTES - size;
        memcpy(record + size, (const uint8_t *)pieces->iov_base + skip, part);
        size += part;
    }
    return (struct iovec){record, size};
}

ssize_t fm_net_sock_tls_send(fm_net_ep *ep, const struct iovec *pieces, size_t count)
{
    uint8_t record[NET_TLS_RECORD_BYTES];
    size_t total = 0;
    for (;;) {
        struct iovec bytes = next_bytes(pieces, count, total, record);
        if (!bytes.iov_len)
            return (ssize_t)total;
        size_t size;
        fm_status why = FM_OK;
        enum net_tls_result result = fm_net_tls_write(ep->tls, bytes.iov_base, bytes.iov_len, &size, &why);
        // Who refused our certificate has said so before it closed.
        if (result == NET_TLS_FAILED && ep->state == NET_EP_SHAKING)
            (void)fm_net_tls_read(ep->tls, record, sizeof record, &size, &why);
        if (result != NET_TLS_DONE) {
            ssize_t none = not_now(ep, result, why);
            return total ? (ssize_t)total : none;
        }
        total += size;
    }
}
