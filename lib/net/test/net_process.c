#include "net_process.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"

static pid_t fork_child(void)
{
    pid_t parent = getpid();
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(0);
    }
    return child;
}

pid_t net_fork_service(const char *address, const fm_net_security *security,
                       char out_bound[FM_NET_ADDRESS_BYTES])
{
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork_child();
    if (child == 0) {
        static struct net_service service;
        char bound[FM_NET_ADDRESS_BYTES] = "";
        fm_net_loop *loop = net_test_loop(NULL);
        fm_net_listener *listener = net_service_listen(&service, loop, address, security);
        snprintf(bound, sizeof bound, "%s", fm_net_listener_address(listener));
        (void)!write(ready[1], bound, sizeof bound);
        (void)!fm_net_loop_run(loop);
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], out_bound, FM_NET_ADDRESS_BYTES), FM_NET_ADDRESS_BYTES);
    close(ready[0]);
    return child;
}

pid_t net_fork_client(const char *address, const fm_net_security *security, enum net_method method, int depth,
                      uint32_t size)
{
    pid_t child = fork_child();
    if (child)
        return child;
    close_range(3, ~0u, 0); // the parent's connections are not ours to keep open
    struct net_client client;
    struct net_outcome *outcomes = calloc((size_t)depth, sizeof *outcomes);
    fm_net_loop *loop = net_test_loop(NULL);
    net_client_connect(&client, loop, address, security);
    for (int i = 0; i < depth; i++)
        outcomes[i].count = 1;
    while (client.conn) {
        for (int i = 0; i < depth && client.conn; i++)
            if (outcomes[i].count && net_client_call(&client, &outcomes[i], method, 0, size, 0) < 0)
                _exit(1);
        if (fm_net_loop_progress(loop, FM_NET_FOREVER) < 0)
            _exit(1);
    }
    _exit(1);
}

void net_kill(pid_t child, int signal)
{
    kill(child, signal);
    if (signal == SIGKILL)
        waitpid(child, NULL, 0);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

long net_resident_kib(void)
{
#ifdef SANITIZED
    return 0; // sanitizers keep what was freed, and much besides
#endif
    long total = 0;
    long resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2)
        fail_msg("no /proc/self/statm");
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

void net_kill_clients(int kills, const char *listen, const fm_net_security *security)
{
    fm_net_loop *loop = net_test_loop(NULL);
    struct net_service service = {0};
    const char *address = fm_net_listener_address(net_service_listen(&service, loop, listen, security));
    struct net_client witness;
    struct net_outcome quick;
    fm_gen gen = fm_gen_seeded(1);
    net_client_connect(&witness, loop, address, security);
    net_until(loop, &witness.up, 1);
    int areas = net_count_areas(); // both ends of the witness, where there is one
    long resident = 0;
    int fds = 0;
    size_t live = 0;
    for (int i = 0; i < kills; i++) {
        if (i == kills / 4) { // pools have grown to what this load needs
            fds = net_count_fds();
            live = fm_base_mem_live();
            resident = net_resident_kib();
        }
        pid_t child = net_fork_client(address, security, i % 2 ? NET_READ : NET_WRITE, 16, 1 << 20);
        net_until(loop, &service.opened, i + 2);
        net_until(loop, &service.served, service.served + (int)fm_gen_int(&gen, 0, 12));
        for (int64_t more = fm_gen_int(&gen, 0, 20); more > 0;
             more--) // to stop in the middle of messages as well
            assert_ok(fm_net_loop_progress(loop, 0));
        net_kill(child, SIGKILL);
        assert_ok(net_client_call(&witness, &quick, NET_READ, 5, 5000, 0));
        net_until(loop, &quick.count, 1);
        assert_ok(quick.status);
        net_until(loop, &service.closed, i + 1);
    }
    assert_int_equal(net_count_fds(), fds);
    assert_int_equal(net_count_areas(), areas);
    assert_true(fm_base_mem_live() <= live + 64); // a pool may still grow by a batch of messages
    assert_true(net_resident_kib() < resident + 20000);
    fm_net_loop_free(loop);
    assert_int_equal(service.opened, service.closed);
}
