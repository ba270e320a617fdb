// A cluster whose managers and storage nodes are processes of their own, which are killed, stopped and drained.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chunk_ledger.h"
#include "fathom/clock.h"
#include "fathom/net.h"
#include "fm_certs.h"
#include "fm_gen.h"
#include "fm_test.h"
#include "kv_server.h"

enum { MANAGERS = 2, NODES = 4, PROCESSES = MANAGERS + NODES, FIRST_NODE = 101 };
enum { SMALL = MANAGERS + 2 }; // the process whose target may be smaller than the others'

struct world {
    const char *store; // NULL: in the directory
    uint64_t sync_bytes_per_s;
    const char *listen; // storage; NULL: UNIX sockets
    int tls;
    char dir[400];
    pid_t processes[PROCESSES];
    fm_fs_chunks *chunks;
    chunk_ledger ledger;
};

static fm_fs_cluster *running;
static uint64_t small_bytes; // 0: as the others'

static void stop(int signal_number)
{
    (void)signal_number;
    fm_fs_cluster_stop(running); // NOLINT(bugprone-signal-handler): its contract allows it
}

static uint32_t node_of(int process)
{
    return process < MANAGERS ? (uint32_t)process + 1 : (uint32_t)(FIRST_NODE + process - MANAGERS);
}

static void serve(const struct world *world, int process, int ready)
{
    const uint32_t spare[] = {77}; // of the last node, which is in no chain
    fm_fs_serve_options options = {.size = sizeof options,
                                   .role = process < MANAGERS ? FM_FS_MANAGER : FM_FS_STORAGE,
                                   .node = node_of(process),
                                   .listen = process < MANAGERS ? NULL : world->listen,
                                   .store = process < MANAGERS ? world->store : NULL,
                                   .sync_bytes_per_s = process < MANAGERS ? 0 : world->sync_bytes_per_s};
    if (process == SMALL)
        options.target_bytes = small_bytes;
    if (process == PROCESSES - 1) {
        options.targets = spare;
        options.target_count = 1;
    }
    fm_status status = fm_fs_cluster_serve(world->dir, &options, &running);
    if (status < 0) {
        fprintf(stderr, "node %u: %s\n", options.node, fm_error_message());
        _exit(1);
    }
    signal(SIGTERM, stop);
    if (write(ready, "", 1) != 1)
        _exit(1);
    close(ready);
    status = fm_fs_cluster_run(running);
    fm_fs_cluster_down(running);
    _exit(status < 0);
}

static void start(struct world *world, int process)
{
    int ready[2];
    char byte;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        close(ready[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL); // no process outlives a test that failed
        serve(world, process, ready[1]);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    world->processes[process] = pid;
}

static void end_process(struct world *world, int process, int how)
{
    int state;
    kill(world->processes[process], how);
    assert_int_equal(waitpid(world->processes[process], &state, 0), world->processes[process]);
    if (how == SIGTERM)
        assert_int_equal(state, 0);
}

static void begin_at(struct world *world, const char *listen, const char *store, uint64_t target_bytes,
                     uint64_t sync_bytes_per_s)
{
    static int n;
    fm_fs_cluster_options options = {
        .size = sizeof options, .targets = 3, .target_bytes = target_bytes, .store = store};
    if (world->tls) {
        options.tls_cert = fm_test_cert("a.pem");
        options.tls_key = fm_test_cert("a.key");
        options.tls_ca = fm_test_cert("ca.pem");
    }
    char path[450];
    *world = (struct world){.store = store,
                            .ledger = {.chain = 1},
                            .sync_bytes_per_s = sync_bytes_per_s,
                            .listen = listen,
                            .tls = world->tls};
    snprintf(world->dir, sizeof world->dir, "%s/p%d", fm_test_tmpdir(), n++);
    assert_ok(fm_fs_cluster_init(world->dir, &options));
    snprintf(path, sizeof path, "%s/managers", world->dir);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int m = 0; m < MANAGERS; m++)
        fprintf(file, "%u unix:%s/m%d\n", node_of(m), world->dir, m);
    assert_int_equal(fclose(file), 0);
    for (int p = 0; p < PROCESSES; p++)
        start(world, p);
    assert_ok(fm_fs_chunks_open(world->dir, &world->chunks));
}

