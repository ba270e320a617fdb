#include "fs_runtime.h"

fm_fs_buffer *fm_fs_buffer_new(size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    fm_fs_buffer *buffer = fm_base_mem_alloc(sizeof *buffer);
    if (!buffer)
        return NULL;
    size_t room = size ? fm_round_up(size, FM_FS_PAGE) : FM_FS_PAGE;
    *buffer = (fm_fs_buffer){1, size, room, fm_base_mem_aligned(room, FM_FS_PAGE)};
    if (!buffer->data) {
        fm_base_mem_free(buffer);
        return NULL;
    }
    memset(buffer->data + size, 0, room - size);
    return buffer;
}

void fm_fs_buffer_drop(fm_fs_buffer *buffer)
{
    if (!buffer || --buffer->refs)
        return;
    fm_base_mem_free(buffer->data);
    fm_base_mem_free(buffer);
}
