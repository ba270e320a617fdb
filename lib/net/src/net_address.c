#include "net_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

enum {
    HOST_BYTES_MAX = 253, // DNS
    PATH_BYTES_MAX = sizeof(((struct sockaddr_un *)0)->sun_path) - 1,
};

_Static_assert(FM_NET_ADDRESS_BYTES > HOST_BYTES_MAX + 2 + 6,
               "a host in brackets, a colon, a port and a 0 fit");
_Static_assert(FM_NET_ADDRESS_BYTES > PATH_BYTES_MAX + 5, "\"unix:\", a path and a 0 fit");

static const char expected[] = "expected host:port, [::1]:port, :port, *:port or unix:/path";

static fm_status parse_port(const char *text, const char *port, uint16_t *out_port)
{
    unsigned value = 0;
    const char *at = port;
    for (; *at >= '0' && *at <= '9' && value <= 65535; at++)
        value = value * 10 + (unsigned)(*at - '0');
    if (at == port || *at || value > 65535)
        return fm_base_error_set(
            FM_ERR_ARG, "address \"%.300s\": port \"%.40s\" is not a number from 0 to 65535", text, port);
    *out_port = (uint16_t)value;
    return FM_OK;
}

static fm_status parse_unix(const char *text, const char *path, fm_net_address *out_address)
{
    size_t size = strlen(path);
    if (size == 0)
        return fm_base_error_set(FM_ERR_ARG, "address \"%s\" has no path; expected unix:/path", text);
    if (size > PATH_BYTES_MAX)
        return fm_base_error_set(FM_ERR_ARG,
                                 "the path of address \"%.300s\" has %zu bytes; a UNIX socket takes %d", text,
                                 size, (int)PATH_BYTES_MAX);
    fm_net_address address = {.family = FM_NET_UNIX};
    memcpy(address.host, path, size);
    *out_address = address;
    return FM_OK;
}

fm_status fm_net_address_parse(const char *text, fm_net_address *out_address)
{
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text, text + 5, out_address);
    fm_net_address address = {.family = FM_NET_TCP};
    const char *colon = strrchr(text, ':');
    if (!colon)
        return fm_base_error_set(FM_ERR_ARG, "address \"%.300s\" has no port; %s", text, expected);
    const char *host = text;
    size_t size = (size_t)(colon - text);
    if (size >= 2 && host[0] == '[' && host[size - 1] == ']') {
        host++;
        size -= 2;
    } else if (memchr(host, ':', size)) {
        return fm_base_error_set(FM_ERR_ARG,
                                 "address \"%.300s\": write an IPv6 address in brackets, [::1]:port", text);
    }
    if (size > HOST_BYTES_MAX || memchr(host, '[', size) || memchr(host, ']', size) ||
        (size == 0 && host != text))
        return fm_base_error_set(FM_ERR_ARG, "address \"%.300s\" has no valid host; %s", text, expected);
    memcpy(address.host, size ? host : "127.0.0.1", size ? size : sizeof "127.0.0.1");
    FM_TRY(parse_port(text, colon + 1, &address.port));
    *out_address = address;
    return FM_OK;
}

void fm_net_address_format(const fm_net_address *address, char *out_text)
{
    if (address->family == FM_NET_UNIX)
        snprintf(out_text, FM_NET_ADDRESS_BYTES, "unix:%.*s", (int)PATH_BYTES_MAX, address->host);
    else
        snprintf(out_text, FM_NET_ADDRESS_BYTES, strchr(address->host, ':') ? "[%.*s]:%u" : "%.*s:%u",
                 (int)HOST_BYTES_MAX, address->host, (unsigned)address->port);
}

static fm_status resolve_tcp(const fm_net_address *parsed, int listening, struct net_sockaddr *out_address)
{
    char port[8];
    snprintf(port, sizeof port, "%u", (unsigned)parsed->port);
    int any = strcmp(parsed->host, "*") == 0;
    if (any && !listening)
        return fm_base_error_set(FM_ERR_ARG, "cannot connect to \"*\"; name a host");
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found;
    int error = getaddrinfo(any ? "0.0.0.0" : parsed->host, port, &hints, &found);
    if (error == EAI_MEMORY)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to resolve \"%s\"", parsed->host);
    if (error)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "cannot resolve host \"%s\": %s", parsed->host,
                                 gai_strerror(error));
    // "localhost" is two addresses on most machines: who listens and who connects must choose the same one.
    const struct addrinfo *chosen = found;
    while (chosen->ai_family != AF_INET && chosen->ai_next)
        chosen = chosen->ai_next;
    if (chosen->ai_family != AF_INET)
        chosen = found;
    out_address->size = chosen->ai_addrlen;
    memcpy(&out_address->storage, chosen->ai_addr, chosen->ai_addrlen);
    freeaddrinfo(found);
    return FM_OK;
}

fm_status fm_net_address_resolve(const char *text, int listening, struct net_sockaddr *out_address)
{
    fm_net_address parsed = {0};
    FM_TRY(fm_net_address_parse(text, &parsed));
    struct net_sockaddr address = {0};
    if (parsed.family == FM_NET_TCP) {
        FM_TRY(resolve_tcp(&parsed, listening, &address));
    } else {
        struct sockaddr_un local = {.sun_family = AF_UNIX};
        memcpy(local.sun_path, parsed.host, strlen(parsed.host));
        memcpy(&address.storage, &local, sizeof local);
        address.size = sizeof local;
    }
    *out_address = address;
    return FM_OK;
}

void fm_net_address_name(const struct net_sockaddr *address, char *out_text)
{
    fm_net_address parsed = {.family = FM_NET_TCP};
    if (address->storage.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &address->storage, sizeof in);
        inet_ntop(AF_INET, &in.sin_addr, parsed.host, sizeof parsed.host);
        parsed.port = ntohs(in.sin_port);
    } else if (address->storage.ss_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, &address->storage, sizeof in);
        inet_ntop(AF_INET6, &in.sin6_addr, parsed.host, sizeof parsed.host);
        parsed.port = ntohs(in.sin6_port);
    } else {
        struct sockaddr_un local;
        memcpy(&local, &address->storage, sizeof local);
        parsed.family = FM_NET_UNIX;
        snprintf(parsed.host, sizeof parsed.host, "%s", local.sun_path);
    }
    fm_net_address_format(&parsed, out_text);
}
