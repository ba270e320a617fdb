#include "fathom/gemm_indexer.h"

#include "gemm_candidates.h"
#include "gemm_private.h"

#include <math.h>
#include <string.h>

enum { KEYS = FM_GEMM_COLUMNS }; // of a block: what the accumulators have columns for

// All of a call. Queries are taken `together` at a time: so many that all heads' rows fill a workspace.
struct indexing {
    fm_gemm_context *context;
    const fm_gemm_index_queries *queries;
    const fm_gemm_index_keys *keys;
    int64_t together;
    // Logits.
    float *out;
    int64_t stride;
    int clean;
    // The best.
    int64_t topk, room, parts; // parts: of the keys of each query, computed apart
    uint64_t *lists;           // of each thread: `together` lists of `room`
    uint64_t *best;            // [query][part][topk], 0 after the last
};

// Some consecutive queries: of one request where keys are paged.
struct group {
    int64_t first, count;
};

static int64_t per_request(const struct indexing *job)
{
    return job->keys->block_table ? job->keys->queries_per_request
                                  : fm_gemm_min(job->queries->count, INT32_MAX);
}

// How many groups each request has.
static int64_t groups_each(const struct indexing *job)
{
    return fm_gemm_ceil_div(per_request(job), job->together);
}

static struct group group_at(const struct indexing *job, int64_t number)
{
    int64_t each = groups_each(job), request = number / each;
    int64_t first = request * per_request(job) + number % each * job->together;
    int64_t end = fm_gemm_min((request + 1) * per_request(job), job->queries->count);
    return (struct group){first, fm_gemm_min(end - first, job->together)};
}

static int64_t first_of(const struct indexing *job, int64_t query)
{
    return job->queries->first ? job->queries->first[query] : 0;
}

static int64_t end_of(const struct indexing *job, int64_t query)
{
    int64_t first = first_of(job, query), end = job->queries->end[query];
    return end > first ? end : first;
}

static int element_bits(const struct indexing *job)
{
    return fm_base_dtype_bits(job->queries->dtype);
}

// Where the strip of keys from `key` (a multiple of 32) on lies; *out_scales is NULL for ones.
static fm_gemm_weights strip_at(const struct indexing *job, int64_t query, int64_t key, int64_t count,
                                const float **out_scales)
{
    const fm_gemm_index_keys *keys = job->keys;
    int64_t d = job->queries->d;
    fm_gemm_weights view = {
        .operand = {.dtype = job->queries->dtype, .stride = keys->stride}, .n = count, .k = d};
    if (!keys->block_table) {
        view.operand.data = (const uint8_t *)keys->data + key * keys->stride * element_bits(job) / 8;
        *out_scales = keys->scales ? keys->scales + key : NULL;
        return view;
    }
    const int32_t *table = keys->block_table + query / keys->queries_per_request * keys->table_stride;
    const uint8_t *block = (const uint8_t *)keys->data + table[key / keys->block_size] * keys->block_bytes;
    int64_t within = key % keys->block_size;
    view.operand.data = block + within * d;
    view.operand.stride = d;
    *out_scales = (const float *)(const void *)(block + keys->block_size * d) + within;
    return view;
}

