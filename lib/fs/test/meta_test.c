#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <sys/stat.h>

#include "fathom/fs_meta.h"
#include "meta_follow.h"

static const char *const names[] = {"a", "b", "c", "d", "e", "f"};

static uint64_t tick(void *context)
{
    return ++*(uint64_t *)context;
}

/* Against the model */

static void follow_alone(fm_gen *gen, fm_fs_kv *kv)
{
    uint64_t now = 1;
    fm_fs_meta *meta;
    fm_fs_meta_options options = {
        .size = sizeof options, .root_mode = 0777, .now = tick, .now_context = &now};
    assert_ok(fm_fs_meta_open(kv, &options, &meta));
    follow_model(gen, meta, meta, NULL);
    fm_fs_meta_close(meta);
}

static void model_in_memory(fm_gen *gen)
{
    fm_fs_kv *kv;
    fm_fs_kv_options options = {.size = sizeof options,
                                .seed = fm_gen_u64(gen),
                                .conflict_rate = fm_gen_chance(gen, 0.5) ? 0.2 : 0,
                                .maybe_rate = fm_gen_chance(gen, 0.5) ? 0.2 : 0};
    assert_ok(fm_fs_kv_open("memory:", &options, &kv));
    follow_alone(gen, kv);
    fm_fs_kv_close(kv);
}

static void names_agree_with_the_model(void **state)
{
    (void)state;
    fm_gen_property(25, model_in_memory);
}

static fm_fs_kv *open_lmdb(void)
{
    static int number;
    char spec[4300];
    fm_fs_kv *kv = NULL;
    snprintf(spec, sizeof spec, "lmdb:%s/names-%d", fm_test_tmpdir(), number++);
    fm_status status = fm_fs_kv_open(spec, NULL, &kv);
    if (status == FM_ERR_UNSUPPORTED)
        fm_test_skip("built without LMDB");
    assert_ok(status);
    return kv;
}

static void names_agree_with_the_model_on_lmdb(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(7);
    fm_fs_kv *kv = open_lmdb();
    follow_alone(&gen, kv);
    fm_fs_kv_close(kv);
}

/* Many at once */

struct worker {
    fm_fs_meta *meta;
    uint64_t seed;
    pthread_t thread;
    int failed;
};

// Failures are fine where the others' doings explain them.
static int is_expected(fm_status status)
{
    return status == FM_OK || status == FM_ERR_NOT_FOUND || status == FM_ERR_EXISTS ||
           status == FM_ERR_FS_NOT_EMPTY || status == FM_ERR_FS_IS_DIR || status == FM_ERR_FS_NOT_DIR ||
           status == FM_ERR_ARG || status == FM_ERR_PERM;
}

static uint64_t any_dir(fm_fs_meta *meta, fm_gen *gen)
{
    uint64_t dir = FM_FS_META_ROOT;
    fm_fs_node node;
    for (int depth = (int)fm_gen_int(gen, 0, 3); depth > 0; depth--)
        if (fm_fs_meta_lookup(meta, NULL, dir, names[fm_gen_int(gen, 0, 3)], &node) == FM_OK &&
            S_ISDIR(node.mode))
            dir = node.ino;
    return dir;
}

static void *work(void *context)
{
    struct worker *worker = context;
    fm_gen gen = fm_gen_seeded(worker->seed);
    for (int i = 0; i < 150; i++) {
        fm_fs_meta *meta = worker->meta;
        fm_fs_node node;
        fm_status status = FM_OK;
        uint64_t dir = any_dir(meta, &gen);
        uint64_t other = any_dir(meta, &gen);
        const char *name = names[fm_gen_int(&gen, 0, 3)];
        const char *to_name = names[fm_gen_int(&gen, 0, 3)];
        size_t done;
        switch (fm_gen_int(&gen, 0, 7)) {
        case 0:
        case 1:
            status = fm_fs_meta_create(meta, NULL, dir, name, S_IFDIR | 0755, 0, 1, &node, NULL);
            break;
        case 2:
            status = fm_fs_meta_create(meta, NULL, dir, name, S_IFREG | 0644, 0, 0, &node, NULL);
            if (status == FM_OK)
                status = fm_fs_meta_link(meta, NULL, node.ino, other, to_name, &node);
            break;
        case 3:
            status = fm_fs_meta_unlink(meta, NULL, dir, name);
            break;
        case 4:
            status = fm_fs_meta_rmdir(meta, NULL, dir, name);
            break;
        case 5:
            status = fm_fs_meta_remove_all(meta, NULL, dir, name);
            break;
        case 6:
            status = fm_fs_meta_collect(meta, keep_nothing, NULL, 3, &done);
            break;
        default:
            status =
                fm_fs_meta_rename(meta, NULL, dir, name, other, to_name, (unsigned)fm_gen_int(&gen, 0, 2));
        }
        worker->failed |= !is_expected(status);
    }
    return NULL;
}

