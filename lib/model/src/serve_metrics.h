/* What /metrics shows, in Prometheus' text format. */
#ifndef FM_SERVE_METRICS_H
#define FM_SERVE_METRICS_H

#include "serve_answer.h"

enum { SERVE_BUCKETS = 12 };

struct serve_histogram {
    int64_t counts[SERVE_BUCKETS + 1]; // the last: above all bounds
    double sum;
};

struct serve_metrics {
    struct serve_histogram first_token; // seconds from request to first token
    int64_t statuses[6];                // requests by hundreds of their HTTP status; 0: cut before an answer
};

void fm_model_serve_metrics_observe(struct serve_histogram *histogram, double seconds);
void fm_model_serve_metrics_count(struct serve_metrics *metrics, int http_status);
FM_MUST_USE fm_status fm_model_serve_metrics_write(const struct serve_metrics *metrics,
                                                   const fm_serve_stats *stats, int exchanges,
                                                   struct serve_bytes *out_text);

#endif