static void begin_with(struct world *world, const char *store, uint64_t target_bytes,
                       uint64_t sync_bytes_per_s)
{
    world->tls = 0;
    begin_at(world, NULL, store, target_bytes, sync_bytes_per_s);
}

static void begin(struct world *world)
{
    begin_with(world, NULL, 1 << 30, 0);
}

static void end(struct world *world)
{
    fm_fs_chunks_close(world->chunks);
    for (int p = 0; p < PROCESSES; p++)
        end_process(world, p, SIGTERM);
}

// Any process, several, or all of them, in the midst of writes.
static void kills_of_any_process_lose_nothing(void **state)
{
    (void)state;
    struct world world;
    fm_gen gen = fm_gen_seeded(3);
    begin(&world);
    for (int life = 0; life < 10; life++) {
        unsigned victims = life == 5 ? (1u << PROCESSES) - 1 : 1u << fm_gen_int(&gen, 0, PROCESSES - 1);
        if (fm_gen_int(&gen, 0, 2) == 0)
            victims |= 1u << fm_gen_int(&gen, 0, PROCESSES - 1);
        uint64_t delay_ns = (uint64_t)fm_gen_int(&gen, 1, 100) * 1000000;
        pid_t killer = fork(); // at any moment, also within a write
        if (killer == 0) {
            fm_base_clock_sleep_ns(delay_ns);
            for (int p = 0; p < PROCESSES; p++)
                if (victims >> p & 1)
                    kill(world.processes[p], SIGKILL);
            _exit(0);
        }
        for (int64_t i = fm_gen_int(&gen, 5, 40); i > 0; i--)
            if (ledger_write(&world.ledger, world.chunks, (int)fm_gen_int(&gen, 0, LEDGER_CHUNKS - 1), 400) <
                0)
                break;
        assert_int_equal(waitpid(killer, NULL, 0), killer);
        for (int p = 0; p < PROCESSES; p++)
            if (victims >> p & 1) {
                end_process(&world, p, SIGKILL);
                start(&world, p);
            }
        ledger_check(&world.ledger, world.chunks);
    }
    ledger_wait_whole(world.chunks, 0);
    ledger_check(&world.ledger, world.chunks);
    end(&world);
}

#ifdef FM_HAVE_POSTGRESQL
// Managers that share a server lead in turn.
static void managers_share_a_server(void **state)
{
    (void)state;
    struct world world;
    const char *reason = NULL;
    const fm_fs_cluster_options again = {
        .size = sizeof again, .targets = 3, .store = kv_server_start(&reason)};
    char dir[450];
    if (!again.store)
        fm_test_skip("%s", reason);
    begin_with(&world, again.store, 1 << 30, 0);
    snprintf(dir, sizeof dir, "%s-again", world.dir);
    assert_fails(fm_fs_cluster_init(dir, &again), FM_ERR_EXISTS, "an empty one");
    for (int life = 0; life < 4; life++) {
        assert_ok(ledger_write(&world.ledger, world.chunks, life, LEDGER_PATIENCE_MS));
        ledger_wait_whole(world.chunks, 0); // or the lost node might be the only complete one
        end_process(&world, life % MANAGERS, SIGKILL);
        // The other one takes over, and takes a lost node out of its chain.
        end_process(&world, MANAGERS, SIGKILL);
        assert_ok(ledger_write(&world.ledger, world.chunks, life, LEDGER_PATIENCE_MS));
        start(&world, life % MANAGERS);
        start(&world, MANAGERS);
        ledger_check(&world.ledger, world.chunks);
    }
    ledger_wait_whole(world.chunks, 0);
    end(&world);
    kv_server_stop();
}
#endif

