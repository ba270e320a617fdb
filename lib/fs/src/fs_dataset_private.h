// A dataset, as its batches and its streams share it.
#ifndef FATHOM_FS_DATASET_PRIVATE_H
#define FATHOM_FS_DATASET_PRIVATE_H

#include "fathom/fs_dataset.h"
#include "fs_backend.h"
#include "fs_manifest.h"

// What is open of a file.
struct fm_fs_dataset_slot {
    fm_fs_file *handle; // NULL: nothing
    uint64_t slice;     // the last slice that reads it
    size_t in_flight;   // reads of a stream
};

struct fm_fs_dataset {
    fm_fs *fs;
    fm_fs_queue *queue;
    void *bytes; // the manifest, which holds the names
    struct fm_fs_manifest_file *files;
    struct fm_fs_dataset_slot *slots; // one a file
    size_t count;
    size_t *open; // a ring of the numbers of the open files, in the order of their opening
    size_t open_first;
    size_t open_count;
    size_t open_max;
    fm_fs_io *ios; // open_max of them
    uint64_t slice;
    char dir[FM_FS_PATH_MAX + 1];
    int streaming; // a stream is open
};

// Whether a part of a file lies in it; `what` and `number` say whose part it is. FM_ERR_ARG.
fm_status fm_fs_dataset_check(const fm_fs_dataset *dataset, const char *what, uint64_t number, size_t file,
                              uint64_t offset, size_t length);
// FM_ERR_STATE: the file has another size than the manifest says.
fm_status fm_fs_dataset_changed(const fm_fs_dataset *dataset, size_t file, uint64_t size);
int fm_fs_dataset_is_full(const fm_fs_dataset *dataset);
struct fm_fs_dataset_slot *fm_fs_dataset_oldest(const fm_fs_dataset *dataset);
// Opens a file; where all places are taken, the one opened first makes room.
fm_status fm_fs_dataset_take(fm_fs_dataset *dataset, size_t file);

#endif
