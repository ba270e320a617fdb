/**
 * @file pond_plan.h
 * A plan's nodes, as they were added.
 */
#ifndef POND_PLAN_H
#define POND_PLAN_H

#include "fathom/mem.h"
#include "fathom/pond.h"

enum {
    FM_POND_INPUTS_MAX = 8,
    FM_POND_PARTITIONS_MAX = 65536,
    FM_POND_NODES_MAX =
        4096, // a chain of so many views is more than DuckDB nests, and what recursion here may go down
};

typedef struct fm_pond_node {
    fm_pond_op op; /**< with copies of all it points to */
    int inputs[FM_POND_INPUTS_MAX];
} fm_pond_node;

struct fm_pond_plan {
    fm_pond_node *nodes;
    size_t count, capacity;
    fm_arena texts;
    /* Of a job file; NULL and 0 where it does not say. */
    const char *name, *work;
    int64_t executors, threads, memory_bytes;
};

/** "sort", "group_by", ...: what the job file calls it. */
const char *fm_pond_kind_name(fm_pond_kind kind);

#endif
