// A file of a mount against a buffer in memory, under random operations of every kind, in the manner of fsx (Apple's and
// Linux's exerciser of file systems). Alone, and in turns by two mounts, which close and open it between them.
#include "fm_test.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fm_gen.h"
#include "mount_home.h"

enum { LENGTH_MAX = 300000, PIECE_MAX = 66000, BLOCK = 4096, OPERATIONS = 20000, ROUNDS = 4 };

struct exercise {
    struct mount_home *home;
    fm_gen gen;
    int mount; // that has it open
    int fd;
    int direct; // another descriptor of it, with O_DIRECT
    off_t size;
    uint8_t *aligned;
    uint8_t expected[LENGTH_MAX + PIECE_MAX];
    uint8_t got[LENGTH_MAX + PIECE_MAX];
};

static void open_it(struct exercise *x)
{
    x->fd = mount_file(x->home, x->mount, "x", O_RDWR | O_CREAT);
    x->direct = mount_file(x->home, x->mount, "x", O_RDWR | O_DIRECT);
}

static void close_it(struct exercise *x)
{
    assert_int_equal(close(x->direct), 0);
    assert_int_equal(close(x->fd), 0);
}

static size_t at_most(off_t left, size_t size)
{
    return left <= 0 ? 0 : (size_t)left < size ? (size_t)left : size;
}

static void grow(struct exercise *x, off_t end)
{
    if (end > x->size)
        x->size = end;
}

static void do_read(struct exercise *x, off_t at, size_t size)
{
    size_t expected = at_most(x->size - at, size);
    assert_int_equal(pread(x->fd, x->got, size, at), (ssize_t)expected);
    assert_memory_equal(x->got, x->expected + at, expected);
}

static void do_write(struct exercise *x, off_t at, size_t size)
{
    fm_gen_fill(&x->gen, x->expected + at, size);
    assert_int_equal(pwrite(x->fd, x->expected + at, size, at), (ssize_t)size);
    grow(x, at + (off_t)size);
}

static void do_direct_read(struct exercise *x, off_t at, size_t size)
{
    at -= at % BLOCK;
    size = size / BLOCK * BLOCK + BLOCK;
    size_t expected = at_most(x->size - at, size);
    assert_int_equal(pread(x->direct, x->aligned, size, at), (ssize_t)expected);
    assert_memory_equal(x->aligned, x->expected + at, expected);
}

static void do_direct_write(struct exercise *x, off_t at, size_t size)
{
    at -= at % BLOCK;
    size = size / BLOCK * BLOCK + BLOCK;
    fm_gen_fill(&x->gen, x->expected + at, size);
    memcpy(x->aligned, x->expected + at, size);
    assert_int_equal(pwrite(x->direct, x->aligned, size, at), (ssize_t)size);
    grow(x, at + (off_t)size);
}

static void do_truncate(struct exercise *x, off_t at, size_t size)
{
    (void)size;
    assert_int_equal(ftruncate(x->fd, at), 0);
    if (at < x->size)
        memset(x->expected + at, 0, (size_t)(x->size - at));
    x->size = at;
}

// Both ways through a mapping, which cannot reach beyond the end.
static void map_it(struct exercise *x, off_t at, size_t size, int writes)
{
    size = at_most(x->size - at, size);
    if (!size)
        return;
    size_t before = (size_t)(at % BLOCK);
    uint8_t *map = mmap(NULL, size + before, PROT_READ | PROT_WRITE, MAP_SHARED, x->fd, at - (off_t)before);
    assert_ptr_not_equal(map, MAP_FAILED);
    if (writes) {
        fm_gen_fill(&x->gen, x->expected + at, size);
        memcpy(map + before, x->expected + at, size);
        assert_int_equal(msync(map, size + before, MS_SYNC), 0);
    } else {
        assert_memory_equal(map + before, x->expected + at, size);
    }
    munmap(map, size + before);
}

static void do_map_read(struct exercise *x, off_t at, size_t size)
{
    map_it(x, at, size, 0);
}

static void do_map_write(struct exercise *x, off_t at, size_t size)
{
    map_it(x, at, size, 1);
}

static void do_punch(struct exercise *x, off_t at, size_t size)
{
    assert_int_equal(fallocate(x->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, (off_t)size), 0);
    memset(x->expected + at, 0, at_most(x->size - at, size));
}

