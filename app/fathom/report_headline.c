#include "report_headline.h"

#include <stdio.h>
#include <string.h>

/** Where a row of the table comes from: a kind of stage, and what it calls the figure. In the order of the table. */
static const struct {
    const char *kind, *what, *label;
} rows[] = {
    {"train", "training", "training speed"},
    {"train", "start to first step", "start to first step"},
    {"train", "loss, held out", "loss, held out"},
    {"data", "unigram entropy, held out", "unigram entropy of the same tokens"},
    {"data", "smoothed bigram, held out", "smoothed bigram on the same tokens"},
    {"train", "bubble, simulated", "pipeline bubble, simulated"},
    {"train", "bubble, measured", "pipeline bubble, measured"},
    {"train", "pipeline, bytes sent a step", "pipeline: bytes sent a step"},
    {"train", "pipeline, bytes moved while computing", "pipeline: bytes moved while computing"},
    {"train", "moved while computing", "storage: bytes moved while computing"},
    {"balance", "busiest rank over the mean, experts in order", "expert imbalance before balancing"},
    {"balance", "busiest rank over the mean, planned with copies", "expert imbalance after balancing"},
    {"train", "samples, fs bandwidth", "storage: random reads of samples"},
    {"train", "checkpoints, fs bandwidth", "storage: checkpoints"},
    {"generate", "decoding", "decoding speed"},
    {"generate", "cache hits", "cache hits, a text taken up again from fs"},
};

fm_status fm_app_result_load(const char *run_folder, const char *name, fm_doc **out_result)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/result.json", run_folder, name);
    return fm_base_doc_load(path, out_result);
}

const fm_doc *fm_app_result_fact(const fm_doc *result, const char *what)
{
    const fm_doc *facts = fm_base_doc_get(result, "facts");
    for (size_t i = 0; i < fm_base_doc_count(facts); i++) {
        const fm_doc *fact = fm_base_doc_at(facts, i);
        const char *name;
        if (fm_base_doc_string(fm_base_doc_get(fact, "what"), "what", &name) == FM_OK &&
            strcmp(name, what) == 0)
            return fact;
    }
    return NULL;
}

static fm_status copy_fact(struct fm_stage_run *run, const fm_doc *fact, const char *label)
{
    const fm_doc *unit_node = fm_base_doc_get(fact, "unit");
    const char *unit = NULL;
    double value;
    if (fm_base_doc_type(unit_node) == FM_DOC_STRING)
        FM_TRY(fm_base_doc_string(unit_node, "unit", &unit));
    FM_TRY(fm_base_doc_real(fm_base_doc_get(fact, "value"), "value", &value));
    fm_app_stage_number(run, label, value, unit);
    return FM_OK;
}

fm_status fm_app_headline_make(struct fm_stage_run *run)
{
    for (size_t row = 0; row < sizeof rows / sizeof rows[0]; row++)
        for (int i = 0; i < run->done_count; i++) {
            fm_doc *result;
            const char *kind;
            FM_TRY(fm_app_result_load(run->run_folder, run->done[i], &result));
            fm_status status = fm_base_doc_string(fm_base_doc_get(result, "stage"), "stage", &kind);
            const fm_doc *fact = fm_app_result_fact(result, rows[row].what);
            if (status == FM_OK && strcmp(kind, rows[row].kind) == 0 && fact)
                status = copy_fact(run, fact, rows[row].label);
            fm_base_doc_free(result);
            FM_TRY(status);
        }
    return FM_OK;
}