// A process that stands still is left out, and does not hand out what it had when it goes on.
static void a_stopped_node_is_left_out_and_reads_nothing_old(void **state)
{
    (void)state;
    struct world world;
    begin(&world);
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, LEDGER_PATIENCE_MS));
    ledger_wait_whole(world.chunks, 0);
    assert_int_equal(kill(world.processes[MANAGERS + 1], SIGSTOP), 0);
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, LEDGER_PATIENCE_MS));
    assert_int_equal(kill(world.processes[MANAGERS + 1], SIGCONT), 0);
    for (int i = 0; i < 20; i++)
        ledger_check(&world.ledger, world.chunks);
    ledger_wait_whole(world.chunks, 0);
    ledger_check(&world.ledger, world.chunks);
    end(&world);
}

static const char *state_of(fm_fs_chunks *chunks, uint32_t id)
{
    fm_fs_cluster_state now;
    assert_ok(fm_fs_chunks_state(chunks, LEDGER_PATIENCE_MS, &now));
    for (uint32_t t = 0; t < now.target_count; t++)
        if (now.targets[t].id == id)
            return now.targets[t].state;
    return "missing";
}

static void wait_state(fm_fs_chunks *chunks, uint32_t target, const char *expected)
{
    for (int i = 0; i < LEDGER_PATIENCE_MS / 20; i++) {
        if (strcmp(state_of(chunks, target), expected) == 0)
            return;
        fm_base_clock_sleep_ns(20000000);
    }
    fail_msg("target %u does not become %s", target, expected);
}

// A node is emptied, its target leaves, another one comes in its place, all while clients write.
static void a_drained_node_is_replaced(void **state)
{
    (void)state;
    struct world world;
    const int64_t patience = LEDGER_PATIENCE_MS;
    begin(&world);
    ledger_check(&world.ledger, world.chunks);
    ledger_wait_whole(world.chunks, 0);
    assert_fails(fm_fs_chunks_drain(world.chunks, 9, 1, patience), FM_ERR_NOT_FOUND, "no node 9");
    assert_ok(fm_fs_chunks_drain(world.chunks, FIRST_NODE + 1, 1, patience));
    assert_ok(fm_fs_chunks_drain(world.chunks, FIRST_NODE + 1, 1, patience));
    wait_state(world.chunks, 2, "offline");
    assert_ok(ledger_write(&world.ledger, world.chunks, 0, patience));
    assert_ok(fm_fs_chunks_drain(world.chunks, FIRST_NODE + 1, 0, patience)); // and back
    wait_state(world.chunks, 2, "serving");
    assert_ok(fm_fs_chunks_drain(world.chunks, FIRST_NODE + 1, 1, patience));
    wait_state(world.chunks, 2, "offline");
    assert_fails(fm_fs_chunks_node_remove(world.chunks, FIRST_NODE + 1, patience), FM_ERR_STATE, "target 2");
    assert_ok(fm_fs_chunks_target_remove(world.chunks, 1, 2, patience));
    assert_ok(fm_fs_chunks_target_remove(world.chunks, 1, 2, patience));
    wait_state(world.chunks, 2, "unused");
    assert_ok(fm_fs_chunks_target_add(world.chunks, 1, 77, FIRST_NODE + 3, patience));
    assert_ok(fm_fs_chunks_target_add(world.chunks, 1, 77, FIRST_NODE + 3, patience));
    assert_fails(fm_fs_chunks_target_add(world.chunks, 1, 1, FIRST_NODE + 3, patience), FM_ERR_EXISTS,
                 "target 1");
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, patience));
    wait_state(world.chunks, 77, "serving");
    // The new one holds all of it: the others are gone, and each acknowledged change is there.
    end_process(&world, MANAGERS, SIGKILL);
    end_process(&world, MANAGERS + 2, SIGKILL);
    ledger_check(&world.ledger, world.chunks);
    assert_fails(fm_fs_chunks_chain_rotate(world.chunks, 1, 1, patience), FM_ERR_FS_CONFLICT, "version");
    assert_fails(fm_fs_chunks_chain_remove(world.chunks, 1, patience), FM_ERR_STATE, "chain 1");
    start(&world, MANAGERS);
    start(&world, MANAGERS + 2);
    end(&world);
}

