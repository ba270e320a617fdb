// The embedded cluster as people run it: a process that is killed again and again, and clients that are.
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "chunk_ledger.h"
#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { CHUNKS = LEDGER_CHUNKS, BYTES = LEDGER_BYTES, PATIENCE_MS = LEDGER_PATIENCE_MS };

// A state of the cluster that is not newer may tell of the time before it came together first.
enum { UP_ONCE = 5 };

static const char *fresh_dir(void)
{
    static char dir[400];
    static int n;
    snprintf(dir, sizeof dir, "%s/c%d", fm_test_tmpdir(), n++);
    return dir;
}

static fm_fs_cluster *running;

static void stop(int signal_number)
{
    (void)signal_number;
    fm_fs_cluster_stop(running); // NOLINT(bugprone-signal-handler): its contract allows it
}

// The cluster in a process of its own.
static pid_t start_cluster(const char *dir)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); // no process outlives a test that failed
    if (fm_fs_cluster_up(dir, &running) < 0) {
        fprintf(stderr, "up: %s\n", fm_error_message());
        _exit(1);
    }
    signal(SIGTERM, stop);
    fm_status status = fm_fs_cluster_run(running);
    fm_fs_cluster_down(running);
    _exit(status < 0);
}

static void end_cluster(pid_t pid, int how)
{
    int state;
    kill(pid, how);
    assert_int_equal(waitpid(pid, &state, 0), pid);
    if (how == SIGTERM)
        assert_int_equal(state, 0);
}

static void kills_lose_nothing(void **state)
{
    (void)state;
    const char *dir = fresh_dir();
    fm_gen gen = fm_gen_seeded(1);
    chunk_ledger ledger = {.chain = 1};
    fm_fs_chunks *chunks;
    assert_ok(fm_fs_cluster_init(dir, NULL));
    assert_fails(fm_fs_cluster_init(dir, NULL), FM_ERR_EXISTS, "already");
    pid_t cluster = start_cluster(dir);
    assert_ok(fm_fs_chunks_open(dir, &chunks));
    for (int life = 0; life < 4; life++) {
        int64_t writes = fm_gen_int(&gen, 5, 40);
        pid_t killer = fork(); // in the midst of a write, at any moment
        if (killer == 0) {
            fm_base_clock_sleep_ns((uint64_t)fm_gen_int(&gen, 20, 400) * 1000000);
            kill(cluster, SIGKILL);
            _exit(0);
        }
        for (int64_t i = 0; i < writes; i++)
            if (ledger_write(&ledger, chunks, (int)fm_gen_int(&gen, 0, CHUNKS - 1), 600) < 0)
                break;
        waitpid(killer, NULL, 0);
        end_cluster(cluster, SIGKILL);
        cluster = start_cluster(dir);
        ledger_check(&ledger, chunks);
    }
    fm_fs_chunks_close(chunks);
    end_cluster(cluster, SIGTERM);
}

static void killed_clients_cost_nothing(void **state)
{
    (void)state;
    const char *dir = fresh_dir();
    static uint8_t bytes[BYTES];
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    fm_fs_chunks *chunks;
    assert_ok(fm_fs_cluster_init(dir, NULL));
    pid_t cluster = start_cluster(dir);
    for (int i = 0; i < 20; i++) {
        pid_t client = fork();
        if (client == 0) {
            ledger_id(id, i % CHUNKS);
            if (fm_fs_chunks_open(dir, &chunks) == FM_OK)
                while (fm_fs_chunks_write(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS) == FM_OK)
                    ;
            _exit(0);
        }
        fm_base_clock_sleep_ns(30000000);
        end_cluster(client, SIGKILL);
    }
    assert_ok(fm_fs_chunks_open(dir, &chunks));
    for (int i = 0; i < CHUNKS; i++) {
        ledger_id(id, i);
        assert_ok(fm_fs_chunks_write(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS));
        assert_ok(fm_fs_chunks_truncate(chunks, 1, id, 100, PATIENCE_MS));
        uint32_t size;
        assert_ok(fm_fs_chunks_read(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS, &size, NULL));
        assert_int_equal(size, 100);
        assert_ok(fm_fs_chunks_remove(chunks, 1, id, PATIENCE_MS));
        assert_int_equal(fm_fs_chunks_read(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS, &size, NULL),
                         FM_ERR_NOT_FOUND);
    }
    fm_fs_chunks_close(chunks);
    end_cluster(cluster, SIGTERM);
}

static uint32_t length_of(int i)
{
    return (uint32_t)(i * 7919 % BYTES) + 1;
}

