#include <stdio.h>
#include <string.h>

#include "fathom/fs_dataset.h"
#include "fathom/mem.h"
#include "stage_files.h"

enum { SHARD_BYTES = 4 << 20, SHARDS_MAX = 4096, NAME_BYTES = 300, READS_AT_ONCE = 16 };

static fm_status path_of(char path[static FM_STAGE_PATH_BYTES], const char *stage, const char *name,
                         const char *ending)
{
    if (snprintf(path, FM_STAGE_PATH_BYTES, "%s/%s%s", stage, name, ending) >= FM_STAGE_PATH_BYTES)
        return fm_base_error_set(FM_ERR_LIMIT, "%s/%s%s is too long a name", stage, name, ending);
    return FM_OK;
}

// Bytes of the next shard: whole documents, as few as reach its size.
static size_t shard_length(const char *text, size_t length)
{
    if (length <= SHARD_BYTES)
        return length;
    const char *end =
        memmem(text + SHARD_BYTES, length - SHARD_BYTES, FM_DOCUMENT_END, strlen(FM_DOCUMENT_END));
    return end ? (size_t)(end - text) + strlen(FM_DOCUMENT_END) : length;
}

fm_status fm_app_shards_write(fm_fs *fs, const char *stage, const char *name, const char *text, size_t length)
{
    char folder[FM_STAGE_PATH_BYTES];
    FM_TRY(path_of(folder, stage, name, ""));
    fm_status removed = fm_fs_remove_all(fs, folder);
    if (removed < 0 && removed != FM_ERR_NOT_FOUND)
        return removed;
    FM_TRY(fm_fs_mkdir(fs, folder, FM_FS_PARENTS));
    for (int i = 0; length > 0 || i == 0; i++) {
        char file[FM_STAGE_PATH_BYTES], ending[32];
        size_t part = shard_length(text, length);
        snprintf(ending, sizeof ending, "/%05d.txt", i);
        FM_TRY(path_of(file, stage, name, ending));
        FM_TRY(fm_fs_write_all(fs, file, text, part, 0));
        text += part;
        length -= part;
    }
    return fm_app_shards_list(fs, stage, name);
}

struct names {
    char (*texts)[NAME_BYTES];
    const char **pointers;
    size_t count;
};

static fm_status collect(fm_fs_list *list, const char *name, struct names *names)
{
    const fm_fs_entry *entry;
    for (;;) {
        FM_TRY(fm_fs_list_next(list, &entry));
        if (!entry)
            return FM_OK;
        if (entry->name[0] == '_' || entry->name[0] == '.') // notes of whoever wrote the shards
            continue;
        if (names->count == SHARDS_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "more than %d shards", SHARDS_MAX);
        snprintf(names->texts[names->count], NAME_BYTES, "%s/%s", name, entry->name);
        names->pointers[names->count] = names->texts[names->count];
        names->count++;
    }
}

fm_status fm_app_shards_list(fm_fs *fs, const char *stage, const char *name)
{
    char folder[FM_STAGE_PATH_BYTES], manifest[FM_STAGE_PATH_BYTES];
    fm_fs_list *list = NULL;
    FM_TRY(path_of(folder, stage, name, ""));
    FM_TRY(path_of(manifest, stage, name, ".manifest"));
    struct names names = {fm_base_mem_zalloc(SHARDS_MAX, NAME_BYTES),
                          fm_base_mem_zalloc(SHARDS_MAX, sizeof(char *)), 0};
    fm_status status = names.texts && names.pointers
                           ? fm_fs_list_open(fs, folder, &list)
                           : fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of shards");
    if (status == FM_OK)
        status = collect(list, name, &names);
    fm_fs_list_close(list);
    if (status == FM_OK && names.count == 0)
        status = fm_base_error_set(FM_ERR_NOT_FOUND, "%s holds no shards", folder);
    if (status == FM_OK)
        status = fm_fs_manifest_write(fs, manifest, names.pointers, names.count);
    fm_base_mem_free(names.texts);
    fm_base_mem_free(names.pointers);
    return status;
}

static fm_status read_files(fm_fs_dataset *dataset, char *bytes)
{
    for (size_t file = 0; file < fm_fs_dataset_count(dataset); file++) {
        fm_fs_range range = {.file = file, .length = fm_fs_dataset_size(dataset, file), .buffer = bytes};
        FM_TRY(fm_fs_dataset_read(dataset, &range, 1));
        bytes += range.length;
    }
    return FM_OK;
}

static fm_status open_shards(fm_fs *fs, const char *stage, const char *name, fm_fs_dataset **out_dataset,
                             uint64_t *out_bytes)
{
    char manifest[FM_STAGE_PATH_BYTES];
    fm_fs_dataset *dataset;
    uint64_t total = 0;
    FM_TRY(path_of(manifest, stage, name, ".manifest"));
    FM_TRY(fm_fs_dataset_open(fs, manifest, READS_AT_ONCE, &dataset));
    for (size_t i = 0; i < fm_fs_dataset_count(dataset); i++)
        total += fm_fs_dataset_size(dataset, i);
    *out_dataset = dataset;
    *out_bytes = total;
    return FM_OK;
}

fm_status fm_app_shards_bytes(fm_fs *fs, const char *stage, const char *name, uint64_t *out_bytes)
{
    fm_fs_dataset *dataset;
    FM_TRY(open_shards(fs, stage, name, &dataset, out_bytes));
    fm_fs_dataset_close(dataset);
    return FM_OK;
}

fm_status fm_app_shards_read(fm_fs *fs, const char *stage, const char *name, size_t bytes_max,
                             char **out_bytes, size_t *out_length)
{
    fm_fs_dataset *dataset;
    uint64_t total;
    FM_TRY(open_shards(fs, stage, name, &dataset, &total));
    char *bytes = total <= bytes_max ? fm_base_mem_alloc((size_t)total + 1) : NULL;
    fm_status status =
        total > bytes_max ? fm_base_error_set(FM_ERR_LIMIT, "%s/%s has %llu bytes; expected at most %zu",
                                              stage, name, (unsigned long long)total, bytes_max)
        : bytes           ? read_files(dataset, bytes)
                : fm_base_error_set(FM_ERR_NOMEM, "no memory for %llu bytes", (unsigned long long)total);
    fm_fs_dataset_close(dataset);
    if (status < 0) {
        fm_base_mem_free(bytes);
        return status;
    }
    bytes[total] = '\0';
    *out_bytes = bytes;
    *out_length = (size_t)total;
    return FM_OK;
}
