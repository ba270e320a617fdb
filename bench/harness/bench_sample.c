#include "bench_sample.h"

#include "fathom/mem.h"

#include <math.h>

struct sampler {
    const fm_bench_machine *machine;
    const fm_bench_case *item;
    const fm_bench_plan *plan;
    void *state;
    fm_bench_series *series;
    int hashed;
};

static const char *variant_name(const struct sampler *sampler, const fm_bench_variant *variant)
{
    return variant->peer < 0 ? sampler->item->name : sampler->item->peers[variant->peer].name;
}

// Times `iterations` runs; a case with `before` has one.
static fm_status run_timed(struct sampler *sampler, const fm_bench_variant *variant, int iterations,
                           double *out_wall, double *out_cpu)
{
    const fm_bench_machine *machine = sampler->machine;
    const fm_bench_case *item = sampler->item;
    fm_status (*run)(void *, int) = variant->peer < 0 ? item->run : item->peers[variant->peer].run;
    fm_status status = FM_OK;
    double wall = machine->wall(machine->context);
    double cpu = machine->cpu(machine->context);
    for (int i = 0; i < iterations && status == FM_OK; i++)
        status = run(sampler->state, variant->threads);
    *out_cpu = machine->cpu(machine->context) - cpu;
    *out_wall = machine->wall(machine->context) - wall;
    if (variant->peer >= 0)
        machine->settle(machine->context);
    return status;
}

static fm_status check_hash(struct sampler *sampler, const fm_bench_variant *variant)
{
    const fm_bench_case *item = sampler->item;
    if (!item->hash || (variant->peer >= 0 && !item->peers[variant->peer].same_result))
        return FM_OK;
    uint64_t hash = item->hash(sampler->state);
    if (!sampler->hashed) {
        sampler->hashed = 1;
        sampler->series->hash = hash;
    }
    if (hash != sampler->series->hash)
        return fm_base_error_set(
            FM_ERR_INTERNAL, "the result on %d threads has hash %016llx; that of the first run was %016llx",
            variant->threads, (unsigned long long)hash, (unsigned long long)sampler->series->hash);
    return FM_OK;
}

static double probe(struct sampler *sampler, int threads)
{
    if (sampler->plan->guard == FM_BENCH_OWN_LIMIT)
        return sampler->item->own_limit(sampler->state, threads);
    return sampler->machine->probe(sampler->machine->context, sampler->plan->guard, threads);
}

static int agree(double a, double b, double bound)
{
    return a > 0 && b > 0 && fabs(a - b) <= bound * fmax(a, b);
}

// The first run of all is thrown away; then the number of runs grows until they fill a sample. One timed run does not
// tell how long it takes where that is less than the clock's own cost.
static fm_status calibrate(struct sampler *sampler, fm_bench_variant *variant)
{
    const double enough = 0.75; // of the wanted length
    const double growth = 10;   // at most, a step: early times are wrong
    const int most = 100000000; // for a run that does nothing
    variant->iterations = 1;
    double wall;
    double cpu;
    if (sampler->item->before)
        FM_TRY(sampler->item->before(sampler->state));
    FM_TRY(run_timed(sampler, variant, 1, &wall, &cpu));
    FM_TRY(check_hash(sampler, variant));
    while (!sampler->item->before && wall < enough * sampler->plan->sample_s && variant->iterations < most) {
        double factor = wall > 0 ? sampler->plan->sample_s / wall : growth;
        variant->iterations = (int)ceil(variant->iterations * fmin(factor, growth));
        FM_TRY(run_timed(sampler, variant, variant->iterations, &wall, &cpu));
    }
    return FM_OK;
}

