#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "condition.h"
#include "fathom/mem.h"
#include "fathom/trace_compare.h"
#include "rules.h"

// Of fifty groups and phases that did not change, one in two comparisons shows one below this by chance.
static const double significant = 0.01;

struct samples {
    uint64_t count;
    double sum, squares; // microseconds
};

struct side {
    struct samples *groups; // by group of the report
    struct samples *phases; // by phase total
};

static void add_sample(struct samples *samples, double us)
{
    samples->count++;
    samples->sum += us;
    samples->squares += us * us;
}

/* The regularised incomplete beta function by its continued fraction (Lentz's method; DLMF 8.17.22). */
static double incomplete_beta(double a, double b, double x)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    // The fraction converges fast below the mean; above it the complement does.
    if (x > (a + 1) / (a + b + 2))
        return 1 - incomplete_beta(b, a, 1 - x);
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a;
    double f = 1, c = 1, d = 0;
    for (int i = 0; i <= 300; i++) {
        int m = i / 2;
        double numerator = i == 0       ? 1
                           : i % 2 == 0 ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
                                        : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / (1 + numerator * d);
        c = 1 + numerator / c;
        f *= c * d;
        if (fabs(c * d - 1) < 1e-12)
            break;
    }
    return front * (f - 1);
}

static double mean(const struct samples *s)
{
    return s->count ? s->sum / (double)s->count : 0;
}

/* Variance of the mean. */
static double spread(const struct samples *s)
{
    double n = (double)s->count, variance = (s->squares - s->sum * s->sum / n) / (n - 1);
    // Equal samples leave a difference of rounding.
    return variance > 1e-9 * s->squares / n ? variance / n : 0;
}

static double welch(const struct samples *a, const struct samples *b)
{
    if (a->count < 2 || b->count < 2)
        return 1;
    double va = spread(a), vb = spread(b), difference = mean(a) - mean(b);
    if (va + vb == 0)
        return difference == 0 ? 1 : 0;
    double t2 = difference * difference / (va + vb);
    double freedom =
        (va + vb) * (va + vb) / (va * va / (double)(a->count - 1) + vb * vb / (double)(b->count - 1));
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t2));
}

struct step {
    int64_t begin, end;
};

static int by_begin(const void *a, const void *b)
{
    const struct step *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* The steps of a trace, by begin. */
static fm_status find_steps(const fm_trace_report *report, struct step **out_steps, size_t *out_count)
{
    const fm_trace *trace = report->trace;
    size_t count = 0, capacity = 0;
    struct step *steps = NULL;
    for (size_t i = 0; i < trace->slice_count; i++) {
        const fm_trace_slice *slice = &trace->slices[i];
        if (slice->kind != FM_TRACE_SPAN || slice->correlation ||
            !fm_trace_rules_is_phase(report->rules, fm_trace_data_text(trace, slice->category)) ||
            !fm_trace_rules_is_step(report->rules, fm_trace_data_text(trace, slice->name)))
            continue;
        if (count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            struct step *grown = fm_base_mem_realloc(steps, capacity, sizeof *steps);
            if (!grown) {
                fm_base_mem_free(steps);
                return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare traces");
            }
            steps = grown;
        }
        steps[count++] = (struct step){slice->begin_ns, slice->begin_ns + slice->duration_ns};
    }
    if (count)
        qsort(steps, count, sizeof *steps, by_begin);
    *out_steps = steps;
    *out_count = count;
    return FM_OK;
}

/* Sums of each group over each step: work belongs to the step in which it was launched, or began. */
static fm_status sample_steps(const fm_trace_report *report, const struct step *steps, size_t count,
                              struct samples *groups)
{
    double *sums = fm_base_mem_zalloc(count * report->group_count, sizeof *sums);
    if (!sums)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare traces");
    for (size_t i = 0; i < report->work_count; i++) {
        const fm_trace_work *work = &report->works[i];
        int64_t at =
            work->launch == FM_TRACE_NONE ? work->begin_ns : report->trace->slices[work->launch].begin_ns;
        size_t low = 0, high = count;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (steps[middle].begin <= at)
                low = middle + 1;
            else
                high = middle;
        }
        if (low > 0 && at < steps[low - 1].end)
            sums[(low - 1) * report->group_count + work->group] +=
                (double)(work->end_ns - work->begin_ns) / 1000;
    }
    for (size_t g = 0; g < report->group_count; g++)
        for (size_t i = 0; i < count && report->groups[g].count; i++)
            add_sample(&groups[g], sums[i * report->group_count + g]);
    fm_base_mem_free(sums);
    return FM_OK;
}

