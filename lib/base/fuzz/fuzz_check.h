/* For fuzz targets: a property that does not hold ends the program, with or without NDEBUG. */
#ifndef FUZZ_CHECK_H
#define FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "fathom/status.h"

#define FUZZ_CHECK(condition)                                                                 \
    do {                                                                                      \
        if (!(condition)) {                                                                   \
            fprintf(stderr, "%s:%d: %s does not hold (%s)\n", __FILE__, __LINE__, #condition, \
                    fm_error_message());                                                      \
            abort();                                                                          \
        }                                                                                     \
    } while (0)

#endif
