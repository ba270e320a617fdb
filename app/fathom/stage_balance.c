// Balance: where the trained model's experts would go: planned from the loads that some held-out sequences made, judged on
// those of others.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/doc.h"
#include "fathom/eplb.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "stage.h"
#include "stage_files.h"

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

/** Loads [layers][experts]: of the tokens that a placement is planned from, and of others, on which it is judged. */
struct loads {
    int layers, experts;
    float *plan, *judge;
};

static fm_status read_half(const fm_doc *root, const char *name, const struct loads *loads, float *out_values)
{
    const fm_doc *half = fm_base_doc_get(root, name);
    for (int layer = 0; layer < loads->layers; layer++)
        for (int e = 0; e < loads->experts; e++) {
            double load;
            const fm_doc *row = fm_base_doc_at(half, (size_t)layer);
            FM_TRY(fm_base_doc_real(fm_base_doc_at(row, (size_t)e), name, &load));
            *out_values++ = (float)load;
        }
    return FM_OK;
}

static void free_loads(struct loads *loads)
{
    fm_base_mem_free(loads->plan);
    fm_base_mem_free(loads->judge);
}

static fm_status read_loads(const char *path, struct loads *out_loads)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    const fm_doc *rows = fm_base_doc_get(root, "plan");
    struct loads loads = {.layers = (int)fm_base_doc_count(rows),
                          .experts = (int)fm_base_doc_count(fm_base_doc_at(rows, 0))};
    size_t count = (size_t)loads.layers * (size_t)loads.experts;
    loads.plan = fm_base_mem_zalloc(count + 1, sizeof *loads.plan);
    loads.judge = fm_base_mem_zalloc(count + 1, sizeof *loads.judge);
    fm_status status =
        count == 0
            ? fm_base_error_set(FM_ERR_FORMAT, "%s: there are no loads: the model has no experts", path)
        : loads.plan && loads.judge ? read_half(root, "plan", &loads, loads.plan)
                                    : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    if (status == FM_OK)
        status = read_half(root, "judge", &loads, loads.judge);
    fm_base_doc_free(root);
    if (status < 0)
        free_loads(&loads);
    else
        *out_loads = loads;
    return status;
}

