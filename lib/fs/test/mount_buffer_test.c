// What waits in a mount before it is written: that little becomes much, who sees it when, and who hears of failures.
#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "mount_home.h"

enum { SMALL = 4096, MANY = 1500, LARGE = SMALL * MANY };

static struct mount_home home;
static uint8_t bytes[LARGE];
static uint8_t got[LARGE];

static void fill(uint8_t seed)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / SMALL + seed);
}

static fm_fs_node node_of(const char *name)
{
    fm_fs_volume *volume;
    fm_fs_node node;
    assert_ok(fm_fs_volume_open(home.home.dir, NULL, &volume));
    assert_ok(fm_fs_meta_lookup(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, name, &node));
    fm_fs_volume_close(volume);
    return node;
}

static void put(int fd, const void *from, size_t size, off_t at)
{
    assert_int_equal(pwrite(fd, from, size, at), (ssize_t)size);
}

static void assert_content(int mount, const char *name, size_t size)
{
    int fd = mount_file(&home, mount, name, O_RDONLY);
    memset(got, 0xee, sizeof got);
    assert_int_equal(pread(fd, got, sizeof got, 0), (ssize_t)size);
    assert_memory_equal(got, bytes, size);
    close(fd);
}

// Each change of a file's record counts its version up.
static void small_writes_become_few(void **state)
{
    (void)state;
    mount_home_open(&home, 1, NULL);
    fill(1);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    for (size_t i = 0; i < MANY; i++)
        put(fd, bytes + i * SMALL, SMALL, (off_t)(i * SMALL));
    close(fd);
    assert_true(node_of("a").version < MANY / 10);
    assert_content(0, "a", LARGE);
    // Scattered ones, backwards and across each other, as well.
    fill(2);
    fd = mount_file(&home, 0, "a", O_RDWR);
    for (size_t i = MANY; i-- > 0;)
        put(fd, bytes + i / 3 * SMALL + (i % 3) * (MANY / 3) * SMALL, SMALL,
            (off_t)(i / 3 * SMALL + (i % 3) * (MANY / 3) * SMALL));
    for (size_t i = 0; i + 3 * SMALL < LARGE; i += 5 * SMALL + 11)
        put(fd, bytes + i, 3 * SMALL, (off_t)i);
    close(fd);
    assert_content(0, "a", LARGE);
    mount_home_close(&home);
}

static void what_waits_is_seen_here_and_after_sync_there(void **state)
{
    (void)state;
    struct stat info;
    mount_home_open(&home, 2, NULL);
    fill(3);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, 100000, 0);
    put(fd, bytes + 300000, 1000, 300000);
    memset(bytes + 100000, 0, 200000);
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(info.st_size, 301000);
    put(fd, bytes + 301000, 1000, 301000);
    assert_int_equal(stat(mount_path(&home, 0, "a"), &info), 0);
    assert_int_equal(info.st_size, 302000);
    assert_int_equal(lseek(fd, 0, SEEK_END), 302000);
    assert_content(0, "a", 302000);
    put(fd, bytes + 302000, 1000, 302000);
    assert_int_equal(fsync(fd), 0);
    assert_content(1, "a", 303000);
    // Who opens it after a close sees that, although the file is as long, and although it had read it before.
    fill(4);
    put(fd, bytes, 303000, 0);
    close(fd);
    assert_content(1, "a", 303000);
    fill(5);
    fd = mount_file(&home, 1, "a", O_WRONLY);
    put(fd, bytes, 303000, 0);
    close(fd);
    assert_content(0, "a", 303000);
    mount_home_close(&home);
}

// A file's version counts what others are told; the clock alone may make it count, once when a second's first write comes and
// once a second afterwards.
static void a_mount_alone_tells_nobody_of_each_sync(void **state)
{
    (void)state;
    enum { SYNCS = 300 };
    mount_home_open(&home, 1, NULL);
    fill(7);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, LARGE, 0);
    assert_int_equal(fsync(fd), 0);
    uint64_t version = node_of("a").version;
    uint64_t begin = fm_base_clock_ns();
    for (int i = 0; i < SYNCS; i++) {
        put(fd, bytes + i, 100, i * 1000);
        memmove(bytes + (size_t)i * 1000, bytes + i, 100);
        assert_int_equal(fsync(fd), 0);
    }
    uint64_t seconds = (fm_base_clock_ns() - begin) / 1000000000;
    assert_true(node_of("a").version - version <= 2 * (seconds + 2));
    // Who asks is told, and who comes later sees the bytes.
    version = node_of("a").version;
    struct stat info;
    put(fd, bytes, 100, 0);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(stat(mount_path(&home, 0, "a"), &info), 0);
    assert_true(node_of("a").version > version);
    put(fd, bytes + 1, 100, 0);
    memmove(bytes, bytes + 1, 100);
    assert_int_equal(fsync(fd), 0);
    mount_home_start(&home, 1, NULL);
    assert_content(1, "a", LARGE);
    // From then on each one is told.
    put(fd, bytes + 2, 100, 0);
    memmove(bytes, bytes + 2, 100);
    assert_int_equal(fsync(fd), 0);
    assert_content(1, "a", LARGE);
    close(fd);
    mount_home_close(&home);
}

