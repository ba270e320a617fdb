// Locks against a model that keeps each byte of a short file by itself.
#include "fm_test.h"

#include <string.h>
#include <sys/stat.h>

#include "fm_gen.h"
#include "meta_fixture.h"

enum { BYTES = 24, OWNERS = 3, CLIENTS = 2, STEPS = 300 };

struct model {
    fm_fs_lock_kind kind[2][CLIENTS][OWNERS][BYTES + 1]; // of fcntl(), of flock(); the last one is all behind
};

static uint64_t last_of(const fm_fs_lock *lock)
{
    return lock->end < BYTES ? lock->end : BYTES;
}

static int model_conflicts(const struct model *model, const fm_fs_lock *lock)
{
    for (size_t c = 0; c < CLIENTS; c++)
        for (size_t o = 0; o < OWNERS; o++)
            for (uint64_t b = lock->begin; b <= last_of(lock); b++) {
                fm_fs_lock_kind held = model->kind[lock->flock][c][o][b];
                if ((c + 1 != lock->client || o + 1 != lock->owner) && held && lock->kind &&
                    (held == FM_FS_LOCK_EXCLUSIVE || lock->kind == FM_FS_LOCK_EXCLUSIVE))
                    return 1;
            }
    return 0;
}

static void model_set(struct model *model, const fm_fs_lock *lock, fm_fs_lock_kind kind)
{
    for (uint64_t b = lock->begin; b <= last_of(lock); b++)
        model->kind[lock->flock][lock->client - 1][lock->owner - 1][b] = kind;
}

static fm_fs_lock draw(fm_gen *gen)
{
    fm_fs_lock lock = {.client = (uint64_t)fm_gen_int(gen, 1, CLIENTS),
                       .owner = (uint64_t)fm_gen_int(gen, 1, OWNERS),
                       .kind = (fm_fs_lock_kind)fm_gen_int(gen, FM_FS_LOCK_NONE, FM_FS_LOCK_EXCLUSIVE),
                       .flock = fm_gen_chance(gen, 0.2),
                       .end = UINT64_MAX,
                       .pid = 7};
    if (!lock.flock) {
        lock.begin = (uint64_t)fm_gen_int(gen, 0, BYTES - 1);
        if (!fm_gen_chance(gen, 0.2))
            lock.end = (uint64_t)fm_gen_int(gen, (int64_t)lock.begin, BYTES - 1);
    }
    return lock;
}

static void agree_with_the_model(fm_gen *gen)
{
    struct names names;
    static struct model model;
    fm_fs_node node;
    memset(&model, 0, sizeof model);
    names_open(&names, NULL);
    node = names_make(&names, FM_FS_META_ROOT, "a", S_IFREG | 0644);
    for (uint64_t c = 1; c <= CLIENTS; c++)
        assert_ok(fm_fs_meta_lease(names.meta, c, UINT64_MAX));
    for (int i = 0; i < STEPS; i++) {
        int granted = -1;
        fm_fs_lock conflict;
        fm_fs_lock lock = draw(gen);
        int conflicts = model_conflicts(&model, &lock);
        assert_ok(fm_fs_meta_lock_test(names.meta, node.ino, &lock, &conflict));
        assert_int_equal(conflict.kind != FM_FS_LOCK_NONE, conflicts);
        if (conflicts) // it names one that is really in the way
            assert_true(model.kind[lock.flock][conflict.client - 1][conflict.owner - 1]
                                  [conflict.begin > lock.begin ? conflict.begin : lock.begin] ==
                        conflict.kind);
        assert_ok(fm_fs_meta_lock(names.meta, node.ino, &lock, &granted, &node));
        assert_int_equal(granted, !conflicts);
        if (granted)
            model_set(&model, &lock, lock.kind);
        else if (lock.flock)
            model_set(&model, &lock, FM_FS_LOCK_NONE);
    }
    names_close(&names);
}

static void they_agree_with_the_model(void **state)
{
    (void)state;
    fm_gen_property(20, agree_with_the_model);
}

static int take(struct names *names, uint64_t ino, uint64_t client)
{
    int granted;
    fm_fs_node node;
    const fm_fs_lock lock = {.client = client, .owner = 1, .end = UINT64_MAX, .kind = FM_FS_LOCK_EXCLUSIVE};
    assert_ok(fm_fs_meta_lock(names->meta, ino, &lock, &granted, &node));
    return granted;
}

static void they_end_with_the_lease(void **state)
{
    (void)state;
    struct names names;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, FM_FS_META_ROOT, "a", S_IFREG | 0644);
    assert_ok(fm_fs_meta_lease(names.meta, 1, names.now + 1000));
    assert_ok(fm_fs_meta_lease(names.meta, 2, names.now + 5000));
    assert_int_equal(take(&names, node.ino, 1), 1);
    assert_int_equal(take(&names, node.ino, 2), 0);
    names.now += 2000;
    assert_int_equal(take(&names, node.ino, 2), 1);
    assert_int_equal(take(&names, node.ino, 1), 0);
    assert_ok(fm_fs_meta_lease(names.meta, 2, 0)); // it says farewell
    assert_int_equal(take(&names, node.ino, 1), 1);
    names_close(&names);
}

static void bad_ones_are_refused(void **state)
{
    (void)state;
    struct names names;
    int granted;
    names_open(&names, NULL);
    fm_fs_node node = names_make(&names, FM_FS_META_ROOT, "a", S_IFREG | 0644);
    fm_fs_lock lock = {.client = 1, .owner = 1, .begin = 5, .end = 4, .kind = FM_FS_LOCK_SHARED};
    assert_fails(fm_fs_meta_lock(names.meta, node.ino, &lock, &granted, &node), FM_ERR_ARG, "from 5 to 4");
    lock.end = 5;
    assert_fails(fm_fs_meta_lock(names.meta, 999, &lock, &granted, &node), FM_ERR_NOT_FOUND, "999");
    assert_ok(fm_fs_meta_lease(names.meta, 1, UINT64_MAX));
    fm_status status = FM_OK;
    for (uint64_t i = 0; i < 500 && status == FM_OK; i++) { // single bytes that do not touch each other
        lock.begin = lock.end = 2 * i;
        status = fm_fs_meta_lock(names.meta, node.ino, &lock, &granted, &node);
    }
    assert_int_equal(status, FM_ERR_LIMIT);
    lock = (fm_fs_lock){.client = 1, .owner = 1, .end = UINT64_MAX, .kind = FM_FS_LOCK_NONE};
    assert_ok(fm_fs_meta_lock(names.meta, node.ino, &lock, &granted, &node));
    // What is removed has no locks.
    lock.kind = FM_FS_LOCK_SHARED;
    assert_ok(fm_fs_meta_lock(names.meta, node.ino, &lock, &granted, &node));
    assert_ok(fm_fs_meta_unlink(names.meta, NULL, FM_FS_META_ROOT, "a"));
    names_collect(&names);
    names_close(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_agree_with_the_model),
        cmocka_unit_test(they_end_with_the_lease),
        cmocka_unit_test(bad_ones_are_refused),
    };
    return fm_test_run("meta_lock", tests);
}
