// The embedded cluster as people run it: a process that is killed again and again, and clients that are.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fathom/fs_cluster.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { CHUNKS = 8, BYTES = 20000, PATIENCE_MS = 40000 };

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

static void fill(uint8_t *bytes, uint64_t value)
{
    fm_gen gen = fm_gen_seeded(value + 1);
    fm_gen_fill(&gen, bytes, BYTES);
}

static void chunk_id(uint8_t *id, int chunk)
{
    memset(id, 0, FM_FS_CHUNK_ID_BYTES);
    id[15] = (uint8_t)chunk;
}

// A chunk is what was acknowledged last, or what was asked for since and not acknowledged.
static void check_chunk(fm_fs_chunks *chunks, int chunk, uint64_t acked, uint64_t asked)
{
    static uint8_t expected[BYTES];
    static uint8_t bytes[BYTES + 1];
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    uint32_t size = 0;
    uint32_t crc = 0;
    chunk_id(id, chunk);
    fm_status status = fm_fs_chunks_read(chunks, 1, id, 0, bytes, sizeof bytes, PATIENCE_MS, &size, &crc);
    if (status == FM_ERR_NOT_FOUND && acked == 0)
        return;
    assert_ok(status);
    assert_int_equal(size, BYTES);
    assert_int_equal(crc, fm_base_crc32c(0, bytes, size));
    for (uint64_t value = acked; value <= asked; value++) {
        fill(expected, value);
        if (value && memcmp(bytes, expected, BYTES) == 0)
            return;
    }
    fail_msg("chunk %d holds none of its versions %llu to %llu", chunk, (unsigned long long)acked,
             (unsigned long long)asked);
}

static void kills_lose_nothing(void **state)
{
    (void)state;
    const char *dir = fresh_dir();
    fm_gen gen = fm_gen_seeded(1);
    static uint8_t bytes[BYTES];
    uint64_t acked[CHUNKS] = {0};
    uint64_t asked[CHUNKS] = {0};
    uint64_t value = 0;
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
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
        for (int64_t i = 0; i < writes; i++) {
            int chunk = (int)fm_gen_int(&gen, 0, CHUNKS - 1);
            chunk_id(id, chunk);
            fill(bytes, asked[chunk] = ++value);
            fm_status status = fm_fs_chunks_write(chunks, 1, id, 0, bytes, BYTES, 600);
            if (status == FM_OK)
                acked[chunk] = asked[chunk];
            else
                break;
        }
        waitpid(killer, NULL, 0);
        end_cluster(cluster, SIGKILL);
        cluster = start_cluster(dir);
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            check_chunk(chunks, chunk, acked[chunk], asked[chunk]);
            uint32_t size;
            chunk_id(id, chunk);
            if (asked[chunk] == acked[chunk])
                continue;
            // What became of the one without an answer is settled by writing once more.
            fill(bytes, asked[chunk] = ++value);
            assert_ok(fm_fs_chunks_write(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS));
            acked[chunk] = asked[chunk];
            assert_ok(fm_fs_chunks_read(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS, &size, NULL));
        }
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
            chunk_id(id, i % CHUNKS);
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
        chunk_id(id, i);
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

static int is_whole(const fm_fs_cluster_state *now)
{
    for (uint32_t c = 0; c < now->chain_count; c++)
        for (uint32_t m = 0; m < now->chains[c].count; m++)
            if (strcmp(now->chains[c].members[m].state, "serving") != 0)
                return 0;
    return now->chain_count > 0 && now->version > 5; // it has been up, and has come together
}

static void wait_whole(fm_fs_chunks *chunks)
{
    fm_fs_cluster_state now;
    for (int i = 0; i < 400; i++) {
        assert_ok(fm_fs_chunks_state(chunks, PATIENCE_MS, &now));
        if (is_whole(&now))
            return;
        fm_base_clock_sleep_ns(100000000);
    }
    fail_msg("the chains are not whole after 40 s");
}

static void a_replaced_disk_is_filled_anew(void **state)
{
    (void)state;
    const char *dir = fresh_dir();
    static uint8_t bytes[BYTES];
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    char command[500];
    fm_fs_chunks *chunks;
    const fm_fs_cluster_options odd = {.size = sizeof odd, .targets = 4, .replicas = 3};
    assert_fails(fm_fs_cluster_init(dir, &odd), FM_ERR_ARG, "multiple");
    assert_ok(fm_fs_cluster_init(dir, NULL));
    pid_t cluster = start_cluster(dir);
    assert_ok(fm_fs_chunks_open(dir, &chunks));
    for (int i = 0; i < CHUNKS; i++) {
        chunk_id(id, i);
        fill(bytes, (uint64_t)i + 1);
        assert_ok(fm_fs_chunks_write(chunks, 1, id, 0, bytes, BYTES, PATIENCE_MS));
    }
    wait_whole(chunks);
    end_cluster(cluster, SIGTERM);
    snprintf(command, sizeof command, "rm -r '%s/target-1'", dir);
    assert_int_equal(system(command), 0);
    cluster = start_cluster(dir);
    for (int i = 0; i < CHUNKS; i++)
        check_chunk(chunks, i, (uint64_t)i + 1, (uint64_t)i + 1);
    wait_whole(chunks);
    end_cluster(cluster, SIGTERM);
    fm_fs_chunks_close(chunks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kills_lose_nothing),
        cmocka_unit_test(killed_clients_cost_nothing),
        cmocka_unit_test(a_replaced_disk_is_filled_anew),
    };
    return fm_test_run("fs_cluster", tests);
}
