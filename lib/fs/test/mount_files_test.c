// Files of a mount by system calls beyond read and write, and requests that are bad.
#include "fm_test.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "mount_home.h"

enum { CHUNK = 1 << 20, BLOCK = 4096, SIZE = 3 * CHUNK };

static struct mount_home home;
static uint8_t bytes[SIZE];
static uint8_t got[SIZE];

static void fill(void)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 11 + i / 251 + 1);
}

// In what is expected.
static void change(size_t at, const char *text)
{
    for (; *text; text++)
        bytes[at++] = (uint8_t)*text;
}

static void put(int fd, const void *from, size_t size, off_t at)
{
    assert_int_equal(pwrite(fd, from, size, at), (ssize_t)size);
}

static off_t size_of(int fd)
{
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    return info.st_size;
}

static void assert_file(int fd, size_t size)
{
    assert_int_equal(size_of(fd), (off_t)size);
    memset(got, 0xee, sizeof got);
    assert_int_equal(pread(fd, got, sizeof got, 0), (ssize_t)size);
    assert_memory_equal(got, bytes, size);
}

#define assert_errno(call, err)       \
    do {                              \
        assert_int_equal((call), -1); \
        assert_int_equal(errno, err); \
    } while (0)

static void space_is_made_and_taken_away(void **state)
{
    (void)state;
    mount_home_open(&home, 1, NULL);
    fill();
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, SIZE - 100, 0);
    assert_int_equal(fallocate(fd, 0, SIZE - 200, 200), 0);
    memset(bytes + SIZE - 100, 0, 100);
    assert_file(fd, SIZE);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, SIZE, CHUNK), 0);
    assert_file(fd, SIZE);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, CHUNK + 5000), 0);
    memset(bytes + 1000, 0, CHUNK + 5000);
    assert_file(fd, SIZE);
    assert_int_equal(fallocate(fd, FALLOC_FL_ZERO_RANGE, 2 * CHUNK - 7, 99), 0);
    memset(bytes + 2 * CHUNK - 7, 0, 99);
    assert_file(fd, SIZE);
    assert_int_equal(ftruncate(fd, CHUNK), 0);
    assert_int_equal(fallocate(fd, FALLOC_FL_ZERO_RANGE, CHUNK - 10, CHUNK), 0);
    memset(bytes + CHUNK - 10, 0, CHUNK);
    assert_file(fd, 2 * CHUNK - 10);
    assert_errno(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, CHUNK), EOPNOTSUPP);
    assert_errno(fallocate(fd, 0, 0, 0), EINVAL);
    assert_errno(fallocate(fd, 0, -1, 10), EINVAL);
    close(fd);
    mount_home_close(&home);
}

static void holes_are_told(void **state)
{
    (void)state;
    mount_home_open(&home, 1, NULL);
    fill();
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, BLOCK, 2 * CHUNK); // still waits in the mount
    assert_int_equal(lseek(fd, 0, SEEK_DATA), 2 * CHUNK);
    assert_int_equal(lseek(fd, 0, SEEK_HOLE), 0);
    assert_int_equal(lseek(fd, 2 * CHUNK, SEEK_HOLE), 2 * CHUNK + BLOCK);
    assert_errno(lseek(fd, 2 * CHUNK + BLOCK, SEEK_DATA), ENXIO);
    // What there is no end of takes no time: each of these would be a billion questions, chunk by chunk.
    const off_t far = ((off_t)CHUNK << 32) - BLOCK;
    put(fd, bytes, BLOCK, far);
    assert_int_equal(lseek(fd, 3 * CHUNK, SEEK_DATA), far - CHUNK + BLOCK);
    assert_int_equal(lseek(fd, 3 * CHUNK, SEEK_HOLE), 3 * CHUNK);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, CHUNK, far + BLOCK), 0);
    assert_errno(lseek(fd, 0, SEEK_DATA), ENXIO);
    put(fd, bytes, BLOCK, far / 2);
    assert_int_equal(ftruncate(fd, 10), 0);
    put(fd, bytes, BLOCK, far); // grows again
    assert_int_equal(lseek(fd, CHUNK, SEEK_DATA), far - CHUNK + BLOCK);
    assert_int_equal(ftruncate(fd, 2 * CHUNK), 0);
    put(fd, bytes, BLOCK, 2 * CHUNK);
    assert_errno(lseek(fd, -1, SEEK_SET), EINVAL);
    assert_int_equal(lseek(fd, -1, SEEK_END), 2 * CHUNK + BLOCK - 1);
    close(fd);
    mount_home_close(&home);
}

