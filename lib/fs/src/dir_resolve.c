// Opening a path without ever leaving the root: by openat2(2) where there is one, else by a walk that
// follows links itself.
#include "dir_fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    LINKS_MAX = 40, // what Linux allows in one lookup
    // openat2 answers EAGAIN when a rename anywhere on the system ran while it followed "..". One more try
    // nearly always succeeds; the walk, which has no such case, ends the matter.
    AGAIN_MAX = 4
};

static int open_beneath(int root, const char *path, int flags, mode_t mode)
{
    struct open_how how = {
        .flags = (uint64_t)(unsigned)flags,
        .mode = flags & O_CREAT ? mode : 0,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    return (int)TEMP_FAILURE_RETRY(syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof how));
}

int fm_fs_dir_probe_openat2(int root)
{
    int fd = open_beneath(root, "", O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/*
 * The walk. `rest` is what is still to be resolved; a link's target is put in front of it. `done` is the
 * canonical path of the directory `at`, so that ".." in a target can be resolved by walking again from the
 * root: the kernel's own ".." would follow a directory that somebody moves meanwhile out of the root. Only
 * O_NOFOLLOW opens of single components ever reach the kernel.
 */
struct walk {
    int root;
    int at;
    int links;
    char done[PATH_MAX];
    char rest[PATH_MAX];
};

// Goes into directory `name`. 0, or -1 with errno.
static int walk_into(struct walk *walk, const char *name)
{
    int next = openat(walk->at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0)
        return -1;
    close(walk->at);
    walk->at = next;
    return 0;
}

static int walk_up(struct walk *walk)
{
    if (!*walk->done) {
        errno = EXDEV;
        return -1;
    }
    char *slash = strrchr(walk->done, '/');
    *(slash ? slash : walk->done) = 0;
    int root = fcntl(walk->root, F_DUPFD_CLOEXEC, 0);
    if (root < 0)
        return -1;
    close(walk->at);
    walk->at = root;
    char copy[PATH_MAX];
    memcpy(copy, walk->done, strlen(walk->done) + 1);
    char *save;
    for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save))
        if (walk_into(walk, name) < 0)
            return -1;
    return 0;
}

// Puts the link's target in front of what is left. 0, or -1 with errno.
static int walk_link(struct walk *walk, const char *target, const char *left)
{
    char joined[2 * PATH_MAX];
    if (++walk->links > LINKS_MAX) {
        errno = ELOOP;
        return -1;
    }
    if (*target == '/') {
        errno = EXDEV;
        return -1;
    }
    int bytes = snprintf(joined, sizeof joined, "%s/%s", target, left);
    if (bytes >= (int)sizeof walk->rest) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(walk->rest, joined, (size_t)bytes + 1);
    return 0;
}

// One component further, or the final open: 1 with the descriptor, 0 to go on, -1 with errno.
static int walk_step(struct walk *walk, int flags, mode_t mode, int *out_fd)
{
    char target[PATH_MAX];
    char name[PATH_MAX];
    size_t skip = strspn(walk->rest, "/");
    size_t length = strcspn(walk->rest + skip, "/");
    const char *left = walk->rest + skip + length;
    int last = left[strspn(left, "/")] == 0;
    memcpy(name, walk->rest + skip, length);
    name[length] = 0;
    if (length == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        if (length == 2 && walk_up(walk) < 0)
            return -1;
        if (last) {
            *out_fd = TEMP_FAILURE_RETRY(openat(walk->at, ".", flags | O_NOFOLLOW, mode));
            return *out_fd < 0 ? -1 : 1;
        }
        memmove(walk->rest, left, strlen(left) + 1);
        return 0;
    }
    // O_EXCL does not follow a link in the last place: its name is taken.
    ssize_t bytes = last && (flags & O_EXCL) ? -1 : readlinkat(walk->at, name, target, sizeof target - 1);
    if (bytes >= 0) {
        target[bytes] = 0;
        return walk_link(walk, target, left);
    }
    if (last) {
        *out_fd = TEMP_FAILURE_RETRY(openat(walk->at, name, flags | O_NOFOLLOW, mode));
        return *out_fd < 0 ? -1 : 1;
    }
    if (walk_into(walk, name) < 0)
        return -1;
    size_t done = strlen(walk->done);
    if (done + 1 + length >= sizeof walk->done) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (done)
        walk->done[done++] = '/';
    memcpy(walk->done + done, name, length + 1);
    memmove(walk->rest, left, strlen(left) + 1);
    return 0;
}

static int open_by_walk(int root, const char *path, int flags, mode_t mode)
{
    struct walk walk = {.root = root, .at = fcntl(root, F_DUPFD_CLOEXEC, 0)};
    if (walk.at < 0)
        return -1;
    memcpy(walk.rest, path, strlen(path) + 1); // canonical paths fit
    int fd = -1;
    while (walk_step(&walk, flags, mode, &fd) == 0)
        ;
    int err = errno;
    close(walk.at);
    errno = err;
    return fd;
}

int fm_fs_dir_open_below(const struct dir_fs *fs, const char *path, int flags, mode_t mode)
{
    flags |= O_CLOEXEC;
    if (fs->have_openat2) {
        int fd = -1;
        errno = EAGAIN;
        for (int i = 0; i < AGAIN_MAX && fd < 0 && errno == EAGAIN; i++)
            fd = open_beneath(fs->root, path, flags, mode);
        if (fd >= 0 || errno != EAGAIN)
            return fd;
    }
    return open_by_walk(fs->root, path, flags, mode);
}

int fm_fs_dir_open_parent(const struct dir_fs *fs, const char *path)
{
    char parent[FM_FS_PATH_MAX + 1];
    fm_fs_path_parent(path, parent);
    return fm_fs_dir_open_below(fs, parent, O_PATH | O_DIRECTORY, 0);
}