// All that were complete are lost for good: the operator lets one that is behind go on.
static void a_chain_whose_last_is_lost_is_rotated(void **state)
{
    (void)state;
    struct world world;
    const int64_t patience = LEDGER_PATIENCE_MS;
    fm_fs_cluster_state now;
    char command[500];
    begin(&world);
    ledger_check(&world.ledger, world.chunks);
    ledger_wait_whole(world.chunks, 0);
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, patience));
    const chunk_ledger before = world.ledger;
    end_process(&world, MANAGERS + 1, SIGKILL);
    end_process(&world, MANAGERS + 2, SIGKILL);
    assert_ok(ledger_write(&world.ledger, world.chunks, 0, patience)); // target 1 alone has it
    end_process(&world, MANAGERS, SIGKILL);
    wait_state(world.chunks, 1, "last-serving");
    start(&world, MANAGERS + 1);
    wait_state(world.chunks, 2, "waiting");
    snprintf(command, sizeof command, "rm -r '%s/target-1'", world.dir);
    assert_int_equal(system(command), 0);
    fm_status status;
    do { // it may change once more, where a process is left out for seconds
        assert_ok(fm_fs_chunks_state(world.chunks, patience, &now));
        status = fm_fs_chunks_chain_rotate(world.chunks, 1, now.chains[0].version, patience);
    } while (status == FM_ERR_FS_CONFLICT);
    assert_ok(status);
    world.ledger = before;
    ledger_check(&world.ledger, world.chunks);
    start(&world, MANAGERS);
    start(&world, MANAGERS + 2);
    ledger_wait_whole(world.chunks, now.version);
    ledger_check(&world.ledger, world.chunks);
    end(&world);
}

// A replaced disk is filled no faster than allowed, and clients go on meanwhile.
static void filling_is_throttled(void **state)
{
    (void)state;
    enum { RATE = LEDGER_CHUNKS * LEDGER_BYTES / 4 }; // so that it takes four seconds at least
    struct world world;
    char command[500];
    fm_fs_cluster_state whole;
    begin_with(&world, NULL, 1 << 30, RATE);
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, LEDGER_PATIENCE_MS));
    ledger_wait_whole(world.chunks, 0);
    assert_ok(fm_fs_chunks_state(world.chunks, LEDGER_PATIENCE_MS, &whole));
    uint32_t version = whole.chains[0].version;
    end_process(&world, MANAGERS, SIGKILL);
    snprintf(command, sizeof command, "rm -r '%s/target-1'", world.dir);
    assert_int_equal(system(command), 0);
    start(&world, MANAGERS);
    uint64_t begun = fm_base_clock_ns();
    // It has left, or has even come back: offline, syncing and serving are a version each.
    for (int i = 0; strcmp(state_of(world.chunks, 1), "serving") == 0; i++) {
        fm_fs_cluster_state now;
        assert_ok(fm_fs_chunks_state(world.chunks, LEDGER_PATIENCE_MS, &now));
        if (now.chains[0].version >= version + 3)
            break;
        assert_true(i < LEDGER_PATIENCE_MS / 20);
        fm_base_clock_sleep_ns(20000000);
    }
    assert_ok(ledger_write(&world.ledger, world.chunks, 0, LEDGER_PATIENCE_MS));
    wait_state(world.chunks, 1, "serving");
    assert_true(fm_base_clock_ns() - begun > (uint64_t)3900 * 1000000);
    ledger_check(&world.ledger, world.chunks);
    end(&world);
}