static void ranges_are_copied(void **state)
{
    (void)state;
    mount_home_open(&home, 1, NULL);
    fill();
    int from = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int to = mount_file(&home, 0, "b", O_RDWR | O_CREAT);
    put(from, bytes, SIZE, 0);
    put(to, "before", 6, 0);
    off_t in = 100;
    off_t out = 6;
    size_t done = 0;
    while (done < SIZE - 100) {
        ssize_t part = copy_file_range(from, &in, to, &out, SIZE, 0);
        assert_true(part > 0);
        done += (size_t)part;
    }
    assert_int_equal(copy_file_range(from, &in, to, &out, 10, 0), 0); // its end
    memmove(bytes + 6, bytes + 100, SIZE - 100);
    change(0, "before");
    assert_file(to, SIZE - 94);
    close(from);
    close(to);
    mount_home_close(&home);
}

static void direct_and_mapped_agree_with_the_rest(void **state)
{
    (void)state;
    void *aligned = NULL;
    mount_home_open(&home, 2, NULL);
    fill();
    assert_int_equal(posix_memalign(&aligned, BLOCK, SIZE), 0);
    memcpy(aligned, bytes, SIZE);
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int direct = mount_file(&home, 0, "a", O_RDWR | O_DIRECT);
    put(fd, bytes, 100, 0);        // waits,
    put(direct, aligned, SIZE, 0); // and is overtaken
    int there = mount_file(&home, 1, "a", O_RDONLY);
    assert_file(there, SIZE); // which waited for nothing
    close(there);
    put(fd, "over", 4, BLOCK);
    change(BLOCK, "over");
    memset(aligned, 0, SIZE);
    assert_int_equal(pread(direct, aligned, SIZE, 0), SIZE);
    assert_memory_equal(aligned, bytes, SIZE);
    uint8_t *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_memory_equal(map, bytes, SIZE);
    memset(map + CHUNK - 50, 7, 100);
    memset(bytes + CHUNK - 50, 7, 100);
    assert_int_equal(msync(map, SIZE, MS_SYNC), 0);
    assert_int_equal(fsync(fd), 0);
    there = mount_file(&home, 1, "a", O_RDONLY);
    assert_file(there, SIZE);
    close(there);
    map[5] = bytes[5] = 99; // written when nobody has a descriptor any more
    close(fd);
    close(direct);
    munmap(map, SIZE);
    there = mount_file(&home, 0, "a", O_RDONLY);
    assert_file(there, SIZE);
    close(there);
    free(aligned);
    mount_home_close(&home);
}

static void layouts_and_flags_are_told_and_set(void **state)
{
    (void)state;
    fm_fs_layout layout;
    mount_home_open(&home, 1, NULL);
    assert_int_equal(mkdir(mount_path(&home, 0, "d"), 0755), 0);
    int dir = mount_file(&home, 0, "d", O_RDONLY);
    assert_int_equal(ioctl(dir, FM_FS_MOUNT_LAYOUT_GET, &layout), 0);
    assert_true(layout.chunk_bytes == CHUNK && layout.stripe == 2 && layout.chains == 2);
    layout = (fm_fs_layout){.chunk_bytes = 65536, .stripe = 1};
    assert_int_equal(ioctl(dir, FM_FS_MOUNT_LAYOUT_SET, &layout), 0);
    int fd = mount_file(&home, 0, "d/a", O_RDWR | O_CREAT);
    assert_int_equal(ioctl(fd, FM_FS_MOUNT_LAYOUT_GET, &layout), 0);
    assert_true(layout.chunk_bytes == 65536 && layout.stripe == 1 && layout.chains == 2);
    fill();
    put(fd, bytes, SIZE, 0);
    assert_file(fd, SIZE);
    assert_errno(ioctl(fd, FM_FS_MOUNT_LAYOUT_SET, &layout), ENOTDIR);
    layout.chunk_bytes = 65537;
    assert_errno(ioctl(dir, FM_FS_MOUNT_LAYOUT_SET, &layout), EINVAL);
    assert_errno(ioctl(fd, _IOR(0xf7, 9, int), &layout), ENOTTY);
    int flags = FS_IMMUTABLE_FL;
    if (geteuid() == 0) {
        assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
        flags = 0;
        assert_int_equal(ioctl(fd, FS_IOC_GETFLAGS, &flags), 0);
        assert_int_equal(flags, FS_IMMUTABLE_FL);
        assert_errno(open(mount_path(&home, 0, "d/a"), O_WRONLY), EPERM);
        assert_errno(unlink(mount_path(&home, 0, "d/a")), EPERM);
        flags = FS_APPEND_FL;
        assert_errno(ioctl(fd, FS_IOC_SETFLAGS, &flags), EOPNOTSUPP);
        flags = 0;
        assert_int_equal(ioctl(fd, FS_IOC_SETFLAGS, &flags), 0);
    }
    assert_int_equal(unlink(mount_path(&home, 0, "d/a")), 0);
    close(fd);
    close(dir);
    mount_home_close(&home);
}