// The heat map: a row a layer, a column an expert, darker where more tokens went.
static fm_status draw(struct fm_stage_run *run, const struct loads *loads)
{
    enum { CELL = 44, LEFT = 60, TOP = 24 };
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
        const float *row = loads->judge + (int64_t)layer * loads->experts;
        double total = 0;
        for (int e = 0; e < loads->experts; e++)
            total += (double)row[e];
        fprintf(out, "\n<text x=\"0\" y=\"%d\">layer %d</text>", TOP + layer * CELL + CELL / 2 + 4, layer);
        for (int e = 0; e < loads->experts; e++) {
            double ratio = total > 0 ? (double)row[e] * loads->experts / total : 0;
            fprintf(out,
                    "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"3\" fill=\"#2f6fed\" "
                    "fill-opacity=\"%.2f\"><title>layer %d, expert %d: %.0f tokens, %.2f times the "
                    "mean</title></rect><text x=\"%d\" y=\"%d\" text-anchor=\"middle\" "
                    "pointer-events=\"none\">%.2f</text>",
                    LEFT + e * CELL + 1, TOP + layer * CELL + 1, CELL - 2, CELL - 2,
                    fmin(0.08 + ratio * 0.25, 0.8), layer, e, (double)row[e], ratio,
                    LEFT + e * CELL + CELL / 2, TOP + layer * CELL + CELL / 2 + 4, ratio);
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

/** The busiest rank over the mean: of the worst layer, and on average over the layers. */
struct imbalance {
    double worst, mean;
};

static void add_layer(struct imbalance *imbalance, const double *rank_loads, int ranks, int layers)
{
    double total = 0, most = 0;
    for (int rank = 0; rank < ranks; rank++) {
        total += rank_loads[rank];
        most = fmax(most, rank_loads[rank]);
    }
    double ratio = total > 0 ? most * ranks / total : 1;
    imbalance->worst = fmax(imbalance->worst, ratio);
    imbalance->mean += ratio / layers;
}

// As ranks would share experts unplanned: consecutive ones to consecutive ranks.
static struct imbalance unplanned(const struct loads *loads, int ranks, double *rank_loads)
{
    struct imbalance found = {0};
    int each = loads->experts / ranks;
    for (int layer = 0; layer < loads->layers; layer++) {
        const float *row = loads->judge + (int64_t)layer * loads->experts;
        for (int rank = 0; rank < ranks; rank++) {
            rank_loads[rank] = 0;
            for (int e = rank * each; e < (rank + 1) * each; e++)
                rank_loads[rank] += (double)row[e];
        }
        add_layer(&found, rank_loads, ranks, loads->layers);
    }
    return found;
}

static fm_status planned(const struct loads *loads, int ranks, int copies, double *rank_loads,
                         struct imbalance *out_found)
{
    fm_eplb_plan *plan;
    fm_eplb_shape shape = {loads->layers, loads->experts, copies, 1, 1, ranks};
    fm_eplb_options options = FM_EPLB_OPTIONS_INIT;
    struct imbalance found = {0};
    FM_TRY(fm_eplb_rebalance(&shape, loads->plan, &options, &plan));
    fm_status status = FM_OK;
    for (int layer = 0; status == FM_OK && layer < loads->layers; layer++) {
        status =
            fm_eplb_gpu_loads(loads->experts, ranks, loads->judge + (int64_t)layer * loads->experts,
                              plan->phy2log + (int64_t)layer * plan->slots, plan->slot_begin, rank_loads);
        add_layer(&found, rank_loads, ranks, loads->layers);
    }
    fm_eplb_plan_free(plan);
    if (status == FM_OK)
        *out_found = found;
    return status;
}

static void tell(struct fm_stage_run *run, const char *label, struct imbalance found)
{
    char text[96];
    snprintf(text, sizeof text, "busiest rank over the mean, %s", label);
    fm_app_stage_number(run, text, found.mean, NULL);
    snprintf(text, sizeof text, "of the worst layer, %s", label);
    fm_app_stage_number(run, text, found.worst, NULL);
}

static fm_status compare(struct fm_stage_run *run, const struct balance_options *o, const struct loads *loads)
{
    int ranks = (int)o->ranks;
    struct imbalance found;
    double *rank_loads = fm_base_mem_zalloc((size_t)ranks, sizeof *rank_loads);
    if (!rank_loads)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the loads of %d ranks", ranks);
    tell(run, "experts in order", unplanned(loads, ranks, rank_loads));
    fm_status status = planned(loads, ranks, loads->experts, rank_loads, &found);
    if (status == FM_OK)
        tell(run, "planned", found);
    if (status == FM_OK && o->spare > 0) {
        status = planned(loads, ranks, loads->experts + ranks * (int)o->spare, rank_loads, &found);
        if (status == FM_OK)
            tell(run, "planned with copies", found);
    }
    fm_base_mem_free(rank_loads);
    return status;
}

fm_status fm_app_loads_read(const char *path, const fm_model_config *config, float **out_loads)
{
    struct loads loads;
    FM_TRY(read_loads(path, &loads));
    size_t dense = (size_t)config->dense_layers * (size_t)config->experts,
           count = (size_t)loads.layers * (size_t)loads.experts;
    fm_status status = FM_OK;
    float *all = NULL;
    if (loads.layers != config->layers - config->dense_layers || loads.experts != config->experts)
        status = fm_base_error_set(
            FM_ERR_FORMAT, "%s has loads of %d experts in %d layers; the model has %d in %d", path,
            loads.experts, loads.layers, config->experts, config->layers - config->dense_layers);
    else if (!(all = fm_base_mem_zalloc(dense + count, sizeof *all)))
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu loads", count);
    if (status == FM_OK) {
        memcpy(all + dense, loads.plan, count * sizeof *all);
        *out_loads = all;
    }
    free_loads(&loads);
    return status;
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
        status = compare(run, o, &loads);
    }
    if (status == FM_OK)
        status = draw(run, &loads);
    free_loads(&loads);
    return status;
}

const struct fm_stage fm_stage_balance = {
    .name = "balance",
    .summary = "placement of the trained model's experts, from its measured loads",
    .schema = balance_schema,
    .options_size = sizeof(struct balance_options),
    .run = run_balance,
};
