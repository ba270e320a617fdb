#include "serve_listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

fm_status fm_model_serve_listen(const char *host, int port, int *out_fd, int *out_port)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    char service[16];
    int yes = 1, error = 0;
    snprintf(service, sizeof service, "%d", port);
    int failed = getaddrinfo(host, service, &hints, &found);
    if (failed)
        return fm_base_error_set(FM_ERR_ARG, "host \"%s\": %s", host, gai_strerror(failed));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 128) < 0)
        error = errno;
    freeaddrinfo(found);
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    if (!error && getsockname(fd, (struct sockaddr *)&bound, &size) < 0)
        error = errno;
    if (error) {
        if (fd >= 0)
            close(fd);
        fm_status status = error == EADDRINUSE      ? FM_ERR_EXISTS
                           : error == EACCES        ? FM_ERR_PERM
                           : error == EADDRNOTAVAIL ? FM_ERR_ARG
                                                    : FM_ERR_IO;
        return fm_base_error_set_errno(status, error, "cannot listen on %s, port %d%s", host, port,
                                       status == FM_ERR_EXISTS ? " (another program does)" : "");
    }
    *out_port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                  : ((struct sockaddr_in *)&bound)->sin_port);
    *out_fd = fd;
    return FM_OK;
}
