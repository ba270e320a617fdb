// What only the LMDB store has: a directory that survives, a map that can be full, batches.
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fm_test.h"
#include "kv_fixture.h"

static void it_is_there_again(void **state)
{
    (void)state;
    char back[8];
    const char *spec = kv_fresh_lmdb();
    fm_fs_kv *kv = NULL;
    fm_fs_kv *second = NULL;
    assert_ok(fm_fs_kv_open(spec, NULL, &kv));
    kv_put(kv, BYTES("a"), BYTES("1"));
    assert_fails(fm_fs_kv_open(spec, NULL, &second), FM_ERR_BUSY, "open in this process");
    fm_fs_kv_close(kv);
    assert_ok(fm_fs_kv_open(spec, NULL, &kv));
    assert_int_equal(kv_get(kv, BYTES("a"), back, sizeof back), 1);
    fm_fs_kv_close(kv);
}

static void bad_directories_are_refused(void **state)
{
    (void)state;
    char spec[4400];
    char junk[8192];
    fm_fs_kv *kv = NULL;
    assert_fails(fm_fs_kv_open("lmdb:", NULL, &kv), FM_ERR_ARG, "names no directory");
    snprintf(spec, sizeof spec, "lmdb:%s/no/parent", fm_test_tmpdir());
    assert_fails(fm_fs_kv_open(spec, NULL, &kv), FM_ERR_NOT_FOUND, "no/parent");
    memset(junk, 'j', sizeof junk);
    snprintf(spec, sizeof spec, "lmdb:%s", fm_test_file("plain", junk, sizeof junk));
    assert_fails(fm_fs_kv_open(spec, NULL, &kv), FM_ERR_FORMAT, "plain");
    snprintf(spec, sizeof spec, "lmdb:%s/junk", fm_test_tmpdir());
    assert_int_equal(mkdir(spec + 5, 0700), 0);
    fm_test_file("junk/data.mdb", junk, sizeof junk);
    assert_fails(fm_fs_kv_open(spec, NULL, &kv), FM_ERR_FORMAT, "junk");
}

// ---- a full map, and what a batch does about it

struct crowd {
    fm_fs_kv *kv;
    atomic_int small_failures;
    atomic_int big_refused;
    atomic_int own_failures;
};

static fm_status put_megabyte(fm_fs_kv_tx *tx, void *context)
{
    static uint8_t bytes[FM_FS_KV_VALUE_MAX];
    const uint32_t *which = context;
    for (uint32_t i = 0; i < 15; i++) {
        uint32_t key[2] = {*which, i};
        FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){key, sizeof key}, (fm_fs_kv_bytes){bytes, sizeof bytes}));
    }
    return FM_OK;
}

static fm_status fail_after_a_put(fm_fs_kv_tx *tx, void *context)
{
    (void)context;
    FM_TRY(fm_fs_kv_put(tx, BYTES("failed"), BYTES("1")));
    return fm_base_error_set(FM_ERR_EXISTS, "my own failure");
}

// Thread 0 writes what will not fit, thread 1 fails by itself, the others count.
static void crowd_body(int index, void *context)
{
    struct crowd *crowd = context;
    int maybes = 0;
    for (uint32_t i = 0; i < 25; i++) {
        uint32_t which = 1000 + i;
        if (index == 0)
            crowd->big_refused += fm_fs_kv_run(crowd->kv, 0, put_megabyte, &which) == FM_ERR_SPACE;
        else if (index == 1)
            crowd->own_failures += fm_fs_kv_run(crowd->kv, 0, fail_after_a_put, NULL) == FM_ERR_EXISTS &&
                                   strcmp(fm_error_message(), "my own failure") == 0;
        else
            crowd->small_failures += kv_count_once(crowd->kv, (uint32_t)index, i, &maybes) != FM_OK;
    }
}

static void a_full_map_refuses_only_what_does_not_fit(void **state)
{
    (void)state;
    char back[8];
    struct crowd crowd = {0};
    fm_fs_kv_options options = {.size = sizeof options, .map_bytes = 8 << 20};
    const char *spec = kv_fresh_lmdb();
    assert_ok(fm_fs_kv_open(spec, &options, &crowd.kv));
    kv_threads(8, crowd_body, &crowd);
    assert_int_equal(crowd.small_failures, 0);
    assert_in_range(crowd.big_refused, 15, 24); // 8 MiB hold some
    assert_int_equal(crowd.own_failures, 25);
    assert_int_equal(kv_counter(crowd.kv), 6 * 25);
    assert_int_equal(kv_get(crowd.kv, BYTES("failed"), back, sizeof back), -1);
    fm_fs_kv_close(crowd.kv);

    uint32_t which = 2000;
    options.map_bytes *= 2;
    assert_ok(fm_fs_kv_open(spec, &options, &crowd.kv));
    assert_ok(fm_fs_kv_run(crowd.kv, 0, put_megabyte, &which));
    assert_int_equal(kv_counter(crowd.kv), 6 * 25);
    fm_fs_kv_close(crowd.kv);
}

