/**
 * @file sim_disk.h
 * A disk in memory that fails as disks do. A write that was completed is seen by reads, and is lost, kept or torn
 * at a sector when the power goes, each by itself, until a sync that began after it has completed; unless it was asked to
 * be durable by itself.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "chunk_store.h"
#include "fm_gen.h"

enum { SIM_SECTOR = 64 }; // disks keep 512 bytes whole; with less, short batches of a journal tear too

typedef struct sim_page {
    uint8_t bytes[FM_FS_PAGE];
} sim_page;

typedef struct sim_write { // completed, not durable
    struct sim_write *next;
    uint64_t serial;
    uint64_t page; // of the file
    sim_page data;
} sim_write;

typedef struct sim_file {
    sim_page **now;     // what reads see; NULL: zeros
    sim_page **durable; // NULL: zeros
    size_t pages;
    size_t end; // pages written so far
    sim_write *first;
    sim_write **last;
} sim_file;

typedef struct sim_disk {
    fm_fs_disk base;
    sim_file files[FM_FS_STORE_FILES];
    uint64_t serial; // of the last completed write
    // Told of each submitted operation; completes it later by sim_disk_complete().
    void (*submitted)(void *context, fm_fs_disk_io *io);
    void *context;
} sim_disk;

void sim_disk_init(sim_disk *disk, uint64_t capacity_bytes);
void sim_disk_free(sim_disk *disk);
void sim_disk_clear(sim_disk *disk); // a new one in its place
void sim_disk_copy(sim_disk *to, const sim_disk *from);
// What a sync that is submitted now will cover; keep it with the operation.
uint64_t sim_disk_mark(const sim_disk *disk);
// Does what the operation says (unless `status` is a failure) and tells its owner. `mark` matters to a sync.
void sim_disk_complete(sim_disk *disk, fm_fs_disk_io *io, uint64_t mark, fm_status status);
// Does a write of which only some sectors may arrive: one that was on its way when its machine stopped.
void sim_disk_tear(sim_disk *disk, const fm_fs_disk_io *io, fm_gen *gen);
enum sim_loss { SIM_LOSE_ALL, SIM_KEEP_ALL, SIM_LOSE_SOME };
void sim_disk_power_cut(sim_disk *disk, enum sim_loss loss, fm_gen *gen);
// Flips one bit of the byte at `at` of the file. 0: it was never written and synced.
int sim_disk_rot(sim_disk *disk, unsigned number, uint64_t at);

#endif
