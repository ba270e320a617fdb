/* The calls: they check, list the segments, and run them. */
#include "gemm_private.h"

#include "fathom/mem.h"

// What all calls check. D is [m, n], A [m, k].
static fm_status check(const fm_gemm_context *context, int64_t m, const fm_gemm_operand *a,
                       const fm_gemm_weights *b, const fm_gemm_result *d)
{
    if (!context)
        return fm_base_error_set(FM_ERR_ARG, "context is null; expected an open one");
    if (!b)
        return fm_base_error_set(FM_ERR_ARG, "b is null; expected weights");
    FM_TRY(fm_gemm_args_extent("m", m));
    FM_TRY(fm_gemm_args_operand("a", m, b->k, a));
    FM_TRY(fm_gemm_args_pair(a, &b->operand));
    return fm_gemm_args_result(m, b->n, d);
}

fm_status fm_gemm_dense(fm_gemm_context *context, int64_t m, const fm_gemm_operand *a,
                        const fm_gemm_weights *b, const fm_gemm_result *d)
{
    FM_TRY(check(context, m, a, b, d));
    struct fm_gemm_segment segment = {.a = a, .b = b, .d = d, .count = m};
    fm_gemm_run(context, &segment, 1);
    return FM_OK;
}

static fm_status check_groups(const fm_gemm_context *context, int groups, const void *list, const char *name,
                              int64_t m, const fm_gemm_operand *a, const fm_gemm_weights *b,
                              const fm_gemm_result *d)
{
    if (groups < 1)
        return fm_base_error_set(FM_ERR_ARG, "groups is %d; expected at least 1", groups);
    if (!list)
        return fm_base_error_set(FM_ERR_ARG, "%s is null; expected which rows belong to which group", name);
    FM_TRY(check(context, m, a, b, d));
    for (int g = 1; g < groups; g++) {
        if (b[g].n != b->n || b[g].k != b->k)
            return fm_base_error_set(FM_ERR_ARG,
                                     "b[%d] has n %lld and k %lld; expected %lld and %lld, as b[0]", g,
                                     (long long)b[g].n, (long long)b[g].k, (long long)b->n, (long long)b->k);
        if (b[g].operand.dtype != b->operand.dtype)
            return fm_base_error_set(FM_ERR_ARG, "b[%d] is %s; expected %s, as b[0]", g,
                                     fm_base_dtype_name(b[g].operand.dtype),
                                     fm_base_dtype_name(b->operand.dtype));
    }
    return FM_OK;
}

static fm_status allocate_segments(int groups, const fm_gemm_operand *a, const fm_gemm_weights *b,
                                   const fm_gemm_result *d, struct fm_gemm_segment **out_segments)
{
    struct fm_gemm_segment *segments = fm_base_mem_zalloc((size_t)groups, sizeof *segments);
    if (!segments)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %d groups", groups);
    for (int g = 0; g < groups; g++)
        segments[g] = (struct fm_gemm_segment){.a = a, .b = &b[g], .d = d};
    *out_segments = segments;
    return FM_OK;
}

fm_status fm_gemm_grouped(fm_gemm_context *context, int groups, const int64_t *offsets, int64_t m,
                          const fm_gemm_operand *a, const fm_gemm_weights *b, const fm_gemm_result *d)
{
    struct fm_gemm_segment *segments;
    FM_TRY(check_groups(context, groups, offsets, "offsets", m, a, b, d));
    FM_TRY(fm_gemm_args_offsets(groups, offsets, m));
    FM_TRY(allocate_segments(groups, a, b, d, &segments));
    for (int g = 0; g < groups; g++) {
        segments[g].first = offsets[g];
        segments[g].count = offsets[g + 1] - offsets[g];
    }
    fm_gemm_run(context, segments, groups);
    fm_base_mem_free(segments);
    return FM_OK;
}

// Counts each group's rows, then lists them, in the order of their numbers: a counting sort.
static void sort_rows(int groups, const int32_t *ids, int64_t m, struct fm_gemm_segment *segments,
                      int64_t *rows)
{
    for (int64_t row = 0; row < m; row++)
        if (ids[row] >= 0)
            segments[ids[row]].count++;
    int64_t at = 0;
    for (int g = 0; g < groups; g++) {
        segments[g].rows = rows + at;
        segments[g].first = at; // where the group's next row goes; with a list it means nothing else
        at += segments[g].count;
    }
    for (int64_t row = 0; row < m; row++)
        if (ids[row] >= 0)
            rows[segments[ids[row]].first++] = row;
}

fm_status fm_gemm_grouped_by_id(fm_gemm_context *context, int groups, const int32_t *ids, int64_t m,
                                const fm_gemm_operand *a, const fm_gemm_weights *b, const fm_gemm_result *d)
{
    struct fm_gemm_segment *segments;
    FM_TRY(check_groups(context, groups, ids, "ids", m, a, b, d));
    for (int64_t row = 0; row < m; row++)
        if (ids[row] < -1 || ids[row] >= groups)
            return fm_base_error_set(FM_ERR_ARG,
                                     "ids[%lld] is %d; expected a group from 0 to %d, or -1 for none",
                                     (long long)row, ids[row], groups - 1);
    FM_TRY(allocate_segments(groups, a, b, d, &segments));
    int64_t *rows = fm_base_mem_alloc((size_t)(m ? m : 1) * sizeof *rows);
    if (!rows) {
        fm_base_mem_free(segments);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a list of %lld rows", (long long)m);
    }
    sort_rows(groups, ids, m, segments, rows);
    fm_gemm_run(context, segments, groups);
    fm_base_mem_free(rows);
    fm_base_mem_free(segments);
    return FM_OK;
}

fm_status fm_gemm_grouped_masked(fm_gemm_context *context, int groups, const int32_t *masked_m, int64_t m_max,
                                 const fm_gemm_operand *a, const fm_gemm_weights *b, const fm_gemm_result *d)
{
    struct fm_gemm_segment *segments;
    FM_TRY(fm_gemm_args_extent("m_max", m_max));
    FM_TRY(check_groups(context, groups, masked_m, "masked_m", m_max * groups, a, b, d));
    for (int g = 0; g < groups; g++)
        if (masked_m[g] < 0 || masked_m[g] > m_max)
            return fm_base_error_set(FM_ERR_ARG, "masked_m[%d] is %d; expected 0 to %lld (m_max)", g,
                                     masked_m[g], (long long)m_max);
    FM_TRY(allocate_segments(groups, a, b, d, &segments));
    for (int g = 0; g < groups; g++) {
        segments[g].first = g * m_max;
        segments[g].count = masked_m[g];
    }
    fm_gemm_run(context, segments, groups);
    fm_base_mem_free(segments);
    return FM_OK;
}