// A full target takes no new chunks, and still lets those change that are there.
static void a_full_cluster_takes_changes_alone(void **state)
{
    (void)state;
    enum { CHUNK = 1 << 20, TARGET = 64 << 20, MANY = 80 };
    struct world world;
    static uint8_t bytes[CHUNK];
    uint8_t id[FM_FS_CHUNK_ID_BYTES] = {1};
    const int64_t patience = LEDGER_PATIENCE_MS;
    int made = 0;
    begin_with(&world, NULL, TARGET, 0);
    fm_status status = FM_OK;
    for (; made < MANY && status == FM_OK; made += status == FM_OK) {
        id[1] = (uint8_t)made;
        status = fm_fs_chunks_write(world.chunks, 1, id, 0, bytes, CHUNK, patience);
    }
    assert_int_equal(status, FM_ERR_SPACE);
    assert_int_equal(made, TARGET / CHUNK * 95 / 100);
    for (int i = 0; i < made; i++) {
        uint32_t size;
        id[1] = (uint8_t)i;
        assert_ok(fm_fs_chunks_write(world.chunks, 1, id, 100, "changed", 7, patience));
        assert_ok(fm_fs_chunks_read(world.chunks, 1, id, 0, bytes, CHUNK, patience, &size, NULL));
        assert_int_equal(size, CHUNK);
        assert_memory_equal(bytes + 100, "changed", 7);
    }
    id[1] = 0;
    assert_ok(fm_fs_chunks_remove(world.chunks, 1, id, patience));
    id[1] = MANY;
    // Its room is free once that is durable, which the next change sees to.
    for (int i = 0; (status = fm_fs_chunks_write(world.chunks, 1, id, 0, bytes, CHUNK, patience)) < 0; i++) {
        uint8_t other[FM_FS_CHUNK_ID_BYTES] = {1, 1};
        assert_int_equal(status, FM_ERR_SPACE);
        assert_true(i < 100);
        assert_ok(fm_fs_chunks_write(world.chunks, 1, other, 100, "changed", 7, patience));
    }
    end(&world);
}

static uint32_t chain_version(const struct world *world)
{
    fm_fs_cluster_state state;
    assert_ok(fm_fs_chunks_state(world->chunks, LEDGER_PATIENCE_MS, &state));
    return state.chains[0].version;
}

// Makes chunks of 1 MiB until there is no space, at most 60. Returns how many; -1: the chain has changed meanwhile.
static int fill_up(const struct world *world, const uint8_t *bytes)
{
    uint8_t id[FM_FS_CHUNK_ID_BYTES] = {1};
    uint32_t version = chain_version(world);
    fm_status status = FM_OK;
    int made = 0;
    for (; made < 60 && status == FM_OK; made += status == FM_OK) {
        id[1] = (uint8_t)made;
        status = fm_fs_chunks_write(world->chunks, 1, id, 0, bytes, 1 << 20, LEDGER_PATIENCE_MS);
    }
    if (chain_version(world) != version)
        return -1;
    assert_int_equal(status, FM_ERR_SPACE);
    return made;
}

