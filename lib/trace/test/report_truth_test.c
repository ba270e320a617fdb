/* The report of the published trace against figures that independent scripts computed from it (train_truth.json). */
#include "fm_test.h"

#include <math.h>

#include "fathom/trace_report.h"

static struct {
    fm_doc *root;
    const fm_doc *truth;
    fm_trace *trace;
    fm_trace_rules *rules;
    fm_trace_report *report;
} loaded;

static int64_t number(const fm_doc *node, const char *key)
{
    int64_t value;
    assert_ok(fm_base_doc_int(fm_base_doc_get(node, key), key, INT64_MIN, INT64_MAX, &value));
    return value;
}

#define assert_us(ns, node, key) assert_int_equal(ns, 1000 * number(node, key))

static void load(void)
{
    const char *path = fm_test_shared("data/profile/train_truth.json");
    assert_ok(fm_base_doc_load(path, &loaded.root));
    loaded.truth = fm_base_doc_get(loaded.root, "train");
    path = fm_test_shared("data/profile/train.json");
    assert_ok(fm_trace_data_read(&path, 1, NULL, &loaded.trace));
    assert_ok(fm_trace_rules_load(NULL, &loaded.rules));
    assert_ok(fm_trace_report_make(loaded.trace, loaded.rules, &loaded.report));
}

static void unload(void)
{
    fm_trace_report_free(loaded.report);
    fm_trace_rules_free(loaded.rules);
    fm_trace_data_free(loaded.trace);
    fm_base_doc_free(loaded.root);
    memset(&loaded, 0, sizeof loaded);
}

static void check_overlap(const fm_trace_overlap *overlap, const char *key)
{
    const fm_doc *truth = fm_base_doc_get(fm_base_doc_get(loaded.truth, "overlap"), key);
    assert_us(overlap->span_ns, truth, "span_us");
    assert_us(overlap->busy_ns, truth, "busy_union_us");
    assert_us(overlap->idle_ns, truth, "idle_us");
    assert_us(overlap->compute_ns, truth, "compute_busy_us");
    assert_us(overlap->communication_ns, truth, "comm_busy_us");
    assert_us(overlap->overlap_ns, truth, "overlap_us");
    assert_us(overlap->exposed_ns, truth, "exposed_comm_us");
}

static void overlap(void **state)
{
    (void)state;
    load();
    check_overlap(&loaded.report->by_name, "A_by_kernel_name");
    check_overlap(&loaded.report->transfer_only, "A2_transfer_only");
    check_overlap(&loaded.report->by_stream, "B_by_stream");
    unload();
}

static void streams(void **state)
{
    (void)state;
    load();
    const fm_doc *truth = fm_base_doc_get(loaded.truth, "streams");
    assert_int_equal(loaded.report->stream_count, fm_base_doc_count(truth));
    for (size_t i = 0; i < loaded.report->stream_count; i++) {
        const fm_trace_stream *stream = &loaded.report->streams[i];
        char key[32];
        snprintf(key, sizeof key, "pid0/stream%lld", (long long)stream->stream);
        const fm_doc *expected = fm_base_doc_get(truth, key);
        assert_int_equal(stream->count, number(expected, "events"));
        assert_us(stream->sum_ns, expected, "sum_dur_us");
        assert_us(stream->busy_ns, expected, "busy_us");
        assert_us(stream->first_ns - loaded.report->units[0].first_ns, expected, "first");
        assert_us(stream->last_ns - loaded.report->units[0].first_ns, expected, "last");
        assert_int_equal(stream->is_communication, stream->stream == 27);
    }
    unload();
}

static const fm_trace_group *find_group(const char *name)
{
    for (size_t i = 0; i < loaded.report->group_count; i++)
        if (strcmp(loaded.report->groups[i].name, name) == 0)
            return &loaded.report->groups[i];
    fail_msg("no group %s", name);
    return NULL;
}

