#include "fs_manifest.h"

#include <string.h>

#include "fathom/crc.h"
#include "fathom/fs_dataset.h"
#include "fathom/mem.h"
#include "fs_backend.h"

static fm_status check_frame(const unsigned char *bytes, size_t length, const char *source)
{
    if (length < FM_FS_MANIFEST_HEADER_BYTES + FM_FS_MANIFEST_CRC_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "%s has %zu bytes; a manifest has at least %d", source,
                                 length, FM_FS_MANIFEST_HEADER_BYTES + FM_FS_MANIFEST_CRC_BYTES);
    if (memcmp(bytes, FM_FS_MANIFEST_MAGIC, 8) != 0)
        return fm_base_error_set(FM_ERR_FORMAT, "%s is not a manifest: it does not begin with \"%s\"", source,
                                 FM_FS_MANIFEST_MAGIC);
    uint32_t version = fm_get_le32(bytes + 8);
    if (version != FM_FS_MANIFEST_VERSION)
        return fm_base_error_set(FM_ERR_VERSION,
                                 "%s is a manifest of version %u; this library reads version %d", source,
                                 version, FM_FS_MANIFEST_VERSION);
    size_t end = length - FM_FS_MANIFEST_CRC_BYTES;
    uint32_t crc = fm_base_crc32c(0, bytes, end);
    if (crc != fm_get_le32(bytes + end))
        return fm_base_error_set(FM_ERR_FORMAT, "%s is damaged: its CRC32C is %08x and it should be %08x",
                                 source, crc, fm_get_le32(bytes + end));
    return FM_OK;
}

// Reads the record at `*at` and moves on. The checksum held, so what fails here was written wrongly; it is
// checked all the same, because anyone can write a checksum.
static fm_status parse_record(const unsigned char *bytes, size_t end, size_t *at,
                              struct fm_fs_manifest_file *out_file)
{
    char canonical[FM_FS_PATH_MAX + 1];
    size_t left = end - *at;
    if (left < FM_FS_MANIFEST_RECORD_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "the record is cut short");
    const unsigned char *record = bytes + *at;
    uint64_t size = fm_get_le64(record);
    size_t name_length = fm_get_le16(record + 8);
    const char *name = (const char *)record + 10;
    if (size > INT64_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "the size is more than 2^63 - 1");
    if (name_length > left - FM_FS_MANIFEST_RECORD_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "the name of %zu bytes goes beyond the end", name_length);
    if (strnlen(name, name_length + 1) != name_length)
        return fm_base_error_set(FM_ERR_FORMAT, "the name does not end where its length says");
    if (fm_fs_path_canonical(name, "the name", canonical) < 0)
        return FM_ERR_FORMAT;
    if (strcmp(name, canonical) != 0 || name_length == 0)
        return fm_base_error_set(FM_ERR_FORMAT, "the name \"%s\" is not canonical", name);
    *out_file = (struct fm_fs_manifest_file){size, name};
    *at += FM_FS_MANIFEST_RECORD_BYTES + name_length;
    return FM_OK;
}

fm_status fm_fs_manifest_parse(const void *manifest, size_t length, const char *source,
                               struct fm_fs_manifest_file **out_files, size_t *out_count)
{
    const unsigned char *bytes = manifest;
    FM_TRY(check_frame(bytes, length, source));
    size_t end = length - FM_FS_MANIFEST_CRC_BYTES;
    size_t count = fm_get_le32(bytes + 12);
    // Bounds the table by the size of the file, whatever it claims.
    if (count < 1 || count > (end - FM_FS_MANIFEST_HEADER_BYTES) / FM_FS_MANIFEST_RECORD_BYTES)
        return fm_base_error_set(FM_ERR_FORMAT, "%s says that it lists %zu files; its %zu bytes cannot",
                                 source, count, length);
    struct fm_fs_manifest_file *files = fm_base_mem_zalloc(count, sizeof *files);
    if (!files)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the %zu files of %s", count, source);
    fm_status status = FM_OK;
    size_t at = FM_FS_MANIFEST_HEADER_BYTES;
    for (size_t i = 0; i < count && status == FM_OK; i++) {
        status = parse_record(bytes, end, &at, &files[i]);
        if (status < 0)
            fm_base_error_prefix(status, "%s: file %zu", source, i);
    }
    if (status == FM_OK && at != end)
        status = fm_base_error_set(FM_ERR_FORMAT, "%s: %zu bytes follow the last record", source, end - at);
    if (status < 0) {
        fm_base_mem_free(files);
        return status;
    }
    *out_files = files;
    *out_count = count;
    return FM_OK;
}

