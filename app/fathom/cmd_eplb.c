// `fathom eplb`: plan expert placement, and look at plans.
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "eplb_files.h"
#include "eplb_show.h"
#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/table.h"

struct plan_options {
    int64_t replicas, groups, nodes, gpus, max_moves, expert_bytes;
    double budget_ms;
    const char *policy, *current, *lost, *gpu_slots, *gpu_speeds, *out;
};

#define FIELD(name) offsetof(struct plan_options, name)
static const fm_option plan_schema[] = {
    {"replicas", FM_OPTION_INT, FIELD(replicas), .required = 1, .min = 1, .max = 65535,
     .help = "expert copies of a layer, over all GPUs"},
    {"gpus", FM_OPTION_INT, FIELD(gpus), .required = 1, .min = 1, .max = 65535, .help = "GPUs"},
    {"groups", FM_OPTION_INT, FIELD(groups), .value = "1", .min = 1, .max = 65535,
     .help = "expert groups of the gate"},
    {"nodes", FM_OPTION_INT, FIELD(nodes), .value = "1", .min = 1, .max = 65535,
     .help = "machines; when the groups divide by them, each group stays on one"},
    {"policy", FM_OPTION_CHOICE, FIELD(policy), .value = "best", .choices = "reference|best",
     .help = "DeepSeek's greedy algorithm, or a search that is never worse"},
    {"budget", FM_OPTION_REAL, FIELD(budget_ms), .value = "50", .unit = "ms", .min = 0, .max = 1e9,
     .help = "time for the search over all layers; 0: until nothing improves"},
    {"current", FM_OPTION_STRING, FIELD(current), .metavar = "PLAN",
     .help = "the plan that is running (JSON): move little"},
    {"max-moves", FM_OPTION_INT, FIELD(max_moves), .value = "-1", .min = -1, .max = 65535,
     .help = "most copies that a GPU may receive in a layer, given --current; -1: any number"},
    {"lost", FM_OPTION_STRING, FIELD(lost), .metavar = "GPU,...",
     .help = "these GPUs are gone: give experts without a copy one, and move nothing else unless --max-moves "
             "allows it"},
    {"gpu-slots", FM_OPTION_STRING, FIELD(gpu_slots), .metavar = "N,...",
     .help = "copies that each GPU has room for, where they differ"},
    {"gpu-speeds", FM_OPTION_STRING, FIELD(gpu_speeds), .metavar = "X,...",
     .help = "relative speed of each GPU"},
    {"expert-bytes", FM_OPTION_SIZE, FIELD(expert_bytes), .metavar = "SIZE",
     .help = "size of an expert's weights: list the transfers from --current, too"},
    {"out", FM_OPTION_STRING, FIELD(out), .metavar = "FILE", .letter = 'o',
     .help = "write the plan there as JSON"},
    {0},
};
#undef FIELD

struct planning {
    const struct plan_options *options;
    struct fm_eplb_loads loads;
    struct fm_eplb_plan_file current;
    fm_eplb_shape shape;
    fm_eplb_placement placement;
    fm_eplb_options settings;
    int32_t *gpu_slots;
    double *gpu_speeds;
    fm_eplb_plan *plan;
    double time_us;
    fm_eplb_transfers *transfers;
};

// The numbers of a list "a,b,c" of exactly `count`.
static fm_status read_list(const char *text, const char *name, int count, double *out)
{
    for (int i = 0; i < count; i++) {
        char *end;
        out[i] = strtod(text, &end);
        if (end == text || *end != (i + 1 < count ? ',' : 0))
            return fm_base_error_set(FM_ERR_ARG,
                                     "--%s: entry %d is \"%.*s\"; expected %d numbers with commas between",
                                     name, i + 1, (int)strcspn(text, ","), text, count);
        text = end + 1;
    }
    return FM_OK;
}

static fm_status read_given_slots(struct planning *planning, double *list)
{
    FM_TRY(read_list(planning->options->gpu_slots, "gpu-slots", planning->shape.gpus, list));
    for (int gpu = 0; gpu < planning->shape.gpus; gpu++) {
        if (!(list[gpu] >= 0 && list[gpu] <= 65535 && list[gpu] == floor(list[gpu])))
            return fm_base_error_set(FM_ERR_ARG,
                                     "--gpu-slots: entry %d is %g; expected a whole number, 0 to 65535",
                                     gpu + 1, list[gpu]);
        planning->gpu_slots[gpu] = (int32_t)list[gpu];
    }
    return FM_OK;
}