// Where one replica is smaller than its head, the head heeds it.
static void the_smallest_replica_counts(void **state)
{
    (void)state;
    enum { CHUNK = 1 << 20, TARGET = 64 << 20, HALF = TARGET / 2, MANY = 60, ATTEMPTS = 10 };
    struct world world;
    static uint8_t bytes[CHUNK];
    uint8_t id[FM_FS_CHUNK_ID_BYTES] = {1};
    const int64_t patience = LEDGER_PATIENCE_MS;
    fm_status status = FM_OK;
    int made = -1;
    // On a busy machine the small replica may be late with a heartbeat, and the chain goes on without it.
    for (int attempt = 0; made < 0; attempt++) {
        assert_true(attempt < ATTEMPTS);
        if (attempt > 0)
            end(&world);
        small_bytes = HALF;
        begin_with(&world, NULL, TARGET, 0);
        small_bytes = 0;
        ledger_wait_whole(world.chunks, 0);
        made = fill_up(&world, bytes);
    }
    // The head knows what the last answer told: one more than 95 % may be there.
    assert_in_range(made, HALF / CHUNK * 95 / 100, HALF / CHUNK * 95 / 100 + 1);
    for (int i = 0; i < made; i++) {
        id[1] = (uint8_t)i;
        assert_ok(fm_fs_chunks_write(world.chunks, 1, id, 100, "changed", 7, patience));
    }
    for (uint8_t i = 0; i < 4; i++) {
        id[1] = i;
        assert_ok(fm_fs_chunks_remove(world.chunks, 1, id, patience));
    }
    // Nobody else writes: the head asks by itself.
    id[1] = MANY;
    for (int i = 0; (status = fm_fs_chunks_write(world.chunks, 1, id, 0, bytes, CHUNK, patience)) < 0; i++) {
        assert_int_equal(status, FM_ERR_SPACE);
        assert_true(i < LEDGER_PATIENCE_MS / 100);
        fm_base_clock_sleep_ns(100000000);
    }
    end(&world);
}

static int count_files(pid_t process)
{
    char path[64];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)process);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder))
        count++;
    closedir(folder);
    return count;
}

// A thousand clients are killed at any moment. One that is not goes on writing, and nothing is left of the others.
static void killed_clients_leave_nothing(void **state)
{
    (void)state;
    enum { CLIENTS = 1000 };
    struct world world;
    fm_gen gen = fm_gen_seeded(9);
    int files[PROCESSES];
    begin(&world);
    ledger_check(&world.ledger, world.chunks);
    ledger_wait_whole(world.chunks, 0);
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++)
        assert_ok(ledger_write(&world.ledger, world.chunks, chunk, LEDGER_PATIENCE_MS));
    for (int p = 0; p < PROCESSES; p++)
        files[p] = count_files(world.processes[p]);
    for (int i = 0; i < CLIENTS; i++) {
        int64_t delay_ns = fm_gen_int(&gen, 0, 10) * 1000000;
        pid_t client = fork();
        if (client == 0) {
            static uint8_t bytes[LEDGER_BYTES];
            uint8_t id[FM_FS_CHUNK_ID_BYTES] = {2, (uint8_t)(i % 3)};
            fm_fs_chunks *chunks;
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (fm_fs_chunks_open(world.dir, &chunks) == FM_OK)
                while (fm_fs_chunks_write(chunks, 1, id, 0, bytes, LEDGER_BYTES, LEDGER_PATIENCE_MS) == FM_OK)
                    ;
            _exit(0);
        }
        fm_base_clock_sleep_ns((uint64_t)delay_ns);
        if (i % 10 == 0)
            assert_ok(ledger_write(&world.ledger, world.chunks, i / 10 % LEDGER_CHUNKS, LEDGER_PATIENCE_MS));
        kill(client, SIGKILL);
        assert_int_equal(waitpid(client, NULL, 0), client);
    }
    for (int p = 0; p < PROCESSES; p++)
        for (int i = 0; count_files(world.processes[p]) > files[p] + 8; i++) {
            assert_true(i < LEDGER_PATIENCE_MS / 100);
            fm_base_clock_sleep_ns(100000000);
        }
    ledger_wait_whole(world.chunks, 0);
    ledger_check(&world.ledger, world.chunks);
    end(&world);
}

// Areas of memory that a process shares with others (lib/net).
static unsigned count_shared(pid_t process)
{
    return fm_test_mappings(process, "memfd:fathom-net");
}

