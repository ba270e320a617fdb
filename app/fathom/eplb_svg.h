/* The drawing of `fathom eplb show`. */
#ifndef FM_EPLB_SVG_H
#define FM_EPLB_SVG_H

#include "fathom/status.h"

/** Loads under two placements. */
struct fm_eplb_view {
    int layers, gpus;
    int layer; // the one whose GPUs are shown
    const char *before_name, *after_name;
    const double *before; // [layers][gpus]
    const double *after;  // [layers][gpus]
    const double *mean;   // [layers] over GPUs
};

/** Writes a self-contained SVG that follows the reader's light or dark preference. */
FM_MUST_USE fm_status fm_app_eplb_svg_write(const char *path, const struct fm_eplb_view *view);

/** The largest of `count` loads over the mean; 1 when all are 0. */
double fm_app_eplb_ratio(const double *load, int count, double mean);

#endif
