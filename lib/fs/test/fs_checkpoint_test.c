#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fathom/fs_checkpoint.h"
#include "mem_fs.h"

enum { SHARDS = 3, SHARD_BYTES = 5000 };

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

// Shard `shard` of version `step` lies in a directory of its own and is filled with what both say.
static void shard_path(const char *version, int shard, char out_path[FM_FS_PATH_MAX + 1])
{
    snprintf(out_path, FM_FS_PATH_MAX + 1, "%s/rank-%d/weights", version, shard);
}

static unsigned char shard_byte(uint64_t step, int shard, size_t i)
{
    return (unsigned char)(step * 31 + (uint64_t)shard * 7 + i);
}

// Written in place, without any sync: what a writer may do at its laziest.
static fm_status write_shard(fm_fs *fs, const char *folder, uint64_t step, int shard)
{
    char staging[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    unsigned char bytes[SHARD_BYTES];
    fm_fs_file *file;
    FM_TRY(fm_fs_checkpoint_staging_path(folder, step, staging));
    snprintf(path, sizeof path, "%.4000s/rank-%d", staging, shard);
    FM_TRY(fm_fs_mkdir(fs, path, 0));
    shard_path(staging, shard, path);
    FM_TRY(fm_fs_file_open(fs, path, FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &file));
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = shard_byte(step, shard, i);
    fm_status status = fm_fs_file_write(file, bytes, sizeof bytes, 0);
    fm_fs_file_close(file);
    return status;
}

static fm_status write_version(fm_fs *fs, const char *folder, uint64_t step)
{
    FM_TRY(fm_fs_checkpoint_begin(fs, folder, step));
    for (int shard = 0; shard < SHARDS; shard++)
        FM_TRY(write_shard(fs, folder, step, shard));
    return FM_OK;
}

static fm_status save_version(fm_fs *fs, const char *folder, uint64_t step)
{
    FM_TRY(write_version(fs, folder, step));
    return fm_fs_checkpoint_publish(fs, folder, step);
}

// Whether version `step` holds what version `written` was written with.
static int holds(fm_fs *fs, const char *folder, uint64_t step, uint64_t written)
{
    char version[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    if (fm_fs_checkpoint_path(folder, step, version) < 0)
        return 0;
    for (int shard = 0; shard < SHARDS; shard++) {
        void *data;
        size_t length;
        shard_path(version, shard, path);
        if (fm_fs_read_all(fs, path, SHARD_BYTES, &data, &length) < 0)
            return 0;
        int same = length == SHARD_BYTES;
        for (size_t i = 0; same && i < length; i++)
            same = ((unsigned char *)data)[i] == shard_byte(written, shard, i);
        fm_base_mem_free(data);
        if (!same)
            return 0;
    }
    return 1;
}

static int is_complete(fm_fs *fs, const char *folder, uint64_t step)
{
    return holds(fs, folder, step, step);
}

static void assert_names(fm_fs *fs, const char *folder, const char *const *names)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_list_open(fs, folder, &list));
    for (; *names; names++) {
        assert_ok(fm_fs_list_next(list, &entry));
        assert_non_null(entry);
        assert_string_equal(entry->name, *names);
    }
    assert_ok(fm_fs_list_next(list, &entry));
    assert_null(entry);
    fm_fs_list_close(list);
}

