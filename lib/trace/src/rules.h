/* Rules: which work is what. */
#ifndef FM_TRACE_RULES_H
#define FM_TRACE_RULES_H

#include "fathom/trace_report.h"

struct fm_trace_rule_group {
    const char *name;
    fm_trace_work_kind kind;
    int is_pair, is_collective;
};

const struct fm_trace_rule_group *fm_trace_rules_groups(const fm_trace_rules *rules, size_t *out_count);
/* The group of work with this name and category. Always finds one: the last group takes the rest. */
uint16_t fm_trace_rules_group_of(const fm_trace_rules *rules, const char *name, const char *category);
int fm_trace_rules_is_phase(const fm_trace_rules *rules, const char *category);
int fm_trace_rules_is_step(const fm_trace_rules *rules, const char *name);
/* 0 F, 1 B, 2 W, -1 none. */
int fm_trace_rules_direction(const fm_trace_rules *rules, const char *name);
/* Whether the rules name this stream as communication. */
int fm_trace_rules_has_stream(const fm_trace_rules *rules, int64_t stream);

#endif