static int count_files(int mount)
{
    int count = 0;
    struct stat info;
    DIR *dir = opendir(mount_path(&home, mount, "."));
    assert_non_null(dir);
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
        count += fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(info.st_mode);
    closedir(dir);
    return count;
}

static void attributes_are_kept_but_for_lists_of_access(void **state)
{
    (void)state;
    char value[16];
    mount_home_open(&home, 1, NULL);
    close(mount_file(&home, 0, "a", O_RDWR | O_CREAT));
    const char *path = mount_path(&home, 0, "a");
    assert_errno(getxattr(path, "user.a", value, sizeof value), ENODATA);
    assert_int_equal(setxattr(path, "user.a", "text", 4, 0), 0);
    assert_int_equal(getxattr(path, "user.a", value, sizeof value), 4);
    // So ls, which would ask for them for each file, asks for no more.
    assert_errno(getxattr(path, "system.posix_acl_access", value, sizeof value), EOPNOTSUPP);
    assert_errno(setxattr(path, "system.posix_acl_access", "text", 4, 0), EOPNOTSUPP);
    mount_home_close(&home);
}

static void a_file_that_another_mount_removes_lives_while_it_is_open(void **state)
{
    (void)state;
    mount_home_open(&home, 2, NULL);
    fill();
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    int direct = mount_file(&home, 0, "a", O_RDONLY | O_DIRECT); // asks the mount for each byte
    put(fd, bytes, SIZE, 0);
    assert_int_equal(fsync(fd), 0);
    int small = mount_file(&home, 0, "b", O_RDWR | O_CREAT);
    put(small, bytes, 10, 0);
    assert_int_equal(fsync(small), 0);
    assert_int_equal(unlink(mount_path(&home, 1, "a")), 0);
    int other = mount_file(&home, 1, "c", O_WRONLY | O_CREAT);
    assert_int_equal(rename(mount_path(&home, 1, "c"), mount_path(&home, 1, "b")), 0);
    close(other);
    assert_errno(open(mount_path(&home, 0, "a"), O_RDONLY), ENOENT);
    sleep(3); // collectors have had their turns
    void *aligned = NULL;
    assert_int_equal(posix_memalign(&aligned, BLOCK, SIZE), 0);
    assert_int_equal(pread(direct, aligned, SIZE, 0), SIZE);
    assert_memory_equal(aligned, bytes, SIZE);
    free(aligned);
    assert_file(small, 10);
    put(fd, "still", 5, 0);
    change(0, "still");
    assert_int_equal(fsync(fd), 0);
    assert_file(fd, SIZE);
    struct stat info;
    assert_int_equal(fstat(small, &info), 0);
    assert_int_equal(info.st_nlink, 0);
    close(small);
    close(direct);
    close(fd);
    mount_home_close(&home);
}

