/**
 * @file meta_model.h
 * What the names must do, written as plainly as possible: nodes in an array, entries in a list. The store's transactions,
 * keys and records have no counterpart here.
 */
#ifndef FM_META_MODEL_H
#define FM_META_MODEL_H

#include "fathom/fs_meta.h"

enum { MODEL_NODES = 512, MODEL_ENTRIES = 512, MODEL_CONTENT = 64 };

struct model_node {
    uint64_t ino; // that the names gave it; 0: free
    uint32_t mode, uid, gid, nlink;
    size_t size;
    uint8_t content[MODEL_CONTENT];
};
struct model_entry {
    int dir, node; // places in nodes; node -1: free
    char name[8];
};
struct model {
    struct model_node nodes[MODEL_NODES]; // 0 is the root
    struct model_entry entries[MODEL_ENTRIES];
};

void model_init(struct model *model);
/** The entry's place, or -1. */
int model_find(const struct model *model, int dir, const char *name);
/** The node of `dir` and below: a directory chosen by `choice`. */
int model_any_dir(const struct model *model, uint64_t choice);
int model_any_node(const struct model *model, uint64_t choice);

fm_status model_create(struct model *model, const fm_fs_who *who, int dir, const char *name, uint32_t mode,
                       int exclusive, int *out_node);
fm_status model_link(struct model *model, const fm_fs_who *who, int node, int dir, const char *name);
fm_status model_remove(struct model *model, const fm_fs_who *who, int dir, const char *name, int want_dir);
fm_status model_remove_all(struct model *model, const fm_fs_who *who, int dir, const char *name);
fm_status model_rename(struct model *model, const fm_fs_who *who, int dir, const char *name, int to_dir,
                       const char *to_name, unsigned flags);
fm_status model_chmod(struct model *model, const fm_fs_who *who, int node, uint32_t mode);
fm_status model_chown(struct model *model, const fm_fs_who *who, int node, uint32_t uid, uint32_t gid);

#endif
