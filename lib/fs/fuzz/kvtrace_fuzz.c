// The reader of traces: whatever is accepted can be used without a further check.
#include <stdint.h>
#include <stdlib.h>

#include "fathom/fs_kvtrace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_fs_kvtrace trace;
    uint64_t hits;
    size_t blocks = 0;
    if (fm_fs_kvtrace_parse((const char *)data, size, "input", &trace) < 0)
        return 0;
    for (size_t i = 0; i < trace.count; i++) {
        if (trace.requests[i].first != blocks ||
            (i && trace.requests[i].time_us < trace.requests[i - 1].time_us))
            abort();
        blocks += trace.requests[i].count;
    }
    for (size_t i = 0; i < blocks; i++)
        if (trace.blocks[i] >= trace.distinct)
            abort();
    if (blocks != trace.block_count || fm_fs_kvtrace_hits(&trace, 2, &hits) < 0 || hits > blocks)
        abort();
    fm_fs_kvtrace_free(&trace);
    return 0;
}