// The kernel remembers names here; what this mount does to them it knows, and what is opened is there.
static void names_may_be_remembered(void **state)
{
    (void)state;
    enum { FILES = 400 }; // more than one answer has room for
    const fm_fs_mount_options remember = {.size = sizeof remember, .names_ms = 3600000};
    char name[32];
    struct stat info;
    mount_home_open(&home, 2, &remember);
    fill();
    for (int i = 0; i < FILES; i++) {
        snprintf(name, sizeof name, "f%03d", i);
        close(mount_file(&home, 0, name, O_WRONLY | O_CREAT | O_EXCL));
    }
    assert_int_equal(rename(mount_path(&home, 0, "f001"), mount_path(&home, 0, "f002")), 0);
    assert_int_equal(unlink(mount_path(&home, 0, "f003")), 0);
    assert_int_equal(count_files(0), FILES - 2);
    assert_errno(stat(mount_path(&home, 0, "f001"), &info), ENOENT);
    assert_errno(stat(mount_path(&home, 0, "f003"), &info), ENOENT);
    assert_int_equal(stat(mount_path(&home, 0, "f002"), &info), 0);
    // Another mount puts something else there, and takes something away.
    int fd = mount_file(&home, 1, "new", O_WRONLY | O_CREAT);
    put(fd, bytes, 10, 0);
    close(fd);
    assert_int_equal(rename(mount_path(&home, 1, "new"), mount_path(&home, 1, "f002")), 0);
    fd = mount_file(&home, 0, "f002", O_RDONLY);
    assert_file(fd, 10);
    close(fd);
    assert_int_equal(unlink(mount_path(&home, 1, "f002")), 0);
    assert_errno(open(mount_path(&home, 0, "f002"), O_RDONLY), ENOENT);
    // What is open lives on without a name, and may be opened again by way of its descriptor.
    fd = mount_file(&home, 0, "f004", O_RDWR);
    put(fd, bytes, 10, 0);
    assert_int_equal(unlink(mount_path(&home, 1, "f004")), 0);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = open(name, O_RDONLY);
    assert_true(again >= 0);
    assert_file(again, 10);
    close(again);
    close(fd);
    mount_home_close(&home);
}

static void bad_names_and_places_are_refused(void **state)
{
    (void)state;
    char name[257];
    char path[5001];
    mount_home_open(&home, 1, NULL);
    memset(name, 'n', sizeof name);
    name[255] = 0;
    memcpy(path, name, 256);
    close(mount_file(&home, 0, name, O_RDWR | O_CREAT));
    name[255] = 'n';
    name[256] = 0;
    assert_errno(open(mount_path(&home, 0, name), O_RDWR | O_CREAT, 0644), ENAMETOOLONG);
    assert_errno(mkdir(mount_path(&home, 0, name), 0755), ENAMETOOLONG);
    assert_errno(rename(mount_path(&home, 0, path), mount_path(&home, 0, name)), ENAMETOOLONG);
    for (size_t i = 0; i < sizeof path - 1; i++)
        path[i] = i % 2 ? '/' : 'p';
    path[sizeof path - 1] = 0;
    assert_errno(open(mount_path(&home, 0, path), O_RDONLY), ENAMETOOLONG);
    assert_errno(symlink(path, mount_path(&home, 0, "link")), ENAMETOOLONG);

    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    assert_errno(pwrite(fd, name, 1, -1), EINVAL);
    assert_errno(pread(fd, name, 1, -1), EINVAL);
    assert_errno(ftruncate(fd, -1), EINVAL);
    assert_errno(pwrite(fd, name, 10, INT64_MAX - 5), EINVAL);
    assert_int_equal(pread(fd, name, 10, INT64_MAX - 20), 0);
    // No chunk has so high a number. What is refused leaves the file as it was, and the descriptor without a failure to tell.
    assert_errno(pwrite(fd, name, 10, (off_t)1 << 60), EFBIG);
    assert_errno(ftruncate(fd, INT64_MAX), EFBIG);
    assert_errno(fallocate(fd, 0, (off_t)1 << 60, 1), EFBIG);
    put(fd, name, 10, SIZE);
    assert_errno(pwrite(fd, name, 10, (off_t)CHUNK << 32), EFBIG);
    assert_errno(ftruncate(fd, ((off_t)CHUNK << 32) + 1), EFBIG);
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(size_of(fd), SIZE + 10);
    close(fd);

    // Attributes whose names say nothing of whose they are, or are nobody's.
    const char *file = mount_path(&home, 0, "a");
    assert_errno(setxattr(file, "name", "", 0, 0), EOPNOTSUPP);
    assert_errno(setxattr(file, "users.name", "", 0, 0), EOPNOTSUPP);
    assert_errno(setxattr(file, "user.", "", 0, 0), EINVAL);
    assert_errno(getxattr(file, "name", NULL, 0), EOPNOTSUPP);
    assert_errno(getxattr(file, "user.name", NULL, 0), ENODATA);
    assert_int_equal(listxattr(file, NULL, 0), 0);
    mount_home_close(&home);
}

