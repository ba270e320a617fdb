// What a mount keeps of what it has read: right for a version, against a model; shared by threads; and read by nobody any more
// once it is not right.
#include "fm_test.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "fm_gen.h"
#include "fuse/mount_cache.h"
#include "mount_home.h"

enum { PAGE = FM_FS_CACHE_PAGE, BLOCK = FM_FS_CACHE_BLOCK, FILES = 3, FILE_BYTES = 8 * BLOCK, THREADS = 4 };

/* The cache alone */

// What a page of a file has, whose contents are known by its version.
static uint8_t byte_of(uint64_t ino, uint64_t version, uint64_t offset)
{
    return (uint8_t)(ino * 31 + version * 7 + offset / PAGE * 3 + 1);
}

static uint64_t fill_missing(const struct fm_fs_cache_view *view, uint64_t ino, uint64_t version)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < view->count; i++)
        for (unsigned page = 0; page < 64; page++)
            if (view->pieces[i].missing >> page & 1) {
                uint64_t at = view->pieces[i].offset + (uint64_t)page * PAGE;
                memset(view->pieces[i].bytes + (size_t)page * PAGE, byte_of(ino, version, at), PAGE);
                pages++;
            }
    return pages;
}

static int is_right(const struct fm_fs_cache_view *view, uint64_t ino, uint64_t version, uint64_t offset,
                    size_t size)
{
    for (uint64_t at = offset; at<offset + size; at += at + PAGE> offset + size ? 1 : PAGE) {
        unsigned i = (unsigned)(at / BLOCK - offset / BLOCK);
        if (i >= view->count || view->pieces[i].bytes[at % BLOCK] != byte_of(ino, version, at))
            return 0;
    }
    return 1;
}

static uint64_t read_range(fm_fs_cache *cache, uint64_t ino, uint64_t version, uint64_t offset, size_t size)
{
    struct fm_fs_cache_view view;
    assert_true(fm_fs_cache_take(cache, ino, version, offset, size, &view));
    uint64_t pages = fill_missing(&view, ino, version);
    assert_int_equal(view.missing, pages > 0);
    if (view.missing)
        fm_fs_cache_filled(cache, &view, 1);
    assert_true(is_right(&view, ino, version, offset, size));
    fm_fs_cache_leave(cache, &view);
    return pages;
}

static void pages_are_read_once_a_version(void **state)
{
    (void)state;
    fm_fs_cache *cache;
    assert_ok(fm_fs_cache_new((uint64_t)16 * BLOCK, &cache));
    assert_int_equal(read_range(cache, 5, 1, 3 * PAGE, PAGE), 1);
    assert_int_equal(read_range(cache, 5, 1, 0, BLOCK), 63);
    assert_int_equal(read_range(cache, 5, 1, PAGE + 1, 3 * BLOCK), 3 * 64 - 62);
    assert_int_equal(read_range(cache, 5, 1, 1, FM_FS_CACHE_RANGE_MAX), 63);
    assert_int_equal(read_range(cache, 6, 1, 0, PAGE), 1);
    assert_int_equal(read_range(cache, 5, 1, 0, BLOCK), 0);
    assert_int_equal(read_range(cache, 5, 2, 0, PAGE), 1); // another version: nothing is kept
    assert_int_equal(read_range(cache, 5, 2, 0, BLOCK), 63);
    assert_int_equal(read_range(cache, 6, 1, 0, PAGE), 0);
    fm_fs_cache_drop(cache, 5, PAGE, 1);
    assert_int_equal(read_range(cache, 5, 2, 0, BLOCK), 64);
    fm_fs_cache_drop(cache, 5, 0, INT64_MAX);
    assert_int_equal(fm_fs_cache_bytes(cache), BLOCK); // of the other file
    fm_fs_cache_free(cache);
}

static void failed_and_lost_reads_leave_nothing(void **state)
{
    (void)state;
    fm_fs_cache *cache;
    struct fm_fs_cache_view view;
    struct fm_fs_cache_view second;
    assert_ok(fm_fs_cache_new((uint64_t)2 * BLOCK, &cache));
    assert_true(fm_fs_cache_take(cache, 5, 1, 0, BLOCK, &view));
    fm_fs_cache_filled(cache, &view, 0);
    fm_fs_cache_leave(cache, &view);
    assert_int_equal(read_range(cache, 5, 1, 0, BLOCK), 64);
    // Dropped while it is in use: whoever has it keeps it, and nobody else gets it.
    assert_true(fm_fs_cache_take(cache, 5, 1, 0, BLOCK, &view));
    fm_fs_cache_drop(cache, 5, 0, BLOCK);
    assert_int_equal(read_range(cache, 5, 1, 0, BLOCK), 64);
    assert_true(is_right(&view, 5, 1, 0, BLOCK));
    assert_true(fm_fs_cache_take(cache, 5, 1, 0, BLOCK, &second));
    struct fm_fs_cache_view third;
    assert_false(fm_fs_cache_take(cache, 6, 1, 0, BLOCK, &third)); // all of it is in use
    fm_fs_cache_leave(cache, &second);
    fm_fs_cache_leave(cache, &view);
    assert_int_equal(read_range(cache, 6, 1, 0, 2 * BLOCK), 128);
    fm_fs_cache_free(cache);
}