// q . k of all heads of the group's queries, row after row, with `count` keys from `key` (a multiple of 32) on: into the
// accumulators; the keys' scales into `scales`.
static void multiply(const struct indexing *job, const struct group *group, int64_t key, int64_t count,
                     struct fm_gemm_space *space, float *scales)
{
    const fm_gemm_index_queries *queries = job->queries;
    const struct fm_gemm_kernels *kernels = &job->context->kernels;
    int rows = (int)(group->count * queries->heads);
    for (int i = 0; i < rows; i++)
        memset(space->acc + (size_t)i * FM_GEMM_ACC_STRIDE, 0, KEYS * sizeof *space->acc);
    int64_t chunk = fm_gemm_min(FM_GEMM_A_FLOATS / rows - FM_GEMM_A_PAD,
                                fm_gemm_ceil_div(queries->d, FM_GEMM_BLOCK) * FM_GEMM_BLOCK) /
                    FM_GEMM_BLOCK * FM_GEMM_BLOCK;
    size_t a_stride = (size_t)chunk + FM_GEMM_A_PAD;
    for (int64_t k_from = 0; k_from < queries->d; k_from += chunk) {
        int64_t length = fm_gemm_min(queries->d - k_from, chunk);
        for (int64_t i = 0; i < group->count; i++) {
            fm_gemm_operand heads = {.dtype = queries->dtype, .stride = queries->d};
            heads.data =
                (const uint8_t *)queries->data + (group->first + i) * queries->stride * element_bits(job) / 8;
            struct fm_gemm_piece piece = {
                .kernels = kernels, .a = &heads, .count = queries->heads, .space = space};
            fm_gemm_source_a(&piece, 0, k_from, length, space->a + (size_t)(i * queries->heads) * a_stride,
                             a_stride);
        }
        for (int64_t at = 0; at < count; at += FM_GEMM_STRIP) {
            const float *strip_scales;
            int64_t columns = fm_gemm_min(count - at, FM_GEMM_STRIP);
            fm_gemm_weights view = strip_at(job, group->first, key + at, columns, &strip_scales);
            struct fm_gemm_piece piece = {.kernels = kernels, .b = &view, .space = space};
            for (int64_t i = 0; i < columns; i++)
                scales[at + i] = strip_scales ? strip_scales[i] : 1;
            for (int64_t block = 0; block < length; block += FM_GEMM_BLOCK) {
                int64_t part = fm_gemm_min(length - block, FM_GEMM_BLOCK);
                fm_gemm_source_b(&piece, 0, k_from + block, part, space->b);
                kernels->multiply(&(struct fm_gemm_block){.a = space->a + block,
                                                          .a_stride = a_stride,
                                                          .b = space->b,
                                                          .rows = rows,
                                                          .steps = (int)fm_gemm_ceil_div(part, FM_GEMM_STEP),
                                                          .acc = space->acc + at,
                                                          .acc_stride = FM_GEMM_ACC_STRIDE});
            }
        }
    }
}

// The scores of one of the group's queries, into the first row of its accumulators.
static const float *reduce(const struct indexing *job, int64_t query, int64_t row, int64_t count,
                           struct fm_gemm_space *space, const float *scales)
{
    const fm_gemm_index_queries *queries = job->queries;
    float *acc = space->acc + (size_t)(row * queries->heads) * FM_GEMM_ACC_STRIDE;
    const float *weights = queries->weights + query * queries->weight_stride;
    float *sum = space->lines;
    memset(sum, 0, (size_t)count * sizeof *sum);
    for (int head = 0; head < queries->heads; head++)
        job->context->kernels.add_relu(acc + (size_t)head * FM_GEMM_ACC_STRIDE, weights[head], count, sum);
    job->context->kernels.multiply_lines(scales, count, sum);
    return sum;
}

static void put_logits(const struct indexing *job, int64_t query, int64_t key, int64_t count,
                       const float *scores)
{
    int64_t first = first_of(job, query), end = end_of(job, query);
    float *out = job->out + query * job->stride;
    for (int64_t j = key; j < key + count; j++)
        if (j >= first && j < end)
            out[j] = scores[j - key];
}

static void add_candidates(const struct indexing *job, int64_t query, int64_t key, int64_t count,
                           const float *scores, struct fm_gemm_candidates *candidates)
{
    int64_t first = first_of(job, query), end = end_of(job, query);
    int64_t from = first > key ? first : key, to = fm_gemm_min(end, key + count);
    for (int64_t j = from; j < to; j++)
        if (scores[j - key] > -INFINITY) // nor a NaN
            fm_gemm_candidates_add(candidates, (size_t)job->topk,
                                   fm_gemm_candidate(scores[j - key], (int32_t)j));
}

