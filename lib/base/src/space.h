/* Memory that is left, found below a given root folder: "" on a real system, a folder of made files in tests. */
#ifndef FM_BASE_SPACE_H
#define FM_BASE_SPACE_H

#include <stdint.h>

#include "fathom/status.h"

FM_MUST_USE fm_status fm_base_space_memory_below(const char *root, uint64_t *out_bytes);

#endif