static void versions_are_published_found_and_pruned(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    uint64_t step = 7;
    void *data;
    size_t length;
    assert_fails(fm_fs_checkpoint_find(fs, "runs/a", UINT64_MAX, &step), FM_ERR_NOT_FOUND, "runs/a");
    assert_ok(save_version(fs, "runs/a", 0));
    assert_ok(save_version(fs, "runs/a", 1000));
    assert_ok(save_version(fs, "runs/a", 900)); // steps need not grow
    assert_ok(save_version(fs, "runs/a", 12345678901));
    assert_names(fs, "runs/a",
                 (const char *const[]){"latest", "step-000000000", "step-000000900", "step-000001000",
                                       "step-12345678901", NULL});
    assert_ok(fm_fs_checkpoint_find(fs, "runs/a", UINT64_MAX, &step));
    assert_int_equal(step, 12345678901);
    assert_ok(fm_fs_checkpoint_find(fs, "./runs/a/", step - 1, &step));
    assert_int_equal(step, 1000);
    assert_true(is_complete(fs, "runs/a", step));
    assert_ok(fm_fs_checkpoint_find(fs, "runs/a", 899, &step));
    assert_int_equal(step, 0);
    assert_ok(fm_fs_read_all(fs, "runs/a/latest", 100, &data, &length));
    assert_string_equal(data, "step-12345678901\n");
    fm_base_mem_free(data);

    assert_fails(fm_fs_checkpoint_begin(fs, "runs/a", 1000), FM_ERR_EXISTS, "published already");
    assert_ok(fm_fs_checkpoint_publish(fs, "runs/a", 1000)); // again: no harm
    assert_true(is_complete(fs, "runs/a", 1000));
    assert_fails(fm_fs_checkpoint_prune(fs, "runs/a", 0), FM_ERR_ARG, "keep is 0");
    assert_ok(fm_fs_checkpoint_prune(fs, "runs/a", 4));
    assert_true(is_complete(fs, "runs/a", 0));
    assert_ok(fm_fs_checkpoint_prune(fs, "runs/a", 2));
    assert_names(fs, "runs/a", (const char *const[]){"latest", "step-000001000", "step-12345678901", NULL});
    assert_ok(fm_fs_checkpoint_prune(fs, "runs/a", SIZE_MAX));
    assert_names(fs, "runs/a", (const char *const[]){"latest", "step-000001000", "step-12345678901", NULL});
    assert_ok(save_version(fs, ".", UINT64_MAX));
    assert_ok(fm_fs_checkpoint_find(fs, ".", UINT64_MAX, &step));
    assert_true(step == UINT64_MAX);
    fm_fs_close(fs);
}

static void what_cannot_be_published_is_said(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    char path[4300];
    uint64_t step;
    assert_fails(fm_fs_checkpoint_begin(fs, "../b", 1), FM_ERR_ARG, "..");
    assert_fails(fm_fs_checkpoint_publish(fs, "b", 1), FM_ERR_NOT_FOUND, "b/.staging-000000001");
    assert_ok(fm_fs_checkpoint_begin(fs, "b", 1));
    assert_ok(fm_fs_mkdir(fs, "b/.staging-000000001/empty", 0));
    assert_fails(fm_fs_checkpoint_publish(fs, "b", 1), FM_ERR_STATE, "holds no file");
    snprintf(path, sizeof path, "%s/b/.staging-000000001/link", fm_test_tmpdir());
    assert_int_equal(symlink("empty", path), 0);
    assert_fails(fm_fs_checkpoint_publish(fs, "b", 1), FM_ERR_STATE, "link is neither");
    assert_fails(fm_fs_checkpoint_find(fs, "b", UINT64_MAX, &step), FM_ERR_NOT_FOUND, "no complete");
    fm_fs_close(fs);
}

static void only_its_own_names_count(void **state)
{
    (void)state;
    static const char *const foreign[] = {
        "c/step-1",         "c/step-0000000001", "c/step-00000000x",
        "c/step-",          "c/step--00000001",  "c/step-000000009~",
        "c/Step-000000009", "c/.staging-x",      "c/step-99999999999999999999"};
    fm_fs *fs = open_tmp();
    uint64_t step;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_ok(fm_fs_mkdir(fs, foreign[i], FM_FS_PARENTS));
    assert_ok(fm_fs_write_all(fs, "c/step-000000077", "a file", 6, 0));
    assert_fails(fm_fs_checkpoint_find(fs, "c", UINT64_MAX, &step), FM_ERR_NOT_FOUND, "no complete");
    assert_ok(save_version(fs, "c", 5));
    assert_ok(save_version(fs, "c", 6));
    assert_ok(fm_fs_checkpoint_prune(fs, "c", 1));
    assert_ok(fm_fs_checkpoint_find(fs, "c", UINT64_MAX, &step));
    assert_int_equal(step, 6);
    fm_fs_info info;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign;
         i++) // all that was begun and not published was swept away
        assert_int_equal(fm_fs_stat(fs, foreign[i], &info),
                         strstr(foreign[i], ".staging") ? FM_ERR_NOT_FOUND : FM_OK);
    fm_fs_close(fs);
}

