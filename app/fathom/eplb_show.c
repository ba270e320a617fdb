// `fathom eplb show`: the load of every GPU under a plan, and under what was before it.
#include "eplb_show.h"

#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "eplb_files.h"
#include "eplb_svg.h"
#include "fathom/mem.h"
#include "fathom/table.h"

struct show_options {
    int64_t layer;
    const char *before, *svg;
};

static const fm_option show_schema[] = {
    {"before", FM_OPTION_STRING, offsetof(struct show_options, before), .metavar = "PLAN",
     .help = "compare with this plan, not with one copy of each expert in order"},
    {"layer", FM_OPTION_INT, offsetof(struct show_options, layer), .value = "-1", .min = -1, .max = 65535,
     .help = "whose GPUs to show; -1: the layer that was the least balanced"},
    {"svg", FM_OPTION_STRING, offsetof(struct show_options, svg), .metavar = "FILE",
     .help = "draw them there, too"},
    {0},
};

struct showing {
    const struct show_options *options;
    struct fm_eplb_loads loads;
    struct fm_eplb_plan_file plan, before;
    double *memory; // what the view's arrays lie in
    struct fm_eplb_view view;
};

// One copy of each expert, in order, as evenly as it goes.
static fm_status make_single(const struct fm_eplb_loads *loads, int gpus, struct fm_eplb_plan_file *out_plan)
{
    size_t count = (size_t)loads->layers * (size_t)loads->experts;
    struct fm_eplb_plan_file plan = {
        .layers = loads->layers, .experts = loads->experts, .gpus = gpus, .slots = loads->experts};
    plan.phy2log = fm_base_mem_zalloc(count, sizeof(int32_t));
    plan.slot_begin = fm_base_mem_zalloc((size_t)gpus + 1, sizeof(int32_t));
    if (!plan.phy2log || !plan.slot_begin) {
        fm_app_eplb_plan_free(&plan);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a placement of %d layers", loads->layers);
    }
    for (size_t i = 0; i < count; i++)
        plan.phy2log[i] = (int32_t)(i % (size_t)loads->experts);
    for (int gpu = 0; gpu < gpus; gpu++)
        plan.slot_begin[gpu + 1] = (int32_t)((int64_t)loads->experts * (gpu + 1) / gpus);
    *out_plan = plan;
    return FM_OK;
}

// What each GPU has to do: its load over its speed. `speeds` may be NULL.
static fm_status sum_loads(const struct fm_eplb_plan_file *plan, const struct fm_eplb_loads *loads,
                           const double *speeds, double *out)
{
    for (int layer = 0; layer < loads->layers; layer++) {
        fm_status status = fm_eplb_gpu_loads(loads->experts, plan->gpus,
                                             loads->weight + (size_t)layer * (size_t)loads->experts,
                                             plan->phy2log + (size_t)layer * (size_t)plan->slots,
                                             plan->slot_begin, out + (size_t)layer * (size_t)plan->gpus);
        if (status < 0)
            return fm_base_error_prefix(status, "layer %d", layer);
        for (int gpu = 0; speeds && gpu < plan->gpus; gpu++)
            out[(size_t)layer * (size_t)plan->gpus + (size_t)gpu] /= speeds[gpu];
    }
    return FM_OK;
}

static fm_status make_view(struct showing *showing)
{
    const struct fm_eplb_loads *loads = &showing->loads;
    int gpus = showing->plan.gpus;
    size_t cells = (size_t)loads->layers * (size_t)gpus;
    double *before = showing->memory = fm_base_mem_zalloc(2 * cells + (size_t)loads->layers, sizeof(double));
    if (!before)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the loads of %zu GPUs", cells);
    double *after = before + cells;
    double *mean = after + cells;
    const double *speeds = showing->plan.gpu_speeds;
    FM_TRY(sum_loads(&showing->before, loads, speeds, before));
    FM_TRY(sum_loads(&showing->plan, loads, speeds, after));
    double speed = 0; // of the GPUs that take part; a lost one has no slots
    for (int gpu = 0; gpu < gpus; gpu++)
        if (showing->plan.slot_begin[gpu] < showing->plan.slot_begin[gpu + 1])
            speed += speeds ? speeds[gpu] : 1;
    int worst = 0;
    double worst_ratio = 0;
    for (int layer = 0; layer < loads->layers; layer++) {
        for (int e = 0; e < loads->experts; e++)
            mean[layer] += (double)loads->weight[(size_t)layer * (size_t)loads->experts + (size_t)e] / speed;
        double ratio = fm_app_eplb_ratio(before + (size_t)layer * (size_t)gpus, gpus, mean[layer]);
        if (ratio > worst_ratio) {
            worst = layer;
            worst_ratio = ratio;
        }
    }
    if (showing->options->layer >= loads->layers)
        return fm_base_error_set(FM_ERR_ARG, "--layer is %lld; expected 0 to %d",
                                 (long long)showing->options->layer, loads->layers - 1);
    showing->view = (struct fm_eplb_view){
        .layers = loads->layers,
        .gpus = gpus,
        .layer = showing->options->layer < 0 ? worst : (int)showing->options->layer,
        .before_name = showing->options->before ? "before" : "one copy each",
        .after_name = "plan",
        .before = before,
        .after = after,
        .mean = mean,
    };
    return FM_OK;
}

