// Whole files: read at once, or written so that they appear under their name complete.
#include "fs_backend.h"

#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"

enum {
    // Large enough that a system call, or a round trip to a chunk of a cluster's usual 1 MiB, costs little
    // against moving the bytes; small enough that a hundred writers at once fit anywhere.
    BUFFER_BYTES = 1 << 20
};

struct fm_fs_writer {
    fm_fs *fs;
    fm_fs_file *file; // the temporary
    unsigned flags;
    fm_status status;   // the first failure
    char message[1024]; // and its message
    uint64_t offset;    // bytes written to the file; the buffer's go behind them
    size_t used;        // bytes in the buffer
    char path[FM_FS_PATH_MAX + 1];
    char parent[FM_FS_PATH_MAX + 1];
    char tmp[FM_FS_PATH_MAX + 1];
    unsigned char buffer[BUFFER_BYTES];
};

// Opens a file under a name that nobody has.
static fm_status open_tmp(fm_fs_writer *writer)
{
    for (;;) {
        char name[FM_FS_TMP_NAME_BYTES];
        fm_fs_tmp_name(name);
        FM_TRY(fm_fs_path_join(writer->parent, name, writer->tmp));
        fm_status status = fm_fs_file_open(writer->fs, writer->tmp,
                                           FM_FS_WRITE | FM_FS_CREATE | FM_FS_EXCLUSIVE, &writer->file);
        if (status != FM_ERR_EXISTS)
            return status;
    }
}

fm_status fm_fs_writer_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_writer **out_writer)
{
    if (flags & ~(unsigned)(FM_FS_EXCLUSIVE | FM_FS_NO_SYNC)) {
        fm_base_error_set(FM_ERR_ARG, "flags are 0x%x; expected only FM_FS_EXCLUSIVE and FM_FS_NO_SYNC",
                          flags);
        return FM_ERR_ARG;
    }
    fm_fs_writer *writer = fm_base_mem_alloc(sizeof *writer);
    if (!writer) {
        fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
        return FM_ERR_NOMEM;
    }
    writer->fs = fs;
    writer->flags = flags;
    writer->status = FM_OK;
    writer->offset = 0;
    writer->used = 0;
    fm_status status = fm_fs_path_canonical(path, "path", writer->path);
    if (status == FM_OK && !*writer->path)
        status = fm_base_error_set(FM_ERR_FS_IS_DIR, "path is \"%s\", the root; expected a file", path);
    if (status == FM_OK) {
        fm_fs_path_parent(writer->path, writer->parent);
        status = open_tmp(writer);
    }
    if (status < 0) {
        fm_base_mem_free(writer);
        return status;
    }
    *out_writer = writer;
    return FM_OK;
}

static void note(fm_fs_writer *writer, fm_status status)
{
    if (status < 0) {
        writer->status = status;
        snprintf(writer->message, sizeof writer->message, "%s", fm_error_message());
    }
}

static void write_out(fm_fs_writer *writer, const void *data, size_t length)
{
    if (writer->status == FM_OK)
        note(writer, fm_fs_file_write(writer->file, data, length, writer->offset));
    writer->offset += length;
}

static void flush(fm_fs_writer *writer)
{
    write_out(writer, writer->buffer, writer->used);
    writer->used = 0;
}

fm_status fm_fs_writer_write(fm_fs_writer *writer, const void *data, size_t length)
{
    const unsigned char *from = data;
    while (length > 0 && writer->status == FM_OK) {
        size_t part = BUFFER_BYTES - writer->used;
        if (part > length)
            part = length;
        if (part == BUFFER_BYTES) {
            part = length - length % BUFFER_BYTES; // large pieces need no copy
            write_out(writer, from, part);
        } else {
            memcpy(writer->buffer + writer->used, from, part);
            writer->used += part;
            if (writer->used == BUFFER_BYTES)
                flush(writer);
        }
        from += part;
        length -= part;
    }
    return writer->status;
}

fm_status fm_fs_writer_commit(fm_fs_writer *writer)
{
    const struct fm_fs_ops *ops = writer->fs->ops;
    int sync = !(writer->flags & FM_FS_NO_SYNC);
    flush(writer);
    if (writer->status == FM_OK && sync)
        note(writer, fm_fs_file_sync(writer->file));
    if (writer->status == FM_OK)
        note(writer, ops->rename(writer->fs, writer->tmp, writer->path, writer->flags & FM_FS_EXCLUSIVE));
    if (writer->status < 0) {
        fm_status status = fm_base_error_set(writer->status, "%s", writer->message);
        fm_fs_writer_discard(writer);
        return status;
    }
    fm_status status = sync ? ops->dir_sync(writer->fs, writer->parent) : FM_OK;
    fm_fs_file_close(writer->file);
    fm_base_mem_free(writer);
    return status;
}

void fm_fs_writer_discard(fm_fs_writer *writer)
{
    if (!writer)
        return;
    char message[1024];
    snprintf(message, sizeof message, "%s", fm_error_message());
    fm_fs_file_close(writer->file);
    if (writer->fs->ops->unlink(writer->fs, writer->tmp) < 0)
        fm_base_error_set(FM_OK, "%s", message); // what led here matters more
    fm_base_mem_free(writer);
}

fm_status fm_fs_write_all(fm_fs *fs, const char *path, const void *data, size_t length, unsigned flags)
{
    fm_fs_writer *writer = NULL;
    FM_TRY(fm_fs_writer_open(fs, path, flags, &writer));
    fm_fs_writer_write(writer, data, length);
    return fm_fs_writer_commit(writer);
}

static fm_status read_opened(fm_fs_file *file, size_t bytes_max, void **out_data, size_t *out_length)
{
    fm_fs_info info;
    FM_TRY(fm_fs_file_stat(file, &info));
    if (info.size > bytes_max || info.size >= SIZE_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s has %llu bytes; expected at most %zu", file->path,
                                 (unsigned long long)info.size, bytes_max);
    char *data = fm_base_mem_alloc((size_t)info.size + 1);
    if (!data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the %llu bytes of %s",
                                 (unsigned long long)info.size, file->path);
    size_t length;
    fm_status status = fm_fs_file_read(file, data, (size_t)info.size, 0, &length);
    if (status < 0) {
        fm_base_mem_free(data);
        return status;
    }
    data[length] = 0;
    *out_data = data;
    *out_length = length;
    return FM_OK;
}

fm_status fm_fs_read_all(fm_fs *fs, const char *path, size_t bytes_max, void **out_data, size_t *out_length)
{
    fm_fs_file *file;
    FM_TRY(fm_fs_file_open(fs, path, FM_FS_READ, &file));
    fm_status status = read_opened(file, bytes_max, out_data, out_length);
    fm_fs_file_close(file);
    return status;
}