// Which keys some query of the group sees, from a multiple of 32 on.
static void range_of(const struct indexing *job, const struct group *group, int64_t *out_first,
                     int64_t *out_end)
{
    int64_t first = INT64_MAX, end = 0;
    for (int64_t query = group->first; query < group->first + group->count; query++) {
        if (first_of(job, query) >= end_of(job, query))
            continue;
        first = fm_gemm_min(first, first_of(job, query));
        end = end_of(job, query) > end ? end_of(job, query) : end;
    }
    *out_first = first < end ? first / FM_GEMM_STRIP * FM_GEMM_STRIP : end;
    *out_end = end;
}

// Part `part` of the keys of a group, block after block.
static void score_group(const struct indexing *job, const struct group *group, int64_t part,
                        struct fm_gemm_space *space, struct fm_gemm_candidates *candidates)
{
    int64_t first, end;
    float scales[KEYS];
    range_of(job, group, &first, &end);
    int64_t length =
        fm_gemm_ceil_div(fm_gemm_ceil_div(end - first, job->parts), FM_GEMM_STRIP) * FM_GEMM_STRIP;
    int64_t from = first + part * length, to = fm_gemm_min(from + length, end);
    for (int64_t key = from; key < to; key += KEYS) {
        int64_t count = fm_gemm_min(to - key, KEYS);
        multiply(job, group, key, count, space, scales);
        for (int64_t i = 0; i < group->count; i++) {
            const float *scores = reduce(job, group->first + i, i, count, space, scales);
            if (candidates)
                add_candidates(job, group->first + i, key, count, scores, &candidates[i]);
            else
                put_logits(job, group->first + i, key, count, scores);
        }
    }
}

static void logits_task(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct indexing *job = argument;
    struct group group = group_at(job, task / job->parts);
    for (int64_t query = group.first;
         query < group.first + group.count && job->clean && task % job->parts == 0; query++)
        for (int64_t j = 0; j < job->keys->count; j++)
            if (j < first_of(job, query) || j >= end_of(job, query))
                job->out[query * job->stride + j] = -INFINITY;
    score_group(job, &group, task % job->parts, space, NULL);
}

static void topk_task(void *argument, int64_t task, struct fm_gemm_space *space)
{
    const struct indexing *job = argument;
    struct group group = group_at(job, task / job->parts);
    struct fm_gemm_candidates candidates[FM_GEMM_ROWS];
    uint64_t *lists = job->lists + (space - job->context->spaces) * job->together * job->room;
    for (int64_t i = 0; i < group.count; i++)
        candidates[i] = (struct fm_gemm_candidates){.list = lists + i * job->room, .room = (size_t)job->room};
    score_group(job, &group, task % job->parts, space, candidates);
    for (int64_t i = 0; i < group.count; i++) {
        uint64_t *best = job->best + ((group.first + i) * job->parts + task % job->parts) * job->topk;
        fm_gemm_candidates_sort(&candidates[i], (size_t)job->topk);
        memset(best, 0, (size_t)job->topk * sizeof *best);
        memcpy(best, candidates[i].list, candidates[i].count * sizeof *best);
    }
}

// The queries of a request, from number `from` on, are multiplied together: with every block from the first that one of
// them sees to the last, between two of them, too.
static fm_status check_request(const fm_gemm_index_queries *queries, const fm_gemm_index_keys *keys,
                               int64_t from)
{
    int64_t request = from / keys->queries_per_request, first = INT64_MAX, end = 0;
    for (int64_t i = from; i < fm_gemm_min(from + keys->queries_per_request, queries->count); i++) {
        int64_t own = queries->first ? queries->first[i] : 0;
        if (own >= queries->end[i])
            continue;
        first = fm_gemm_min(first, own);
        end = queries->end[i] > end ? queries->end[i] : end;
    }
    const int32_t *table = keys->block_table + request * keys->table_stride;
    for (int64_t b = first / keys->block_size; b * keys->block_size < end; b++)
        if (table[b] < 0 || table[b] >= keys->blocks)
            return fm_base_error_set(FM_ERR_ARG, "block %lld of request %lld is %d; expected 0 to %lld",
                                     (long long)b, (long long)request, table[b], (long long)keys->blocks - 1);
    return FM_OK;
}

