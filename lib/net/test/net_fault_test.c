// Processes that die, hang, or are slow: what each costs the others.
#include "net_process.h"

#include <signal.h>

#include "fathom/clock.h"

static const int64_t ms = 1000000;

enum { OUTSTANDING = 16, BULK = 1 << 20 };

// 16 calls of 1 MiB, reading and writing.
static void call_bulk(struct net_client *client, struct net_outcome *outcomes, int64_t timeout_ns)
{
    for (int i = 0; i < OUTSTANDING; i++)
        assert_ok(net_client_call(client, &outcomes[i], i % 2 ? NET_READ : NET_WRITE, 0, BULK, timeout_ns));
}

static void check_ended(const struct net_outcome *outcomes, fm_status status)
{
    for (int i = 0; i < OUTSTANDING; i++) {
        assert_int_equal(outcomes[i].count, 1);
        if (outcomes[i].status != FM_OK)
            assert_int_equal(outcomes[i].status, status);
    }
}

static void a_killed_service_ends_its_calls(void **state)
{
    (void)state;
    const char *const addresses[] = {"127.0.0.1:0", net_unix_address("killed")};
    int fds = net_count_fds();
    for (int round = 0; round < 12; round++) {
        char address[FM_NET_ADDRESS_BYTES];
        pid_t service = net_fork_service(addresses[round % 2], &net_keyed, address);
        fm_net_loop *loop = net_test_loop(NULL);
        struct net_client client;
        static struct net_outcome outcomes[OUTSTANDING];
        net_client_connect(&client, loop, address, &net_keyed);
        net_until(loop, &client.up, 1);
        call_bulk(&client, outcomes, 0);
        for (int i = 0; i < 4 * round; i++)
            assert_ok(fm_net_loop_progress(loop, 0));
        net_kill(service, SIGKILL);
        uint64_t begin_ns = fm_base_clock_ns();
        net_until(loop, &client.down, 1);
        assert_true(fm_base_clock_ns() - begin_ns < 5000 * (uint64_t)ms);
        assert_int_equal(client.down_status, FM_ERR_NET_CLOSED);
        check_ended(outcomes, FM_ERR_NET_CLOSED);
        fm_net_loop_free(loop);
    }
    assert_int_equal(net_count_fds(), fds);
}

static void a_stopped_service_is_noticed_by_deadline(void **state)
{
    (void)state;
    char address[FM_NET_ADDRESS_BYTES];
    pid_t service = net_fork_service(net_unix_address("stopped"), &net_keyed, address);
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_client client;
    static struct net_outcome outcomes[OUTSTANDING];
    net_client_connect(&client, loop, address, &net_keyed);
    net_until(loop, &client.up, 1);
    net_kill(service, SIGSTOP);
    uint64_t begin_ns = fm_base_clock_ns();
    call_bulk(&client, outcomes, 100 * ms);
    net_until(loop, &client.down, 1);
    assert_true(fm_base_clock_ns() - begin_ns >= 100 * (uint64_t)ms);
    assert_int_equal(client.down_status, FM_ERR_TIMEOUT);
    int expired = 0;
    for (int i = 0; i < OUTSTANDING; i++) {
        assert_int_equal(outcomes[i].count, 1);
        assert_true(outcomes[i].status == FM_ERR_TIMEOUT || outcomes[i].status == FM_ERR_NET_CLOSED);
        expired += outcomes[i].status == FM_ERR_TIMEOUT;
    }
    assert_true(expired >= 1);
    // Closing with all of it outstanding on a peer that hangs does not hang.
    net_client_connect(&client, loop, address, &net_keyed);
    call_bulk(&client, outcomes, FM_NET_FOREVER);
    assert_ok(fm_net_loop_progress(loop, 0));
    fm_net_loop_free(loop);
    check_ended(outcomes, FM_ERR_CANCELLED);
    net_kill(service, SIGKILL);
}

static void killed_clients_cost_nobody_else_anything(void **state)
{
    (void)state;
    net_kill_clients(40, net_unix_address("kills"), &net_keyed);
}

