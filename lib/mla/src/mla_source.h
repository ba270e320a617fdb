/**
 * @file mla_source.h
 * Keys out of a paged cache: those that a row of a block table leads to, or those that lists name.
 */
#ifndef MLA_SOURCE_H
#define MLA_SOURCE_H

#include "mla_private.h"

struct fm_mla_table_source {
    struct fm_mla_source source; // first, so that next() finds the rest
    const struct fm_mla_pages *pages;
    const int32_t *table;
    int head;
    int64_t end;
};

/** Two lists of slots, one behind the other; what is no slot of its cache is skipped. */
struct fm_mla_list_source {
    struct fm_mla_source source;
    const struct fm_mla_pages *pages[2];
    const int32_t *lists[2];
    int64_t first_extra, end; // places of the second list begin, and end, here
};

int fm_mla_table_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                      struct fm_mla_space *space);
int fm_mla_list_next(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                     struct fm_mla_space *space);
int fm_mla_table_next_bf16(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                           struct fm_mla_space *space, int most, int ahead);
int fm_mla_list_next_bf16(struct fm_mla_source *source, const struct fm_mla_kernels *kernels,
                          struct fm_mla_space *space, int most, int ahead);

#endif
