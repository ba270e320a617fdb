#include "serve_metrics.h"

#include <stdarg.h>
#include <stdio.h>

// Seconds. A small model answers in a millisecond, a long prompt of a large one takes a minute.
static const double bounds[SERVE_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60};

void fm_model_serve_metrics_observe(struct serve_histogram *histogram, double seconds)
{
    int i = 0;
    while (i < SERVE_BUCKETS && seconds > bounds[i])
        i++;
    histogram->counts[i]++;
    histogram->sum += seconds;
}

void fm_model_serve_metrics_count(struct serve_metrics *metrics, int http_status)
{
    metrics->statuses[http_status >= 100 && http_status < 600 ? http_status / 100 : 0]++;
}

static fm_status print(struct serve_bytes *to, const char *format, ...) FM_PRINTF(2, 3);

static fm_status print(struct serve_bytes *to, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(text, sizeof text, format, list);
    va_end(list);
    return fm_model_serve_bytes_add(to, text, (size_t)length);
}

static fm_status print_one(struct serve_bytes *to, const char *name, const char *type, const char *help,
                           int64_t value)
{
    return print(to, "# HELP fathom_%s %s\n# TYPE fathom_%s %s\nfathom_%s %lld\n", name, help, name, type,
                 name, (long long)value);
}

static fm_status print_histogram(struct serve_bytes *to, const struct serve_histogram *histogram)
{
    static const char name[] = "fathom_first_token_seconds";
    int64_t total = 0;
    FM_TRY(print(to, "# HELP %s from request to first token\n# TYPE %s histogram\n", name, name));
    for (int i = 0; i <= SERVE_BUCKETS; i++) {
        total += histogram->counts[i];
        if (i < SERVE_BUCKETS)
            FM_TRY(print(to, "%s_bucket{le=\"%g\"} %lld\n", name, bounds[i], (long long)total));
    }
    FM_TRY(print(to, "%s_bucket{le=\"+Inf\"} %lld\n", name, (long long)total));
    return print(to, "%s_sum %.9g\n%s_count %lld\n", name, histogram->sum, name, (long long)total);
}

// Nothing where experts have no workers.
static fm_status print_experts(struct serve_bytes *to, const fm_model_expert_stats *experts)
{
    if (experts->workers == 0)
        return FM_OK;
    FM_TRY(print_one(to, "expert_busiest_total", "counter",
                     "units of 8 rows of the busiest worker, summed over layers and steps",
                     experts->busiest));
    FM_TRY(print_one(to, "expert_busiest_in_order_total", "counter",
                     "the same, had workers consecutive experts and no copies", experts->busiest_in_order));
    FM_TRY(print_one(to, "expert_plans_total", "counter", "layers whose experts were placed anew",
                     experts->plans));
    FM_TRY(print_one(to, "expert_moves_total", "counter", "copies of experts that changed workers",
                     experts->moves));
    FM_TRY(print(to, "# HELP fathom_expert_load_total units of 8 rows that a worker computed\n"
                     "# TYPE fathom_expert_load_total counter\n"));
    for (int i = 0; i < experts->workers; i++)
        FM_TRY(print(to, "fathom_expert_load_total{worker=\"%d\"} %lld\n", i,
                     (long long)experts->worker_load[i]));
    double mean = (double)experts->load / experts->workers;
    FM_TRY(print(to,
                 "# HELP fathom_expert_imbalance the busiest worker over the mean, since the start\n"
                 "# TYPE fathom_expert_imbalance gauge\n"
                 "fathom_expert_imbalance{placement=\"planned\"} %.6g\n"
                 "fathom_expert_imbalance{placement=\"in_order\"} %.6g\n",
                 experts->load ? (double)experts->busiest / mean : 1,
                 experts->load ? (double)experts->busiest_in_order / mean : 1));
    return FM_OK;
}

fm_status fm_model_serve_metrics_write(const struct serve_metrics *metrics, const fm_serve_stats *stats,
                                       int exchanges, struct serve_bytes *out_text)
{
    static const char *const ends[] = {NULL, "stop", "length", "cancelled", "failed"};
    const struct {
        const char *name, *type, *help;
        int64_t value;
    } rows[] = {
        {"requests_running", "gauge", "requests that are being answered", stats->running},
        {"requests_waiting", "gauge", "requests that wait for a place", stats->waiting},
        {"http_exchanges", "gauge", "HTTP requests under way", exchanges},
        {"cache_blocks", "gauge", "blocks of the cache", stats->blocks_total},
        {"cache_blocks_running", "gauge", "of them, of running requests", stats->blocks_running},
        {"cache_blocks_kept", "gauge", "of them, of finished requests", stats->blocks_kept},
        {"cache_blocks_shared", "gauge", "blocks that running requests would need more if they shared none",
         stats->blocks_shared},
        {"prompt_tokens_total", "counter", "prompt tokens computed", stats->prompt_tokens},
        {"cached_tokens_total", "counter", "prompt tokens found in a cache", stats->cached_tokens},
        {"tokens_total", "counter", "tokens generated", stats->tokens},
        {"stored_blocks_total", "counter", "blocks put into the persistent prefix cache",
         stats->stored_blocks},
        {"loaded_blocks_total", "counter", "blocks read from it", stats->loaded_blocks},
        {"drafted_tokens_total", "counter", "guesses that were fed", stats->drafted_tokens},
        {"accepted_tokens_total", "counter", "of them, right ones", stats->accepted_tokens},
        {"steps_total", "counter", "batches computed", stats->steps},
        {"preemptions_total", "counter", "requests that gave their cache back", stats->preemptions},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        FM_TRY(print_one(out_text, rows[i].name, rows[i].type, rows[i].help, rows[i].value));
    FM_TRY(print(out_text, "# HELP fathom_requests_total requests by how they ended\n"
                           "# TYPE fathom_requests_total counter\n"));
    for (int i = FM_SERVE_STOP; i <= FM_SERVE_FAILED; i++)
        FM_TRY(print(out_text, "fathom_requests_total{finish=\"%s\"} %lld\n", ends[i],
                     (long long)stats->finished[i]));
    FM_TRY(print(out_text, "# HELP fathom_http_requests_total HTTP requests by status\n"
                           "# TYPE fathom_http_requests_total counter\n"));
    for (int i = 0; i < 6; i++)
        FM_TRY(print(out_text, "fathom_http_requests_total{status=\"%s%s\"} %lld\n",
                     (const char *const[]){"cut", "1", "2", "3", "4", "5"}[i], i ? "xx" : "",
                     (long long)metrics->statuses[i]));
    FM_TRY(print_experts(out_text, &stats->experts));
    return print_histogram(out_text, &metrics->first_token);
}
