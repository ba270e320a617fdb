// What programs do to many small files, by several processes at once, and how many a second:
//
//     small_files create DIR PROCESSES FILES BYTES [sync]   makes DIR/p<i>/f<n>, with BYTES written, with fsync()
//     small_files stat   DIR PROCESSES FILES                asks for the attributes of each by its name, in a mixed order
//     small_files list   DIR PROCESSES FILES                reads the names of each directory, and attributes of what is in it
//
// Each process has a directory of its own. The rate is of all, from the first one's start to the last one's end.
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    BYTES_MAX = 1 << 20,
    STEP = 7919 // a prime: its steps come by each file once
};

static char bytes[BYTES_MAX];

static int create(const char *dir, long files, size_t size, int sync)
{
    char path[4096];
    if (mkdir(dir, 0755) != 0)
        return -1;
    for (long i = 0; i < files; i++) {
        snprintf(path, sizeof path, "%s/f%ld", dir, i);
        int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
        if (fd < 0 || (size && write(fd, bytes, size) != (ssize_t)size) || (sync && fsync(fd) != 0) ||
            close(fd) != 0)
            return -1;
    }
    return 0;
}

static int look(const char *dir, long files)
{
    char path[4096];
    struct stat attr;
    for (long i = 0; i < files; i++) {
        snprintf(path, sizeof path, "%s/f%ld", dir, i * STEP % files);
        if (stat(path, &attr) != 0)
            return -1;
    }
    return 0;
}

static int list(const char *path, long files)
{
    struct stat attr;
    long seen = 0;
    DIR *dir = opendir(path);
    if (!dir)
        return -1;
    for (const struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (fstatat(dirfd(dir), entry->d_name, &attr, AT_SYMLINK_NOFOLLOW) != 0)
            break;
        seen += S_ISREG(attr.st_mode);
    }
    closedir(dir);
    return seen == files ? 0 : -1;
}

static int work(char **argv, int argc, long index)
{
    char dir[2048];
    long files = atol(argv[4]);
    snprintf(dir, sizeof dir, "%s/p%ld", argv[2], index);
    if (strcmp(argv[1], "create") == 0)
        return argc > 5 ? create(dir, files, (size_t)atol(argv[5]), argc > 6) : -1;
    if (strcmp(argv[1], "stat") == 0)
        return look(dir, files);
    return strcmp(argv[1], "list") == 0 ? list(dir, files) : -1;
}

int main(int argc, char **argv)
{
    struct timespec begin;
    struct timespec end;
    int failed = 0;
    if (argc < 5 || (argc > 5 && (atol(argv[5]) < 0 || atol(argv[5]) > BYTES_MAX))) {
        fprintf(stderr, "usage: %s create|stat|list DIR PROCESSES FILES [BYTES [sync]]\n", argv[0]);
        return 2;
    }
    long processes = atol(argv[3]);
    memset(bytes, 's', sizeof bytes);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < processes; i++) {
        pid_t child = fork();
        if (child == 0) {
            if (work(argv, argc, i) == 0)
                _exit(0);
            perror(argv[1]);
            _exit(1);
        }
        failed |= child < 0;
    }
    for (int status; wait(&status) > 0;)
        failed |= status != 0;
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
    printf("%.0f\n", (double)processes * (double)atol(argv[4]) / seconds);
    return failed;
}
