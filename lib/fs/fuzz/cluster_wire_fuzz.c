// What arrives from other nodes: every decoder takes any bytes, and what it accepts encodes to the same bytes again.
#include <stdlib.h>

#include "cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition)
{
    if (!condition)
        abort();
}

static void message(const uint8_t *data, size_t size)
{
    fm_fs_message message;
    fm_fs_message again;
    uint8_t bytes[FM_FS_MESSAGE_BYTES];
    if (fm_fs_message_decode(data, size, &message) < 0)
        return;
    fm_fs_message_encode(bytes, &message);
    expect(fm_fs_message_decode(bytes, sizeof bytes, &again) == FM_OK);
    expect(again.version == message.version && again.tag.sequence == message.tag.sequence);
}

static void routing(const uint8_t *data, size_t size)
{
    fm_fs_routing routing;
    if (fm_fs_routing_decode(data, size, &routing) < 0)
        return;
    fm_fs_buffer *bytes = fm_fs_routing_encode(&routing);
    for (uint32_t i = 0; i < routing.chain_count; i++) {
        fm_fs_chain next;
        uint8_t local[FM_FS_REPLICAS_MAX] = {0};
        fm_fs_chain_next(&routing.chains[i], local, &next);
        expect(next.count == routing.chains[i].count);
    }
    expect(!bytes || bytes->size <= size); // addresses may hold bytes behind a 0
    fm_fs_buffer_drop(bytes);
    fm_fs_routing_clear(&routing);
}

static void reports(const uint8_t *data, size_t size)
{
    fm_fs_node_report *reports;
    uint32_t count;
    if (fm_fs_reports_decode(data, size, &reports, &count) < 0)
        return;
    fm_fs_buffer *bytes = fm_fs_reports_encode(reports, count);
    expect(!bytes || bytes->size <= size); // addresses may hold bytes behind a 0
    fm_fs_buffer_drop(bytes);
    fm_base_mem_free(reports);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fm_fs_heartbeat heartbeat;
    static uint8_t beat[FM_FS_HEARTBEAT_BYTES_MAX];
    uint8_t bytes[FM_FS_CHANGE_BYTES_MAX];
    fm_fs_change change;
    message(data, size);
    routing(data, size);
    reports(data, size);
    if (fm_fs_heartbeat_decode(data, size, &heartbeat) == FM_OK)
        expect(fm_fs_heartbeat_encode(beat, &heartbeat) <= size);
    if (fm_fs_change_decode(data, size, &change) == FM_OK)
        expect(fm_fs_change_encode(bytes, &change) == size);
    return 0;
}