// The slots of each GPU, where they are given or some GPUs are lost.
static fm_status read_gpu_slots(struct planning *planning)
{
    int gpus = planning->shape.gpus;
    const struct plan_options *options = planning->options;
    if (!options->gpu_slots && !options->lost)
        return FM_OK;
    planning->gpu_slots = fm_base_mem_zalloc((size_t)gpus, sizeof(int32_t));
    double *list = fm_base_mem_zalloc((size_t)gpus, sizeof *list);
    if (!planning->gpu_slots || !list) {
        fm_base_mem_free(list);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d GPUs", gpus);
    }
    fm_status status = FM_OK;
    if (options->gpu_slots)
        status = read_given_slots(planning, list);
    else // --lost has made sure of --current
        memcpy(planning->gpu_slots, planning->current.gpu_slots, (size_t)gpus * sizeof(int32_t));
    fm_base_mem_free(list);
    planning->settings.gpu_slots = planning->gpu_slots;
    return status;
}

// Takes the slots of lost GPUs away, and as many replicas as no longer fit.
static fm_status lose_gpus(struct planning *planning)
{
    const char *text = planning->options->lost;
    if (!text)
        return FM_OK;
    for (const char *at = text; at;) {
        char *end;
        long gpu = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != 0) || gpu < 0 || gpu >= planning->shape.gpus)
            return fm_base_error_set(FM_ERR_ARG,
                                     "--lost: \"%.*s\"; expected GPUs from 0 to %d with commas between",
                                     (int)strcspn(at, ","), at, planning->shape.gpus - 1);
        planning->gpu_slots[gpu] = 0;
        at = *end == ',' ? end + 1 : NULL;
    }
    int slots = 0;
    for (int gpu = 0; gpu < planning->shape.gpus; gpu++)
        slots += planning->gpu_slots[gpu];
    if (planning->shape.replicas > slots)
        planning->shape.replicas = slots;
    planning->settings.moves = FM_EPLB_MOVES_FEWEST;
    return FM_OK;
}

static fm_status read_current(struct planning *planning)
{
    const struct plan_options *options = planning->options;
    if (!options->current) {
        const char *needs = options->max_moves >= 0 ? "--max-moves" : options->lost ? "--lost" : NULL;
        needs = needs || options->expert_bytes == 0 ? needs : "--expert-bytes";
        return needs ? fm_base_error_set(FM_ERR_ARG, "%s needs --current, the plan that is running", needs)
                     : FM_OK;
    }
    FM_TRY(fm_app_eplb_plan_read(options->current, &planning->current));
    const struct fm_eplb_plan_file *current = &planning->current;
    FM_TRY(fm_app_eplb_plan_check(current, options->current, &planning->loads, planning->shape.gpus));
    planning->placement = (fm_eplb_placement){current->phy2log, current->slots, current->gpu_slots};
    planning->settings.current = &planning->placement;
    return FM_OK;
}

static fm_status prepare(struct planning *planning, const char *path)
{
    const struct plan_options *options = planning->options;
    FM_TRY(fm_app_eplb_loads_read(path, &planning->loads));
    planning->shape = (fm_eplb_shape){planning->loads.layers, planning->loads.experts, (int)options->replicas,
                                      (int)options->groups,   (int)options->nodes,     (int)options->gpus};
    planning->settings = (fm_eplb_options)FM_EPLB_OPTIONS_INIT;
    if (strcmp(options->policy, "reference") == 0)
        planning->settings.policy = FM_EPLB_REFERENCE;
    else
        planning->settings.budget_ms = options->budget_ms;
    FM_TRY(read_current(planning));
    FM_TRY(read_gpu_slots(planning));
    FM_TRY(lose_gpus(planning));
    if (options->gpu_speeds) {
        planning->gpu_speeds = fm_base_mem_zalloc((size_t)planning->shape.gpus, sizeof(double));
        if (!planning->gpu_speeds)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d GPUs", planning->shape.gpus);
        FM_TRY(read_list(options->gpu_speeds, "gpu-speeds", planning->shape.gpus, planning->gpu_speeds));
        planning->settings.gpu_speed = planning->gpu_speeds;
    }
    if (options->max_moves >= 0) {
        planning->settings.moves = FM_EPLB_MOVES_BOUNDED;
        planning->settings.moves_per_gpu = (int)options->max_moves;
    }
    return FM_OK;
}

