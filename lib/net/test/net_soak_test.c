// The same as in net_fault_test.c, a thousand times.
#include "net_process.h"

static void a_thousand_clients_are_killed(void **state)
{
    (void)state;
    net_kill_clients(1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_thousand_clients_are_killed)};
    return fm_test_run("net.soak", tests);
}
