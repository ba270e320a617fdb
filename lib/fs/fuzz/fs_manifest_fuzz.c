// The manifest reader: whatever is accepted can be used without a further check.
#include <stdlib.h>
#include <string.h>

#include "fathom/crc.h"
#include "fathom/mem.h"
#include "fs_backend.h"
#include "fs_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const void *bytes, size_t size)
{
    struct fm_fs_manifest_file *files;
    size_t count;
    if (fm_fs_manifest_parse(bytes, size, "input", &files, &count) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        char canonical[FM_FS_PATH_MAX + 1];
        if (files[i].size > INT64_MAX || fm_fs_path_canonical(files[i].name, "name", canonical) < 0 ||
            strcmp(canonical, files[i].name) != 0)
            abort();
    }
    fm_base_mem_free(files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    // And with a checksum that holds, which mutation alone would hardly ever find.
    if (size < FM_FS_MANIFEST_CRC_BYTES)
        return 0;
    uint8_t *sound = fm_base_mem_alloc(size);
    if (!sound)
        return 0;
    memcpy(sound, data, size);
    size_t end = size - FM_FS_MANIFEST_CRC_BYTES;
    fm_put_le32(sound + end, fm_base_crc32c(0, sound, end));
    parse(sound, size);
    fm_base_mem_free(sound);
    return 0;
}
