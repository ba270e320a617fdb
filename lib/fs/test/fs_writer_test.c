#include "fm_test.h"
#include "fm_gen.h"

#include "fs_backend.h"
#include "mem_fs.h"

static fm_fs *open_tmp(void)
{
    fm_fs *fs;
    assert_ok(fm_fs_open(fm_test_tmpdir(), 0, &fs));
    return fs;
}

static void assert_content(fm_fs *fs, const char *path, const void *bytes, size_t size)
{
    void *data;
    size_t length;
    assert_ok(fm_fs_read_all(fs, path, SIZE_MAX, &data, &length));
    assert_int_equal(length, size);
    assert_memory_equal(data, bytes, size);
    assert_int_equal(((char *)data)[length], 0);
    fm_base_mem_free(data);
}

static size_t count_entries(fm_fs *fs, const char *dir)
{
    fm_fs_list *list;
    const fm_fs_entry *entry;
    size_t count = 0;
    assert_ok(fm_fs_list_open(fs, dir, &list));
    for (;;) {
        assert_ok(fm_fs_list_next(list, &entry));
        if (!entry)
            break;
        count++;
    }
    fm_fs_list_close(list);
    return count;
}

// Pieces of any size make the file that they are pieces of; until the commit there is none.
static void any_pieces(fm_gen *gen)
{
    enum { BYTES = 5 << 20 };
    static unsigned char bytes[BYTES];
    fm_fs *fs = open_tmp();
    fm_fs_writer *writer;
    fm_fs_info info;
    fm_gen_fill(gen, bytes, 4096);
    for (size_t i = 4096; i < BYTES; i += 4096) // cheap, and no two pages alike
        memcpy(bytes + i, bytes, 4096), bytes[i] = (unsigned char)(i >> 12),
                                        bytes[i + 1] = (unsigned char)(i >> 20);
    size_t size = (size_t)fm_gen_size(gen, 0, BYTES);
    size_t written = 0;
    assert_ok(fm_fs_mkdir(fs, "pieces", FM_FS_PARENTS));
    assert_ok(fm_fs_writer_open(fs, "pieces/file", FM_FS_EXCLUSIVE | FM_FS_NO_SYNC, &writer));
    while (written < size) {
        size_t piece = (size_t)fm_gen_size(gen, 0, (int64_t)(size - written));
        if (fm_gen_chance(gen, 0.1))
            piece = size - written;
        assert_ok(fm_fs_writer_write(writer, bytes + written, piece));
        written += piece;
    }
    assert_fails(fm_fs_stat(fs, "pieces/file", &info), FM_ERR_NOT_FOUND, "pieces/file");
    assert_ok(fm_fs_writer_commit(writer));
    assert_content(fs, "pieces/file", bytes, size);
    assert_int_equal(count_entries(fs, "pieces"), 1);
    assert_ok(fm_fs_unlink(fs, "pieces/file"));
    fm_fs_close(fs);
}

static void pieces_make_the_whole(void **state)
{
    (void)state;
    fm_gen_property(25, any_pieces);
}

static void failures_leave_what_was(void **state)
{
    (void)state;
    fm_fs *fs = open_tmp();
    fm_fs_writer *writer = NULL;
    assert_ok(fm_fs_mkdir(fs, "w/dir", FM_FS_PARENTS));
    assert_ok(fm_fs_write_all(fs, "w/file", "old", 3, 0));
    assert_fails(fm_fs_writer_open(fs, "w/new", FM_FS_CREATE, &writer), FM_ERR_ARG, "flags");
    assert_fails(fm_fs_writer_open(fs, ".", 0, &writer), FM_ERR_FS_IS_DIR, "root");
    assert_fails(fm_fs_writer_open(fs, "w/none/new", 0, &writer), FM_ERR_NOT_FOUND, "w/none");
    assert_fails(fm_fs_writer_open(fs, "w/file/new", 0, &writer), FM_ERR_FS_NOT_DIR, "w/file");
    assert_null(writer);
    assert_fails(fm_fs_write_all(fs, "w/file", "new", 3, FM_FS_EXCLUSIVE), FM_ERR_EXISTS, "w/file");
    assert_fails(fm_fs_write_all(fs, "w/dir", "new", 3, 0), FM_ERR_FS_IS_DIR, "w/dir");
    assert_ok(fm_fs_writer_open(fs, "w/file", 0, &writer));
    assert_ok(fm_fs_writer_write(writer, "new", 3));
    fm_fs_writer_discard(writer);
    fm_fs_writer_discard(NULL);
    assert_content(fs, "w/file", "old", 3);
    assert_int_equal(count_entries(fs, "w"), 2); // and no temporary
    fm_fs_close(fs);
}

