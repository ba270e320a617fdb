#include "fm_test.h"
#include "fm_gen.h"

#include "fathom/fs_kvcache.h"

enum { BLOCKS = 12, BLOCK_BYTES = 300, SIZE_MAX_HERE = 16384 };

static fm_fs_kvcache_key key_of(uint64_t number)
{
    fm_fs_kvcache_key key;
    fm_fs_kvcache_key_next(NULL, &number, sizeof number, &key);
    return key;
}

static fm_fs_kvcache *open_cache(fm_fs *fs)
{
    fm_fs_kvcache *cache;
    fm_fs_kvcache_options options = {.size = sizeof options, .bytes_max = 65536, .segment_bytes = 16384};
    assert_ok(fm_fs_kvcache_open(fs, "kv", &options, &cache));
    return cache;
}

// The path of the one segment with anything in it.
static void segment_path(fm_fs *fs, char path[FM_FS_PATH_MAX + 1])
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    assert_ok(fm_fs_list_open(fs, "kv", &list));
    assert_ok(fm_fs_list_next(list, &entry));
    assert_non_null(entry);
    snprintf(path, FM_FS_PATH_MAX + 1, "kv/%s", entry->name);
    fm_fs_list_close(list);
}

// How many of the blocks are found; those that are must be right.
static int count_found(fm_fs *fs)
{
    int found = 0;
    fm_fs_kvcache *cache = open_cache(fs);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        uint8_t value[SIZE_MAX_HERE];
        uint8_t expected[BLOCK_BYTES];
        size_t size;
        fm_fs_kvcache_key key = key_of(i);
        memset(expected, (int)i + 1, sizeof expected);
        if (fm_fs_kvcache_get(cache, &key, value, sizeof value, &size) < 0)
            continue;
        assert_int_equal(size, BLOCK_BYTES);
        assert_memory_equal(value, expected, size);
        found++;
    }
    fm_fs_kvcache_close(cache);
    return found;
}

static fm_fs *open_fresh(void)
{
    static int number;
    char path[4200];
    fm_fs *fs;
    snprintf(path, sizeof path, "%s/segment-%d", fm_test_tmpdir(), number++);
    assert_ok(fm_fs_open(path, FM_FS_CREATE, &fs));
    fm_fs_kvcache *cache = open_cache(fs);
    for (uint64_t i = 0; i < BLOCKS; i++) {
        uint8_t value[BLOCK_BYTES];
        fm_fs_kvcache_key key = key_of(i);
        memset(value, (int)i + 1, sizeof value);
        assert_ok(fm_fs_kvcache_put(cache, &key, value, sizeof value));
    }
    fm_fs_kvcache_close(cache);
    return fs;
}

// Bytes changed and ends cut off at random cost blocks, but nothing wrong is found and opening never fails.
static void damage(fm_gen *gen)
{
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_info info;
    fm_fs_file *file;
    fm_fs *fs = open_fresh();
    segment_path(fs, path);
    assert_int_equal(count_found(fs), BLOCKS);
    assert_ok(fm_fs_stat(fs, path, &info));
    assert_ok(fm_fs_file_open(fs, path, FM_FS_WRITE, &file));
    int64_t changes = fm_gen_int(gen, 0, 3);
    for (int64_t i = 0; i < changes; i++) {
        uint8_t bytes[8];
        fm_gen_fill(gen, bytes, sizeof bytes);
        assert_ok(fm_fs_file_write(file, bytes, (size_t)fm_gen_int(gen, 1, 8),
                                   (uint64_t)fm_gen_int(gen, 0, (int64_t)info.size - 8)));
    }
    if (changes == 0 || fm_gen_chance(gen, 0.5))
        assert_ok(fm_fs_file_truncate(file, (uint64_t)fm_gen_int(gen, 0, (int64_t)info.size)));
    fm_fs_file_close(file);
    count_found(fs);
    fm_fs_close(fs);
}

static void damage_is_never_believed(void **state)
{
    (void)state;
    fm_gen_property(100, damage);
}

static void a_cut_end_costs_only_what_lay_there(void **state)
{
    (void)state;
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_file *file;
    fm_fs *fs = open_fresh();
    segment_path(fs, path);
    assert_ok(fm_fs_file_open(fs, path, FM_FS_WRITE, &file));
    assert_ok(fm_fs_file_truncate(file, 32 + 5 * (64 + BLOCK_BYTES) - 1));
    fm_fs_file_close(file);
    assert_int_equal(count_found(fs), 4);
    fm_fs_close(fs);
}

static void a_damaged_value_costs_only_itself(void **state)
{
    (void)state;
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_file *file;
    fm_fs *fs = open_fresh();
    segment_path(fs, path);
    assert_ok(fm_fs_file_open(fs, path, FM_FS_WRITE, &file));
    assert_ok(fm_fs_file_write(file, "?", 1, 32 + 2 * (64 + BLOCK_BYTES) + 100));
    fm_fs_file_close(file);
    assert_int_equal(count_found(fs), BLOCKS - 1);
    fm_fs_close(fs);
}

static void what_others_left_is_not_touched(void **state)
{
    (void)state;
    fm_fs_info info;
    fm_fs *fs = open_fresh();
    static const char *const names[] = {"kv/README", "kv/kv-0.seg",
                                        "kv/kv-ffffffffffffffff-0000000000000000.seg",
                                        "kv/kv-00000000000000AA-0000000000000000.seg"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_ok(fm_fs_write_all(fs, names[i], "mine", 4, FM_FS_NO_SYNC));
    assert_int_equal(count_found(fs), BLOCKS);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_ok(fm_fs_stat(fs, names[i], &info));
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damage_is_never_believed),
        cmocka_unit_test(a_cut_end_costs_only_what_lay_there),
        cmocka_unit_test(a_damaged_value_costs_only_itself),
        cmocka_unit_test(what_others_left_is_not_touched),
    };
    return fm_test_run("kvcache_segment", tests);
}
