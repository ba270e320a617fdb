// What a client of a cluster was promised, chunk by chunk, to be compared with what the cluster has.
#ifndef FATHOM_CHUNK_LEDGER_H
#define FATHOM_CHUNK_LEDGER_H

#include "fathom/fs_cluster.h"

// PATIENCE guards against hangs alone: a machine may leave each process out for seconds.
enum { LEDGER_CHUNKS = 8, LEDGER_BYTES = 20000, LEDGER_PATIENCE_MS = 60000 };

typedef struct chunk_ledger {
    uint32_t chain;
    uint64_t value; // of the last write
    uint64_t acked[LEDGER_CHUNKS];
    uint64_t asked[LEDGER_CHUNKS];
} chunk_ledger;

void ledger_id(uint8_t *id, int chunk);
void ledger_fill(uint8_t *bytes, uint64_t value); // LEDGER_BYTES
// Writes the next value to a chunk; one that fails may have happened.
fm_status ledger_write(chunk_ledger *ledger, fm_fs_chunks *chunks, int chunk, int64_t timeout_ms);
// Each chunk is what was acknowledged last, or what was asked for since; then settles what was not by writing once more.
void ledger_check(chunk_ledger *ledger, fm_fs_chunks *chunks);
// Until all members of all chains serve, in a state that is newer than `version`.
void ledger_wait_whole(fm_fs_chunks *chunks, uint64_t version);

#endif