struct reader {
    fm_fs_cache *cache;
    unsigned *versions; // of the files; atomic
    uint64_t seed;
    int wrong;
    pthread_t thread;
};

static void *read_at_random(void *argument)
{
    struct reader *reader = argument;
    fm_gen gen = fm_gen_seeded(reader->seed);
    for (int i = 0; i < 20000; i++) {
        struct fm_fs_cache_view view;
        uint64_t ino = (uint64_t)fm_gen_int(&gen, 1, FILES);
        uint64_t offset = (uint64_t)fm_gen_int(&gen, 0, FILE_BYTES - PAGE);
        size_t size = (size_t)fm_gen_size(&gen, 1, FM_FS_CACHE_RANGE_MAX);
        size = size < FILE_BYTES - offset ? size : (size_t)(FILE_BYTES - offset);
        unsigned version = __atomic_load_n(&reader->versions[ino], __ATOMIC_SEQ_CST);
        if (fm_gen_chance(&gen, 0.02))
            __atomic_fetch_add(&reader->versions[ino], 1, __ATOMIC_SEQ_CST);
        if (fm_gen_chance(&gen, 0.02))
            fm_fs_cache_drop(reader->cache, ino, offset, size);
        if (!fm_fs_cache_take(reader->cache, ino, version, offset, size, &view))
            continue; // the others have all of it
        int fails = fm_gen_chance(&gen, 0.05);
        if (view.missing && !fails)
            fill_missing(&view, ino, version);
        int was_missing = view.missing;
        if (was_missing)
            fm_fs_cache_filled(reader->cache, &view, !fails);
        if (!(was_missing && fails))
            reader->wrong += !is_right(&view, ino, version, offset, size);
        fm_fs_cache_leave(reader->cache, &view);
    }
    return NULL;
}

static void threads_agree(void **state)
{
    (void)state;
    fm_fs_cache *cache;
    unsigned versions[FILES + 1] = {0};
    struct reader readers[THREADS];
    assert_ok(fm_fs_cache_new((uint64_t)12 * BLOCK,
                              &cache)); // half of the files, and less than all threads want at once
    for (uint64_t i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){.cache = cache, .versions = versions, .seed = i};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_at_random, &readers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(readers[i].thread, NULL);
        assert_int_equal(readers[i].wrong, 0);
    }
    assert_true(fm_fs_cache_bytes(cache) <= (uint64_t)12 * BLOCK);
    fm_fs_cache_free(cache);
}

static fm_status make_one(void *context)
{
    fm_fs_cache *cache;
    (void)context;
    FM_TRY(fm_fs_cache_new((uint64_t)16 * BLOCK, &cache));
    fm_fs_cache_free(cache);
    return FM_OK;
}

static void no_memory_is_told(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(make_one, NULL);
}

/* In a mount */

static struct mount_home home;
static uint8_t bytes[FILE_BYTES];
static uint8_t got[FILE_BYTES];

static void fill(uint8_t seed)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / PAGE + seed);
}

static void forget_pages(int fd)
{
    assert_int_equal(fsync(fd), 0); // dirty pages, of a mapping, stay
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

static void assert_reads(int fd)
{
    memset(got, 0xee, sizeof got);
    assert_int_equal(pread(fd, got, sizeof got, 0), sizeof got);
    assert_memory_equal(got, bytes, sizeof got);
}

// The kernel has dropped its pages, so that each read asks the mount, which has read it all before.
static void a_mount_reads_what_others_have_written(void **state)
{
    (void)state;
    mount_home_open(&home, 2, NULL);
    fill(1);
    int here = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    assert_int_equal(pwrite(here, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(fsync(here), 0);
    int there = mount_file(&home, 1, "a", O_RDWR);
    for (uint8_t i = 2; i < 6; i++) {
        forget_pages(there);
        assert_reads(there);
        forget_pages(there);
        assert_reads(there);
        fill(i);
        assert_int_equal(pwrite(here, bytes, sizeof bytes, 0), sizeof bytes);
        assert_int_equal(fsync(here), 0);
        forget_pages(there); // which stays open
        assert_reads(there);
        // What this mount writes itself, before and after it is in the cluster.
        bytes[3 * BLOCK + 5] = i;
        assert_int_equal(pwrite(there, bytes + 3 * (size_t)BLOCK + 5, 1, 3 * BLOCK + 5), 1);
        forget_pages(there);
        assert_reads(there);
        memset(bytes + BLOCK, i, PAGE);
        assert_int_equal(pwrite(there, bytes + BLOCK, PAGE, BLOCK), PAGE);
        assert_reads(there);
        assert_int_equal(fallocate(there, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 * BLOCK, PAGE), 0);
        memset(bytes + 2 * (size_t)BLOCK, 0, PAGE);
        assert_reads(there);
        forget_pages(there);
        assert_reads(there);
    }
    close(here);
    close(there);
    mount_home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_are_read_once_a_version),
        cmocka_unit_test(failed_and_lost_reads_leave_nothing),
        cmocka_unit_test(threads_agree),
        cmocka_unit_test(no_memory_is_told),
        cmocka_unit_test(a_mount_reads_what_others_have_written),
    };
    mount_home_in_memory();
    return fm_test_run("mount_cache", tests);
}
