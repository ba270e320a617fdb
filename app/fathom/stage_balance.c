// Balance: where the trained model's experts would go, from the loads that it made.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "fathom/doc.h"
#include "fathom/eplb.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "stage.h"

struct balance_options {
    const char *train;
    int64_t ranks, spare;
};

#define FIELD(name) offsetof(struct balance_options, name)
static const fm_option balance_schema[] = {
    {"train", FM_OPTION_STRING, FIELD(train), .value = "train", .help = "name of the training stage"},
    {"ranks", FM_OPTION_INT, FIELD(ranks), .value = "4", .min = 1, .max = 4096,
     .help = "ranks that share the experts"},
    {"spare", FM_OPTION_INT, FIELD(spare), .value = "1", .min = 0, .max = 1024,
     .help = "copies of experts that each rank has room for beyond its share"},
    {0},
};

/** Loads [layers][experts]. */
struct loads {
    int layers, experts;
    float *values;
};

static fm_status read_loads(const char *path, struct loads *out_loads)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    struct loads loads = {(int)fm_base_doc_count(root), (int)fm_base_doc_count(fm_base_doc_at(root, 0)),
                          NULL};
    size_t count = (size_t)loads.layers * (size_t)loads.experts;
    loads.values = fm_base_mem_zalloc(count, sizeof *loads.values);
    fm_status status =
        loads.values ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    for (size_t i = 0; status == FM_OK && i < count; i++) {
        double load = 0;
        const fm_doc *layer = fm_base_doc_at(root, i / (size_t)loads.experts);
        status = fm_base_doc_real(fm_base_doc_at(layer, i % (size_t)loads.experts), "load", &load);
        loads.values[i] = (float)load;
    }
    if (status == FM_OK && count == 0)
        status = fm_base_doc_error(FM_ERR_FORMAT, root, "there are no loads: the model has no experts");
    fm_base_doc_free(root);
    if (status < 0)
        fm_base_mem_free(loads.values);
    else
        *out_loads = loads;
    return status;
}

// The heat map: a row a layer, a column an expert, darker where more tokens went.
static fm_status draw(struct fm_stage_run *run, const struct loads *loads)
{
    enum { CELL = 26, LEFT = 60, TOP = 24 };
    char *text = NULL, path[4096];
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" "
            "aria-label=\"expert loads\" style=\"color:var(--ink,#1c2330)\">\n<title>Tokens of each expert "
            "over the "
            "mean</title>\n<style>text{font:11px system-ui,sans-serif;fill:currentColor}</style>\n",
            LEFT + loads->experts * CELL, TOP + loads->layers * CELL, LEFT + loads->experts * CELL);
    for (int e = 0; e < loads->experts; e++)
        fprintf(out, "<text x=\"%d\" y=\"16\" text-anchor=\"middle\">%d</text>", LEFT + e * CELL + CELL / 2,
                e);
    for (int layer = 0; layer < loads->layers; layer++) {
        const float *row = loads->values + (int64_t)layer * loads->experts;
        double total = 0;
        for (int e = 0; e < loads->experts; e++)
            total += (double)row[e];
        fprintf(out, "\n<text x=\"0\" y=\"%d\">layer %d</text>", TOP + layer * CELL + 17, layer);
        for (int e = 0; e < loads->experts; e++) {
            double ratio = total > 0 ? (double)row[e] * loads->experts / total : 0;
            fprintf(out,
                    "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\" fill=\"#2f6fed\" "
                    "fill-opacity=\"%.2f\"><title>expert %d: %.2f</title></rect>",
                    LEFT + e * CELL + 1, TOP + layer * CELL + 1, CELL - 2, CELL - 2,
                    fmin(0.08 + ratio * 0.45, 1), e, ratio);
        }
    }
    fputs("\n</svg>\n", out);
    if (fclose(out) != 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a drawing");
    snprintf(path, sizeof path, "%s/experts.svg", run->folder);
    fm_status status = fm_base_file_save(path, text, length);
    free(text);
    return status;
}

static fm_status plan(struct fm_stage_run *run, const struct balance_options *o, const struct loads *loads,
                      int copies, const char *label)
{
    fm_eplb_plan *plan;
    fm_eplb_shape shape = {loads->layers, loads->experts, copies, 1, 1, (int)o->ranks};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    double worst = 1;
    char text[96];
    FM_TRY(fm_eplb_rebalance(&shape, loads->values, &options, &plan));
    for (int layer = 0; layer < loads->layers; layer++)
        if (plan->certificate[layer].mean_load > 0)
            worst = fmax(worst, plan->certificate[layer].max_load / plan->certificate[layer].mean_load);
    fm_eplb_plan_free(plan);
    snprintf(text, sizeof text, "busiest rank over the mean, %s", label);
    fm_app_stage_number(run, text, worst, NULL);
    return FM_OK;
}

// As ranks would share them unplanned: consecutive experts to consecutive ranks.
static double unplanned(const struct loads *loads, int ranks)
{
    double worst = 1;
    int each = loads->experts / ranks;
    for (int layer = 0; layer < loads->layers; layer++) {
        const float *row = loads->values + (int64_t)layer * loads->experts;
        double total = 0, most = 0;
        for (int rank = 0; rank < ranks; rank++) {
            double sum = 0;
            for (int e = rank * each; e < (rank + 1) * each; e++)
                sum += (double)row[e];
            total += sum;
            most = fmax(most, sum);
        }
        worst = total > 0 ? fmax(worst, most * ranks / total) : worst;
    }
    return worst;
}

static fm_status run_balance(struct fm_stage_run *run, const void *given)
{
    const struct balance_options *o = given;
    struct loads loads;
    char path[4096];
    snprintf(path, sizeof path, "%s/%s/loads.json", run->run_folder, o->train);
    FM_TRY(read_loads(path, &loads));
    fm_status status = FM_OK;
    if (loads.experts % o->ranks)
        status = fm_base_error_set(FM_ERR_ARG, "ranks is %lld; expected a divisor of the %d experts",
                                   (long long)o->ranks, loads.experts);
    if (status == FM_OK) {
        fm_app_stage_number(run, "ranks", (double)o->ranks, NULL);
        fm_app_stage_number(run, "busiest rank over the mean, experts in order",
                            unplanned(&loads, (int)o->ranks), NULL);
        status = plan(run, o, &loads, loads.experts, "planned");
    }
    if (status == FM_OK && o->spare > 0)
        status = plan(run, o, &loads, loads.experts + (int)(o->ranks * o->spare), "planned with copies");
    if (status == FM_OK)
        status = draw(run, &loads);
    fm_base_mem_free(loads.values);
    return status;
}

const struct fm_stage fm_stage_balance = {
    .name = "balance",
    .summary = "placement of the trained model's experts, from its measured loads",
    .schema = balance_schema,
    .options_size = sizeof(struct balance_options),
    .run = run_balance,
};