static void groups_and_kernels(void **state)
{
    (void)state;
    load();
    const fm_doc *truth = fm_base_doc_get(loaded.truth, "groups");
    size_t used = 0;
    for (size_t i = 0; i < fm_base_doc_count(truth); i++) {
        const fm_doc *expected = fm_base_doc_at(truth, i);
        const fm_trace_group *group = find_group(fm_base_doc_key(truth, i));
        assert_int_equal(group->count, number(expected, "count"));
        assert_us(group->sum_ns, expected, "sum_dur_us");
        assert_us(group->union_ns, expected, "union_us");
    }
    for (size_t i = 0; i < loaded.report->group_count; i++)
        used += loaded.report->groups[i].count > 0;
    assert_int_equal(used, fm_base_doc_count(truth));
    truth = fm_base_doc_get(loaded.truth, "comm_overlap_by_group");
    for (size_t i = 0; i < fm_base_doc_count(truth); i++) {
        const fm_trace_group *group = find_group(fm_base_doc_key(truth, i));
        assert_us(group->overlap_ns, fm_base_doc_at(truth, i), "overlap_us");
        assert_us(group->exposed_ns, fm_base_doc_at(truth, i), "exposed_us");
    }
    assert_int_equal(loaded.report->kernel_count, number(loaded.truth, "distinct_kernel_names"));
    int64_t sum = 0;
    for (size_t i = 0; i < loaded.report->kernel_count; i++)
        sum += loaded.report->kernels[i].sum_ns;
    assert_us(sum, loaded.truth, "sum_of_all_gpu_durations_us");
    const fm_doc *top = fm_base_doc_at(fm_base_doc_get(loaded.truth, "top_kernels"), 0);
    assert_us(loaded.report->kernels[0].sum_ns, top, "total_us");
    assert_us(loaded.report->kernels[0].min_ns, top, "min_us");
    assert_us(loaded.report->kernels[0].max_ns, top, "max_us");
    unload();
}

static void phases(void **state)
{
    (void)state;
    load();
    const fm_doc *truth = fm_base_doc_get(loaded.truth, "phases_in_order");
    int64_t first = loaded.report->units[0].first_ns;
    assert_int_equal(loaded.report->phase_count, fm_base_doc_count(truth));
    for (size_t i = 0; i < loaded.report->phase_count; i++) {
        const fm_trace_phase *phase = &loaded.report->phases[i];
        const fm_doc *expected = fm_base_doc_at(truth, i);
        const char *name;
        assert_ok(fm_base_doc_string(fm_base_doc_get(expected, "name"), "name", &name));
        assert_string_equal(fm_trace_data_text(loaded.trace, phase->name), name);
        assert_us(phase->begin_ns - first, expected, "cpu_start_rel");
        assert_us(phase->host_ns, expected, "cpu_dur");
        assert_int_equal(phase->work_count, number(expected, "kernels"));
        assert_us(phase->first_ns - first, expected, "gpu_first_rel");
        assert_us(phase->last_ns - first, expected, "gpu_last_rel");
        assert_us(phase->busy_ns, expected, "gpu_busy_us");
        assert_us(phase->compute_ns, expected, "compute_us");
        assert_us(phase->communication_ns, expected, "comm_us");
        assert_us(phase->overlap_ns, expected, "comm_overlapped_with_any_compute_us");
        assert_us(phase->exposed_ns, expected, "comm_exposed_us");
    }
    truth = fm_base_doc_get(loaded.truth, "phase_totals");
    assert_int_equal(loaded.report->phase_total_count, fm_base_doc_count(truth));
    for (size_t i = 0; i < loaded.report->phase_total_count; i++) {
        const fm_trace_phase *total = &loaded.report->phase_totals[i];
        const fm_doc *expected = fm_base_doc_get(truth, fm_trace_data_text(loaded.trace, total->name));
        assert_int_equal(total->occurrences, number(expected, "count"));
        assert_int_equal(total->work_count, number(expected, "kernels"));
        assert_us(total->host_ns, expected, "cpu_dur_us");
        assert_us(total->busy_ns, expected, "gpu_busy_us");
        assert_us(total->compute_ns, expected, "compute_us");
        assert_us(total->communication_ns, expected, "comm_us");
        assert_us(total->overlap_ns, expected, "comm_overlapped_us");
        assert_us(total->exposed_ns, expected, "comm_exposed_us");
    }
    unload();
}

