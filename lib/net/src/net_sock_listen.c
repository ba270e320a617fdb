#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fathom/mem.h"

#include "net_sock.h"

enum {
    // The kernel cuts it to net.core.somaxconn.
    BACKLOG = 1024,
    // Connections accepted before others get their turn.
    ACCEPT_BATCH = 16,
};

// Without descriptors or memory the next accept() would fail as well: ask again when some may have been given
// back.
static const int64_t pause_ns = 100 * 1000000;

static const char *socket_path(const struct net_sockaddr *at, struct sockaddr_un *local)
{
    memcpy(local, &at->storage, sizeof *local);
    return local->sun_path;
}

// Removes a socket file that nobody listens on, as a service that was killed leaves it.
static fm_status remove_stale(const struct net_sockaddr *at, const char *address)
{
    struct sockaddr_un local;
    const char *path = socket_path(at, &local);
    struct stat info;
    if (lstat(path, &info) != 0)
        return FM_OK; // bind() will tell what is wrong
    if (!S_ISSOCK(info.st_mode))
        return fm_base_error_set(FM_ERR_EXISTS, "cannot listen on %s: the file is there and is no socket",
                                 address);
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return fm_base_error_set_errno(FM_ERR_LIMIT, errno, "no socket");
    int refused =
        connect(probe, (const struct sockaddr *)&at->storage, at->size) != 0 && errno == ECONNREFUSED;
    close(probe);
    if (!refused)
        return fm_base_error_set(FM_ERR_EXISTS, "cannot listen on %s: somebody does", address);
    unlink(path);
    return FM_OK;
}

static fm_status bind_failed(const char *address)
{
    int error = errno;
    fm_status status = error == EADDRINUSE                 ? FM_ERR_EXISTS
                       : error == EACCES || error == EPERM ? FM_ERR_PERM
                                                           : FM_ERR_IO;
    return fm_base_error_set_errno(status, error, "cannot listen on %s", address);
}

static fm_status bind_unix(fm_net_acceptor *acceptor, const struct net_sockaddr *at, const char *address)
{
    struct sockaddr_un local;
    FM_TRY(remove_stale(at, address));
    // On Linux the mode of the socket before bind() is that of the file; others never see a wider one.
    (void)fchmod(acceptor->fd, 0600);
    if (bind(acceptor->fd, (const struct sockaddr *)&at->storage, at->size) != 0)
        return bind_failed(address);
    struct stat info;
    if (stat(socket_path(at, &local), &info) == 0) {
        acceptor->device = info.st_dev;
        acceptor->inode = info.st_ino;
    }
    return FM_OK;
}

static fm_status bind_tcp(fm_net_acceptor *acceptor, const struct net_sockaddr *at, const char *address,
                          int shared_port)
{
    int on = 1;
    // A service that restarts takes its port back although connections of the old one linger.
    (void)setsockopt(acceptor->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (shared_port && setsockopt(acceptor->fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) != 0)
        return fm_base_error_set_errno(FM_ERR_UNSUPPORTED, errno, "cannot share the port of %s", address);
    if (bind(acceptor->fd, (const struct sockaddr *)&at->storage, at->size) != 0)
        return bind_failed(address);
    return FM_OK;
}

static fm_status open_acceptor(fm_net_acceptor *acceptor, const char *address, const struct net_sockaddr *at,
                               int shared_port)
{
    int family = at->storage.ss_family;
    fm_net_address_name(at, acceptor->name);
    acceptor->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (acceptor->fd < 0)
        return fm_base_error_set_errno(FM_ERR_LIMIT, errno, "no socket to listen on %s", address);
    FM_TRY(family == AF_UNIX ? bind_unix(acceptor, at, address)
                             : bind_tcp(acceptor, at, address, shared_port));
    if (listen(acceptor->fd, BACKLOG) != 0)
        return bind_failed(address);
    struct net_sockaddr bound = {.size = sizeof bound.storage};
    if (getsockname(acceptor->fd, (struct sockaddr *)&bound.storage, &bound.size) != 0)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "cannot tell the address of %s", address);
    fm_net_address_name(&bound, acceptor->name);
    return fm_net_sock_poll_add(acceptor->worker, acceptor->fd, EPOLLIN, acceptor);
}

static void remove_socket_file(const fm_net_acceptor *acceptor)
{
    struct stat info;
    const char *path = acceptor->name + strlen("unix:");
    if (acceptor->inode && stat(path, &info) == 0 && info.st_dev == acceptor->device &&
        info.st_ino == acceptor->inode)
        unlink(path);
}