static fm_status print_view(const struct fm_eplb_view *view)
{
    enum { BAR = 32 };
    size_t first = (size_t)view->layer * (size_t)view->gpus;
    const double *before = view->before + first;
    const double *after = view->after + first;
    double mean = view->mean[view->layer];
    double scale = mean > 0 ? mean : 1;
    double top = fm_app_eplb_ratio(before, view->gpus, mean);
    double top_after = fm_app_eplb_ratio(after, view->gpus, mean);
    top = top_after > top ? top_after : top;
    printf("Layer %d: load of each GPU over the mean\n\n", view->layer);
    fm_table table = {0};
    fm_base_table_column(&table, "GPU", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, view->before_name, NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, view->after_name, NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "", NULL, FM_ALIGN_LEFT);
    for (int gpu = 0; gpu < view->gpus; gpu++) {
        fm_base_table_cell(&table, "%d", gpu);
        fm_base_table_cell(&table, "%.3f", before[gpu] / scale);
        fm_base_table_cell(&table, "%s", fm_base_text_bar(before[gpu] / scale / top, BAR).text);
        fm_base_table_cell(&table, "%.3f", after[gpu] / scale);
        fm_base_table_cell(&table, "%s", fm_base_text_bar(after[gpu] / scale / top, BAR).text);
    }
    FM_TRY(fm_base_table_finish(&table, stdout, fm_base_text_terminal(STDOUT_FILENO)));
    double sums[2] = {0};
    double worst[2] = {0};
    for (int layer = 0; layer < view->layers; layer++) {
        const double *loads[2] = {view->before, view->after};
        for (int i = 0; i < 2; i++) {
            double ratio = fm_app_eplb_ratio(loads[i] + (size_t)layer * (size_t)view->gpus, view->gpus,
                                             view->mean[layer]);
            sums[i] += ratio / view->layers;
            worst[i] = ratio > worst[i] ? ratio : worst[i];
        }
    }
    printf(
        "\nBusiest GPU over the mean, %d layer%s: %s %.4f on average and %.4f at worst; %s %.4f and %.4f\n",
        view->layers, view->layers > 1 ? "s" : "", view->before_name, sums[0], worst[0], view->after_name,
        sums[1], worst[1]);
    return FM_OK;
}

static void write_loads(fm_json *json, const char *key, const struct fm_eplb_view *view, const double *load)
{
    fm_base_json_begin(json, key, '[');
    for (int layer = 0; layer < view->layers; layer++) {
        fm_base_json_begin(json, NULL, '[');
        for (int gpu = 0; gpu < view->gpus; gpu++)
            fm_base_json_real(json, NULL, load[(size_t)layer * (size_t)view->gpus + (size_t)gpu]);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status write_view(const struct fm_eplb_view *view)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "layers", view->layers);
    fm_base_json_int(&json, "gpus", view->gpus);
    fm_base_json_begin(&json, "mean_load", '[');
    for (int layer = 0; layer < view->layers; layer++)
        fm_base_json_real(&json, NULL, view->mean[layer]);
    fm_base_json_end(&json);
    write_loads(&json, "before", view, view->before);
    write_loads(&json, "after", view, view->after);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status show(struct showing *showing, const fm_invocation *invocation)
{
    const char *path = invocation->operands[0];
    FM_TRY(fm_app_eplb_plan_read(path, &showing->plan));
    // A plan file that holds its loads needs no second one.
    FM_TRY(fm_app_eplb_loads_read(invocation->operands[invocation->operand_count - 1], &showing->loads));
    int gpus = showing->plan.gpus;
    FM_TRY(fm_app_eplb_plan_check(&showing->plan, path, &showing->loads, gpus));
    if (showing->options->before) {
        FM_TRY(fm_app_eplb_plan_read(showing->options->before, &showing->before));
        FM_TRY(fm_app_eplb_plan_check(&showing->before, showing->options->before, &showing->loads, gpus));
    } else {
        FM_TRY(make_single(&showing->loads, gpus, &showing->before));
    }
    FM_TRY(make_view(showing));
    if (showing->options->svg)
        FM_TRY(fm_app_eplb_svg_write(showing->options->svg, &showing->view));
    return invocation->json ? write_view(&showing->view) : print_view(&showing->view);
}

static fm_status run_show(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    struct showing showing = {.options = options};
    fm_status status = show(&showing, invocation);
    fm_base_mem_free(showing.memory);
    fm_app_eplb_plan_free(&showing.plan);
    fm_app_eplb_plan_free(&showing.before);
    fm_app_eplb_loads_free(&showing.loads);
    return status;
}

const fm_command fm_cmd_eplb_show = {
    .name = "show",
    .summary = "draw the load of every GPU before and after a plan",
    .operands = "PLAN [LOADS]",
    .details = "PLAN is what 'fathom eplb plan --json' printed, LOADS what it was given (not needed when the "
               "file PLAN has "
               "\"weight\").",
    .options = show_schema,
    .options_size = sizeof(struct show_options),
    .operands_min = 1,
    .operands_max = 2,
    .has_json = 1,
    .run = run_show,
};
