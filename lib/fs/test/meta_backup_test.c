#include "fm_test.h"
#include "fm_gen.h"

#include <sys/stat.h>

#include "fathom/file.h"
#include "fathom/fs_cluster.h"
#include "meta_fixture.h"

static const char *backup_path(void)
{
    static char path[400];
    snprintf(path, sizeof path, "%s/backup", fm_test_tmpdir());
    return path;
}

// Some of everything; returns a file's number.
static uint64_t furnish(struct names *names)
{
    fm_fs_node node;
    fm_fs_node dir = names_make(names, ROOT, "d", S_IFDIR | 0755);
    assert_ok(fm_fs_meta_quota_set(names->meta, NULL, dir.ino, &(fm_fs_quota){.bytes_max = 1 << 20}));
    for (int i = 0; i < 300; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%d", i);
        node = names_make(names, dir.ino, name, S_IFREG | 0644);
        assert_ok(fm_fs_meta_inline_write(names->meta, node.ino, 0, name, strlen(name), &node));
    }
    static char large[FM_FS_META_XATTR_MAX];
    for (int i = 0; i < 40; i++) { // more than one transaction's bytes
        char name[16];
        snprintf(name, sizeof name, "user.%d", i);
        assert_ok(fm_fs_meta_xattr_set(names->meta, NULL, node.ino, name, large, sizeof large, 0));
    }
    assert_ok(fm_fs_meta_symlink(names->meta, NULL, ROOT, "l", "d/f7", &node));
    return node.ino;
}

// Whether a chunk of a file with this number counts as one of before.
static void expect_earlier(fm_fs_meta *meta, uint64_t data, int expected)
{
    fm_fs_meta_owners *owners;
    uint32_t chain;
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    const fm_fs_node node = {.data = data, .layout = {65536, 1, 1, 0}};
    fm_fs_meta_chunk(&node, 3, &chain, id);
    assert_ok(fm_fs_meta_owners_read(meta, &owners));
    assert_false(fm_fs_meta_owners_has(owners, chain, id));
    assert_int_equal(fm_fs_meta_owners_is_earlier(owners, id), expected);
    fm_fs_meta_owners_free(owners);
}

static void names_come_back(void **state)
{
    (void)state;
    struct names names;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    fm_fs_node node;
    fm_fs_node made;
    uint64_t records = 0;
    uint64_t restored = 0;
    char text[8];
    size_t read;
    names_open(&names, NULL);
    uint64_t ino = furnish(&names);
    expect_earlier(names.meta, 1, 0); // these were never restored
    fm_fs_meta_census before = names_census(&names);
    assert_ok(fm_fs_meta_backup(names.meta, backup_path(), &records));
    assert_ok(fm_fs_meta_remove_all(names.meta, NULL, ROOT, "d")); // afterwards
    assert_fails(fm_fs_meta_restore(names.kv, backup_path(), &restored), FM_ERR_EXISTS, "has names");
    fm_fs_kv_options options = {.size = sizeof options, .seed = 4, .conflict_rate = 0.2, .maybe_rate = 0.2};
    assert_ok(fm_fs_kv_open("memory:", &options, &kv));
    assert_ok(fm_fs_meta_restore(kv, backup_path(), &restored));
    assert_int_equal(restored, records);
    assert_ok(fm_fs_meta_open(kv, NULL, &meta));
    fm_fs_meta_census after;
    assert_ok(fm_fs_meta_check(meta, NULL, NULL, &after));
    assert_memory_equal(&after, &before, sizeof after);
    assert_ok(fm_fs_meta_resolve(meta, NULL, ROOT, "l", 1, &node));
    assert_ok(fm_fs_meta_inline_read(meta, node.ino, 0, text, sizeof text, &read, &node));
    assert_true(read == 2 && memcmp(text, "f7", 2) == 0);
    assert_ok(fm_fs_meta_create(meta, NULL, ROOT, "new", S_IFREG | 0644, 0, 1, &made, NULL));
    assert_true(made.ino > ino + ((uint64_t)1 << 31)); // no number of the time after the backup
    expect_earlier(meta, made.ino + 1, 0);
    expect_earlier(meta, ino + 100000, 1);
    fm_fs_meta_close(meta);
    fm_fs_kv_close(kv);
    names_close(&names);
}

