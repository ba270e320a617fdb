// A chunk store on a disk in memory, driven one operation of the disk at a time.
#ifndef STORE_RIG_H
#define STORE_RIG_H

#include "chunk_store_private.h"
#include "sim_disk.h"

enum { RIG_QUEUE_MAX = 256 };

typedef struct store_rig {
    sim_disk disk;
    fm_fs_disk_io *queue[RIG_QUEUE_MAX];
    uint64_t marks[RIG_QUEUE_MAX];
    size_t queued;
    fm_fs_store *store;
    fm_fs_store_options options;
    int opened;
    fm_status status; // of opening
    // What the next operations of this kind on block files come to; FM_OK: they succeed.
    enum fm_fs_disk_kind failing;
    fm_status failure;
    unsigned long operations;
} store_rig;

void rig_init(store_rig *rig); // an empty disk
void rig_free(store_rig *rig);
int rig_turn(store_rig *rig); // completes the oldest operation; 0: there is none
void rig_settle(store_rig *rig);
fm_status rig_open(store_rig *rig);
void rig_begin_open(store_rig *rig);
void rig_crash(store_rig *rig, enum sim_loss loss, fm_gen *gen); // the store is gone, the disk is cut

fm_fs_chunk_id rig_id(int chunk);
const fm_fs_chunk *rig_chunk(const store_rig *rig, int chunk);
// Applies a change of `size` bytes (i * factor + 1 each), as request `version` of the chunk's channel.
fm_status rig_change(store_rig *rig, enum fm_fs_apply_kind kind, int chunk, uint64_t version, uint32_t offset,
                     uint32_t size, unsigned factor);
void rig_commit(store_rig *rig, int chunk, uint64_t version);
// Reads the copy; FM_OK: it is these bytes.
fm_status rig_compare(store_rig *rig, fm_fs_chunk_copy *copy, const uint8_t *bytes, uint32_t size);
void rig_fill(uint8_t *bytes, uint32_t size, unsigned factor);

#endif