static fm_fs_chunks *read_again(const struct world *world)
{
    enum { BULK = 200000 };
    static uint8_t bytes[BULK];
    static uint8_t back[BULK];
    const uint8_t id[FM_FS_CHUNK_ID_BYTES] = {3};
    uint32_t size;
    fm_gen gen = fm_gen_seeded(4);
    fm_fs_chunks *chunks;
    fm_gen_fill(&gen, bytes, sizeof bytes);
    assert_ok(fm_fs_chunks_open(world->dir, &chunks));
    assert_ok(fm_fs_chunks_write(chunks, 1, id, 0, bytes, BULK, LEDGER_PATIENCE_MS));
    for (int i = 0; i < 20; i++) { // of any replica
        memset(back, 0, sizeof back);
        assert_ok(fm_fs_chunks_read(chunks, 1, id, 0, back, BULK, LEDGER_PATIENCE_MS, &size, NULL));
        assert_int_equal(size, BULK);
        assert_memory_equal(back, bytes, BULK);
    }
    return chunks;
}

static void serve_stranger(const char *socket)
{
    char dir[400];
    char address[500];
    snprintf(dir, sizeof dir, "%s/stranger", fm_test_tmpdir());
    snprintf(address, sizeof address, "unix:%s", socket);
    const fm_fs_cluster_options cluster = {.size = sizeof cluster, .targets = 1};
    const fm_fs_serve_options options = {
        .size = sizeof options, .role = FM_FS_STORAGE, .node = FIRST_NODE, .listen = address};
    assert_ok(fm_fs_cluster_init(dir, &cluster));
    assert_ok(fm_fs_cluster_serve(dir, &options, &running));
}

// Services on the network are reached over their UNIX sockets by who is on their machine, and bulk goes through shared
// memory. Where the socket is gone, or another cluster's, the network serves.
static void a_machine_keeps_its_bulk_to_itself(void **state)
{
    (void)state;
    struct world world = {.tls = 0};
    char path[450];
    begin_at(&world, "127.0.0.1:0", NULL, 1 << 30, 0);
    ledger_wait_whole(world.chunks, 0);
    fm_fs_chunks *chunks = read_again(&world);
    // To the leading manager and the head of the chain; and along the chain.
    unsigned shared = count_shared(getpid());
    for (int p = MANAGERS; p < PROCESSES - 1; p++)
        assert_true(count_shared(world.processes[p]) >= 1);
    assert_true(shared >= 2);
    fm_fs_chunks_close(chunks);
    assert_true(count_shared(getpid()) < shared);

    for (int p = PROCESSES - 1; p >= MANAGERS;
         p--) { // the last one is a node of the chain, where a stranger comes
        snprintf(path, sizeof path, "%s/socket-%u", world.dir, node_of(p));
        assert_int_equal(unlink(path), 0);
    }
    pid_t stranger = fork();
    if (stranger == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve_stranger(path);
        if (fm_fs_cluster_run(running) < 0)
            _exit(1);
        _exit(0);
    }
    assert_true(stranger > 0);
    for (int i = 0; access(path, F_OK) != 0; i++) {
        assert_true(i < LEDGER_PATIENCE_MS / 100);
        fm_base_clock_sleep_ns(100000000);
    }
    unsigned others = count_shared(getpid()); // of the client that was there before
    chunks = read_again(&world);
    assert_true(count_shared(getpid()) <= others + MANAGERS);
    fm_fs_chunks_close(chunks);
    kill(stranger, SIGKILL);
    assert_int_equal(waitpid(stranger, NULL, 0), stranger);
    end(&world);
}

static void add_line(const char *path, const char *what, const char *value)
{
    FILE *file = fopen(path, "a");
    assert_non_null(file);
    assert_true(fprintf(file, "%s %s\n", what, value) > 0);
    assert_int_equal(fclose(file), 0);
}

