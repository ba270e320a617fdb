/* The loss curve of a training run, drawn as SVG. */
#ifndef FM_TRAIN_CHART_H
#define FM_TRAIN_CHART_H

#include <stdint.h>

#include "fathom/status.h"

/** Writes loss.svg to a folder: every step's loss, their running mean, and the held-out loss as a line. It takes its colours
 * from the page that embeds it, light or dark. */
FM_MUST_USE fm_status fm_app_train_chart(const char *folder, const float *losses, int64_t count,
                                         double held_out);

#endif