static void write_rows(fm_json *json, const char *key, const int32_t *values, int rows, int columns)
{
    fm_base_json_begin(json, key, '[');
    for (int row = 0; row < rows; row++) {
        fm_base_json_begin(json, NULL, '[');
        for (int i = 0; i < columns; i++)
            fm_base_json_int(json, NULL, values[(size_t)row * (size_t)columns + (size_t)i]);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void write_certificates(fm_json *json, const fm_eplb_plan *plan)
{
    static const struct {
        const char *key;
        size_t offset;
        int is_count;
    } columns[] = {
        {"max_load", offsetof(fm_eplb_certificate, max_load), 0},
        {"mean_load", offsetof(fm_eplb_certificate, mean_load), 0},
        {"lower_bound", offsetof(fm_eplb_certificate, lower_bound), 0},
        {"gap", offsetof(fm_eplb_certificate, gap), 0},
        {"moves", offsetof(fm_eplb_certificate, moves), 1},
        {"duplicates", offsetof(fm_eplb_certificate, duplicates), 1},
    };
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        fm_base_json_begin(json, columns[i].key, '[');
        for (int layer = 0; layer < plan->shape.layers; layer++) {
            const char *value = (const char *)&plan->certificate[layer] + columns[i].offset;
            if (columns[i].is_count)
                fm_base_json_int(json, NULL, *(const int32_t *)(const void *)value);
            else
                fm_base_json_real(json, NULL, *(const double *)(const void *)value);
        }
        fm_base_json_end(json);
    }
}

static void write_transfers(fm_json *json, const fm_eplb_transfers *transfers)
{
    fm_base_json_int(json, "transfer_bytes", transfers->bytes);
    fm_base_json_int(json, "transfer_bytes_in_max", transfers->bytes_in_max);
    fm_base_json_int(json, "transfer_bytes_out_max", transfers->bytes_out_max);
    fm_base_json_int(json, "transfer_rounds", transfers->rounds_max);
    fm_base_json_int(json, "spare_bytes", transfers->spare_bytes);
    fm_base_json_begin(json, "transfers", '[');
    for (size_t i = 0; i < transfers->count; i++) {
        const fm_eplb_transfer *t = &transfers->item[i];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_int(json, "layer", t->layer);
        fm_base_json_int(json, "round", t->round);
        fm_base_json_int(json, "expert", t->expert);
        fm_base_json_int(json, "from_gpu", t->from_gpu);
        fm_base_json_int(json, "from_slot", t->from_slot);
        fm_base_json_int(json, "to_gpu", t->to_gpu);
        fm_base_json_int(json, "to_slot", t->to_slot);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static fm_status write_plan(const struct planning *planning, FILE *to)
{
    const fm_eplb_plan *plan = planning->plan;
    const fm_eplb_shape *shape = &plan->shape;
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "policy", planning->options->policy);
    fm_base_json_int(&json, "layers", shape->layers);
    fm_base_json_int(&json, "experts", shape->experts);
    fm_base_json_int(&json, "replicas", shape->replicas);
    fm_base_json_int(&json, "groups", shape->groups);
    fm_base_json_int(&json, "nodes", shape->nodes);
    fm_base_json_int(&json, "gpus", shape->gpus);
    fm_base_json_bool(&json, "hierarchical", plan->hierarchical);
    fm_base_json_real(&json, "time_us", planning->time_us);
    fm_base_json_begin(&json, "gpu_slots", '[');
    for (int gpu = 0; gpu < shape->gpus; gpu++)
        fm_base_json_int(&json, NULL, plan->slot_begin[gpu + 1] - plan->slot_begin[gpu]);
    fm_base_json_end(&json);
    if (planning->gpu_speeds) {
        fm_base_json_begin(&json, "gpu_speeds", '[');
        for (int gpu = 0; gpu < shape->gpus; gpu++)
            fm_base_json_real(&json, NULL, planning->gpu_speeds[gpu]);
        fm_base_json_end(&json);
    }
    write_certificates(&json, plan);
    write_rows(&json, "phy2log", plan->phy2log, shape->layers, plan->slots);
    fm_base_json_begin(&json, "log2phy", '[');
    for (int layer = 0; layer < shape->layers; layer++)
        write_rows(&json, NULL,
                   plan->log2phy + (size_t)layer * (size_t)shape->experts * (size_t)plan->copies_max,
                   shape->experts, plan->copies_max);
    fm_base_json_end(&json);
    write_rows(&json, "logcnt", plan->logcnt, shape->layers, shape->experts);
    if (planning->transfers)
        write_transfers(&json, planning->transfers);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, to);
}

static fm_status save_plan(const struct planning *planning, const char *path)
{
    char *text = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&text, &length);
    if (!file)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    fm_status status = write_plan(planning, file);
    if (fclose(file) != 0 && status == FM_OK)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to write %s", path);
    if (status == FM_OK)
        status = fm_base_file_save(path, text, length);
    free(text);
    return status;
}

