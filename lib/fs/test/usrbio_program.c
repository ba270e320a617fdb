// A program as 3FS's users write them: it knows the header and the system's, and nothing of this project. It writes a file
// in a mount through a ring, reads it back in samples through another, and compares.
#include <hf3fs_usrbio.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { IOS = 64, BLOCK = 96 * 1024, ROUNDS = 4, SAMPLE = 4096 };

static int fail(const char *what, long code)
{
    fprintf(stderr, "usrbio_program: %s: %ld\n", what, code);
    return 1;
}

static void fill(uint8_t *bytes, size_t size, uint64_t seed)
{
    for (size_t i = 0; i < size; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static int write_file(const char *mount, int fd)
{
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    struct hf3fs_cqe cqes[IOS];
    int result = hf3fs_iorcreate4(&ior, mount, IOS, false, 0, 0, -1, 0);
    if (result)
        return fail("iorcreate4", result);
    result = hf3fs_iovcreate(&iov, mount, (size_t)IOS * BLOCK, 0, -1);
    if (result)
        return fail("iovcreate", result);
    fill(iov.base, (size_t)IOS * BLOCK, 7);
    for (size_t i = 0; i < IOS; i++) {
        result = hf3fs_prep_io(&ior, &iov, false, iov.base + i * BLOCK, fd, i * BLOCK, BLOCK, iov.base + i);
        if (result < 0)
            return fail("prep_io to write", result);
    }
    result = hf3fs_submit_ios(&ior);
    if (result)
        return fail("submit_ios", result);
    result = hf3fs_wait_for_ios(&ior, cqes, IOS, IOS, NULL);
    if (result != IOS)
        return fail("wait_for_ios", result);
    for (int i = 0; i < IOS; i++)
        if (cqes[i].result != BLOCK)
            return fail("a write", (long)cqes[i].result);
    hf3fs_iovdestroy(&iov);
    hf3fs_iordestroy(&ior);
    return 0;
}

static int read_samples(const char *mount, int fd, const uint8_t *expected)
{
    struct hf3fs_ior ior;
    struct hf3fs_iov iov;
    struct hf3fs_cqe cqes[IOS];
    size_t places[IOS];
    int result = hf3fs_iorcreate(&ior, mount, IOS, true, IOS, -1);
    if (result)
        return fail("iorcreate", result);
    result = hf3fs_iovcreate(&iov, mount, (size_t)IOS * SAMPLE, 0, -1);
    if (result)
        return fail("iovcreate", result);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < IOS; i++) {
            places[i] = (size_t)random() % (IOS * BLOCK - SAMPLE);
            result =
                hf3fs_prep_io(&ior, &iov, true, iov.base + i * SAMPLE, fd, places[i], SAMPLE, &places[i]);
            if (result < 0)
                return fail("prep_io to read", result);
        }
        result = hf3fs_submit_ios(&ior);
        for (int got = 0; got < IOS && !result;) {
            int count = hf3fs_wait_for_ios(&ior, cqes, IOS, 1, NULL);
            for (int i = 0; i < count; i++) {
                const size_t *place = cqes[i].userdata;
                if (cqes[i].result != SAMPLE ||
                    memcmp(iov.base + (place - places) * SAMPLE, expected + *place, SAMPLE) != 0)
                    return fail("a sample", (long)cqes[i].result);
            }
            if (count < 0)
                return fail("wait_for_ios", count);
            got += count;
        }
        if (result)
            return fail("submit_ios", result);
    }
    hf3fs_iovdestroy(&iov);
    hf3fs_iordestroy(&ior);
    return 0;
}

int main(int argc, char **argv)
{
    char mount[256];
    static uint8_t expected[IOS * BLOCK];
    if (argc != 2)
        return fail("usage: usrbio_program FILE", argc);
    int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return fail("open", errno);
    if (!hf3fs_is_hf3fs(fd))
        return fail("is_hf3fs", 0);
    int length = hf3fs_extract_mount_point(mount, sizeof mount, argv[1]);
    if (length <= 0 || (size_t)length != strlen(mount) + 1)
        return fail("extract_mount_point", length);
    int handle = hf3fs_reg_fd(fd, 0);
    if (handle > 0)
        return fail("reg_fd", handle);
    fill(expected, sizeof expected, 7);
    if (write_file(mount, fd) || read_samples(mount, handle, expected))
        return 1;
    hf3fs_dereg_fd(fd);
    close(fd);
    return 0;
}
