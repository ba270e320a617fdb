#include "fathom/fs_dataset.h"

#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "fs_dataset_private.h"

enum {
    MANIFEST_BYTES_MAX = 1 << 30, // some ten million files; each costs its record and 32 bytes in memory
    // A quarter of the 1024 descriptors that a process usually may have. A directory needs one a file.
    OPEN_MAX = 256
};

void fm_fs_dataset_close(fm_fs_dataset *dataset)
{
    if (!dataset)
        return;
    fm_fs_queue_close(dataset->queue);
    for (size_t i = 0; i < dataset->open_count; i++)
        fm_fs_file_close(dataset->slots[dataset->open[(dataset->open_first + i) % dataset->open_max]].handle);
    fm_base_mem_free(dataset->ios);
    fm_base_mem_free(dataset->open);
    fm_base_mem_free(dataset->slots);
    fm_base_mem_free(dataset->files);
    fm_base_mem_free(dataset->bytes);
    fm_base_mem_free(dataset);
}

static fm_status load(fm_fs_dataset *dataset, const char *manifest, unsigned depth)
{
    char path[FM_FS_PATH_MAX + 1];
    size_t length;
    FM_TRY(fm_fs_path_canonical(manifest, "manifest", path));
    FM_TRY(fm_fs_queue_open(dataset->fs, depth, &dataset->queue));
    FM_TRY(fm_fs_read_all(dataset->fs, path, MANIFEST_BYTES_MAX, &dataset->bytes, &length));
    FM_TRY(fm_fs_manifest_parse(dataset->bytes, length, path, &dataset->files, &dataset->count));
    fm_fs_path_parent(path, dataset->dir);
    dataset->open_max = depth > OPEN_MAX ? depth : OPEN_MAX;
    dataset->slots = fm_base_mem_zalloc(dataset->count, sizeof *dataset->slots);
    dataset->open = fm_base_mem_zalloc(dataset->open_max, sizeof *dataset->open);
    dataset->ios = fm_base_mem_zalloc(dataset->open_max, sizeof *dataset->ios);
    if (!dataset->slots || !dataset->open || !dataset->ios)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the %zu files of %s", dataset->count, path);
    return FM_OK;
}

fm_status fm_fs_dataset_open(fm_fs *fs, const char *manifest, unsigned depth, fm_fs_dataset **out_dataset)
{
    fm_fs_dataset *dataset = fm_base_mem_zalloc(1, sizeof *dataset);
    if (!dataset)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to open %s", manifest);
    dataset->fs = fs;
    fm_status status = load(dataset, manifest, depth);
    if (status < 0) {
        fm_fs_dataset_close(dataset);
        return status;
    }
    *out_dataset = dataset;
    return FM_OK;
}

size_t fm_fs_dataset_count(const fm_fs_dataset *dataset)
{
    return dataset->count;
}

uint64_t fm_fs_dataset_size(const fm_fs_dataset *dataset, size_t file)
{
    return file < dataset->count ? dataset->files[file].size : 0;
}

const char *fm_fs_dataset_name(const fm_fs_dataset *dataset, size_t file)
{
    return file < dataset->count ? dataset->files[file].name : NULL;
}

fm_status fm_fs_dataset_changed(const fm_fs_dataset *dataset, size_t file, uint64_t size)
{
    return fm_base_error_set(
        FM_ERR_STATE, "%s has %llu bytes; the manifest says %llu: the dataset was changed",
        dataset->files[file].name, (unsigned long long)size, (unsigned long long)dataset->files[file].size);
}

static fm_status open_checked(const fm_fs_dataset *dataset, size_t file, fm_fs_file **out_handle)
{
    char path[FM_FS_PATH_MAX + 1];
    fm_fs_file *handle;
    fm_fs_info info;
    FM_TRY(fm_fs_path_join(dataset->dir, dataset->files[file].name, path));
    FM_TRY(fm_fs_file_open(dataset->fs, path, FM_FS_READ, &handle));
    fm_status status = fm_fs_file_stat(handle, &info);
    if (status == FM_OK && info.size != dataset->files[file].size)
        status = fm_fs_dataset_changed(dataset, file, info.size);
    if (status < 0) {
        fm_fs_file_close(handle);
        return status;
    }
    *out_handle = handle;
    return FM_OK;
}

