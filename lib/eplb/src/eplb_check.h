/**
 * @file eplb_check.h
 * What may be asked of the planner.
 */
#ifndef FATHOM_EPLB_CHECK_H
#define FATHOM_EPLB_CHECK_H

#include "fathom/eplb.h"

enum {
    // Copies of an expert on a GPU are counted in 16 bits.
    FM_EPLB_COUNT_MAX = 65535,
};

/** GPUs times experts: the search keeps two bytes for each pair, so this is 256 MiB. */
#define FM_EPLB_PAIRS_MAX ((int64_t)1 << 27)

/** Speeds are relative, so no unit needs more; sums and quotients of such speeds and of float loads stay finite. */
#define FM_EPLB_SPEED_MIN 1e-6
#define FM_EPLB_SPEED_MAX 1e6

/** The counts of a shape. */
fm_status fm_eplb_check_shape(const fm_eplb_shape *shape);
/** Loads finite and not negative. `what` names them in messages. */
fm_status fm_eplb_check_loads(int layers, int experts, const float *loads, const char *what);
/** A placement of the shape's layers, experts and GPUs. */
fm_status fm_eplb_check_placement(const fm_eplb_shape *shape, const fm_eplb_placement *placement);
/** [gpus] speeds, or NULL. */
fm_status fm_eplb_check_speeds(int gpus, const double *speed);
/** Shape, options and their slots together; *out_slots is the number of slots of a layer. */
fm_status fm_eplb_check_request(const fm_eplb_shape *shape, const fm_eplb_options *options, int *out_slots);

#endif
