// 3FS's interface to rings: what concerns the mount and not a ring.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hf3fs_usrbio.h"
#include "ring.h"

enum { LINE_MAX_BYTES = 8192, RANGES_MAX = 1000 };

bool hf3fs_is_hf3fs(int fd)
{
    uint32_t magic = 0;
    return ioctl(fd, FM_FS_RING_IOC_MAGIC, &magic) == 0 && magic == HF3FS_SUPER_MAGIC;
}

// mountinfo writes some bytes as \ooo.
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from; to++) {
        if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
            *to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
            from += 4;
        } else {
            *to = *from++;
        }
    }
    *to = 0;
}

// The mount point of a line of mountinfo that is a mount of ours; NULL: it is not.
static char *mount_of(char *line)
{
    char *rest = NULL;
    char *field = strtok_r(line, " ", &rest);
    char *place = NULL;
    for (int i = 0; field && strcmp(field, "-") != 0; i++) {
        if (i == 4)
            place = field;
        field = strtok_r(NULL, " ", &rest);
    }
    const char *type = field ? strtok_r(NULL, " ", &rest) : NULL;
    if (!type || !place || strcmp(type, "fuse.fathom") != 0)
        return NULL;
    unescape(place);
    return place;
}

int hf3fs_extract_mount_point(char *hf3fs_mount_point, int size, const char *path)
{
    char line[LINE_MAX_BYTES];
    char best[LINE_MAX_BYTES] = "";
    char *real = path ? realpath(path, NULL) : NULL;
    FILE *mounts = real ? fopen("/proc/self/mountinfo", "re") : NULL;
    while (mounts && fgets(line, sizeof line, mounts)) {
        const char *place = mount_of(line);
        size_t length = place ? strlen(place) : 0;
        if (length > strlen(best) && strncmp(real, place, length) == 0 &&
            (real[length] == '/' || !real[length]))
            memcpy(best, place, length + 1);
    }
    if (mounts)
        fclose(mounts);
    free(real);
    if (!*best)
        return -1;
    int length = (int)strlen(best);
    if (hf3fs_mount_point && length < size)
        memcpy(hf3fs_mount_point, best, (size_t)length + 1);
    return length + 1;
}

int hf3fs_hardlink(const char *target, const char *link_name)
{
    if (!target || !link_name)
        return EINVAL;
    int fd = open(target, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno;
    bool ours = hf3fs_is_hf3fs(fd);
    close(fd);
    if (!ours)
        return ENOTTY;
    return linkat(AT_FDCWD, target, AT_FDCWD, link_name, AT_SYMLINK_FOLLOW) == 0 ? 0 : errno;
}

int hf3fs_punchhole(int fd, int n, const size_t *start, const size_t *end, size_t flags)
{
    (void)flags;
    if (n < 0 || n > RANGES_MAX || (n && (!start || !end)))
        return EINVAL;
    if (!hf3fs_is_hf3fs(fd))
        return errno == EBADF ? EBADF : ENOTTY;
    for (int i = 0; i < n; i++)
        if (end[i] < start[i] || end[i] > INT64_MAX)
            return EINVAL;
    for (int i = 0; i < n; i++)
        if (end[i] > start[i] && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start[i],
                                           (off_t)(end[i] - start[i])) != 0)
            return errno;
    return 0;
}