// Many operations at once, more than run together, on two chains: each tells how it went.
static void batches_tell_of_each_operation(void **state)
{
    (void)state;
    enum { OPS = 300 };
    const char *dir = fresh_dir();
    const fm_fs_cluster_options options = {.size = sizeof options, .targets = 4, .replicas = 2, .nodes = 2};
    static uint8_t bytes[OPS][BYTES];
    static uint8_t back[OPS][BYTES];
    static fm_fs_chunk_op ops[OPS];
    fm_gen gen = fm_gen_seeded(4);
    fm_fs_chunks *chunks;
    assert_ok(fm_fs_cluster_init(dir, &options));
    pid_t cluster = start_cluster(dir);
    assert_ok(fm_fs_chunks_open(dir, &chunks));
    fm_gen_fill(&gen, bytes, sizeof bytes);
    assert_ok(fm_fs_chunks_batch(chunks, ops, 0, PATIENCE_MS));
    for (int i = 0; i < OPS; i++) {
        ops[i] = (fm_fs_chunk_op){.kind = FM_FS_CHUNK_WRITE,
                                  .chain = (uint32_t)i % 2 + 1,
                                  .id = {[14] = (uint8_t)(i >> 8), [15] = (uint8_t)i},
                                  .size = length_of(i),
                                  .bytes = bytes[i]};
    }
    assert_ok(fm_fs_chunks_batch(chunks, ops, OPS, PATIENCE_MS));
    for (int i = 0; i < OPS; i++) {
        assert_ok(ops[i].status);
        ops[i].kind = FM_FS_CHUNK_READ;
        ops[i].size = BYTES;
        ops[i].into = back[i];
    }
    ops[7].id[0] = 9; // not there
    ops[8].kind = 0;
    ops[9].offset = FM_FS_CHUNK_MAX;
    ops[10].kind = FM_FS_CHUNK_REMOVE;
    assert_int_equal(fm_fs_chunks_batch(chunks, ops, OPS, PATIENCE_MS), FM_ERR_NOT_FOUND);
    for (int i = 0; i < OPS; i++) {
        if (i >= 7 && i <= 10)
            continue;
        assert_ok(ops[i].status);
        assert_int_equal(ops[i].done, length_of(i));
        assert_memory_equal(back[i], bytes[i], length_of(i));
        assert_int_equal(ops[i].crc, fm_base_crc32c(0, bytes[i], length_of(i)));
    }
    assert_int_equal(ops[7].status, FM_ERR_NOT_FOUND);
    assert_int_equal(ops[8].status, FM_ERR_ARG);
    assert_int_equal(ops[9].status, FM_ERR_LIMIT);
    assert_ok(ops[10].status);
    ops[10].kind = FM_FS_CHUNK_READ;
    assert_int_equal(fm_fs_chunks_batch(chunks, &ops[10], 1, PATIENCE_MS), FM_ERR_NOT_FOUND);
    end_cluster(cluster, SIGTERM);
    // Without a cluster all of it runs out of time, and what it wrote is still the caller's.
    for (int i = 0; i < OPS; i++)
        ops[i].kind = i % 2 ? FM_FS_CHUNK_WRITE : FM_FS_CHUNK_READ;
    assert_true(fm_fs_chunks_batch(chunks, ops, OPS, 50) < 0);
    for (int i = 0; i < OPS; i++)
        assert_true(ops[i].status < 0);
    fm_fs_chunks_close(chunks);
}

static void a_replaced_disk_is_filled_anew(void **state)
{
    (void)state;
    const char *dir = fresh_dir();
    chunk_ledger ledger = {.chain = 1};
    char command[500];
    fm_fs_chunks *chunks;
    const fm_fs_cluster_options odd = {.size = sizeof odd, .targets = 4, .replicas = 3};
    assert_fails(fm_fs_cluster_init(dir, &odd), FM_ERR_ARG, "multiple");
    assert_ok(fm_fs_cluster_init(dir, NULL));
    pid_t cluster = start_cluster(dir);
    assert_ok(fm_fs_chunks_open(dir, &chunks));
    for (int i = 0; i < CHUNKS; i++)
        assert_ok(ledger_write(&ledger, chunks, i, PATIENCE_MS));
    ledger_wait_whole(chunks, UP_ONCE);
    end_cluster(cluster, SIGTERM);
    snprintf(command, sizeof command, "rm -r '%s/target-1'", dir);
    assert_int_equal(system(command), 0);
    cluster = start_cluster(dir);
    ledger_check(&ledger, chunks);
    ledger_wait_whole(chunks, UP_ONCE);
    end_cluster(cluster, SIGTERM);
    fm_fs_chunks_close(chunks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kills_lose_nothing),
        cmocka_unit_test(killed_clients_cost_nothing),
        cmocka_unit_test(batches_tell_of_each_operation),
        cmocka_unit_test(a_replaced_disk_is_filled_anew),
    };
    return fm_test_run("fs_cluster", tests);
}
