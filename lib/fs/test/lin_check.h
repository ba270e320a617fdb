/**
 * @file lin_check.h
 * Whether a history of one register is linearizable: whether each operation can be given a moment between its
 * beginning and its end so that every read returns what was written last (Herlihy and Wing, 1990).
 */
#ifndef LIN_CHECK_H
#define LIN_CHECK_H

#include <stddef.h>
#include <stdint.h>

// A write happens always, or only if, or unless, the register holds `than`; else it changes nothing.
enum lin_when { LIN_ALWAYS, LIN_IF, LIN_UNLESS };

typedef struct lin_op {
    int writes;     // or reads
    uint64_t value; // 0 at first. Two writes may write the same value.
    int64_t begin;
    int64_t end; // INT64_MAX: never known; a write that happened at any later time, or never
    enum lin_when when;
    uint64_t than;
} lin_op;

enum lin_result { LIN_NO, LIN_YES, LIN_TOO_HARD };

// Reorders `ops`. Reads without an end may be left out by the caller; they say nothing.
enum lin_result lin_check(lin_op *ops, size_t count);

#endif
