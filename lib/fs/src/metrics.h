/**
 * @file metrics.h
 * What a service counts, for Prometheus: GET /metrics answered by the loop that the service runs on anyway, so that nothing
 * that is read there changes meanwhile.
 */
#ifndef FATHOM_METRICS_H
#define FATHOM_METRICS_H

#include "fathom/net.h"

// Prometheus' text, version 0.0.4. Errors stick.
struct fm_fs_metrics_text {
    char *bytes;
    size_t size, capacity;
    int failed;
};

// Begins a metric: "fathom_fs_" and `name`; `type` is "counter", "gauge" or "histogram".
void fm_fs_metrics_begin(struct fm_fs_metrics_text *text, const char *name, const char *type,
                         const char *help);
// A value of the metric that was begun; `label` (or NULL) with its value tells it from the others.
void fm_fs_metrics_value(struct fm_fs_metrics_text *text, const char *name, const char *label,
                         const char *label_value, double value);
// A histogram of the metric that was begun: `counts` of `bounds`, and one more of what is above them all; `sum` of the values.
void fm_fs_metrics_histogram(struct fm_fs_metrics_text *text, const char *name, const char *label,
                             const char *label_value, const double *bounds, const uint64_t *counts,
                             size_t count, double sum);
// A metric of one value.
void fm_fs_metrics_one(struct fm_fs_metrics_text *text, const char *name, const char *type, const char *help,
                       double value);

typedef struct fm_fs_metrics fm_fs_metrics;

// Listens at a TCP address of fathom/net.h. `write` runs for each scrape, in the loop; metrics of the process come by
// themselves. Anybody who reaches the address may read: it is meant for a machine, or a network that is trusted so far.
fm_status fm_fs_metrics_open(fm_net_loop *loop, const char *address,
                             void (*write)(void *context, struct fm_fs_metrics_text *text), void *context,
                             fm_fs_metrics **out_metrics);
const char *fm_fs_metrics_address(const fm_fs_metrics *metrics);
// Before its loop is freed. NULL is allowed.
void fm_fs_metrics_close(fm_fs_metrics *metrics);

#endif
