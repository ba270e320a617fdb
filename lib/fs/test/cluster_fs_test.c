#include "fm_test.h"
#include "fm_gen.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cluster_home.h"
#include "fathom/fs_checkpoint.h"
#include "fathom/fs_dataset.h"
#include "fs_agree.h"
#include "mem_fs.h"

static struct home home;

static fm_fs *open_files(void)
{
    char spec[420];
    fm_fs *fs;
    snprintf(spec, sizeof spec, "cluster:%s", home.dir);
    assert_ok(fm_fs_open(spec, 0, &fs));
    return fs;
}

// `no_inline` counts where nothing has opened the volume before.
static fm_fs_volume *open_volume(uint32_t no_inline)
{
    fm_fs_volume *volume;
    fm_fs_volume_options options = {.size = sizeof options, .no_inline = no_inline, .chunk_bytes = 65536};
    assert_ok(fm_fs_volume_open(home.dir, &options, &volume));
    return volume;
}

static void agree_for_a_while(fm_gen *gen, uint32_t no_inline)
{
    home_open(&home);
    fm_fs_volume *volume = open_volume(no_inline);
    struct pair pair = {gen, open_files(), fm_fs_mem_new()};
    for (int i = 0; i < 150; i++)
        fm_fs_agree_step(&pair);
    home_check(volume);
    fm_fs_close(pair.real);
    fm_fs_close(pair.model);
    fm_fs_volume_close(volume);
    home_close(&home);
}

static void files_agree_with_the_model(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(1);
    agree_for_a_while(&gen, 0);
    agree_for_a_while(&gen, 1);
}

static void what_is_not_there_is_not_opened(void **state)
{
    (void)state;
    fm_fs *fs;
    char spec[420];
    snprintf(spec, sizeof spec, "cluster:%s/none", fm_test_tmpdir());
    assert_fails(fm_fs_open(spec, 0, &fs), FM_ERR_NOT_FOUND, "none");
    snprintf(spec, sizeof spec, "cluster:%s", fm_test_tmpdir());
    assert_fails(fm_fs_open(spec, 0, &fs), FM_ERR_NOT_FOUND, "not a cluster");
    home_open(&home);
    fs = open_files();
    fm_fs *again = open_files(); // the same volume
    fm_fs_file *file;
    char path[400];
    assert_ok(fm_fs_write_all(fs, "a", "abc", 3, 0));
    assert_fails(fm_fs_local_path(again, "a", path, sizeof path), FM_ERR_UNSUPPORTED, "cluster:");
    assert_fails(fm_fs_file_open(again, "a/b", FM_FS_READ, &file), FM_ERR_FS_NOT_DIR, "cannot open a/b");
    assert_fails(fm_fs_file_open(again, ".", FM_FS_READ, &file), FM_ERR_FS_IS_DIR, "root");
    assert_ok(fm_fs_mkdir(fs, "d", 0));
    assert_fails(fm_fs_file_open(again, "d", FM_FS_READ, &file), FM_ERR_FS_IS_DIR, "directory");
    fm_fs_close(fs);
    assert_ok(fm_fs_file_open(again, "a", FM_FS_READ, &file));
    fm_fs_file_close(file);
    fm_fs_close(again);
    home_close(&home);
}

// What stands on fs.h works on a cluster as on a directory.
static void datasets_lie_on_it(void **state)
{
    (void)state;
    static uint8_t bytes[200000];
    uint8_t back[1000];
    static const char *const names[] = {"s0", "s1"};
    fm_gen gen = fm_gen_seeded(3);
    fm_fs_dataset *data;
    home_open(&home);
    fm_fs_volume *volume = open_volume(0);
    fm_fs *fs = open_files();
    fm_gen_fill(&gen, bytes, sizeof bytes);
    assert_ok(fm_fs_mkdir(fs, "d", 0));
    assert_ok(fm_fs_write_all(fs, "d/s0", bytes, 1000, 0));
    assert_ok(fm_fs_write_all(fs, "d/s1", bytes, sizeof bytes, 0));
    assert_ok(fm_fs_manifest_write(fs, "d/manifest", names, 2));
    assert_ok(fm_fs_dataset_open(fs, "d/manifest", 4, &data));
    for (int i = 0; i < 20; i++) {
        uint64_t offset = (uint64_t)fm_gen_int(&gen, 0, sizeof bytes - sizeof back);
        fm_fs_range range = {.file = 1, .offset = offset, .length = sizeof back, .buffer = back};
        assert_ok(fm_fs_dataset_read(data, &range, 1));
        assert_memory_equal(back, bytes + offset, sizeof back);
    }
    fm_fs_dataset_close(data);
    assert_ok(fm_fs_remove_all(fs, "d"));
    fm_fs_close(fs);
    fm_fs_volume_close(volume);
    home_close(&home);
}

