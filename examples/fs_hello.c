// Files in a directory: write one so that it appears whole, then read two places of it at once.
//
//     fs_hello [DIR]        DIR is made when it is missing; default fs-hello
#include <stdio.h>
#include <string.h>

#include "fathom/fs.h"

static fm_status hello(fm_fs *fs)
{
    static const char text[] = "Hello, shards. Goodbye, half-written files.";
    char first[5] = "";
    char last[5] = "";
    fm_fs_file *file = NULL;
    fm_fs_queue *queue = NULL;
    FM_TRY(fm_fs_mkdir(fs, "greetings", FM_FS_PARENTS));
    FM_TRY(fm_fs_write_all(fs, "greetings/hello.txt", text, strlen(text), 0));
    fm_status status = fm_fs_file_open(fs, "greetings/hello.txt", FM_FS_READ, &file);
    if (status == FM_OK)
        status = fm_fs_queue_open(fs, 8, &queue);
    if (status == FM_OK) {
        fm_fs_io reads[] = {
            {.kind = FM_FS_IO_READ, .file = file, .offset = 0, .length = 5, .buffer = first},
            {.kind = FM_FS_IO_READ, .file = file, .offset = 37, .length = 5, .buffer = last},
        };
        status = fm_fs_queue_run(queue, reads, 2);
        if (status == FM_OK)
            printf("%.5s, %.5s (by %s)\n", first, last, fm_fs_queue_engine(queue));
    }
    fm_fs_queue_close(queue);
    fm_fs_file_close(file);
    return status;
}

int main(int argc, char **argv)
{
    fm_fs *fs;
    fm_status status = fm_fs_open(argc > 1 ? argv[1] : "fs-hello", FM_FS_CREATE, &fs);
    if (status == FM_OK) {
        status = hello(fs);
        fm_fs_close(fs);
    }
    if (status < 0)
        fprintf(stderr, "fs_hello: %s\n", fm_error_message());
    return status < 0;
}