static void sample_phases(const fm_trace_report *report, struct samples *phases)
{
    for (size_t i = 0; i < report->phase_count; i++)
        for (size_t t = 0; t < report->phase_total_count; t++)
            if (report->phase_totals[t].name == report->phases[i].name)
                add_sample(&phases[t], (double)report->phases[i].busy_ns / 1000);
}

static fm_status sample(const fm_trace_report *report, fm_arena *arena, const struct step *steps,
                        size_t step_count, struct side *side)
{
    size_t group_bytes = (report->group_count + 1) * sizeof *side->groups;
    size_t phase_bytes = (report->phase_total_count + 1) * sizeof *side->phases;
    side->groups = fm_base_arena_alloc(arena, group_bytes);
    side->phases = fm_base_arena_alloc(arena, phase_bytes);
    if (!side->groups || !side->phases)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare traces");
    memset(side->groups, 0, group_bytes);
    memset(side->phases, 0, phase_bytes);
    sample_phases(report, side->phases);
    if (step_count)
        return sample_steps(report, steps, step_count, side->groups);
    for (size_t i = 0; i < report->work_count; i++)
        add_sample(&side->groups[report->works[i].group],
                   (double)(report->works[i].end_ns - report->works[i].begin_ns) / 1000);
    return FM_OK;
}

struct differ {
    fm_trace_diff diff; // what the user sees; first, so that the one is the other
    fm_arena arena;
    fm_trace_change *changes;
};

static void add_change(struct differ *differ, const char *name, int is_phase, const struct samples *a,
                       const struct samples *b)
{
    fm_trace_change *change = &differ->changes[differ->diff.change_count++];
    *change = (fm_trace_change){.name = name,
                                .is_phase = is_phase,
                                .count_a = a->count,
                                .count_b = b->count,
                                .mean_a_us = mean(a),
                                .mean_b_us = mean(b),
                                .p = welch(a, b)};
    change->total_us = (change->mean_b_us - change->mean_a_us) * (double)(a->count ? a->count : b->count);
    if (fm_trace_diff_counts(change))
        *(change->mean_b_us > change->mean_a_us ? &differ->diff.slower : &differ->diff.faster) += 1;
}

int fm_trace_diff_counts(const fm_trace_change *change)
{
    return change->p < significant && fabs(change->mean_b_us - change->mean_a_us) >= 0.01 * change->mean_a_us;
}

static int costliest_first(const void *a, const void *b)
{
    const fm_trace_change *x = a, *y = b;
    if (x->total_us != y->total_us)
        return x->total_us > y->total_us ? -1 : 1;
    return strcmp(x->name, y->name);
}

static void compare_groups(struct differ *differ, const struct side *a, const struct side *b)
{
    const fm_trace_report *ra = differ->diff.a, *rb = differ->diff.b;
    static const struct samples none = {0};
    for (size_t i = 0; i < ra->group_count; i++) {
        size_t j = 0;
        while (j < rb->group_count && strcmp(ra->groups[i].name, rb->groups[j].name) != 0)
            j++;
        const struct samples *other = j < rb->group_count ? &b->groups[j] : &none;
        if (a->groups[i].count || other->count)
            add_change(differ, ra->groups[i].name, 0, &a->groups[i], other);
    }
}

static const char *phase_name(const fm_trace_report *report, size_t i)
{
    return fm_trace_data_text(report->trace, report->phase_totals[i].name);
}

static void compare_phases(struct differ *differ, const struct side *a, const struct side *b)
{
    const fm_trace_report *ra = differ->diff.a, *rb = differ->diff.b;
    static const struct samples none = {0};
    for (size_t i = 0; i < ra->phase_total_count; i++) {
        size_t j = 0;
        while (j < rb->phase_total_count && strcmp(phase_name(ra, i), phase_name(rb, j)) != 0)
            j++;
        add_change(differ, phase_name(ra, i), 1, &a->phases[i],
                   j < rb->phase_total_count ? &b->phases[j] : &none);
    }
    for (size_t j = 0; j < rb->phase_total_count; j++) {
        size_t i = 0;
        while (i < ra->phase_total_count && strcmp(phase_name(ra, i), phase_name(rb, j)) != 0)
            i++;
        if (i == ra->phase_total_count)
            add_change(differ, phase_name(rb, j), 1, &none, &b->phases[j]);
    }
}