static void hiding(void **state)
{
    (void)state;
    load();
    const fm_trace_hiding *hiding = &loaded.report->hiding;
    const fm_doc *sides = fm_base_doc_get(loaded.truth, "by_direction");
    static const char *const names[] = {"F", "B", "W"};
    for (int i = 0; i < 3; i++) {
        const fm_doc *expected = fm_base_doc_get(sides, names[i]);
        assert_int_equal(hiding->work_count[i], number(expected, "kernels"));
        assert_us(hiding->compute_ns[i], expected, "compute_us");
        assert_us(hiding->communication_ns[i], expected, "comm_us");
    }
    const fm_doc *cross = fm_base_doc_get(loaded.truth, "cross_overlap_us");
    assert_us(hiding->under_backward_ns[0], cross, "F_comm_under_B_or_W_compute");
    assert_us(hiding->under_ns[0][0], cross, "F_comm_under_F_compute");
    assert_us(hiding->under_ns[1][0], cross, "B_comm_under_F_compute");
    assert_us(hiding->under_backward_ns[1], cross, "B_comm_under_B_or_W_compute");
    unload();
}

static void check_gaps(const fm_trace_gaps *gaps, const char *key)
{
    const fm_doc *expected = fm_base_doc_get(loaded.truth, key),
                 *longest = fm_base_doc_get(expected, "largest");
    assert_int_equal(gaps->count, number(expected, "count"));
    assert_us(gaps->sum_ns, expected, "total_us");
    assert_us(gaps->longest[0].duration_ns, fm_base_doc_at(longest, 0), "us");
    assert_us(gaps->longest[0].begin_ns - loaded.report->units[0].first_ns, fm_base_doc_at(longest, 0),
              "rel_ts");
    for (size_t i = 0; i < fm_base_doc_count(longest); i++)
        assert_us(gaps->longest[i].duration_ns, fm_base_doc_at(longest, i), "us");
}

static void gaps_and_device(void **state)
{
    (void)state;
    load();
    check_gaps(&loaded.report->idle, "idle_gaps");
    check_gaps(&loaded.report->compute_gaps, "compute_idle_gaps(streams7+23)");
    const fm_doc *histogram =
        fm_base_doc_get(fm_base_doc_get(loaded.truth, "compute_idle_gaps(streams7+23)"), "hist");
    assert_us(loaded.report->compute_gaps.short_ns - 1000 * number(fm_base_doc_get(histogram, "1-2us"), "us"),
              fm_base_doc_get(histogram, "3-9us"), "us");
    const fm_doc *sm = fm_base_doc_get(loaded.truth, "sm_time");
    assert_us(loaded.report->sm_time.capacity_ns, sm, "capacity");
    assert_us(loaded.report->sm_time.communication_ns, sm, "comm_sm_us");
    assert_us(loaded.report->sm_time.wait_ns, sm, "notify_wait_sm_us");
    const fm_trace_launch *launch = &loaded.report->launch;
    assert_int_equal(launch->unlaunched, number(loaded.truth, "kernels_without_launch_event"));
    assert_int_equal(launch->count, number(fm_base_doc_get(loaded.truth, "launch_to_start_us"), "n"));
    const fm_doc *delays = fm_base_doc_get(loaded.truth, "launch_to_start_us");
    assert_us(launch->min_ns, delays, "min");
    assert_us(launch->median_ns, delays, "p50");
    assert_us(launch->p90_ns, delays, "p90");
    assert_us(launch->max_ns, delays, "max");
    assert_int_equal(launch->polls,
                     number(fm_base_doc_get(loaded.truth, "cuda_runtime_names"), "cudaEventQuery"));
    const fm_doc *sync =
        fm_base_doc_get(fm_base_doc_get(loaded.truth, "cpu_sync_us"), "cudaDeviceSynchronize");
    assert_us(launch->sync_ns, sync, "us");
    const fm_trace_path *path = &loaded.report->path;
    assert_true(path->work_ns + path->launch_ns + path->gap_ns == path->length_ns);
    assert_true(path->length_ns == loaded.report->by_name.span_ns);
    unload();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlap), cmocka_unit_test(streams), cmocka_unit_test(groups_and_kernels),
        cmocka_unit_test(phases),  cmocka_unit_test(hiding),  cmocka_unit_test(gaps_and_device),
    };
    return fm_test_run("report_truth", tests);
}