static fm_status take_sample(struct sampler *sampler, fm_bench_variant *variant)
{
    const fm_bench_machine *machine = sampler->machine;
    fm_bench_sample *sample = &variant->samples[sampler->series->rounds];
    if (sampler->item->before)
        FM_TRY(sampler->item->before(sampler->state));
    int core = machine->core(machine->context);
    sample->before = probe(sampler, variant->threads);
    FM_TRY(run_timed(sampler, variant, variant->iterations, &sample->wall, &sample->cpu));
    sample->after = probe(sampler, variant->threads);
    // Each core has a state of its own: a probe of another core says nothing about a run on one thread. What waits
    // may well wake elsewhere.
    int stays = variant->threads == 1 && sampler->item->clock != FM_BENCH_WALL;
    int moved = stays && machine->core(machine->context) != core;
    sample->clean = !moved && agree(sample->before, sample->after, sampler->plan->bound);
    variant->clean += sample->clean;
    sample->wall /= variant->iterations;
    sample->cpu /= variant->iterations;
    return check_hash(sampler, variant);
}

static int enough(const struct sampler *sampler)
{
    const fm_bench_series *series = sampler->series;
    for (int i = 0; i < series->variant_count; i++)
        if (series->variants[i].status == FM_OK && series->variants[i].clean < sampler->plan->samples)
            return 0;
    return 1;
}

static fm_status take_rounds(struct sampler *sampler)
{
    const fm_bench_machine *machine = sampler->machine;
    fm_bench_series *series = sampler->series;
    double end = machine->wall(machine->context) + sampler->plan->budget_s;
    for (int i = 0; i < series->variant_count; i++) {
        fm_bench_variant *variant = &series->variants[i];
        fm_status status = calibrate(sampler, variant);
        if (status < 0 && (variant->peer < 0 || status != FM_ERR_UNAVAILABLE))
            return fm_base_error_prefix(status, "%s", variant_name(sampler, variant));
        variant->status = status;
    }
    do {
        for (int i = 0; i < series->variant_count; i++) {
            fm_bench_variant *variant = &series->variants[(i + series->rounds) % series->variant_count];
            if (variant->status < 0)
                continue;
            fm_status status = take_sample(sampler, variant);
            if (status < 0)
                return fm_base_error_prefix(status, "%s", variant_name(sampler, variant));
        }
        series->rounds++;
    } while (!enough(sampler) && series->rounds < FM_BENCH_ATTEMPTS * sampler->plan->samples &&
             (series->rounds < sampler->plan->rounds_min || machine->wall(machine->context) < end));
    return FM_OK;
}

fm_status fm_bench_series_take(const fm_bench_machine *machine, const fm_bench_case *item,
                               const fm_bench_plan *plan, void *state, fm_bench_series *out_series)
{
    fm_bench_series series = {0};
    size_t rounds_max = (size_t)FM_BENCH_ATTEMPTS * (size_t)plan->samples;
    series.memory = fm_base_mem_zalloc(FM_BENCH_VARIANTS_MAX * rounds_max, sizeof *series.memory);
    if (!series.memory)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu samples",
                                 FM_BENCH_VARIANTS_MAX * rounds_max);
    for (int i = 0; i < FM_BENCH_COUNTS_MAX && plan->counts[i]; i++)
        for (int peer = -1; peer < 0 || item->peers[peer].name; peer++) {
            int index = series.variant_count++;
            series.variants[index] =
                (fm_bench_variant){.threads = plan->counts[i],
                                   .peer = peer,
                                   .samples = series.memory + (size_t)index * rounds_max};
        }
    struct sampler sampler = {
        .machine = machine, .item = item, .plan = plan, .state = state, .series = &series};
    fm_status status = take_rounds(&sampler);
    if (status < 0) {
        fm_bench_series_clear(&series);
        return status;
    }
    *out_series = series;
    return FM_OK;
}

void fm_bench_series_clear(fm_bench_series *series)
{
    fm_base_mem_free(series->memory);
    *series = (fm_bench_series){0};
}

const fm_bench_variant *fm_bench_series_find(const fm_bench_series *series, int peer, int threads)
{
    for (int i = 0; i < series->variant_count; i++)
        if (series->variants[i].peer == peer && series->variants[i].threads == threads)
            return &series->variants[i];
    return NULL;
}