// ---- killed at any moment

enum { WRITERS = 4 };

struct victim {
    fm_fs_kv *kv;
    int pipe;
};

struct acknowledged {
    uint32_t writer;
    uint32_t number;
};

static void file_keys(const struct acknowledged *file, uint8_t inode[9], uint8_t dent[9])
{
    inode[0] = 'i';
    dent[0] = 'd';
    memcpy(inode + 1, file, 8);
    memcpy(dent + 1, file, 8);
}

static fm_status create_file(fm_fs_kv_tx *tx, void *context)
{
    static const uint8_t value[200] = {1};
    uint8_t inode[9];
    uint8_t dent[9];
    file_keys(context, inode, dent);
    FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){inode, 9}, (fm_fs_kv_bytes){value, sizeof value}));
    return fm_fs_kv_put(tx, (fm_fs_kv_bytes){dent, 9}, (fm_fs_kv_bytes){value, 64});
}

static void create_for_ever(int index, void *context)
{
    struct victim *victim = context;
    for (struct acknowledged file = {(uint32_t)index, 0};; file.number++)
        if (fm_fs_kv_run(victim->kv, index % 2 ? FM_FS_KV_NO_SYNC : 0, create_file, &file) != FM_OK ||
            write(victim->pipe, &file, sizeof file) != sizeof file)
            _exit(1);
}

// Runs writers on the store in a process of their own, kills it, and returns how many files each had acknowledged.
static void kill_writers(const char *spec, uint32_t counts[WRITERS])
{
    int ends[2];
    int status;
    struct acknowledged file;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct victim victim = {NULL, ends[1]};
        if (fm_fs_kv_open(spec, NULL, &victim.kv) == FM_OK)
            kv_threads(WRITERS, create_for_ever, &victim);
        _exit(1);
    }
    close(ends[1]);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(read(ends[0], &file, sizeof file), sizeof file);
        counts[file.writer] = file.number + 1;
    }
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    while (read(ends[0], &file, sizeof file) == sizeof file)
        counts[file.writer] = file.number + 1;
    close(ends[0]);
}

static void killed_writers_lose_nothing(void **state)
{
    (void)state;
    for (int round = 0; round < 5; round++) {
        const char *spec = kv_fresh_lmdb();
        uint32_t counts[WRITERS] = {0};
        fm_fs_kv *kv = NULL;
        uint8_t back[200];
        kill_writers(spec, counts);
        assert_ok(fm_fs_kv_open(spec, NULL, &kv));
        // One more than acknowledged may be there, whole; nothing behind it.
        for (uint32_t writer = 0; writer < WRITERS; writer++)
            for (uint32_t number = 0; number < counts[writer] + 2; number++) {
                struct acknowledged file = {writer, number};
                uint8_t inode[9];
                uint8_t dent[9];
                file_keys(&file, inode, dent);
                long inode_size = kv_get(kv, (fm_fs_kv_bytes){inode, 9}, back, sizeof back);
                long dent_size = kv_get(kv, (fm_fs_kv_bytes){dent, 9}, back, sizeof back);
                assert_int_equal(inode_size < 0, dent_size < 0);
                assert_true(number >= counts[writer] || inode_size == 200);
                assert_true(number <= counts[writer] || inode_size < 0);
            }
        kv_put(kv, BYTES("alive"), BYTES("1"));
        fm_fs_kv_close(kv);
    }
}

static fm_status look_and_put(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item items[2];
    size_t count;
    (void)context;
    FM_TRY(fm_fs_kv_put(tx, BYTES("a"), BYTES("1")));
    return fm_fs_kv_range(tx, BYTES(""), BYTES(""), 2, 0, items, &count);
}

static fm_status look(fm_fs_kv_tx *tx, void *context)
{
    fm_fs_kv_item item = {.key = BYTES("a")};
    (void)context;
    return fm_fs_kv_get(tx, &item, 1, FM_FS_KV_LOCK_NONE);
}

static fm_status whole_life(void *context)
{
    fm_fs_kv *kv = NULL;
    FM_TRY(fm_fs_kv_open(context, NULL, &kv));
    fm_status status = fm_fs_kv_run(kv, 0, look_and_put, NULL);
    if (status == FM_OK)
        status = fm_fs_kv_run(kv, FM_FS_KV_READ_ONLY, look, NULL);
    fm_fs_kv_close(kv);
    return status;
}

static void it_survives_a_lack_of_memory(void **state)
{
    (void)state;
    char spec[4400];
    snprintf(spec, sizeof spec, "%s", kv_fresh_lmdb());
    fm_test_each_alloc_fails(whole_life, spec);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_there_again),
        cmocka_unit_test(bad_directories_are_refused),
        cmocka_unit_test(a_full_map_refuses_only_what_does_not_fit),
        cmocka_unit_test(killed_writers_lose_nothing),
        cmocka_unit_test(it_survives_a_lack_of_memory),
    };
    kv_engine = "lmdb";
    return fm_test_run("kv_lmdb", tests);
}
