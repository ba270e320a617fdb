/** @file meta_fixture.h  Names in memory under a virtual clock, for the tests of their parts. */
#ifndef FM_META_FIXTURE_H
#define FM_META_FIXTURE_H

#include "fathom/fs_meta.h"

struct names {
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    uint64_t now;
    uint64_t removed_data[64], removed_reach[64]; // what the collector had removed
    size_t removed;
};

enum { ROOT = FM_FS_META_ROOT };

/** Opens them; `options` may be NULL, its clock is replaced. */
void names_open(struct names *names, const fm_fs_meta_options *options);
/** Checks them and closes them. */
void names_close(struct names *names);
/** Makes something that is not there, by the superuser. */
fm_fs_node names_make(struct names *names, uint64_t dir, const char *name, uint32_t mode);
/** Runs the collector until nothing is due; returns how much was done. */
size_t names_collect(struct names *names);
fm_fs_meta_census names_census(struct names *names);

#endif