// Files that a killed program had written whole are whole, and the names are sound.
static void kills_leave_whole_files(void **state)
{
    (void)state;
    home_open(&home);
    fm_fs_volume_close(open_volume(0));
    for (int life = 0; life < 3; life++) {
        int told[2];
        int last = -1;
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        if (child == 0) {
            static uint8_t bytes[150000];
            fm_fs *fs = open_files();
            for (int i = 0;; i++) {
                char name[32];
                size_t size = i % 2 ? sizeof bytes : 100;
                snprintf(name, sizeof name, "l%d-%d", life, i);
                memset(bytes, i + 1, sizeof bytes);
                if (fm_fs_write_all(fs, name, bytes, size, 0) < 0 || write(told[1], &i, sizeof i) != sizeof i)
                    _exit(1);
            }
        }
        close(told[1]);
        while (last < 4 + 3 * life && read(told[0], &last, sizeof last) == sizeof last)
            ;
        if (life == 1)
            home_restart(&home, SIGKILL); // the writer waits for it, and is killed in the midst of that
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        for (int next; read(told[0], &next, sizeof next) == sizeof next;)
            last = next;
        close(told[0]);
        fm_fs *fs = open_files();
        assert_true(last >= 4);
        for (int i = 0; i <= last; i++) {
            char name[32];
            void *data;
            size_t length;
            snprintf(name, sizeof name, "l%d-%d", life, i);
            assert_ok(fm_fs_read_all(fs, name, 1 << 20, &data, &length));
            assert_int_equal(length, i % 2 ? 150000 : 100);
            for (size_t k = 0; k < length; k++)
                assert_int_equal(((uint8_t *)data)[k], (uint8_t)(i + 1));
            fm_base_mem_free(data);
        }
        fm_fs_volume *volume = open_volume(0);
        home_check(volume);
        fm_fs_volume_close(volume);
        fm_fs_close(fs);
    }
    home_close(&home);
}

/* Checkpoints: a process that publishes one version after the other is killed. */

enum { SHARDS = 3, SHARD_BYTES = 200000 };

static fm_status write_shard(fm_fs *fs, uint64_t step, int shard)
{
    static uint8_t bytes[SHARD_BYTES];
    char dir[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_file *file;
    fm_gen gen = fm_gen_seeded(step * SHARDS + (uint64_t)shard);
    fm_gen_fill(&gen, bytes, sizeof bytes);
    FM_TRY(fm_fs_checkpoint_staging_path("ckpt", step, dir));
    snprintf(path, sizeof path, "%.4000s/shard-%d", dir, shard);
    FM_TRY(fm_fs_file_open(fs, path, FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file));
    fm_status status = fm_fs_file_write(file, bytes, sizeof bytes, 0);
    fm_fs_file_close(file);
    return status;
}

// Shard 0 is written by the first version; the others have it by reference.
static fm_status save(fm_fs *fs, uint64_t step)
{
    FM_TRY(fm_fs_checkpoint_begin(fs, "ckpt", step));
    FM_TRY(step == 1 ? write_shard(fs, step, 0)
                     : fm_fs_checkpoint_refer(fs, "ckpt", step, step - 1, "shard-0"));
    for (int shard = 1; shard < SHARDS; shard++)
        FM_TRY(write_shard(fs, step, shard));
    FM_TRY(fm_fs_checkpoint_publish(fs, "ckpt", step));
    return fm_fs_checkpoint_prune(fs, "ckpt", 2);
}

static void publish_for_ever(int told)
{
    fm_fs *fs = open_files();
    uint64_t step = 0;
    fm_status status = fm_fs_checkpoint_find(fs, "ckpt", UINT64_MAX, &step);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        _exit(1);
    while (save(fs, ++step) == FM_OK)
        if (write(told, &step, sizeof step) != sizeof step)
            _exit(2);
    _exit(3);
}

static void assert_shard(fm_fs *fs, uint64_t step, int shard)
{
    static uint8_t expected[SHARD_BYTES];
    char dir[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    void *data;
    size_t length;
    fm_gen gen = fm_gen_seeded((shard ? step : 1) * SHARDS + (uint64_t)shard);
    fm_gen_fill(&gen, expected, sizeof expected);
    assert_ok(fm_fs_checkpoint_path("ckpt", step, dir));
    snprintf(path, sizeof path, "%.4000s/shard-%d", dir, shard);
    assert_ok(fm_fs_read_all(fs, path, SHARD_BYTES + 1, &data, &length));
    assert_int_equal(length, SHARD_BYTES);
    assert_memory_equal(data, expected, SHARD_BYTES);
    fm_base_mem_free(data);
}

static void killed_publishers_leave_complete_versions(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(7);
    home_open(&home);
    for (int round = 0; round < 5; round++) {
        int told[2];
        uint64_t last = 0;
        uint64_t newest;
        assert_int_equal(pipe(told), 0);
        pid_t child = fork();
        if (child == 0)
            publish_for_ever(told[1]);
        close(told[1]);
        for (int i = 0; i < 2; i++)
            assert_int_equal(read(told[0], &last, sizeof last), sizeof last);
        usleep((useconds_t)fm_gen_int(&gen, 0, 20000)); // somewhere in the next
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        for (uint64_t step; read(told[0], &step, sizeof step) == sizeof step;)
            last = step;
        close(told[0]);
        fm_fs *fs = open_files();
        assert_ok(fm_fs_checkpoint_find(fs, "ckpt", UINT64_MAX, &newest));
        assert_in_range(newest, last, last + 1);
        for (int shard = 0; shard < SHARDS; shard++)
            assert_shard(fs, newest, shard);
        fm_fs_close(fs);
    }
    fm_fs_volume *volume = open_volume(0);
    home_check(volume);
    fm_fs_volume_close(volume);
    home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_agree_with_the_model),
        cmocka_unit_test(what_is_not_there_is_not_opened),
        cmocka_unit_test(datasets_lie_on_it),
        cmocka_unit_test(kills_leave_whole_files),
        cmocka_unit_test(killed_publishers_leave_complete_versions),
    };
    return fm_test_run("cluster_fs", tests);
}