static void the_first_failure_is_reported(void **state)
{
    (void)state;
    static char megabytes[3 << 20];
    fm_fs *fs = fm_fs_mem_new();
    fm_fs_writer *writer;
    assert_ok(fm_fs_writer_open(fs, "a", 0, &writer));
    fm_fs_mem_fail_at(fs, 1);
    assert_fails(fm_fs_writer_write(writer, megabytes, sizeof megabytes), FM_ERR_IO, "disk fails");
    fm_fs_mem_fail_at(fs, 0);
    fm_base_error_set(FM_ERR_ARG, "something else");
    assert_int_equal(fm_fs_writer_write(writer, "more", 4), FM_ERR_IO);
    assert_fails(fm_fs_writer_commit(writer), FM_ERR_IO, "disk fails");
    assert_int_equal(count_entries(fs, "."), 0);
    fm_fs_close(fs);
}

/*
 * A power cut at every operation of replacing a file: the file has the old content or the new, never
 * anything else; and the new for certain once the call has returned.
 */
static const char old_text[] = "the old content";
static const char new_text[] = "the new content, which is longer";

struct cut {
    fm_status status; // of the write
    int is_new;
    int is_whole; // old or new
};

static struct cut cut_at(fm_gen *gen, size_t operation, unsigned flags, size_t *out_operations)
{
    fm_fs *fs = fm_fs_mem_new();
    struct cut cut = {0};
    void *data;
    size_t length;
    assert_ok(fm_fs_mkdir(fs, "dir", 0));
    assert_ok(fm_fs_dir_sync(fs, "."));
    assert_ok(fm_fs_write_all(fs, "dir/file", old_text, sizeof old_text, 0));
    size_t before = fm_fs_mem_operations(fs);
    fm_fs_mem_fail_at(fs, operation);
    cut.status = fm_fs_write_all(fs, "dir/file", new_text, sizeof new_text, flags);
    *out_operations = fm_fs_mem_operations(fs) - before;
    fm_fs_mem_power_cut(fs, gen);
    if (fm_fs_read_all(fs, "dir/file", 100, &data, &length) == FM_OK) {
        cut.is_new = length == sizeof new_text && memcmp(data, new_text, length) == 0;
        cut.is_whole = cut.is_new || (length == sizeof old_text && memcmp(data, old_text, length) == 0);
        fm_base_mem_free(data);
    }
    fm_fs_close(fs);
    return cut;
}

static void any_cut(fm_gen *gen)
{
    size_t operations = 1;
    for (size_t n = 1; n <= operations + 1; n++) {
        struct cut cut = cut_at(gen, n, 0, &operations);
        assert_true(cut.is_whole);
        if (cut.status == FM_OK)
            assert_true(cut.is_new);
        if (n <= operations)
            assert_int_equal(cut.status, FM_ERR_IO);
    }
    assert_true(operations >= 5); // open, write, sync, rename, sync: the loop saw them all
}

static void power_cuts_leave_old_or_new(void **state)
{
    (void)state;
    fm_gen_property(100, any_cut);
}

static int torn;

static void cut_unsynced(fm_gen *gen)
{
    size_t operations;
    torn += !cut_at(gen, 0, FM_FS_NO_SYNC, &operations).is_whole;
}

// The other side of the test above: the simulated disk does show what a missing sync costs.
static void without_sync_power_cuts_tear(void **state)
{
    (void)state;
    torn = 0;
    fm_gen_property(100, cut_unsynced);
    assert_true(torn > 10);
}

static fm_status write_and_read(void *context)
{
    void *data;
    size_t length;
    FM_TRY(fm_fs_write_all(context, "alloc", "abc", 3, FM_FS_NO_SYNC));
    FM_TRY(fm_fs_read_all(context, "alloc", 3, &data, &length));
    fm_base_mem_free(data);
    return FM_OK;
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_fs *fs = fm_fs_mem_new();
    fm_test_each_alloc_fails(write_and_read, fs);
    assert_int_equal(count_entries(fs, "."), 1);
    fm_fs_close(fs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_make_the_whole),         cmocka_unit_test(failures_leave_what_was),
        cmocka_unit_test(the_first_failure_is_reported), cmocka_unit_test(power_cuts_leave_old_or_new),
        cmocka_unit_test(without_sync_power_cuts_tear),  cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("fs_writer", tests);
}