int fm_fs_dataset_is_full(const fm_fs_dataset *dataset)
{
    return dataset->open_count == dataset->open_max;
}

struct fm_fs_dataset_slot *fm_fs_dataset_oldest(const fm_fs_dataset *dataset)
{
    return &dataset->slots[dataset->open[dataset->open_first]];
}

fm_status fm_fs_dataset_take(fm_fs_dataset *dataset, size_t file)
{
    fm_fs_file *handle;
    FM_TRY(open_checked(dataset, file, &handle));
    if (fm_fs_dataset_is_full(dataset)) {
        fm_fs_file_close(fm_fs_dataset_oldest(dataset)->handle);
        fm_fs_dataset_oldest(dataset)->handle = NULL;
        dataset->open_first = (dataset->open_first + 1) % dataset->open_max;
        dataset->open_count--;
    }
    dataset->open[(dataset->open_first + dataset->open_count++) % dataset->open_max] = file;
    dataset->slots[file].handle = handle;
    return FM_OK;
}

// Reads the longest beginning of `ranges` whose files can be open together, and says how long it was.
static fm_status read_slice(fm_fs_dataset *dataset, const fm_fs_range *ranges, size_t count, size_t *out_read)
{
    size_t used = 0;
    dataset->slice++;
    for (; used < count && used < dataset->open_max; used++) {
        const fm_fs_range *range = &ranges[used];
        struct fm_fs_dataset_slot *slot = &dataset->slots[range->file];
        if (!slot->handle) {
            if (fm_fs_dataset_is_full(dataset) && fm_fs_dataset_oldest(dataset)->slice == dataset->slice)
                break;
            FM_TRY(fm_fs_dataset_take(dataset, range->file));
        }
        slot->slice = dataset->slice;
        dataset->ios[used] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                        .file = slot->handle,
                                        .buffer = range->buffer,
                                        .length = range->length,
                                        .offset = range->offset};
    }
    FM_TRY(fm_fs_queue_run(dataset->queue, dataset->ios, used));
    for (size_t i = 0; i < used; i++)
        if (dataset->ios[i].done < ranges[i].length) // cut short since it was opened
            return fm_fs_dataset_changed(dataset, ranges[i].file, ranges[i].offset + dataset->ios[i].done);
    *out_read = used;
    return FM_OK;
}

fm_status fm_fs_dataset_check(const fm_fs_dataset *dataset, const char *what, uint64_t number, size_t file,
                              uint64_t offset, size_t length)
{
    if (file >= dataset->count)
        return fm_base_error_set(FM_ERR_ARG, "%s %llu: file is %zu; the dataset has %zu files", what,
                                 (unsigned long long)number, file, dataset->count);
    uint64_t size = dataset->files[file].size;
    if (offset > size || length > size - offset)
        return fm_base_error_set(FM_ERR_ARG, "%s %llu: %zu bytes at offset %llu; %s has %llu bytes", what,
                                 (unsigned long long)number, length, (unsigned long long)offset,
                                 dataset->files[file].name, (unsigned long long)size);
    return FM_OK;
}

fm_status fm_fs_dataset_read(fm_fs_dataset *dataset, const fm_fs_range *ranges, size_t count)
{
    if (dataset->streaming)
        return fm_base_error_set(FM_ERR_STATE, "a stream of the dataset is open; it alone reads");
    for (size_t i = 0; i < count; i++)
        FM_TRY(fm_fs_dataset_check(dataset, "range", i, ranges[i].file, ranges[i].offset, ranges[i].length));
    for (size_t done = 0; done < count;) {
        size_t read = 0;
        FM_TRY(read_slice(dataset, ranges + done, count - done, &read));
        done += read;
    }
    return FM_OK;
}