static void a_stopped_reader_does_not_grow_the_service(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = net_unix_address("reader");
    net_service_listen(&service, loop, address, &net_keyed);
    pid_t reader = net_fork_client(address, &net_keyed, NET_READ, 64, BULK);
    net_until(loop, &service.served, 20);
    net_kill(reader, SIGSTOP);
    net_rest(loop, 50);
    int served = service.served;
    long resident = net_resident_kib();
    struct net_client other;
    struct net_outcome quick;
    net_client_connect(&other, loop, address, &net_keyed);
    for (int i = 0; i < 50; i++) {
        assert_ok(net_client_call(&other, &quick, NET_READ, 0, 100000, 0));
        net_until(loop, &quick.count, 1);
        assert_ok(quick.status);
    }
    assert_int_equal(service.served, served + 50); // nothing more for the reader
    assert_true(net_resident_kib() < resident + 4000);
    net_kill(reader, SIGCONT);
    net_until(loop, &service.served, served + 50 + 100); // and it goes on
    net_kill(reader, SIGKILL);
    fm_net_loop_free(loop);
}

static void many_clients_are_served_alike(void **state)
{
    (void)state;
    enum { PROCESSES = 4, CLIENTS = 64, ROUNDS = 20 };
    char address[FM_NET_ADDRESS_BYTES];
    pid_t service = net_fork_service(net_unix_address("many"), &net_keyed, address);
    pid_t others[PROCESSES];
    for (int i = 0; i < PROCESSES; i++)
        others[i] = net_fork_client(address, &net_keyed, NET_READ, 16, 4096);
    fm_net_loop *loop = net_test_loop(NULL);
    static struct net_client clients[CLIENTS];
    static struct net_outcome outcomes[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        net_client_connect(&clients[i], loop, address, &net_keyed);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < CLIENTS; i++)
            assert_ok(net_client_call(&clients[i], &outcomes[i], NET_READ, (uint32_t)i, 4096, 0));
        for (int i = 0; i < CLIENTS; i++) {
            net_until(loop, &outcomes[i].count, 1);
            assert_ok(outcomes[i].status);
        }
    }
    fm_net_loop_free(loop);
    for (int i = 0; i < PROCESSES; i++)
        net_kill(others[i], SIGKILL);
    net_kill(service, SIGKILL);
}

struct dialling {
    int up, down;
};

static void dialled(void *context, fm_net_conn *conn)
{
    struct dialling *dialling = context;
    (void)conn;
    dialling->up++;
}

static void hung_up(void *context, fm_net_conn *conn, fm_status status)
{
    struct dialling *dialling = context;
    (void)conn;
    (void)status;
    dialling->down++;
}

static void a_restarted_service_is_found_again(void **state)
{
    (void)state;
    char address[FM_NET_ADDRESS_BYTES];
    pid_t service = net_fork_service("127.0.0.1:0", &net_keyed, address);
    fm_net_loop *loop = net_test_loop(NULL);
    struct dialling dialling = {0};
    const fm_net_connect_options options = {sizeof options, dialled, hung_up, &dialling, net_keyed};
    const fm_net_backoff backoff = {.first_ns = 5 * ms, .limit_ns = 50 * ms};
    fm_net_dialer *dialer;
    assert_ok(fm_net_dialer_new(loop, address, &options, &backoff, &dialer));
    for (int i = 1; i <= 3; i++) {
        net_until(loop, &dialling.up, i);
        int down = dialling.down;
        net_kill(service, SIGKILL);
        net_until(loop, &dialling.down, down + 1);
        service =
            net_fork_service(address, &net_keyed, address); // at once on the port of the one that was killed
    }
    net_kill(service, SIGKILL);
    fm_net_dialer_free(dialer);
    fm_net_loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_killed_service_ends_its_calls),
        cmocka_unit_test(a_stopped_service_is_noticed_by_deadline),
        cmocka_unit_test(killed_clients_cost_nobody_else_anything),
        cmocka_unit_test(a_stopped_reader_does_not_grow_the_service),
        cmocka_unit_test(many_clients_are_served_alike),
        cmocka_unit_test(a_restarted_service_is_found_again),
    };
    return fm_test_run("net.fault", tests);
}
