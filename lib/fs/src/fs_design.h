/**
 * @file fs_design.h
 * Block designs by construction: chains over nodes in which each pair of nodes shares as many as any other, or one more.
 */
#ifndef FATHOM_FS_DESIGN_H
#define FATHOM_FS_DESIGN_H

#include <stdint.h>

#include "fathom/status.h"

/**
 * As fm_fs_placement_solve(), whose shapes these are, without an order within chains. `*out_found` 0: no construction was
 * found, and `places` holds nothing of worth. FM_ERR_NOMEM.
 */
FM_MUST_USE fm_status fm_fs_design_find(uint32_t nodes, uint32_t targets, uint32_t replicas, uint32_t *places,
                                        int *out_found);

#endif