// Whatever byte is another one, and wherever it ends: it is refused, and the store stays empty.
static void damage_is_refused(void **state)
{
    (void)state;
    struct names names;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    uint64_t records = 0;
    char *bytes;
    size_t length;
    fm_gen gen = fm_gen_seeded(1);
    names_open(&names, NULL);
    names_make(&names, ROOT, "a", S_IFREG | 0644);
    assert_ok(fm_fs_meta_backup(names.meta, backup_path(), &records));
    assert_ok(fm_base_file_read(backup_path(), 1 << 20, &bytes, &length));
    assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
    for (size_t at = 0; at < length; at++) {
        char kept = bytes[at];
        bytes[at] = (char)(kept ^ (1 << fm_gen_int(&gen, 0, 7)));
        fm_test_file("backup", bytes, length);
        fm_status status = fm_fs_meta_restore(kv, backup_path(), &records);
        assert_true(status == FM_ERR_FORMAT || status == FM_ERR_VERSION);
        bytes[at] = kept;
        if (at % 8 == 0) {
            fm_test_file("backup", bytes, at);
            assert_fails(fm_fs_meta_restore(kv, backup_path(), &records), FM_ERR_FORMAT, "no backup");
        }
    }
    fm_test_file("backup", bytes, length);
    assert_ok(fm_fs_meta_restore(kv, backup_path(), &records));
    assert_ok(fm_fs_meta_open(kv, NULL, &meta));
    fm_fs_meta_close(meta);
    fm_base_mem_free(bytes);
    fm_fs_kv_close(kv);
    names_close(&names);
}

static fm_status put_left_over(fm_fs_kv_tx *tx, void *context)
{
    static const uint8_t unfinished[8];
    (void)context;
    FM_TRY(fm_fs_kv_put(tx, (fm_fs_kv_bytes){"F", 1}, (fm_fs_kv_bytes){unfinished, 8}));
    return fm_fs_kv_put(tx, (fm_fs_kv_bytes){"Ileft over", 10}, (fm_fs_kv_bytes){"x", 1});
}

static void what_was_cut_short_is_begun_anew(void **state)
{
    (void)state;
    struct names names;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    fm_fs_meta_census census;
    uint64_t records;
    names_open(&names, NULL);
    furnish(&names);
    assert_ok(fm_fs_meta_backup(names.meta, backup_path(), &records));
    assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
    assert_ok(fm_fs_kv_run(kv, 0, put_left_over, NULL));
    assert_fails(fm_fs_meta_open(kv, NULL, &meta), FM_ERR_VERSION, "format 0");
    assert_ok(fm_fs_meta_restore(kv, backup_path(), &records));
    assert_ok(fm_fs_meta_open(kv, NULL, &meta));
    assert_ok(fm_fs_meta_check(meta, NULL, NULL, &census));
    assert_true(census.findings == 0 && census.files == 300);
    fm_fs_meta_close(meta);
    fm_fs_kv_close(kv);
    names_close(&names);
}

// The backup of names that were restored is one again, also where nothing was ever made.
static void what_was_restored_is_told_by_each_restoring(void **state)
{
    (void)state;
    struct names names;
    uint64_t records;
    fm_fs_node made;
    names_open(&names, NULL);
    assert_ok(fm_fs_meta_backup(names.meta, backup_path(), &records));
    for (uint64_t times = 1; times <= 2; times++) {
        fm_fs_kv *kv;
        fm_fs_meta *meta;
        assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
        assert_ok(fm_fs_meta_restore(kv, backup_path(), &records));
        assert_ok(fm_fs_meta_open(kv, NULL, &meta));
        expect_earlier(meta, (times << 32) - 1, 1);
        expect_earlier(meta, (times << 32) + 100000, 0);
        assert_ok(fm_fs_meta_create(meta, NULL, ROOT, "a", S_IFREG | 0644, 0, 1, &made, NULL));
        assert_true(made.ino >= times << 32);
        assert_ok(fm_fs_meta_unlink(meta, NULL, ROOT, "a"));
        assert_ok(fm_fs_meta_backup(meta, backup_path(), &records));
        fm_fs_meta_close(meta);
        fm_fs_kv_close(kv);
    }
    names_close(&names);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_come_back),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(what_was_cut_short_is_begun_anew),
        cmocka_unit_test(what_was_restored_is_told_by_each_restoring),
    };
    return fm_test_run("meta_backup", tests);
}