static fm_status check_paged(const fm_gemm_index_queries *queries, const fm_gemm_index_keys *keys)
{
    if (queries->dtype != FM_DTYPE_F8_E4M3)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "paged keys are %s; expected F8_E4M3",
                                 fm_base_dtype_name(queries->dtype));
    if (keys->block_size < 1 || keys->block_size % FM_GEMM_STRIP)
        return fm_base_error_set(FM_ERR_ARG, "block_size is %d; expected a multiple of %d", keys->block_size,
                                 FM_GEMM_STRIP);
    if (keys->queries_per_request < 1)
        return fm_base_error_set(FM_ERR_ARG, "queries_per_request is %d; expected at least 1",
                                 keys->queries_per_request);
    int64_t least = keys->block_size * (queries->d + 4);
    if (keys->block_bytes < least || keys->block_bytes % 4 || (keys->block_size * queries->d) % 4)
        return fm_base_error_set(FM_ERR_ARG, "block_bytes is %lld; expected a multiple of 4, at least %lld",
                                 (long long)keys->block_bytes, (long long)least);
    if (keys->blocks < 0 || keys->blocks > PTRDIFF_MAX / keys->block_bytes)
        return fm_base_error_set(FM_ERR_LIMIT, "blocks is %lld; expected what fits in memory",
                                 (long long)keys->blocks);
    if (!keys->data || (uintptr_t)keys->data % 4)
        return fm_base_error_set(FM_ERR_ARG, "keys are at %p; expected blocks, aligned to 4", keys->data);
    for (int64_t i = 0; i < queries->count; i += keys->queries_per_request)
        FM_TRY(check_request(queries, keys, i));
    return FM_OK;
}

static fm_status check_ranges(const fm_gemm_index_queries *queries, const fm_gemm_index_keys *keys)
{
    if (!queries->end && queries->count)
        return fm_base_error_set(FM_ERR_ARG, "end is null; expected %lld", (long long)queries->count);
    for (int64_t i = 0; i < queries->count; i++) {
        if (queries->first && queries->first[i] < 0)
            return fm_base_error_set(FM_ERR_ARG, "first[%lld] is %d; expected at least 0", (long long)i,
                                     queries->first[i]);
        if (queries->end[i] < 0 || queries->end[i] > keys->count)
            return fm_base_error_set(FM_ERR_ARG, "end[%lld] is %d; expected 0 to %lld, the keys",
                                     (long long)i, queries->end[i], (long long)keys->count);
    }
    return FM_OK;
}

static fm_status check(const fm_gemm_context *context, const fm_gemm_index_queries *queries,
                       const fm_gemm_index_keys *keys)
{
    if (!context || !queries || !keys)
        return fm_base_error_set(FM_ERR_ARG, "context, queries or keys is null; expected all three");
    if (queries->dtype != FM_DTYPE_F8_E4M3 && queries->dtype != FM_DTYPE_BF16)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "dtype of queries is %s; expected F8_E4M3 or BF16",
                                 fm_base_dtype_name(queries->dtype));
    FM_TRY(fm_gemm_args_extent("count of queries", queries->count));
    FM_TRY(fm_gemm_args_extent("count of keys", keys->count));
    FM_TRY(fm_gemm_args_extent("d", queries->d));
    if (queries->heads < 1)
        return fm_base_error_set(FM_ERR_ARG, "heads is %d; expected at least 1", queries->heads);
    if (queries->heads > FM_GEMM_INDEX_HEADS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "heads is %d; expected at most %d", queries->heads,
                                 FM_GEMM_INDEX_HEADS_MAX);
    FM_TRY(fm_gemm_args_lines("queries", queries->dtype, queries->data, queries->count,
                              queries->heads * queries->d, queries->stride));
    FM_TRY(fm_gemm_args_lines("weights", FM_DTYPE_F32, queries->weights, queries->count, queries->heads,
                              queries->weight_stride));
    FM_TRY(check_ranges(queries, keys));
    if (keys->block_table)
        return check_paged(queries, keys);
    return fm_gemm_args_lines("keys", queries->dtype, keys->data, keys->count, queries->d, keys->stride);
}

