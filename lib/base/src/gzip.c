#include "fathom/gzip.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include <zlib.h>

#include "fathom/file.h"
#include "fathom/mem.h"

// A system call per 256 KiB costs nothing beside inflating them, and they fit the second-level cache.
enum { INPUT_BYTES = 256 << 10 };

struct fm_gzip {
    int fd;
    int compressed;
    int member_open;   // inside a gzip member: the end of the file would cut it short
    int file_ended;    // read() returned 0
    size_t begin, end; // unread part of `input`
    uint64_t taken;    // bytes read from the file
    z_stream inflater;
    char *path;
    unsigned char input[INPUT_BYTES];
};

/* zlib's memory through ours, so that leaks and refusals are seen. */
static void *z_alloc(void *context, unsigned count, unsigned size)
{
    (void)context;
    return fm_base_mem_zalloc(count, size);
}

static void z_free(void *context, void *block)
{
    (void)context;
    fm_base_mem_free(block);
}

static fm_status read_some(fm_gzip *stream, void *to, size_t size, size_t *out_got)
{
    ssize_t got;
    do
        got = read(stream->fd, to, size);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return fm_base_file_error(errno, "cannot read %s", stream->path);
    stream->file_ended = got == 0;
    stream->taken += (uint64_t)got;
    *out_got = (size_t)got;
    return FM_OK;
}

static fm_status fill(fm_gzip *stream)
{
    size_t got = 0;
    FM_TRY(read_some(stream, stream->input, INPUT_BYTES, &got));
    stream->begin = 0;
    stream->end = got;
    return FM_OK;
}

static fm_status start(fm_gzip *stream)
{
    // A pipe may hand out its first bytes one by one.
    while (stream->end < 2 && !stream->file_ended) {
        size_t got = 0;
        FM_TRY(read_some(stream, stream->input + stream->end, INPUT_BYTES - stream->end, &got));
        stream->end += got;
    }
    if (stream->end < 2 || stream->input[0] != 0x1F || stream->input[1] != 0x8B)
        return FM_OK;
    stream->inflater.zalloc = z_alloc;
    stream->inflater.zfree = z_free;
    if (inflateInit2(&stream->inflater, 15 + 16) != Z_OK) // the widest window, gzip's header expected
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to inflate %s", stream->path);
    stream->compressed = 1;
    return FM_OK;
}

fm_status fm_base_gzip_open(const char *path, fm_gzip **out_stream)
{
    fm_gzip *stream = fm_base_mem_zalloc(1, sizeof *stream);
    if (!stream)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", path);
    stream->fd = -1;
    stream->path = fm_base_mem_strdup(path);
    fm_status status = FM_OK;
    if (!stream->path)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", path);
    else if ((stream->fd =
                  path[0] == '-' && !path[1] ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC)) < 0)
        status = fm_base_file_error(errno, "cannot open %s", path);
    else
        status = start(stream);
    if (status < 0) {
        fm_base_gzip_close(stream);
        return status;
    }
    *out_stream = stream;
    return FM_OK;
}

static fm_status damaged(fm_gzip *stream, const char *what)
{
    return fm_base_error_set(FM_ERR_FORMAT, "%s: compressed data %s at byte %llu", stream->path, what,
                             (unsigned long long)(stream->taken - (stream->end - stream->begin)));
}

/* One call of inflate() over what is there. */
static fm_status inflate_step(fm_gzip *stream, unsigned char *to, size_t size, size_t *out_got)
{
    z_stream *z = &stream->inflater;
    z->next_in = stream->input + stream->begin;
    z->avail_in = (unsigned)(stream->end - stream->begin);
    z->next_out = to;
    z->avail_out = size < UINT_MAX ? (unsigned)size : UINT_MAX;
    unsigned room = z->avail_out;
    int result = inflate(z, Z_NO_FLUSH);
    stream->begin = stream->end - z->avail_in;
    stream->member_open = result != Z_STREAM_END;
    *out_got = room - z->avail_out;
    if (result == Z_MEM_ERROR)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to inflate %s", stream->path);
    if (result == Z_STREAM_END && inflateReset(z) != Z_OK)
        return damaged(stream, "cannot be continued");
    // Z_BUF_ERROR: inflate() only wants more input.
    if (*out_got == 0 && result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
        return damaged(stream, "are malformed or fail their check sum");
    return FM_OK;
}

fm_status fm_base_gzip_read(fm_gzip *stream, void *to, size_t size, size_t *out_got)
{
    size_t waiting = stream->end - stream->begin;
    if (!stream->compressed && waiting > 0) { // what start() looked at
        size_t got = waiting < size ? waiting : size;
        memcpy(to, stream->input + stream->begin, got);
        stream->begin += got;
        *out_got = got;
        return FM_OK;
    }
    if (!stream->compressed)
        return read_some(stream, to, size, out_got);
    size_t got = 0;
    while (got == 0) {
        if (stream->begin == stream->end) {
            FM_TRY(fill(stream));
            if (stream->file_ended && stream->member_open)
                return damaged(stream, "end too early");
            if (stream->file_ended)
                break;
        }
        FM_TRY(inflate_step(stream, to, size, &got));
    }
    *out_got = got;
    return FM_OK;
}

uint64_t fm_base_gzip_taken(const fm_gzip *stream)
{
    return stream->taken;
}

void fm_base_gzip_close(fm_gzip *stream)
{
    if (!stream)
        return;
    if (stream->compressed)
        inflateEnd(&stream->inflater);
    if (stream->fd >= 0)
        close(stream->fd);
    fm_base_mem_free(stream->path);
    fm_base_mem_free(stream);
}
