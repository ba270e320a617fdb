// What arrives from clients of the names, and from their services: every decoder takes any bytes, and what it accepts encodes
// to the same bytes again.
#include <stdlib.h>

#include "meta_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition)
{
    if (!condition)
        abort();
}

static void request(const uint8_t *data, size_t size)
{
    static uint8_t args[FM_FS_META_WIRE_ARGS];
    uint32_t groups[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request request;
    size_t bytes = 0;
    if (fm_fs_meta_request_decode(data, size, groups, &request) < 0)
        return;

    expect(fm_fs_meta_request_encode(&request, args, &bytes) == FM_OK && bytes == size);
    expect(memcmp(args, data, 38) == 0 && memcmp(args + 40, data + 40, size - 40) == 0);
}

static void page(const uint8_t *data, size_t size)
{
    static fm_fs_meta_entry entries[FM_FS_META_PAGE_MAX];
    static uint8_t bytes[FM_FS_META_WIRE_PAYLOAD];
    size_t count = 0;
    if (fm_fs_meta_page_decode(data, size, entries, FM_FS_META_PAGE_MAX, &count) < 0)
        return;
    expect(fm_fs_meta_page_encode(entries, count, bytes) == size && memcmp(bytes, data, size) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fm_fs_meta_answer answer;
    uint8_t args[FM_FS_META_WIRE_REPLY];
    request(data, size);
    page(data, size);
    if (fm_fs_meta_answer_decode(data, size, &answer) == FM_OK) {
        fm_fs_meta_answer_encode(&answer, args);
        expect(memcmp(args + 8, data + 8, sizeof args - 8) == 0);
    }
    return 0;
}