static struct indexing prepare(fm_gemm_context *context, const fm_gemm_index_queries *queries,
                               const fm_gemm_index_keys *keys)
{
    struct indexing job = {.context = context, .queries = queries, .keys = keys};
    job.together = FM_GEMM_ROWS / queries->heads;
    return job;
}

// Groups of queries, each times as many parts of the keys as give all threads work.
static int64_t count_tasks(struct indexing *job)
{
    int64_t requests = fm_gemm_ceil_div(job->queries->count, per_request(job) ? per_request(job) : 1);
    int64_t groups = requests * groups_each(job);
    int64_t wanted =
        groups ? fm_gemm_ceil_div(job->context->threads > 1 ? (int64_t)4 * job->context->threads : 1, groups)
               : 1;
    int64_t useful = fm_gemm_ceil_div(job->keys->count, KEYS);
    job->parts = fm_gemm_min(wanted, useful > 1 ? useful : 1);
    return groups * job->parts;
}

fm_status fm_gemm_index_logits(fm_gemm_context *context, const fm_gemm_index_queries *queries,
                               const fm_gemm_index_keys *keys, float *out, int64_t stride, int clean)
{
    FM_TRY(check(context, queries, keys));
    FM_TRY(fm_gemm_args_lines("out", FM_DTYPE_F32, out, queries->count, keys->count, stride));
    struct indexing job = prepare(context, queries, keys);
    job.out = out;
    job.stride = stride;
    job.clean = clean;
    fm_gemm_deal(context, count_tasks(&job), logits_task, &job);
    return FM_OK;
}

// Merges the parts of a query.
static void put_best(const struct indexing *job, int64_t query, int32_t *out_idx, float *out_scores)
{
    struct fm_gemm_candidates all = {.list = job->best + query * job->parts * job->topk};
    for (int64_t i = 0; i < job->parts * job->topk; i++)
        if (all.list[i])
            all.list[all.count++] = all.list[i];
    if (job->parts > 1)
        fm_gemm_candidates_sort(&all, (size_t)job->topk);
    for (int64_t i = 0; i < job->topk; i++) {
        uint64_t candidate = i < (int64_t)all.count ? all.list[i] : 0;
        out_idx[query * job->topk + i] = candidate ? fm_gemm_candidate_index(candidate) : -1;
        if (out_scores)
            out_scores[query * job->topk + i] = candidate ? fm_gemm_candidate_score(candidate) : -INFINITY;
    }
}

fm_status fm_gemm_index_topk(fm_gemm_context *context, const fm_gemm_index_queries *queries,
                             const fm_gemm_index_keys *keys, int topk, int32_t *out_idx, float *out_scores)
{
    FM_TRY(check(context, queries, keys));
    if (topk < 1)
        return fm_base_error_set(FM_ERR_ARG, "topk is %d; expected at least 1", topk);
    FM_TRY(fm_gemm_args_extent("topk", topk));
    if (!out_idx && queries->count)
        return fm_base_error_set(FM_ERR_ARG, "out_idx is null; expected room for %d of each query", topk);
    struct indexing job = prepare(context, queries, keys);
    int64_t tasks = count_tasks(&job);
    job.topk = topk;
    // Each cut of a full list costs as much as a few of its length, and makes room for so many more.
    job.room = (int64_t)2 * topk + KEYS;
    size_t lists = 0, best = 0;
    FM_TRY(
        fm_mul_size((size_t)(context->threads * job.together), (size_t)job.room * sizeof *job.lists, &lists));
    FM_TRY(fm_mul_size((size_t)(queries->count * job.parts), (size_t)topk * sizeof *job.best, &best));
    job.lists = fm_base_mem_alloc(lists);
    job.best = fm_base_mem_alloc(best);
    fm_status status = FM_OK;
    if (!job.lists || !job.best) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of candidates", lists + best);
    } else {
        fm_gemm_deal(context, tasks, topk_task, &job);
        for (int64_t query = 0; query < queries->count; query++)
            put_best(&job, query, out_idx, out_scores);
    }
    fm_base_mem_free(job.best);
    fm_base_mem_free(job.lists);
    return status;
}
