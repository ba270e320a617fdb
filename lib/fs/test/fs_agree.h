/** @file fs_agree.h  A file system and its model, which must agree call by call and byte by byte. */
#ifndef FM_FS_AGREE_H
#define FM_FS_AGREE_H

#include "fathom/fs.h"
#include "fm_gen.h"

/*
 * A file system against the model: the same calls on both, and the same results, byte for byte, at every
 * step.
 */
struct pair {
    fm_gen *gen;
    fm_fs *real;
    fm_fs *model;
};

/** One random operation on both, and a look at what it may have changed. */
void fm_fs_agree_step(struct pair *pair);

#endif
