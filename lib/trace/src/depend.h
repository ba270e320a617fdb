/* What each piece of work waited for: inferred from when it began. */
#ifndef FM_TRACE_DEPEND_H
#define FM_TRACE_DEPEND_H

#include "fathom/mem.h"
#include "fathom/trace_report.h"

enum fm_trace_cause {
    FM_TRACE_CAUSE_NONE,   /* the first work of its unit */
    FM_TRACE_CAUSE_STREAM, /* the work before it on its stream */
    FM_TRACE_CAUSE_OTHER,  /* work on another stream */
    FM_TRACE_CAUSE_LAUNCH  /* the call that launched it */
};

struct fm_trace_dependency {
    uint32_t previous; /* work before it on its stream, or FM_TRACE_NONE */
    uint32_t latest;   /* work of its unit that ended last before it began, or FM_TRACE_NONE */
    uint32_t cause;    /* fm_trace_cause; of OTHER the work is `other` */
    uint32_t other;
};

/* One for each work of the report, in `arena`. */
FM_MUST_USE fm_status fm_trace_dependencies(const fm_trace_report *report, fm_arena *arena,
                                            struct fm_trace_dependency **out_dependencies);

#endif
