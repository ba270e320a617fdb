#include "fm_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "net_address.h"

static void addresses_are_parsed_and_formatted(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host, *formatted;
        fm_net_family family;
        uint16_t port;
    } cases[] = {
        {"node17:9000", "node17", "node17:9000", FM_NET_TCP, 9000},
        {"127.0.0.1:0", "127.0.0.1", "127.0.0.1:0", FM_NET_TCP, 0},
        {"[::1]:65535", "::1", "[::1]:65535", FM_NET_TCP, 65535},
        {":80", "127.0.0.1", "127.0.0.1:80", FM_NET_TCP, 80},
        {"*:80", "*", "*:80", FM_NET_TCP, 80},
        {"unix:/run/a b:c", "/run/a b:c", "unix:/run/a b:c", FM_NET_UNIX, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fm_net_address address;
        char text[FM_NET_ADDRESS_BYTES];
        assert_ok(fm_net_address_parse(cases[i].text, &address));
        assert_int_equal(address.family, cases[i].family);
        assert_string_equal(address.host, cases[i].host);
        assert_int_equal(address.port, cases[i].port);
        fm_net_address_format(&address, text);
        assert_string_equal(text, cases[i].formatted);
    }
}

static void bad_addresses_are_explained(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", "has no port"},
        {"host", "has no port"},
        {"host:", "port \"\" is not a number"},
        {"host:65536", "port \"65536\" is not a number from 0 to 65535"},
        {"host:12x", "port \"12x\""},
        {"host:-1", "port \"-1\""},
        {"host:99999999999999999999", "is not a number"},
        {"::1:80", "in brackets"},
        {"[::1:80", "in brackets"},
        {"[]:80", "no valid host"},
        {"a]b:80", "no valid host"},
        {"unix:", "has no path"},
    };
    fm_net_address address = {.port = 42};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_fails(fm_net_address_parse(cases[i][0], &address), FM_ERR_ARG, cases[i][1]);
    char text[400];
    snprintf(text, sizeof text, "unix:/%0110d", 1);
    assert_fails(fm_net_address_parse(text, &address), FM_ERR_ARG, "111 bytes; a UNIX socket takes 107");
    snprintf(text, sizeof text, "%0300d:80", 1);
    assert_fails(fm_net_address_parse(text, &address), FM_ERR_ARG, "no valid host");
    assert_int_equal(address.port, 42);
}

static void names_are_resolved(void **state)
{
    (void)state;
    struct net_sockaddr address;
    char text[FM_NET_ADDRESS_BYTES];
    static const char *const same[] = {"127.0.0.1:81", "[::1]:81", "unix:/tmp/x"};
    for (size_t i = 0; i < 3; i++) {
        assert_ok(fm_net_address_resolve(same[i], 0, &address));
        fm_net_address_name(&address, text);
        assert_string_equal(text, same[i]);
    }
    // Who listens on a name and who connects to it mean the same address.
    assert_ok(fm_net_address_resolve("localhost:81", 0, &address));
    fm_net_address_name(&address, text);
    assert_string_equal(text, "127.0.0.1:81");
    assert_ok(fm_net_address_resolve("*:81", 1, &address));
    fm_net_address_name(&address, text);
    assert_string_equal(text, "0.0.0.0:81");
    assert_fails(fm_net_address_resolve("*:81", 0, &address), FM_ERR_ARG, "name a host");
    assert_fails(fm_net_address_resolve("no-such-host.invalid:81", 0, &address), FM_ERR_NOT_FOUND,
                 "no-such-host.invalid");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_parsed_and_formatted),
        cmocka_unit_test(bad_addresses_are_explained),
        cmocka_unit_test(names_are_resolved),
    };
    return fm_test_run("net.address", tests);
}