static fm_status compare(struct differ *differ)
{
    const fm_trace_report *a = differ->diff.a, *b = differ->diff.b;
    struct step *steps_a = NULL, *steps_b = NULL;
    size_t count_a = 0, count_b = 0;
    struct side side_a, side_b;
    fm_status status = find_steps(a, &steps_a, &count_a);
    if (status == FM_OK)
        status = find_steps(b, &steps_b, &count_b);
    if (count_a < 3 || count_b < 3)
        count_a = count_b = 0;
    if (status == FM_OK)
        status = sample(a, &differ->arena, steps_a, count_a, &side_a);
    if (status == FM_OK)
        status = sample(b, &differ->arena, steps_b, count_b, &side_b);
    fm_base_mem_free(steps_a);
    fm_base_mem_free(steps_b);
    FM_TRY(status);
    size_t most = a->group_count + a->phase_total_count + b->phase_total_count + 1;
    differ->changes = fm_base_arena_alloc(&differ->arena, most * sizeof *differ->changes);
    if (!differ->changes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare traces");
    compare_groups(differ, &side_a, &side_b);
    compare_phases(differ, &side_a, &side_b);
    qsort(differ->changes, differ->diff.change_count, sizeof *differ->changes, costliest_first);
    differ->diff.changes = differ->changes;
    return FM_OK;
}

fm_status fm_trace_diff_make(const fm_trace_report *a, const fm_trace_report *b, fm_trace_diff **out_diff)
{
    struct differ *differ = fm_base_mem_zalloc(1, sizeof *differ);
    if (!differ)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to compare traces");
    differ->diff.a = a;
    differ->diff.b = b;
    fm_status status = compare(differ);
    if (status < 0) {
        fm_trace_diff_free(&differ->diff);
        return status;
    }
    *out_diff = &differ->diff;
    return FM_OK;
}

void fm_trace_diff_free(fm_trace_diff *diff)
{
    struct differ *differ = (struct differ *)diff;
    if (!differ)
        return;
    fm_base_arena_clear(&differ->arena);
    fm_base_mem_free(differ);
}

static void put_figures(const fm_trace_diff *diff, fm_json *json)
{
    static const char *const names[] = {"span_us", "idle_us",    "compute_us",
                                        "comm_us", "overlap_us", "exposed_us"};
    fm_base_json_begin(json, "figures", '{');
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        double a = 0, b = 0;
        if (fm_trace_report_figure(diff->a, names[i], &a) < 0 ||
            fm_trace_report_figure(diff->b, names[i], &b) < 0)
            continue;
        fm_base_json_begin(json, names[i], '{');
        fm_base_json_real(json, "a", a);
        fm_base_json_real(json, "b", b);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

void fm_trace_diff_json(const fm_trace_diff *diff, fm_json *json)
{
    put_figures(diff, json);
    fm_base_json_int(json, "slower", (int64_t)diff->slower);
    fm_base_json_int(json, "faster", (int64_t)diff->faster);
    fm_base_json_begin(json, "changes", '[');
    for (size_t i = 0; i < diff->change_count; i++) {
        const fm_trace_change *change = &diff->changes[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "name", change->name);
        fm_base_json_string(json, "what", change->is_phase ? "phase" : "group");
        fm_base_json_int(json, "samples_a", (int64_t)change->count_a);
        fm_base_json_int(json, "samples_b", (int64_t)change->count_b);
        fm_base_json_real(json, "mean_a_us", change->mean_a_us);
        fm_base_json_real(json, "mean_b_us", change->mean_b_us);
        fm_base_json_real(json, "total_us", change->total_us);
        fm_base_json_real(json, "p", change->p);
        fm_base_json_bool(json, "significant", fm_trace_diff_counts(change));
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status figure_of_diff(const void *context, const char *name, double *out_value)
{
    const fm_trace_diff *diff = context;
    double a = 0, b = 0;
    if (strcmp(name, "slower") == 0 || strcmp(name, "faster") == 0) {
        *out_value = (double)(name[0] == 's' ? diff->slower : diff->faster);
        return FM_OK;
    }
    FM_TRY(fm_trace_report_figure(diff->a, name, &a));
    FM_TRY(fm_trace_report_figure(diff->b, name, &b));
    size_t length = strlen(name);
    if (length > 4 && strcmp(name + length - 4, "_pct") == 0)
        *out_value = b - a;
    else
        *out_value = a == b ? 0 : a == 0 ? HUGE_VAL : 100 * (b - a) / fabs(a);
    return FM_OK;
}

fm_status fm_trace_diff_test(const fm_trace_diff *diff, const char *condition, int *out_true)
{
    return fm_trace_condition_test(condition, figure_of_diff, diff, out_true);
}