// Appends to the manifest and to its checksum.
static void append(fm_fs_writer *writer, uint32_t *crc, const void *bytes, size_t length)
{
    *crc = fm_base_crc32c(*crc, bytes, length);
    fm_fs_writer_write(writer, bytes, length); // the commit tells
}

static fm_status size_of(fm_fs *fs, const char *path, uint64_t *out_size)
{
    fm_fs_file *file;
    fm_fs_info info;
    FM_TRY(fm_fs_file_open(fs, path, FM_FS_READ, &file));
    fm_status status = fm_fs_file_stat(file, &info);
    fm_fs_file_close(file);
    if (status == FM_OK)
        *out_size = info.size;
    return status;
}

static fm_status append_file(fm_fs *fs, const char *dir, const char *name, fm_fs_writer *writer,
                             uint32_t *crc)
{
    unsigned char record[FM_FS_MANIFEST_RECORD_BYTES + FM_FS_PATH_MAX];
    char canonical[FM_FS_PATH_MAX + 1];
    char path[FM_FS_PATH_MAX + 1];
    uint64_t size;
    FM_TRY(fm_fs_path_canonical(name, "name", canonical));
    FM_TRY(fm_fs_path_join(dir, canonical, path));
    FM_TRY(size_of(fs, path, &size));
    size_t length = strlen(canonical);
    fm_put_le64(record, size);
    fm_put_le16(record + 8, (uint16_t)length);
    memcpy(record + 10, canonical, length + 1);
    append(writer, crc, record, FM_FS_MANIFEST_RECORD_BYTES + length);
    return FM_OK;
}

fm_status fm_fs_manifest_write(fm_fs *fs, const char *manifest, const char *const *names, size_t count)
{
    unsigned char header[FM_FS_MANIFEST_HEADER_BYTES] = FM_FS_MANIFEST_MAGIC;
    unsigned char footer[FM_FS_MANIFEST_CRC_BYTES];
    char path[FM_FS_PATH_MAX + 1];
    char dir[FM_FS_PATH_MAX + 1];
    fm_fs_writer *writer;
    uint32_t crc = 0;
    if (count < 1 || count > UINT32_MAX)
        return fm_base_error_set(FM_ERR_ARG, "count is %zu; expected 1 to %u files", count, UINT32_MAX);
    FM_TRY(fm_fs_path_canonical(manifest, "manifest", path));
    FM_TRY(fm_fs_writer_open(fs, manifest, 0, &writer));
    fm_fs_path_parent(path, dir);
    fm_put_le32(header + 8, FM_FS_MANIFEST_VERSION);
    fm_put_le32(header + 12, (uint32_t)count);
    append(writer, &crc, header, sizeof header);
    for (size_t i = 0; i < count; i++) {
        fm_status status = append_file(fs, dir, names[i], writer, &crc);
        if (status < 0) {
            fm_fs_writer_discard(writer);
            return fm_base_error_prefix(status, "file %zu of %s", i, path);
        }
    }
    fm_put_le32(footer, crc);
    fm_fs_writer_write(writer, footer, sizeof footer);
    return fm_fs_writer_commit(writer);
}
