// Records a run of two threads, reads the trace back and says what overlapped.
#include <pthread.h>
#include <stdio.h>

#include "fathom/clock.h"
#include "fathom/span.h"
#include "fathom/trace_report.h"
#include "fathom/trace_write.h"

static void *exchange(void *unused)
{
    fm_base_span_set_thread(0, "network");
    FM_SPAN(span, "dispatch", "ep");
    fm_base_clock_sleep_ns(20000000);
    return unused;
}

static fm_status record(const char *path)
{
    fm_trace_writer *writer;
    FM_TRY(fm_base_span_enable(0));
    FM_TRY(fm_trace_writer_open(path, &writer));
    pthread_t thread;
    int started = pthread_create(&thread, NULL, exchange, NULL) == 0;
    {
        FM_SPAN(span, "grouped", "gemm");
        fm_base_clock_sleep_ns(10000000);
    }
    if (started)
        pthread_join(thread, NULL);
    fm_base_span_disable();
    fm_base_span_release_thread();
    return fm_trace_writer_close(writer);
}

static fm_status explain(const char *path, const fm_trace_rules *rules)
{
    fm_trace *trace;
    fm_trace_report *report;
    FM_TRY(fm_trace_data_read(&path, 1, NULL, &trace));
    fm_status status = fm_trace_report_make(trace, rules, &report);
    if (status == FM_OK) {
        printf("communication %.1f ms, %.1f ms of it exposed\n",
               (double)report->by_name.communication_ns * 1e-6, (double)report->by_name.exposed_ns * 1e-6);
        for (size_t i = 0; i < report->finding_count; i++)
            printf("%s\n", report->findings[i].text);
        fm_trace_report_free(report);
    }
    fm_trace_data_free(trace);
    return status;
}

int main(void)
{
    const char *path = "example.trace.json";
    fm_trace_rules *rules;
    fm_status status = fm_trace_rules_load(NULL, &rules);
    if (status == FM_OK) {
        status = record(path);
        if (status == FM_OK)
            status = explain(path, rules);
        fm_trace_rules_free(rules);
    }
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    remove(path);
    return status < 0;
}
