// The same as in net_fault_test.c, a thousand times.
#include "net_process.h"

#include "fm_certs.h"

static void a_thousand_clients_are_killed(void **state)
{
    (void)state;
    net_kill_clients(1000, net_unix_address("kills"), &net_keyed);
}

static void on_the_network_too(void **state)
{
    (void)state;
    net_kill_clients(50, "127.0.0.1:0", &net_keyed);
}

static void and_in_tls(void **state)
{
    (void)state;
    fm_net_tls *tls;
    const fm_net_tls_options options = {.size = sizeof options,
                                        .cert = fm_test_cert("a.pem"),
                                        .key = fm_test_cert("a.key"),
                                        .ca = fm_test_cert("ca.pem")};
    if (fm_net_tls_new(&options, &tls) == FM_ERR_UNSUPPORTED)
        fm_test_skip("built without TLS");
    const fm_net_security security = {FM_NET_KEYED, &net_test_key, tls};
    net_kill_clients(50, "127.0.0.1:0", &security);
    fm_net_tls_free(tls);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thousand_clients_are_killed),
        cmocka_unit_test(on_the_network_too),
        cmocka_unit_test(and_in_tls),
    };
    return fm_test_run("net.soak", tests);
}