static void an_opening_that_truncates_changes_the_time(void **state)
{
    static const int flags[] = {O_WRONLY, O_RDWR | O_CREAT, O_WRONLY | O_TRUNC, O_WRONLY | O_CREAT | O_TRUNC};
    const struct timespec then[] = {{5, 0}, {5, 0}};
    (void)state;
    mount_home_open(&home, 1, NULL);
    int fd = mount_file(&home, 0, "stamp", O_RDWR | O_CREAT);
    for (size_t i = 0; i < 2 * sizeof flags / sizeof *flags; i++) {
        int opened = flags[i / 2];
        struct stat info;
        if (i % 2) // and of a file that is empty already
            put(fd, "x", 1, 0);
        assert_int_equal(futimens(fd, then), 0);
        close(mount_file(&home, 0, "stamp", opened));
        assert_int_equal(stat(mount_path(&home, 0, "stamp"), &info), 0);
        assert_true((info.st_mtim.tv_sec == 5) == !(opened & O_TRUNC));
    }
    close(fd);
    mount_home_close(&home);
}

static void a_full_or_read_only_mount_says_so(void **state)
{
    (void)state;
    const fm_fs_mount_options options = {.size = sizeof options, .read_only = 1};
    mount_home_open(&home, 1, NULL);
    fill();
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, 100, 0);
    close(fd);
    mount_home_stop(&home, 0, SIGTERM);
    mount_home_start(&home, 0, &options);
    assert_errno(open(mount_path(&home, 0, "a"), O_RDWR), EROFS);
    assert_errno(open(mount_path(&home, 0, "b"), O_RDWR | O_CREAT, 0644), EROFS);
    assert_errno(unlink(mount_path(&home, 0, "a")), EROFS);
    assert_errno(mkdir(mount_path(&home, 0, "d"), 0755), EROFS);
    fd = mount_file(&home, 0, "a", O_RDONLY);
    assert_file(fd, 100);
    close(fd);
    mount_home_close(&home);
}

static void a_daemon_that_dies_leaves_errors_and_can_be_replaced(void **state)
{
    (void)state;
    struct stat info;
    mount_home_open(&home, 1, NULL);
    fill();
    int fd = mount_file(&home, 0, "a", O_RDWR | O_CREAT);
    put(fd, bytes, SIZE, 0);
    assert_int_equal(fsync(fd), 0);
    put(fd, "not synced", 10, 0);
    mount_home_stop(&home, 0, SIGKILL);
    int err = fsync(fd) == 0 ? 0 : errno;
    assert_true(err == ENOTCONN || err == ECONNABORTED || err == EIO);
    assert_int_equal(pwrite(fd, bytes, 10, 0), -1);
    close(fd);
    assert_int_equal(stat(home.dirs[0], &info), 0); // it was taken away
    mount_home_start(&home, 0, NULL);
    fd = mount_file(&home, 0, "a", O_RDWR);
    assert_file(fd, SIZE);
    close(fd);
    mount_home_close(&home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(space_is_made_and_taken_away),
        cmocka_unit_test(holes_are_told),
        cmocka_unit_test(ranges_are_copied),
        cmocka_unit_test(direct_and_mapped_agree_with_the_rest),
        cmocka_unit_test(layouts_and_flags_are_told_and_set),
        cmocka_unit_test(attributes_are_kept_but_for_lists_of_access),
        cmocka_unit_test(a_file_that_another_mount_removes_lives_while_it_is_open),
        cmocka_unit_test(names_may_be_remembered),
        cmocka_unit_test(bad_names_and_places_are_refused),
        cmocka_unit_test(an_opening_that_truncates_changes_the_time),
        cmocka_unit_test(a_full_or_read_only_mount_says_so),
        cmocka_unit_test(a_daemon_that_dies_leaves_errors_and_can_be_replaced),
    };
    mount_home_in_memory();
    return fm_test_run("mount_files", tests);
}