static fm_status print_plan(const struct planning *planning)
{
    const fm_eplb_plan *plan = planning->plan;
    const fm_eplb_shape *shape = &plan->shape;
    fm_table table = {0};
    fm_base_table_column(&table, "layer", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "max/mean", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "bound/mean", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "gap", "%", FM_ALIGN_POINT);
    fm_base_table_column(&table, "moves", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "duplicates", NULL, FM_ALIGN_RIGHT);
    double sums[3] = {0};
    int64_t moves = 0;
    int64_t duplicates = 0;
    for (int layer = 0; layer < shape->layers; layer++) {
        const fm_eplb_certificate *c = &plan->certificate[layer];
        double mean = c->mean_load > 0 ? c->mean_load : 1;
        double row[3] = {c->max_load / mean, c->lower_bound / mean, 100 * c->gap};
        fm_base_table_cell(&table, "%d", layer);
        for (int i = 0; i < 3; i++) {
            fm_base_table_cell(&table, i < 2 ? "%.4f" : "%.3f", row[i]);
            sums[i] += row[i] / shape->layers;
        }
        fm_base_table_cell(&table, "%d", (int)c->moves);
        fm_base_table_cell(&table, "%d", (int)c->duplicates);
        moves += c->moves;
        duplicates += c->duplicates;
    }
    fm_base_table_rule(&table);
    fm_base_table_cell(&table, "mean");
    for (int i = 0; i < 3; i++)
        fm_base_table_cell(&table, i < 2 ? "%.4f" : "%.3f", sums[i]);
    fm_base_table_cell(&table, "%lld", (long long)moves);
    fm_base_table_cell(&table, "%lld", (long long)duplicates);
    FM_TRY(fm_base_table_finish(&table, stdout, fm_base_text_terminal(STDOUT_FILENO)));
    printf("\n%d layer%s, %d experts in %d replicas on %d GPUs", shape->layers, shape->layers > 1 ? "s" : "",
           shape->experts, shape->replicas, shape->gpus);
    if (plan->hierarchical && shape->nodes > 1)
        printf(", %d groups kept whole on %d nodes", shape->groups, shape->nodes);
    printf("; policy %s, %s\n", planning->options->policy,
           fm_base_text_duration(1e3 * planning->time_us).text);
    if (planning->transfers) {
        const fm_eplb_transfers *t = planning->transfers;
        printf("%zu transfers, %s in all, %s into one GPU at most, %d rounds at most, %s of extra memory on "
               "a GPU\n",
               t->count, fm_base_text_bytes((double)t->bytes).text,
               fm_base_text_bytes((double)t->bytes_in_max).text, t->rounds_max,
               fm_base_text_bytes((double)t->spare_bytes).text);
    }
    return FM_OK;
}

static fm_status plan_and_report(struct planning *planning, const fm_invocation *invocation)
{
    FM_TRY(prepare(planning, invocation->operands[0]));
    uint64_t begin_ns = fm_base_clock_ns();
    FM_TRY(fm_eplb_rebalance(&planning->shape, planning->loads.weight, &planning->settings, &planning->plan));
    planning->time_us = (double)(fm_base_clock_ns() - begin_ns) * 1e-3;
    if (planning->options->expert_bytes > 0)
        FM_TRY(fm_eplb_transfers_new(&planning->placement, planning->plan, planning->options->expert_bytes, 0,
                                     &planning->transfers));
    if (planning->options->out)
        FM_TRY(save_plan(planning, planning->options->out));
    return invocation->json ? write_plan(planning, stdout) : print_plan(planning);
}

static fm_status run_plan(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    struct planning planning = {.options = options};
    fm_status status = plan_and_report(&planning, invocation);
    fm_eplb_transfers_free(planning.transfers);
    fm_eplb_plan_free(planning.plan);
    fm_app_eplb_plan_free(&planning.current);
    fm_app_eplb_loads_free(&planning.loads);
    fm_base_mem_free(planning.gpu_slots);
    fm_base_mem_free(planning.gpu_speeds);
    return status;
}

static const fm_command command_plan = {
    .name = "plan",
    .summary =
        "replicate and place experts for measured loads, with a proven bound on how much better it could be",
    .operands = "LOADS",
    .details =
        "LOADS are the tokens of each expert in each layer: CSV (a line for each layer), .npy "
        "[layers][experts], or JSON "
        "{\"weight\": [[...], ...]}; - is standard input.\n"
        "With --json: phy2log [layers][slots], log2phy [layers][experts][copies] (padded with -1), logcnt "
        "[layers][experts]; max_load, mean_load, lower_bound, gap, moves and duplicates, a number for each "
        "layer; "
        "gpu_slots [gpus], and gpu_speeds where given; time_us, the time of the planning alone. What it "
        "prints can be given to "
        "--current.",
    .options = plan_schema,
    .options_size = sizeof(struct plan_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_plan,
};

static const fm_command *const commands[] = {&command_plan, &fm_cmd_eplb_show, NULL};

const fm_command fm_cmd_eplb = {
    .name = "eplb",
    .summary = "place the experts of a mixture-of-experts model on GPUs",
    .children = commands,
};