// A cluster that was made with certificates. The sockets within the machine are taken away, so that the network is used.
static void members_on_the_network_speak_tls(void **state)
{
    (void)state;
    fm_net_tls *tls;
    struct world world = {.tls = 1};
    char path[450];
    char away[450];
    uint8_t bytes[100];
    const uint8_t id[FM_FS_CHUNK_ID_BYTES] = {3};
    uint32_t size;
    const fm_net_tls_options options = {.size = sizeof options,
                                        .cert = fm_test_cert("a.pem"),
                                        .key = fm_test_cert("a.key"),
                                        .ca = fm_test_cert("ca.pem")};
    if (fm_net_tls_new(&options, &tls) == FM_ERR_UNSUPPORTED)
        fm_test_skip("built without TLS");
    fm_net_tls_free(tls);
    begin_at(&world, "127.0.0.1:0", NULL, 1 << 30, 0);
    ledger_wait_whole(world.chunks, 0);
    for (int p = MANAGERS; p < PROCESSES; p++) {
        snprintf(path, sizeof path, "%s/socket-%u", world.dir, node_of(p));
        assert_int_equal(unlink(path), 0);
    }
    fm_fs_chunks_close(read_again(&world));
    // A client that knows of no TLS gets nothing, and its certificates back it does.
    snprintf(path, sizeof path, "%s/tls", world.dir);
    snprintf(away, sizeof away, "%s/away", world.dir);
    assert_int_equal(rename(path, away), 0);
    fm_fs_chunks *chunks;
    assert_ok(fm_fs_chunks_open(world.dir, &chunks));
    assert_true(fm_fs_chunks_read(chunks, 1, id, 0, bytes, sizeof bytes, 1000, &size, NULL) < 0);
    fm_fs_chunks_close(chunks);
    assert_int_equal(rename(away, path), 0);
    fm_fs_chunks_close(read_again(&world));
    // None of the services' certificates is revoked, and none of them has a name.
    add_line(path, "crl", fm_test_cert("ca.crl"));
    fm_fs_chunks_close(read_again(&world));
    add_line(path, "name", "*");
    assert_ok(fm_fs_chunks_open(world.dir, &chunks));
    assert_true(fm_fs_chunks_read(chunks, 1, id, 0, bytes, sizeof bytes, 1000, &size, NULL) < 0);
    fm_fs_chunks_close(chunks);
    // What the file must be.
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fprintf(file, "cert a\nkey b\ncat c\n") > 0);
    assert_int_equal(fclose(file), 0);
    assert_fails(fm_fs_chunks_open(world.dir, &chunks), FM_ERR_FORMAT, "tls:3: expected once each");
    assert_int_equal(unlink(path), 0);
    end(&world);
}

int main(int argc, char **argv)
{
    const struct {
        const char *name;
        struct CMUnitTest test;
    } cases[] = {
        {"kill", cmocka_unit_test(kills_of_any_process_lose_nothing)},
#ifdef FM_HAVE_POSTGRESQL
        {"server", cmocka_unit_test(managers_share_a_server)},
#endif
        {"stop", cmocka_unit_test(a_stopped_node_is_left_out_and_reads_nothing_old)},
        {"drain", cmocka_unit_test(a_drained_node_is_replaced)},
        {"rotate", cmocka_unit_test(a_chain_whose_last_is_lost_is_rotated)},
        {"throttle", cmocka_unit_test(filling_is_throttled)},
        {"full", cmocka_unit_test(a_full_cluster_takes_changes_alone)},
        {"tls", cmocka_unit_test(members_on_the_network_speak_tls)},
        {"smaller", cmocka_unit_test(the_smallest_replica_counts)},
        {"machine", cmocka_unit_test(a_machine_keeps_its_bulk_to_itself)},
        {"clients", cmocka_unit_test(killed_clients_leave_nothing)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (argc == 2 && strcmp(argv[1], cases[i].name) == 0) {
            const struct CMUnitTest tests[] = {cases[i].test};
            return fm_test_run("fs_processes", tests);
        }
    fprintf(
        stderr,
        "usage: fs_processes_test kill|server|stop|drain|rotate|throttle|full|smaller|machine|tls|clients\n");
    return 2;
}