static void do_zero(struct exercise *x, off_t at, size_t size)
{
    assert_int_equal(fallocate(x->fd, FALLOC_FL_ZERO_RANGE, at, (off_t)size), 0);
    memset(x->expected + at, 0, size);
    grow(x, at + (off_t)size);
}

static void do_allocate(struct exercise *x, off_t at, size_t size)
{
    assert_int_equal(fallocate(x->fd, 0, at, (off_t)size), 0);
    grow(x, at + (off_t)size);
}

static void do_copy(struct exercise *x, off_t at, size_t size)
{
    off_t from = fm_gen_int(&x->gen, 0, LENGTH_MAX);
    size = at_most(x->size - from, size);
    if (!size || (from < at + (off_t)size && at < from + (off_t)size)) // not onto itself
        return;
    off_t in = from;
    off_t out = at;
    while (in < from + (off_t)size)
        assert_true(copy_file_range(x->fd, &in, x->fd, &out, (size_t)(from + (off_t)size - in), 0) > 0);
    memcpy(x->expected + at, x->expected + from, size);
    grow(x, at + (off_t)size);
}

static void do_sync(struct exercise *x, off_t at, size_t size)
{
    (void)at;
    (void)size;
    assert_int_equal(fsync(x->fd), 0);
}

static void do_stat(struct exercise *x, off_t at, size_t size)
{
    struct stat info;
    (void)at;
    (void)size;
    assert_int_equal(fstat(x->fd, &info), 0);
    assert_int_equal(info.st_size, x->size);
}

static void do_drop_pages(struct exercise *x, off_t at, size_t size)
{
    (void)at;
    (void)size;
    assert_int_equal(fsync(x->fd), 0);
    assert_int_equal(posix_fadvise(x->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
}

static void exercise(struct exercise *x, int mounts, int operations)
{
    static void (*const all[])(struct exercise * x, off_t at, size_t size) = {
        do_read,         do_read,     do_write,    do_write,     do_write,      do_direct_read,
        do_direct_write, do_truncate, do_map_read, do_map_write, do_punch,      do_zero,
        do_allocate,     do_copy,     do_sync,     do_stat,      do_drop_pages,
    };
    for (int i = 0; i < operations; i++) {
        off_t at = fm_gen_int(&x->gen, 0, LENGTH_MAX - 1);
        size_t size = (size_t)fm_gen_size(&x->gen, 1, PIECE_MAX - 2 * BLOCK);
        if (fm_gen_chance(&x->gen, 0.3) && x->size > 0 && x->size < LENGTH_MAX) // as programs append
            at = x->size;
        all[fm_gen_int(&x->gen, 0, sizeof all / sizeof *all - 1)](x, at, size);
        if (x->size > LENGTH_MAX)
            do_truncate(x, LENGTH_MAX, 0);
        if (fm_gen_chance(&x->gen, mounts > 1 ? 0.05 : 0.005)) {
            close_it(x);
            x->mount = mounts > 1 ? !x->mount : 0;
            open_it(x);
            do_stat(x, 0, 0);
        }
    }
    do_read(x, 0, LENGTH_MAX);
}

static void run(int mounts)
{
    static struct mount_home home;
    static struct exercise x;
    memset(&x, 0, sizeof x);
    mount_home_open(&home, mounts, NULL);
    x.home = &home;
    assert_int_equal(posix_memalign((void **)&x.aligned, BLOCK, PIECE_MAX + BLOCK), 0);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        x.gen = fm_gen_seeded(round + 1);
        x.size = 0;
        memset(x.expected, 0, sizeof x.expected);
        unlink(mount_path(&home, 0, "x"));
        open_it(&x);
        exercise(&x, mounts, OPERATIONS / ROUNDS / mounts);
        close_it(&x);
    }
    free(x.aligned);
    mount_home_close(&home);
}

static void one_mount(void **state)
{
    (void)state;
    run(1);
}

static void two_mounts_in_turns(void **state)
{
    (void)state;
    run(2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_mount),
        cmocka_unit_test(two_mounts_in_turns),
    };
    mount_home_in_memory();
    return fm_test_run("mount_exercise", tests);
}