// `latest` names a complete version: it may lag behind, but never points to what a power cut took back.
static void assert_latest(fm_fs *fs, const char *folder)
{
    char path[FM_FS_PATH_MAX + 1];
    void *data;
    size_t length;
    snprintf(path, sizeof path, "%s/latest", folder);
    assert_ok(fm_fs_read_all(fs, path, 100, &data, &length));
    assert_true(length > 6 && ((char *)data)[length - 1] == '\n');
    assert_true(is_complete(fs, folder, strtoull((char *)data + 5, NULL, 10)));
    fm_base_mem_free(data);
}

/*
 * The power is cut at every operation of: begin, write and publish version 2, then prune to one. Version 1
 * was there. Afterwards there is a complete newest version, version 2 if its publishing had returned; and
 * the next run goes on.
 */
static void cut_at(fm_gen *gen, size_t operation, size_t *out_operations)
{
    fm_fs *fs = fm_fs_mem_new();
    uint64_t step;
    assert_ok(save_version(fs, "runs/d", 1));
    size_t before = fm_fs_mem_operations(fs);
    fm_fs_mem_fail_at(fs, operation);
    fm_status published = save_version(fs, "runs/d", 2);
    fm_status pruned = published == FM_OK ? fm_fs_checkpoint_prune(fs, "runs/d", 1) : published;
    *out_operations = fm_fs_mem_operations(fs) - before;
    if (operation <= *out_operations)
        assert_int_equal(pruned, FM_ERR_IO);
    fm_fs_mem_power_cut(fs, gen);

    assert_ok(fm_fs_checkpoint_find(fs, "runs/d", UINT64_MAX, &step));
    assert_true(is_complete(fs, "runs/d", step));
    assert_true(step == 2 || (step == 1 && published < 0));
    assert_latest(fs, "runs/d");

    assert_ok(save_version(fs, "runs/d", step + 1));
    assert_ok(fm_fs_checkpoint_prune(fs, "runs/d", 1));
    assert_ok(fm_fs_checkpoint_find(fs, "runs/d", UINT64_MAX, &step));
    assert_true(is_complete(fs, "runs/d", step));
    assert_names(fs, "runs/d",
                 (const char *const[]){"latest", step == 2 ? "step-000000002" : "step-000000003", NULL});
    fm_fs_close(fs);
}

static void any_cut(fm_gen *gen)
{
    size_t operations = 1;
    for (size_t n = 1; n <= operations + 1; n++)
        cut_at(gen, n, &operations);
}

static void power_cuts_leave_complete_versions(void **state)
{
    (void)state;
    fm_gen_property(15, any_cut);
}

// A run is killed at any operation of publishing version 2; the next run prunes to what it finds; then the
// power is cut.
static void kill_and_cut(fm_gen *gen)
{
    fm_status published = FM_ERR_IO;
    for (size_t n = 1; published < 0; n++) {
        fm_fs *fs = fm_fs_mem_new();
        uint64_t step;
        assert_ok(save_version(fs, "d", 1));
        assert_ok(write_version(fs, "d", 2));
        fm_fs_mem_fail_at(fs, n);
        published = fm_fs_checkpoint_publish(fs, "d", 2);
        fm_fs_mem_fail_at(fs, 0);
        assert_ok(fm_fs_checkpoint_prune(fs, "d", 1));
        fm_fs_mem_power_cut(fs, gen);
        assert_ok(fm_fs_checkpoint_find(fs, "d", UINT64_MAX, &step));
        assert_true(is_complete(fs, "d", step));
        fm_fs_close(fs);
    }
}

static int incomplete;