fm_status fm_net_sock_listen(fm_net_worker *worker, const char *address, const fm_net_security *security,
                             int shared_port, void *acceptor_cookie, fm_net_acceptor **out_acceptor)
{
    struct net_sockaddr at = {0};
    FM_TRY(fm_net_address_resolve(address, 1, &at));
    if (security->mode == FM_NET_KEYED && !security->key)
        return fm_base_error_set(
            FM_ERR_ARG, "%s: no cluster key is given, so nobody could prove to be a member", address);
    if (security->mode == FM_NET_SAME_USER && at.storage.ss_family != AF_UNIX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%s: only a UNIX socket tells its peer's user; give a cluster key", address);
    fm_net_acceptor *acceptor = fm_base_mem_zalloc(1, sizeof *acceptor);
    if (!acceptor)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to listen");
    acceptor->polled.kind = NET_POLL_ACCEPTOR;
    acceptor->worker = worker;
    acceptor->cookie = acceptor_cookie;
    acceptor->security.mode = security->mode;
    if (security->mode == FM_NET_KEYED) {
        acceptor->key = *security->key;
        acceptor->security.key = &acceptor->key;
    }
    acceptor->security.tls = fm_net_tls_ref(security->tls);
    fm_status status = open_acceptor(acceptor, address, &at, shared_port);
    if (status < 0) {
        if (acceptor->fd >= 0)
            close(acceptor->fd);
        remove_socket_file(acceptor);
        fm_net_key_clear(&acceptor->key);
        fm_net_tls_free(acceptor->security.tls);
        fm_base_mem_free(acceptor);
        return status;
    }
    net_list_append(&worker->acceptors, &acceptor->polled.link);
    *out_acceptor = acceptor;
    return FM_OK;
}

const char *fm_net_sock_acceptor_address(const fm_net_acceptor *acceptor)
{
    return acceptor->name;
}

void fm_net_sock_acceptor_close(fm_net_acceptor *acceptor)
{
    fm_net_worker *worker = acceptor->worker;
    for (struct net_link *at = worker->handshakes.next, *next; at != &worker->handshakes; at = next) {
        next = at->next;
        fm_net_ep *ep = NET_OF(at, fm_net_ep, timed);
        if (ep->acceptor == acceptor)
            fm_net_sock_ep_close(ep, FM_ERR_CANCELLED);
    }
    fm_net_sock_poll_remove(worker, acceptor->fd);
    close(acceptor->fd);
    acceptor->fd = -1;
    remove_socket_file(acceptor);
    fm_net_key_clear(&acceptor->key);
    fm_net_tls_free(acceptor->security.tls);
    acceptor->security.tls = NULL;
    net_list_append(&worker->graves, &acceptor->polled.link);
}

static void pause_acceptor(fm_net_acceptor *acceptor)
{
    acceptor->paused_until_ns = fm_net_sock_now_ns() + pause_ns;
    fm_net_sock_poll_remove(acceptor->worker, acceptor->fd);
}

void fm_net_sock_acceptor_ready(fm_net_acceptor *acceptor)
{
    for (int i = 0; i < ACCEPT_BATCH && acceptor->fd >= 0; i++) {
        struct net_sockaddr from = {.size = sizeof from.storage};
        int fd =
            accept4(acceptor->fd, (struct sockaddr *)&from.storage, &from.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            fm_net_sock_ep_accept(acceptor, fd, &from);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            pause_acceptor(acceptor);
            return;
        }
        if (errno == EAGAIN)
            return;
        // Whatever else accept() tells is about a connection that ended before it was accepted.
    }
}

int64_t fm_net_sock_acceptors_resume(fm_net_worker *worker)
{
    int64_t wait = FM_NET_FOREVER;
    for (struct net_link *at = worker->acceptors.next; at != &worker->acceptors; at = at->next) {
        fm_net_acceptor *acceptor = NET_OF(at, fm_net_acceptor, polled.link);
        if (!acceptor->paused_until_ns)
            continue;
        int64_t now_ns = fm_net_sock_now_ns();
        int64_t left = acceptor->paused_until_ns - now_ns;
        if (left <= 0 && fm_net_sock_poll_add(worker, acceptor->fd, EPOLLIN, acceptor) == FM_OK) {
            acceptor->paused_until_ns = 0;
            continue;
        }
        if (left <= 0)
            acceptor->paused_until_ns = now_ns + (left = pause_ns);
        if (left < wait)
            wait = left;
    }
    return wait;
}
