/* What `fathom eplb` reads: loads and plans. */
#ifndef FM_EPLB_FILES_H
#define FM_EPLB_FILES_H

#include <stdint.h>

#include "fathom/eplb.h"

/** Loads of all layers; zero-initialise, free with fm_app_eplb_loads_free(). */
struct fm_eplb_loads {
    int layers, experts;
    float *weight; // [layers][experts]
};

/**
 * Reads loads, by content: .npy (two dimensions, or one for a single layer), JSON (`{"weight": [[...]]}` or
 * `[[...]]`), or CSV, a line for each layer; "-" is standard input. Errors name the file and, in text, the
 * line. FM_ERR_FORMAT, and as fm_base_file_read() fails.
 */
FM_MUST_USE fm_status fm_app_eplb_loads_read(const char *path, struct fm_eplb_loads *out_loads);
void fm_app_eplb_loads_free(struct fm_eplb_loads *loads);

/** A plan as `fathom eplb plan --json` prints it; zero-initialise, free with fm_app_eplb_plan_free(). */
struct fm_eplb_plan_file {
    int layers, experts, gpus, slots;
    int names_experts;   // the file says how many experts there are
    int32_t *phy2log;    // [layers][slots]
    int32_t *slot_begin; // [gpus + 1]
    int32_t *gpu_slots;  // [gpus]
    double *gpu_speeds;  // [gpus], or NULL where all are alike
};

/** Reads a plan: `phy2log`, `gpus` and, where GPUs differ, `gpu_slots` and `gpu_speeds`; `experts` when it is
 *  there, else the largest expert decides. Errors name file and line. */
FM_MUST_USE fm_status fm_app_eplb_plan_read(const char *path, struct fm_eplb_plan_file *out_plan);
/** FM_ERR_ARG: the plan is not one for these loads on that many GPUs. */
FM_MUST_USE fm_status fm_app_eplb_plan_check(const struct fm_eplb_plan_file *plan, const char *path,
                                             const struct fm_eplb_loads *loads, int gpus);
void fm_app_eplb_plan_free(struct fm_eplb_plan_file *plan);

#endif
