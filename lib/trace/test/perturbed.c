#include "perturbed.h"

#include "fm_test.h"

// The host is this far ahead of the device, so that it holds nothing up.
enum { LEAD_US = 50000 };

struct out {
    char *text;
    size_t length, correlation;
};

/* A kernel and the call that launched it, LEAD_US before its begin. */
static void kernel(struct out *out, const char *name, int stream, double at, double duration)
{
    out->correlation++;
    out->length +=
        (size_t)sprintf(out->text + out->length,
                        "{\"ph\":\"X\",\"cat\":\"cuda_runtime\",\"name\":\"cudaLaunchKernel\",\"pid\":9,"
                        "\"tid\":9,\"ts\":%.3f,\"dur\":1,\"args\":{"
                        "\"correlation\":%zu}},\n{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"%s\",\"pid\":0,"
                        "\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
                        "\"args\":{\"correlation\":%zu,\"stream\":%d,\"grid\":[20,1,1]}},\n",
                        at - LEAD_US, out->correlation, name, stream, at, duration, out->correlation, stream);
}

static void annotate(struct out *out, const char *name, double at, double duration)
{
    out->length += (size_t)sprintf(
        out->text + out->length,
        "{\"ph\":\"X\",\"cat\":\"user_annotation\",\"name\":\"%s\",\"pid\":9,\"tid\":9,\"ts\":%.3f,"
        "\"dur\":%.3f},\n",
        name, at, duration);
}

struct fm_test_loaded fm_test_make_run(const struct fm_test_run *run)
{
    struct fm_test_loaded loaded = {0};
    struct out out = {.text = fm_base_mem_alloc((size_t)run->layers * 2000 + 1000)};
    assert_non_null(out.text);
    out.length = (size_t)sprintf(
        out.text, "{\"deviceProperties\":[{\"name\":\"D\",\"numSms\":100}],\"traceEvents\":[\n");
    double at = 100000, begin = at;
    for (int i = 0; i < run->layers; i++) {
        double extra = i % 2 ? run->jitter_us : 0, from = at;
        // A layer's transfer runs beside its compute and is waited for by the next layer.
        double free = at;
        if (run->wait_us > 0) {
            kernel(&out, "void deep_ep::internode::notify_dispatch<1>()", 27, at, run->wait_us);
            free += run->wait_us;
        }
        kernel(&out, run->transfer_name ? run->transfer_name : "void deep_ep::internode::dispatch<1>()", 27,
               free, run->transfer_us + extra);
        double transfer_end = free + run->transfer_us + extra;
        kernel(&out, "gemm_bf16", 7, at, run->compute_us / 2 + extra);
        kernel(&out, "layer_norm::x", 7, at + run->compute_us / 2 + extra + 2, run->compute_us / 2);
        double compute_end = at + run->compute_us + extra + 2;
        at = (compute_end > transfer_end ? compute_end : transfer_end) + 2;
        if (i == run->layers / 2)
            at += run->stall_us;
        annotate(&out, i % 2 ? "mlp(B)" : "attn(F)", from - LEAD_US - 1, at - from);
    }
    for (int i = 0; i < run->steps; i++)
        annotate(&out, "ProfilerStep#7", begin - LEAD_US - 1 + i * (at - begin) / run->steps,
                 (at - begin) / run->steps);
    sprintf(out.text + out.length, "]}");
    assert_ok(fm_trace_data_parse(out.text, strlen(out.text), "made", NULL, &loaded.trace));
    assert_ok(fm_trace_rules_load(NULL, &loaded.rules));
    assert_ok(fm_trace_report_make(loaded.trace, loaded.rules, &loaded.report));
    fm_base_mem_free(out.text);
    return loaded;
}

void fm_test_free_run(struct fm_test_loaded *loaded)
{
    fm_trace_report_free(loaded->report);
    fm_trace_rules_free(loaded->rules);
    fm_trace_data_free(loaded->trace);
}

const fm_trace_finding *fm_test_find(const struct fm_test_loaded *loaded, const char *id)
{
    for (size_t i = 0; i < loaded->report->finding_count; i++)
        if (strcmp(loaded->report->findings[i].id, id) == 0)
            return &loaded->report->findings[i];
    return NULL;
}
