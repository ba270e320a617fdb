// Traces drawn from a seed, in the shape of a public one: fs_kvtrace.h says which.
#include <math.h>

#include "fathom/rng.h"
#include "kvtrace.h"

/*
 * A distribution by its quantiles; between two of them the logarithm (of 1 more, because there are zeros) grows evenly.
 * Lengths and new blocks are those of the published conversation trace's 12031 requests. Distances there are censored: who
 * goes on from what was said before the trace's hour looks new in it. So both the share of requests that go on and the
 * distances are larger than what can be counted (39 %, and 1.6 times), such that what is found comes out right.
 */
enum { QUANTILES = 12, BLOCK_TOKENS = 512 };
static const double quantiles[QUANTILES] = {0, .01, .05, .1, .25, .5, .75, .9, .95, .99, .999, 1};
static const double new_tokens[QUANTILES] = {891,   894,   897,   905,   1336,   5264,
                                             13056, 25561, 38538, 89869, 121471, 126195};
static const double resumed_tokens[QUANTILES] = {892,   1147,  1627,  2101,  4530,   9874,
                                                 17656, 28963, 40994, 79183, 121301, 123194};
static const double distances[QUANTILES] = {8, 70, 158, 226, 366, 677, 1442, 2659, 3410, 8176, 14251, 16822};
static const double new_blocks[QUANTILES] = {0, 0, 1.5, 1.5, 3, 3.9, 10.5, 30, 43, 80, 192, 279};
static const double output_tokens[QUANTILES] = {1, 3, 10, 24, 156, 350, 472, 597, 698, 1120, 2000, 2000};
static const double resumed_share = 0.5;
static const double gap_us = 3537e6 / 12031; // the trace's duration over its requests

enum {
    // How far from the distance drawn a request is looked for that is long enough: far less than most distances.
    WINDOW = 50,
    // Values of the generator that each request takes: as many whatever it turns out to be, so that traces of one seed
    // begin alike.
    DRAWS = 6
};

static double draw(fm_rng *rng, const double *table)
{
    double at = fm_rng_double(rng);
    int i = 0;
    while (i < QUANTILES - 2 && quantiles[i + 1] <= at)
        i++;
    double part = (at - quantiles[i]) / (quantiles[i + 1] - quantiles[i]);
    return expm1(log1p(table[i]) + part * (log1p(table[i + 1]) - log1p(table[i])));
}

// The request nearest to `distance` before the end that has at least `blocks` blocks; NULL: none is near.
static const fm_fs_kvtrace_request *find(const fm_fs_kvtrace *trace, size_t distance, size_t blocks)
{
    for (size_t off = 0; off < WINDOW; off++) {
        size_t further = distance + off;
        size_t nearer = distance - off;
        if (further <= trace->count && trace->requests[trace->count - further].count >= blocks)
            return &trace->requests[trace->count - further];
        if (off < distance && nearer <= trace->count &&
            trace->requests[trace->count - nearer].count >= blocks)
            return &trace->requests[trace->count - nearer];
    }
    return NULL;
}

static fm_status draw_request(struct fm_fs_kvtrace_builder *builder, uint64_t seed, double *time_us)
{
    fm_rng rng = fm_base_rng_begin(seed, 0);
    fm_fs_kvtrace_request request = {0};
    fm_fs_kvtrace *trace = &builder->trace;
    fm_base_rng_seek(&rng, (uint64_t)trace->count * DRAWS);
    int resumed = fm_rng_double(&rng) < resumed_share;
    request.input_tokens = (uint32_t)draw(&rng, resumed ? resumed_tokens : new_tokens);
    size_t distance = (size_t)lround(draw(&rng, distances));
    size_t fresh = (size_t)lround(draw(&rng, new_blocks));
    request.output_tokens = (uint32_t)lround(draw(&rng, output_tokens));
    *time_us -= gap_us * log1p(-fm_rng_double(&rng)); // a Poisson process
    request.time_us = (uint64_t)*time_us;

    size_t blocks = (request.input_tokens + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const fm_fs_kvtrace_request *before =
        resumed && fresh < blocks ? find(trace, distance, blocks - fresh) : NULL;
    size_t from = before ? before->first : 0;
    // One block begins all: the first request's first.
    size_t known = before ? blocks - fresh : trace->count > 0;
    FM_TRY(fm_fs_kvtrace_add_request(builder, &request));
    for (size_t i = 0; i < blocks; i++)
        FM_TRY(fm_fs_kvtrace_add_block(builder, i < known ? trace->blocks[from + i] : trace->distinct));
    return FM_OK;
}

fm_status fm_fs_kvtrace_draw(uint64_t seed, size_t requests, fm_fs_kvtrace *out_trace)
{
    struct fm_fs_kvtrace_builder builder = {.request_capacity = 0};
    double time_us = 0;
    fm_status status = FM_OK;
    // Blocks are numbered by 32 bits, and no request has more than 247 of 512 tokens.
    if (!requests || requests > UINT32_MAX / 256 || !out_trace)
        return fm_base_error_set(FM_ERR_ARG, "%zu requests; expected 1 to %u", requests,
                                 (unsigned)(UINT32_MAX / 256));
    while (builder.trace.count < requests && status == FM_OK)
        status = draw_request(&builder, seed, &time_us);
    if (status < 0) {
        fm_fs_kvtrace_free(&builder.trace);
        return status;
    }
    *out_trace = builder.trace;
    return FM_OK;
}