static void work_together(fm_fs_kv *kv)
{
    struct worker workers[4];
    fm_fs_meta *meta[2];
    assert_ok(fm_fs_meta_open(kv, NULL, &meta[0]));
    assert_ok(fm_fs_meta_open(kv, NULL, &meta[1]));
    for (uint64_t i = 0; i < 4; i++) {
        workers[i] = (struct worker){.meta = meta[i % 2], .seed = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_false(workers[i].failed);
    }
    assert_sound(meta[0]);
    collect_all(meta[1]);
    fm_fs_meta_census census = assert_sound(meta[0]);
    assert_int_equal(census.collectable, 0);
    fm_fs_meta_close(meta[0]);
    fm_fs_meta_close(meta[1]);
}

static void servers_work_together(void **state)
{
    (void)state;
    fm_fs_kv *kv;
    fm_fs_kv_options options = {.size = sizeof options, .seed = 3, .conflict_rate = 0.1, .maybe_rate = 0.1};
    assert_ok(fm_fs_kv_open("memory:", &options, &kv));
    work_together(kv);
    fm_fs_kv_close(kv);
}

static void servers_work_together_on_lmdb(void **state)
{
    (void)state;
    fm_fs_kv *kv = open_lmdb();
    work_together(kv);
    fm_fs_kv_close(kv);
}

/* Requests of remote clients */

static void repeated_requests_happen_once(void **state)
{
    (void)state;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    fm_fs_node first;
    fm_fs_node again;
    fm_fs_who who = {.client = 77, .slot = 2, .sequence = 1};
    int made = -1;
    assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
    assert_ok(fm_fs_meta_open(kv, NULL, &meta));
    assert_ok(fm_fs_meta_create(meta, &who, FM_FS_META_ROOT, "a", S_IFREG | 0600, 0, 1, &first, NULL));
    assert_ok(fm_fs_meta_create(meta, &who, FM_FS_META_ROOT, "a", S_IFREG | 0600, 0, 1, &again, &made));
    assert_true(first.ino == again.ino && made == 1);
    who.sequence = 2;
    assert_ok(fm_fs_meta_rename(meta, &who, FM_FS_META_ROOT, "a", FM_FS_META_ROOT, "b", 0));
    assert_ok(fm_fs_meta_rename(meta, &who, FM_FS_META_ROOT, "a", FM_FS_META_ROOT, "b", 0));
    who.sequence = 3;
    assert_fails(fm_fs_meta_unlink(meta, &who, FM_FS_META_ROOT, "a"), FM_ERR_NOT_FOUND, "a does not exist");
    assert_ok(fm_fs_meta_unlink(meta, &who, FM_FS_META_ROOT, "b")); // what failed left no record
    who.sequence = 2;
    assert_fails(fm_fs_meta_unlink(meta, &who, FM_FS_META_ROOT, "b"), FM_ERR_STATE, "has had request 3");
    who.slot = 3;
    assert_fails(fm_fs_meta_unlink(meta, &who, FM_FS_META_ROOT, "b"), FM_ERR_NOT_FOUND, "b");
    fm_fs_meta_close(meta);
    fm_fs_kv_close(kv);
}

static void old_requests_are_forgotten(void **state)
{
    (void)state;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    fm_fs_node node;
    uint64_t now = 1;
    size_t done;
    fm_fs_meta_options options = {.size = sizeof options, .now = tick, .now_context = &now};
    fm_fs_who who = {.client = 77, .sequence = 1};
    assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
    assert_ok(fm_fs_meta_open(kv, &options, &meta));
    for (who.slot = 0; who.slot < 100; who.slot++) {
        if (who.slot > 0)
            assert_ok(fm_fs_meta_unlink(meta, NULL, FM_FS_META_ROOT, "a"));
        assert_ok(fm_fs_meta_create(meta, &who, FM_FS_META_ROOT, "a", S_IFREG | 0600, 0, 1, &node, NULL));
    }
    now += (uint64_t)2000 * 1000000000;
    for (int i = 0; i < 8; i++)
        assert_ok(fm_fs_meta_collect(meta, keep_nothing, NULL, 1, &done));
    for (who.slot = 0; who.slot < 100; who.slot++) // would be taken for a repetition otherwise
        assert_fails(fm_fs_meta_create(meta, &who, FM_FS_META_ROOT, "a", S_IFREG | 0600, 0, 1, &node, NULL),
                     FM_ERR_EXISTS, "a exists");
    fm_fs_meta_close(meta);
    fm_fs_kv_close(kv);
}

static fm_status use_names(void *context)
{
    fm_fs_meta *meta;
    fm_fs_node node;
    (void)context;
    fm_fs_kv *kv;
    FM_TRY(fm_fs_kv_open("memory:", NULL, &kv));
    fm_status status = fm_fs_meta_open(kv, NULL, &meta);
    if (status == FM_OK) {
        fm_fs_meta_census census;
        status = fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, "d", S_IFDIR | 0755, 0, 1, &node, NULL);
        if (status == FM_OK)
            status = fm_fs_meta_symlink(meta, NULL, node.ino, "l", "target", &node);
        if (status == FM_OK)
            status = fm_fs_meta_remove_all(meta, &(fm_fs_who){.uid = 0}, FM_FS_META_ROOT, "d");
        if (status == FM_OK)
            status = fm_fs_meta_check(meta, NULL, NULL, &census);
        fm_fs_meta_close(meta);
    }
    fm_fs_kv_close(kv);
    return status;
}

static void lack_of_memory_is_survived(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(use_names, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_agree_with_the_model),    cmocka_unit_test(names_agree_with_the_model_on_lmdb),
        cmocka_unit_test(servers_work_together),         cmocka_unit_test(servers_work_together_on_lmdb),
        cmocka_unit_test(repeated_requests_happen_once), cmocka_unit_test(old_requests_are_forgotten),
        cmocka_unit_test(lack_of_memory_is_survived),
    };
    return fm_test_run("meta", tests);
}