// What many a program does instead: writes all and renames.
static void cut_without_publishing(fm_gen *gen)
{
    fm_fs *fs = fm_fs_mem_new();
    uint64_t step;
    assert_ok(save_version(fs, "d", 1));
    assert_ok(write_version(fs, "d", 2));
    assert_ok(fm_fs_rename(fs, "d/.staging-000000002", "d/step-000000002", 0));
    fm_fs_mem_power_cut(fs, gen);
    assert_ok(fm_fs_checkpoint_find(fs, "d", UINT64_MAX, &step));
    incomplete += !is_complete(fs, "d", step);
    fm_fs_close(fs);
}

static void a_killed_run_and_a_power_cut_leave_a_version(void **state)
{
    (void)state;
    fm_gen_property(30, kill_and_cut);
}

static void a_bare_rename_is_not_enough(void **state)
{
    (void)state;
    incomplete = 0;
    fm_gen_property(50, cut_without_publishing);
    assert_true(incomplete > 5);
}

// A process that saves one version after the other is killed at any moment; the next one goes on.
static void save_for_ever(fm_fs *fs)
{
    uint64_t step = 0;
    for (;;) {
        fm_status status = fm_fs_checkpoint_find(fs, "killed", UINT64_MAX, &step);
        if (status < 0 && status != FM_ERR_NOT_FOUND)
            _exit(1);
        if (save_version(fs, "killed", step + 1) < 0 || fm_fs_checkpoint_prune(fs, "killed", 2) < 0)
            _exit(2);
    }
}

static void killed_writers_leave_complete_versions(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    fm_gen gen = fm_gen_seeded(1);
    uint64_t last = 0;
    for (int i = 0; i < 20; i++) {
        int result;
        pid_t child = fork();
        if (child == 0)
            save_for_ever(fs);
        struct timespec pause = {0, (long)fm_gen_int(&gen, 1000, 20000) * 1000};
        nanosleep(&pause, NULL);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &result, 0), child);
        assert_true(WIFSIGNALED(result)); // it did not fail by itself
        uint64_t step;
        if (fm_fs_checkpoint_find(fs, "killed", UINT64_MAX, &step) < 0)
            continue; // not even the first was done
        assert_true(step >= last);
        assert_true(is_complete(fs, "killed", step));
        last = step;
    }
    assert_ok(save_version(fs, "killed", last + 1));
    assert_true(is_complete(fs, "killed", last + 1));
    fm_fs_close(fs);
}

static uint64_t id_of(fm_fs *fs, const char *folder, uint64_t step, int shard)
{
    char version[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    assert_ok(fm_fs_checkpoint_path(folder, step, version));
    shard_path(version, shard, path);
    assert_ok(fm_fs_stat(fs, path, &info));
    return info.id;
}

// All of version 1's files, by reference.
static fm_status refer_to_all(fm_fs *fs, const char *folder, uint64_t step)
{
    FM_TRY(fm_fs_checkpoint_begin(fs, folder, step));
    for (int shard = 0; shard < SHARDS; shard++) {
        char name[40];
        snprintf(name, sizeof name, "rank-%d/weights", shard);
        FM_TRY(fm_fs_checkpoint_refer(fs, folder, step, 1, name));
    }
    return FM_OK;
}

static void unchanged_files_are_referred_to(void **state)
{
    (void)state;
    fm_fs *all[] = {open_tmp(), fm_fs_mem_new()};
    for (int i = 0; i < 2; i++) {
        fm_fs *fs = all[i];
        assert_ok(save_version(fs, "g", 1));
        assert_ok(fm_fs_checkpoint_begin(fs, "g", 2));
        assert_ok(fm_fs_checkpoint_refer(fs, "g", 2, 1, "rank-0/weights"));
        assert_ok(write_shard(fs, "g", 2, 1));
        assert_ok(write_shard(fs, "g", 2, 2));
        assert_ok(fm_fs_checkpoint_publish(fs, "g", 2));
        assert_true(id_of(fs, "g", 2, 0) == id_of(fs, "g", 1, 0)); // one file, and not a copy
        assert_true(id_of(fs, "g", 2, 1) != id_of(fs, "g", 1, 1));

        assert_ok(refer_to_all(fs, "g", 3));
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 3, 1, "rank-0/weights"), FM_ERR_EXISTS, "rank-0");
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 3, 1, "rank-7/weights"), FM_ERR_NOT_FOUND, "rank-7");
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 3, 9, "rank-0/weights"), FM_ERR_NOT_FOUND,
                     "step-000000009");
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 4, 1, "rank-0/weights"), FM_ERR_NOT_FOUND,
                     "staging-000000004");
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 3, 1, "rank-0"), FM_ERR_FS_IS_DIR, "rank-0");
        assert_fails(fm_fs_checkpoint_refer(fs, "g", 3, 1, "../step-000000001/rank-0"), FM_ERR_ARG, "..");
        assert_ok(fm_fs_checkpoint_publish(fs, "g", 3));
        uint64_t id = id_of(fs, "g", 1, 0);
        assert_ok(fm_fs_checkpoint_prune(fs, "g", 1)); // the versions that wrote it go, and it stays
        assert_true(id_of(fs, "g", 3, 0) == id);
        assert_true(holds(fs, "g", 3, 1));
        fm_fs_close(fs);
    }
}

