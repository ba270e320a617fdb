/**
 * @file progress.h
 * Progress of long work, shown on standard error: a bar on a terminal, a line now and then elsewhere.
 *
 *     fm_progress progress;
 *     fm_base_progress_begin(&progress, "tokenise", "tokens", total);
 *     while (...)
 *         fm_base_progress_update(&progress, done);
 *     fm_base_progress_finish(&progress, status);         // on every path; FM_OK or what went wrong
 *
 *     tokenise |██████████▌             |  42 %  ETA 1 min 02 s  1.26 M/3.00 M tokens  24.1 k tokens/s
 *     tokenise: done, 3.00 M tokens in 2 min 04 s (24.2 k tokens/s)
 *
 * No thread runs for it: it moves when it is updated, the bar at most ten times a second, a line after 10 s or after
 * a tenth of the work (and at least a second). An update that shows nothing costs one reading of the clock, about 25 ns. A
 * bar needs a terminal whose TERM is not "dumb", follows its width, and has no colour where NO_COLOR is set. Log lines go
 * above it (log.h).
 *
 * What cannot be written is lost; nothing fails. One progress belongs to one thread at a time.
 */
#ifndef FATHOM_PROGRESS_H
#define FATHOM_PROGRESS_H

#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where and how to show it; standard error by itself does the right thing. */
typedef struct fm_progress_output {
    int fd;
    int bar;                           /**< a bar, else lines */
    int colour;                        /**< of the bar */
    int columns;                       /**< 0: ask the terminal each time */
    uint64_t (*clock_ns)(void *clock); /**< NULL: fm_base_clock_ns() */
    void *clock;
} fm_progress_output;

/** The caller's; all of it is private. */
typedef struct fm_progress {
    fm_progress_output output;
    char label[64];
    char unit[32];
    uint64_t total;
    uint64_t done;
    uint64_t begun_ns;
    uint64_t shown_ns;   /**< when it was last shown */
    uint64_t shown_done; /**< what was done then */
    double rate;         /**< per second, of the last seconds; 0 before it is known */
    int label_changed;
} fm_progress;

/**
 * Begins on standard error. `unit` is what is counted: "tokens"; "B" shows bytes with binary prefixes. `total` 0: unknown,
 * and then there is neither bar nor estimate. Label and unit are copied, and cut at 63 and 31 bytes.
 */
FM_API void fm_base_progress_begin(fm_progress *progress, const char *label, const char *unit,
                                   uint64_t total);
/** The same for another place. */
FM_API void fm_base_progress_begin_on(fm_progress *progress, const fm_progress_output *output,
                                      const char *label, const char *unit, uint64_t total);
/** So much is done now. */
FM_API void fm_base_progress_update(fm_progress *progress, uint64_t done);
/** Another stage of the same work: "shuffle 2/4". Shown with the next update. */
FM_API void fm_base_progress_label(fm_progress *progress, const char *label);
/** Ends it: the bar gives way to one line that says what was done in which time, or how it failed. */
FM_API void fm_base_progress_finish(fm_progress *progress, fm_status status);

#ifdef __cplusplus
}
#endif
#endif