// Half of it is on its way when the rest comes, and all that is done with it meets both.
static void what_is_on_its_way_is_there_for_all(void **state)
{
    (void)state;
    enum { PIECE = LARGE / 6, PIECES = 34 }; // 34 MiB: two flights, and some more
    struct stat info;
    mount_home_open(&home, 2, NULL);
    fill(8);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int end = mount_file(&home, 0, "a", O_WRONLY | O_APPEND);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < PIECES; i++)
            put(fd, bytes + (size_t)((i + round) % 6) * PIECE, PIECE, (off_t)i * PIECE);
        // Over what is on its way, behind all, and in front of what waits.
        put(fd, bytes + 5, PIECE, 100);
        assert_int_equal(write(end, bytes, 7), 7);
        assert_int_equal(pread(fd, got, PIECE, 100), PIECE);
        assert_memory_equal(got, bytes + 5, PIECE);
        assert_int_equal(fstat(fd, &info), 0);
        assert_int_equal(info.st_size, (off_t)PIECES * PIECE + 7);
        int other = -1;
        if (round > 0) {
            assert_int_equal(fsync(fd), 0);
            other = mount_file(&home, 1, "a", O_RDONLY);
        }
        for (int i = 2; i < PIECES; i++) {
            assert_int_equal(pread(other < 0 ? fd : other, got, PIECE, (off_t)i * PIECE), PIECE);
            assert_memory_equal(got, bytes + (size_t)((i + round) % 6) * PIECE, PIECE);
        }
        if (other >= 0)
            close(other);
        assert_int_equal(ftruncate(fd, PIECE), 0);
        assert_int_equal(fstat(fd, &info), 0);
        assert_int_equal(info.st_size, PIECE);
    }
    close(end);
    close(fd);
    mount_home_close(&home);
}

static size_t resident(const char *name)
{
    unsigned char pages[LARGE / SMALL];
    size_t count = 0;
    int fd = mount_file(&home, 0, name, O_RDONLY);
    void *map = mmap(NULL, LARGE, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, LARGE, pages), 0);
    for (size_t i = 0; i < sizeof pages; i++)
        count += pages[i] & 1;
    munmap(map, LARGE);
    close(fd);
    return count;
}

static void the_kernel_keeps_what_nobody_else_changed(void **state)
{
    (void)state;
    mount_home_open(&home, 2, NULL);
    fill(6);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, LARGE, 0);
    close(fd);
    assert_content(0, "a", LARGE);
    // The kernel may drop pages when it needs memory, but hardly the half.
    assert_true(resident("a") > LARGE / SMALL / 2);
    fd = mount_file(&home, 0, "a", O_RDWR); // an own change is none of others
    put(fd, bytes, SMALL, SMALL);
    memcpy(bytes + SMALL, bytes, SMALL);
    close(fd);
    assert_true(resident("a") > LARGE / SMALL / 2);
    fd = mount_file(&home, 1, "a", O_RDWR);
    put(fd, bytes, SMALL, 2 * SMALL);
    memcpy(bytes + 2 * (size_t)SMALL, bytes, SMALL);
    close(fd);
    assert_int_equal(resident("a"), 0);
    assert_content(0, "a", LARGE);
    mount_home_close(&home);
}

static void limit(uint64_t bytes_max)
{
    fm_fs_volume *volume;
    fm_fs_node node;
    const fm_fs_quota quota = {.bytes_max = bytes_max};
    assert_int_equal(mkdir(mount_path(&home, 0, "q"), 0755), 0);
    assert_ok(fm_fs_volume_open(home.home.dir, NULL, &volume));
    assert_ok(fm_fs_meta_lookup(fm_fs_volume_meta(volume), NULL, FM_FS_META_ROOT, "q", &node));
    assert_ok(fm_fs_meta_quota_set(fm_fs_volume_meta(volume), NULL, node.ino, &quota));
    fm_fs_volume_close(volume);
}

