/* What makes traces of requests: they grow request by request. */
#ifndef FATHOM_KVTRACE_H
#define FATHOM_KVTRACE_H

#include "fathom/fs_kvtrace.h"
#include "fathom/mem.h"

struct fm_fs_kvtrace_builder {
    fm_fs_kvtrace trace;
    size_t request_capacity, block_capacity;
};

// Adds a request without blocks. FM_ERR_NOMEM.
fm_status fm_fs_kvtrace_add_request(struct fm_fs_kvtrace_builder *builder,
                                    const fm_fs_kvtrace_request *request);
// Adds a block to the last request. FM_ERR_NOMEM.
fm_status fm_fs_kvtrace_add_block(struct fm_fs_kvtrace_builder *builder, uint32_t block);

#endif