// The power is cut at every operation of publishing a version that has all of its files by reference, and of pruning those
// that wrote them.
static void cut_references(fm_gen *gen)
{
    fm_status pruned = FM_ERR_IO;
    for (size_t n = 1; pruned < 0; n++) {
        fm_fs *fs = fm_fs_mem_new();
        uint64_t step;
        assert_ok(save_version(fs, "h", 1));
        fm_fs_mem_fail_at(fs, n);
        fm_status status = refer_to_all(fs, "h", 2);
        if (status == FM_OK)
            status = fm_fs_checkpoint_publish(fs, "h", 2);
        pruned = status < 0 ? status : fm_fs_checkpoint_prune(fs, "h", 1);
        fm_fs_mem_power_cut(fs, gen);
        assert_ok(fm_fs_checkpoint_find(fs, "h", UINT64_MAX, &step));
        assert_true(step == 2 || status < 0);
        assert_true(holds(fs, "h", step, 1));
        fm_fs_close(fs);
    }
}

static void power_cuts_leave_what_is_referred_to(void **state)
{
    (void)state;
    fm_gen_property(15, cut_references);
}

struct writer {
    fm_fs *fs;
    int shard;
    fm_status status;
};

static void *writer_thread(void *argument)
{
    struct writer *writer = argument;
    writer->status = write_shard(writer->fs, "e", 8, writer->shard);
    return NULL;
}

static void many_write_one_publishes(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    pthread_t threads[SHARDS];
    struct writer writers[SHARDS];
    assert_ok(fm_fs_checkpoint_begin(fs, "e", 8));
    for (int i = 0; i < SHARDS; i++) {
        writers[i] = (struct writer){fs, i, FM_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, writer_thread, &writers[i]), 0);
    }
    for (int i = 0; i < SHARDS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(writers[i].status, FM_OK);
    }
    assert_ok(fm_fs_checkpoint_publish(fs, "e", 8));
    assert_true(is_complete(fs, "e", 8));
    fm_fs_close(fs);
}

static fm_status save_and_find(void *context)
{
    static uint64_t next;
    uint64_t step;
    FM_TRY(save_version(context, "f", ++next));
    FM_TRY(fm_fs_checkpoint_prune(context, "f", 1));
    return fm_fs_checkpoint_find(context, "f", UINT64_MAX, &step);
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_test_each_alloc_fails(save_and_find, fs);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(versions_are_published_found_and_pruned),
        cmocka_unit_test(what_cannot_be_published_is_said),
        cmocka_unit_test(only_its_own_names_count),
        cmocka_unit_test(power_cuts_leave_complete_versions),
        cmocka_unit_test(a_killed_run_and_a_power_cut_leave_a_version),
        cmocka_unit_test(a_bare_rename_is_not_enough),
        cmocka_unit_test(killed_writers_leave_complete_versions),
        cmocka_unit_test(many_write_one_publishes),
        cmocka_unit_test(unchanged_files_are_referred_to),
        cmocka_unit_test(power_cuts_leave_what_is_referred_to),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("fs_checkpoint", tests);
}