static void failures_are_told_at_sync_and_close(void **state)
{
    (void)state;
    mount_home_open(&home, 1, NULL);
    limit(100000);
    fill(7);
    int first = mount_file(&home, 0, "q/a", O_RDWR | O_CREAT);
    int second = mount_file(&home, 0, "q/a", O_RDWR);
    put(first, bytes, 12 * SMALL, 0);
    assert_int_equal(fsync(first), 0);
    put(first, bytes + 12 * SMALL, 100000, 12 * SMALL); // taken, and there is no room for it
    assert_int_equal(fsync(first), -1);
    assert_int_equal(errno, EDQUOT);
    assert_int_equal(fsync(first), 0); // told once,
    int third = mount_file(&home, 0, "q/a", O_RDWR);
    assert_int_equal(fsync(third), 0);                               // to who had it open then,
    assert_int_equal(pwrite(second, bytes, 100000, 12 * SMALL), -1); // and now at once
    assert_int_equal(errno, EDQUOT);
    assert_int_equal(close(second), -1); // each of them
    assert_int_equal(errno, EDQUOT);
    put(third, bytes + 12 * SMALL, 100000 - 12 * SMALL, 12 * SMALL); // what fits is taken
    assert_int_equal(close(third), 0);
    assert_int_equal(close(first), 0);
    assert_content(0, "q/a", 100000);
    mount_home_close(&home);
}

static void a_full_cluster_says_so_and_goes_on(void **state)
{
    (void)state;
    int failed = 0;
    home_target_bytes = (uint64_t)64 << 20;
    mount_home_open(&home, 1, NULL);
    home_target_bytes = 0;
    fill(9);
    int fd = mount_file(&home, 0, "kept", O_RDWR | O_CREAT);
    put(fd, bytes, LARGE, 0);
    assert_int_equal(fsync(fd), 0);
    int big = mount_file(&home, 0, "big", O_RDWR | O_CREAT);
    for (off_t at = 0; at < (off_t)256 << 20 && !failed; at += LARGE) {
        errno = 0; // a part may be written
        failed = pwrite(big, bytes, LARGE, at) != LARGE || (at % (4 * LARGE) == 0 && fsync(big) != 0);
        assert_true(!failed || errno == ENOSPC || errno == 0);
    }
    assert_true(failed);
    if (close(big) != 0)
        assert_int_equal(errno, ENOSPC);
    assert_content(0, "kept", LARGE);
    assert_int_equal(unlink(mount_path(&home, 0, "big")), 0);
    for (int i = 0; i < 600 && failed; i++) { // until what was removed is free again
        big = mount_file(&home, 0, "more", O_RDWR | O_CREAT | O_TRUNC);
        failed = write(big, bytes, LARGE) != LARGE;
        failed = close(big) != 0 || failed;
        if (failed)
            fm_base_clock_sleep_ns(100000000);
    }
    assert_false(failed);
    assert_content(0, "more", LARGE);
    close(fd);
    mount_home_close(&home);
}

static void times_that_were_set_stay(void **state)
{
    (void)state;
    const struct timespec times[2] = {{.tv_sec = 1000000, .tv_nsec = 5}, {.tv_sec = 2000000, .tv_nsec = 7}};
    struct stat before;
    struct stat after;
    mount_home_open(&home, 1, NULL);
    fill(8);
    for (int size = 10; size < LARGE; size *= 100) {
        int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT | O_TRUNC);
        put(fd, bytes, (size_t)size, 0);
        assert_int_equal(futimens(fd, times), 0);
        close(fd);
        assert_int_equal(stat(mount_path(&home, 0, "a"), &after), 0);
        assert_true(after.st_mtim.tv_sec == 2000000 && after.st_mtim.tv_nsec == 7);
        // What a stat() told stays until the next write.
        fd = mount_file(&home, 0, "a", O_RDWR);
        put(fd, bytes, (size_t)size, 0);
        assert_int_equal(fstat(fd, &before), 0);
        close(fd);
        assert_int_equal(stat(mount_path(&home, 0, "a"), &after), 0);
        assert_true(before.st_mtim.tv_sec == after.st_mtim.tv_sec &&
                    before.st_mtim.tv_nsec == after.st_mtim.tv_nsec && after.st_mtim.tv_sec != 2000000);
    }
    mount_home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_writes_become_few),
        cmocka_unit_test(what_waits_is_seen_here_and_after_sync_there),
        cmocka_unit_test(a_mount_alone_tells_nobody_of_each_sync),
        cmocka_unit_test(what_is_on_its_way_is_there_for_all),
        cmocka_unit_test(the_kernel_keeps_what_nobody_else_changed),
        cmocka_unit_test(failures_are_told_at_sync_and_close),
        cmocka_unit_test(a_full_cluster_says_so_and_goes_on),
        cmocka_unit_test(times_that_were_set_stay),
    };
    mount_home_in_memory();
    return fm_test_run("mount_buffer", tests);
}
