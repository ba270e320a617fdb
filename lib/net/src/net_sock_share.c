#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fathom/mem.h"

#include "net_sock.h"

void fm_net_sock_share_offer(fm_net_ep *ep)
{
    uint32_t granules = ep->worker->limits.shared_bytes / NET_AREA_GRANULE;
    // Who is of another user might not be who it seems, until it has proved that; and by then the area is offered.
    if (granules == 0 || fm_net_sock_check_user(ep) < 0)
        return;
    if (fm_net_area_new(granules, &ep->area, &ep->area_fd) < 0)
        return; // the socket carries everything
}

int fm_net_sock_share_accept(void *context, uint32_t granules)
{
    fm_net_ep *ep = context;
    return ep->area_fd >= 0 && ep->worker->limits.shared_bytes >= NET_AREA_GRANULE &&
           fm_net_sock_check_user(ep) == FM_OK && fm_net_area_map(ep->area_fd, granules, &ep->area) == FM_OK;
}

void fm_net_sock_share_settle(fm_net_ep *ep)
{
    if (ep->area && ep->caller && ep->shake->peer.granules == 0) {
        fm_net_area_free(ep->area);
        ep->area = NULL;
    }
    if (ep->area_fd >= 0)
        close(ep->area_fd); // the mapping stays
    ep->area_fd = -1;
    ep->stage.limits.granules = ep->area ? ep->area->granules : 0;
}

void fm_net_sock_share_free(fm_net_ep *ep)
{
    fm_net_area_free(ep->area);
    if (ep->area_fd >= 0)
        close(ep->area_fd);
    fm_base_mem_free(ep->reaches);
}

// Room for one descriptor, aligned as the kernel's macros want it.
union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

ssize_t fm_net_sock_share_send(const fm_net_ep *ep, const uint8_t message[NET_SHAKE_BYTES])
{
    if (ep->area_fd < 0 || !fm_net_shake_carries_area(ep->shake, message))
        return send(ep->fd, message, NET_SHAKE_BYTES, MSG_NOSIGNAL);
    uint8_t bytes[NET_SHAKE_BYTES]; // sendmsg() asks for memory that is not const
    memcpy(bytes, message, sizeof bytes);
    struct iovec piece = {bytes, sizeof bytes};
    union control control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    memcpy(CMSG_DATA(&control.header), &ep->area_fd, sizeof ep->area_fd);
    const struct msghdr carried = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.bytes};
    return sendmsg(ep->fd, &carried, MSG_NOSIGNAL);
}

ssize_t fm_net_sock_share_receive(fm_net_ep *ep, void *bytes, size_t size)
{
    struct iovec piece = {bytes, size};
    if (ep->tls)
        return fm_net_sock_tls_receive(ep, &piece, 1);
    if (ep->caller || !ep->is_unix)
        return recv(ep->fd, bytes, size, 0);
    union control control;
    // Not CMSG_SPACE(), whose padding has room for a second one. What finds no room is closed by the kernel.
    struct msghdr carried = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof(int))};
    ssize_t received = recvmsg(ep->fd, &carried, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *header = received >= 0 ? CMSG_FIRSTHDR(&carried) : NULL;
    if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int))) {
        if (ep->area_fd >= 0)
            close(ep->area_fd); // the last one counts, and one costs no more than one
        memcpy(&ep->area_fd, CMSG_DATA(header), sizeof ep->area_fd);
    }
    return received;
}

fm_status fm_net_sock_reach_add(fm_net_ep *ep, uint64_t id, struct net_place place)
{
    if (ep->reach_count == ep->reach_room) {
        uint32_t room = ep->reach_room ? 2 * ep->reach_room : 8;
        struct net_reach *reaches = fm_base_mem_realloc(ep->reaches, room, sizeof *reaches);
        if (!reaches)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the places of %u calls", room);
        ep->reaches = reaches;
        ep->reach_room = room;
    }
    ep->reaches[ep->reach_count++] = (struct net_reach){id, place};
    return FM_OK;
}

struct net_reach *fm_net_sock_reach(const fm_net_ep *ep, uint64_t id)
{
    // No more than the window of requests that are in service.
    for (uint32_t i = 0; i < ep->reach_count; i++)
        if (ep->reaches[i].id == id)
            return &ep->reaches[i];
    return NULL;
}

void fm_net_sock_reach_remove(fm_net_ep *ep, struct net_reach *reach)
{
    *reach = ep->reaches[--ep->reach_count];
}
