/** @file meta_follow.h  Names that must do what the model does, call by call, however they are asked. */
#ifndef FM_META_FOLLOW_H
#define FM_META_FOLLOW_H

#include "fathom/fs_meta.h"
#include "fm_gen.h"

/**
 * Random calls on `asked`, each compared with the model's; from time to time all of the tree. `store` collects: the same
 * names where their store is. The root must be anybody's (mode 0777). `disturb` (or NULL) runs before each call.
 */
void follow_model(fm_gen *gen, fm_fs_meta *asked, fm_fs_meta *store, void (*disturb)(fm_gen *gen));

/** The check finds nothing. */
fm_fs_meta_census assert_sound(fm_fs_meta *meta);
/** Collects until nothing is due; there are no chunks to be removed. */
void collect_all(fm_fs_meta *meta);
fm_status keep_nothing(void *context, const fm_fs_node *node, uint64_t from);

#endif
