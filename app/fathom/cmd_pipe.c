// `fathom pipe`: pipeline schedules planned, checked, compared and drawn.
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/pipe.h"
#include "fathom/table.h"
#include "fathom/text.h"

struct pipe_options {
    const char *schedule;
    int64_t ranks;
    int64_t micro_batches;
    int64_t virtual_stages;
    int forward_only;
    double f, b, w, fb;
    double latency;
    const char *placement;
    double memory_max;
    int search;
    const char *output;
};

#define OPTION(field) offsetof(struct pipe_options, field)
#define SCHEDULE_OPTION                                                                                     \
    {                                                                                                       \
        "schedule", FM_OPTION_STRING, OPTION(schedule),                                                     \
            .letter = 's', .required = 1, .metavar = "NAME",                                                \
            .help = "gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-v, chimera, dualpipe, dualpipev, or search" \
    }
#define SIZE_OPTIONS                                             \
    {"ranks",                                                    \
     FM_OPTION_INT,                                              \
     OPTION(ranks),                                              \
     .required = 1,                                              \
     .min = 1,                                                   \
     .max = FM_PIPE_RANKS_MAX,                                   \
     .help = "ranks of the pipeline"},                           \
        {"micro-batches",                                        \
         FM_OPTION_INT,                                          \
         OPTION(micro_batches),                                  \
         .required = 1,                                          \
         .min = 1,                                               \
         .max = FM_PIPE_MICRO_BATCHES_MAX,                       \
         .help = "micro-batches of a step"},                     \
    {                                                            \
        "virtual-stages", FM_OPTION_INT, OPTION(virtual_stages), \
            .value = "2", .min = 1, .max = FM_PIPE_LANES_MAX,    \
            .help = "stages that a rank holds with interleaved"  \
    }
#define COST_OPTIONS                                                                                           \
    {"f",                                                                                                      \
     FM_OPTION_REAL,                                                                                           \
     OPTION(f),                                                                                                \
     .value = "1",                                                                                             \
     .min = 0,                                                                                                 \
     .max = 1e12,                                                                                              \
     .help = "time of a forward of 1/ranks of the model"},                                                     \
        {"b",                                                                                                  \
         FM_OPTION_REAL,                                                                                       \
         OPTION(b),                                                                                            \
         .value = "1",                                                                                         \
         .min = 0,                                                                                             \
         .max = 1e12,                                                                                          \
         .help = "time of its backward for the input (a full backward takes b + w)"},                          \
        {"w",                                                                                                  \
         FM_OPTION_REAL,                                                                                       \
         OPTION(w),                                                                                            \
         .value = "1",                                                                                         \
         .min = 0,                                                                                             \
         .max = 1e12,                                                                                          \
         .help = "time of its backward for the weights"},                                                      \
        {"fb",     FM_OPTION_REAL, OPTION(fb),                                                                 \
         .min = 0, .max = 1e12,    .help = "time of a forward overlapped with a full backward; 0: f + b + w"}, \
        {"latency", FM_OPTION_REAL, OPTION(latency),                                                           \
         .min = 0,  .max = 1e12,    .help = "time of a message between ranks"},                                \
    {                                                                                                          \
        "memory-max", FM_OPTION_REAL, OPTION(memory_max),                                                      \
            .min = 0, .max = 1e12,                                                                             \
            .help = "search: micro-batches of 1/ranks of the model that a rank may hold; 0: no limit"          \
    }
#define PLACEMENT_OPTION                                                                               \
    {                                                                                                  \
        "placement", FM_OPTION_CHOICE, OPTION(placement), .value = "loop", .choices = "loop|v|mirror", \
                                                          .help = "search: where the stages lie"       \
    }
#define FORWARD_OPTION                                                                                 \
    {                                                                                                  \
        "forward-only", FM_OPTION_FLAG, OPTION(forward_only), .help = "forwards alone, for evaluation" \
    }

static const fm_option plan_schema[] = {SCHEDULE_OPTION, SIZE_OPTIONS,     FORWARD_OPTION,
                                        COST_OPTIONS,    PLACEMENT_OPTION, {0}};

static const fm_option compare_schema[] = {
    SIZE_OPTIONS,
    COST_OPTIONS,
    {"search", FM_OPTION_FLAG, OPTION(search), .help = "add the best programs found for each placement"},
    {0}};

static const fm_option draw_schema[] = {
    SCHEDULE_OPTION,
    SIZE_OPTIONS,
    FORWARD_OPTION,
    COST_OPTIONS,
    PLACEMENT_OPTION,
    {"output", FM_OPTION_STRING, OPTION(output), .letter = 'o', .metavar = "FILE",
     .help =
         "out.svg: a chart, out.json: a Chrome trace, out.txt: text; without it text comes on the terminal"},
    {0}};

// Costs are given for 1/ranks of the model; a program that cuts it into more stages has smaller ones.
static fm_pipe_stage_cost stage_cost(const struct pipe_options *options, int ranks, int stages)
{
    double share = (double)ranks / stages;
    return (fm_pipe_stage_cost){.f = share * options->f,
                                .i = share * options->b,
                                .w = share * options->w,
                                .fb = share * options->fb,
                                .memory = share};
}

static fm_status find_program(const struct pipe_options *options, fm_pipe_placement placement,
                              fm_pipe_program **out_program)
{
    fm_pipe_search search = {.size = sizeof search,
                             .placement = placement,
                             .ranks = (int)options->ranks,
                             .micro_batches = (int)options->micro_batches,
                             .memory_max = options->memory_max};
    int stages = placement == FM_PIPE_V ? 2 * search.ranks : search.ranks;
    fm_pipe_stage_cost cost = stage_cost(options, search.ranks, stages);
    fm_pipe_costs costs = {
        .size = sizeof costs, .stages = &cost, .stage_count = 1, .latency = options->latency};
    search.costs = &costs;
    fm_pipe_found found;
    FM_TRY(fm_pipe_search_run(&search, &found));
    *out_program = found.program;
    return FM_OK;
}

static fm_status make_program(const struct pipe_options *options, int *out_exit,
                              fm_pipe_program **out_program)
{
    if (strcmp(options->schedule, "search") == 0) {
        fm_pipe_placement placement = options->placement[0] == 'v'   ? FM_PIPE_V
                                      : options->placement[0] == 'm' ? FM_PIPE_MIRROR
                                                                     : FM_PIPE_LOOP;
        return find_program(options, placement, out_program);
    }
    fm_pipe_shape shape = {.size = sizeof shape,
                           .ranks = (int)options->ranks,
                           .micro_batches = (int)options->micro_batches,
                           .forward_only = options->forward_only};
    fm_status status = fm_pipe_schedule_parse(options->schedule, &shape.schedule);
    if (status != FM_OK) {
        *out_exit = 2;
        fm_base_error_set(status, "%s, search", fm_error_message());
        return status;
    }
    if (shape.schedule == FM_PIPE_INTERLEAVED)
        shape.lanes = (int)options->virtual_stages;
    return fm_pipe_program_generate(&shape, out_program);
}

static fm_status simulate(const fm_pipe_program *program, const struct pipe_options *options,
                          fm_pipe_simulation **out_simulation)
{
    fm_pipe_stage_cost cost = stage_cost(options, program->ranks, program->stages);
    fm_pipe_costs costs = {
        .size = sizeof costs, .stages = &cost, .stage_count = 1, .latency = options->latency};
    return fm_pipe_simulation_run(program, &costs, out_simulation);
}

static void print_op(const fm_pipe_op *op)
{
    if (op->kind == FM_PIPE_FB)
        printf(" F%d.%d&B%d.%d", op->lane, op->chunk, op->back_lane, op->back_chunk);
    else
        printf(" %s%d.%d", fm_pipe_kind_name((fm_pipe_kind)op->kind), op->lane, op->chunk);
}

static fm_status print_plan(const fm_pipe_program *program, const struct pipe_options *options)
{
    fm_pipe_simulation *simulation = NULL;
    fm_pipe_plan *plan = NULL;
    fm_table table = {0};
    fm_status status = simulate(program, options, &simulation);
    if (status == FM_OK)
        status = fm_pipe_plan_create(program, &plan);
    if (status != FM_OK)
        goto out;
    for (int rank = 0; rank < program->ranks; rank++) {
        printf("rank %d:", rank);
        for (size_t i = program->first[rank]; i < program->first[rank + 1]; i++)
            print_op(&program->ops[i]);
        printf("\n");
    }
    printf("\n(F forward, B backward, I input gradient, W weight gradient, & overlapped; lane.chunk)\n\n");
    fm_base_table_column(&table, "rank", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "ops", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "messages", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "held at most", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "activation buffers", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "gradient buffers", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "busy", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&table, "bubble", NULL, FM_ALIGN_POINT);
    for (int rank = 0; rank < program->ranks && status == FM_OK; rank++) {
        fm_pipe_needs needs = {0};
        status = fm_pipe_plan_needs(plan, rank, &needs);
        fm_base_table_cell(&table, "%d", rank);
        fm_base_table_cell(&table, "%zu", program->first[rank + 1] - program->first[rank]);
        fm_base_table_cell(&table, "%zu", needs.sends + needs.receives);
        fm_base_table_cell(&table, "%g", simulation->ranks[rank].memory_peak);
        fm_base_table_cell(&table, "%d", needs.activation_slots);
        fm_base_table_cell(&table, "%d", needs.gradient_slots);
        fm_base_table_cell(&table, "%g", simulation->ranks[rank].busy);
        fm_base_table_cell(&table, "%g", simulation->ranks[rank].bubble);
    }
    fm_status written = fm_base_table_finish(&table, stdout, 0);
    status = status != FM_OK ? status : written;
    printf("\nmakespan %g\n", simulation->makespan);
out:
    fm_pipe_plan_free(plan);
    fm_pipe_simulation_free(simulation);
    return status;
}

static fm_status run_plan(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct pipe_options *options = given;
    fm_pipe_program *program = NULL;
    FM_TRY(make_program(options, out_exit, &program));
    fm_status status;
    if (invocation->json) {
        fm_json json = {0};
        fm_pipe_program_write(program, NULL, &json);
        status = fm_base_json_finish(&json, stdout);
    } else {
        status = print_plan(program, options);
    }
    fm_pipe_program_free(program);
    return status;
}

// Where in the file the fault lies: the op, or the rank's list when something is missing at its end.
static const fm_doc *fault_node(const fm_doc *node, const fm_pipe_fault *fault)
{
    const fm_doc *rank = fm_base_doc_at(fm_base_doc_get(node, "ops"), (size_t)fault->rank);
    const fm_doc *op = fm_base_doc_at(rank, (size_t)fault->op);
    return op ? op : rank;
}

static void write_verdict(const fm_pipe_program *program, const fm_pipe_fault *fault, int line, fm_json *json)
{
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "schedule", fm_pipe_schedule_name(program->schedule));
    fm_base_json_int(json, "ranks", program->ranks);
    fm_base_json_int(json, "micro_batches", program->micro_batches);
    fm_base_json_bool(json, "right", fault == NULL);
    if (fault) {
        fm_base_json_int(json, "rank", fault->rank);
        fm_base_json_int(json, "op", fault->op);
        fm_base_json_int(json, "line", line);
        fm_base_json_string(json, "fault", fault->text);
    }
    fm_base_json_end(json);
}

static fm_status check_one(const fm_doc *node, fm_json *json, int text)
{
    // Links of any depth follow from rendezvous; a few are run all the same.
    enum { DEPTH_MAX = 3 };
    fm_pipe_program *program = NULL;
    FM_TRY(fm_pipe_program_read(node, &program));
    fm_pipe_fault fault;
    fm_status status = fm_pipe_program_verify(program, DEPTH_MAX, &fault);
    int wrong = status == FM_ERR_FORMAT;
    if (wrong)
        fm_base_doc_error(status, fault_node(node, &fault), "%s", fault.text);
    if (status == FM_OK || wrong)
        write_verdict(program, wrong ? &fault : NULL, wrong ? fm_base_doc_line(fault_node(node, &fault)) : 0,
                      json);
    if (status == FM_OK && text)
        printf("%s, %d ranks, %d micro-batches: right (%zu ops)\n", fm_pipe_schedule_name(program->schedule),
               program->ranks, program->micro_batches, program->first[program->ranks]);
    fm_pipe_program_free(program);
    return status;
}

static fm_status run_check(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    fm_doc *root = NULL;
    FM_TRY(fm_base_doc_load(invocation->operands[0], &root));
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    fm_status status = FM_OK;
    int is_list = fm_base_doc_type(root) == FM_DOC_ARRAY;
    if (is_list && fm_base_doc_count(root) == 0)
        status = fm_base_doc_error(FM_ERR_FORMAT, root,
                                   "the list is empty; expected a program, or a list of them");
    for (size_t i = 0; i < (is_list ? fm_base_doc_count(root) : 1) && status == FM_OK; i++)
        status = check_one(is_list ? fm_base_doc_at(root, i) : root, &json, !invocation->json);
    fm_base_json_end(&json);
    fm_status written = fm_base_json_finish(&json, invocation->json ? stdout : NULL);
    fm_base_doc_free(root);
    return status != FM_OK ? status : written;
}

struct comparison {
    const struct pipe_options *options;
    fm_table table;
    fm_json json;
};

static void compare_row(struct comparison *comparison, const char *name, const fm_pipe_program *program,
                        const fm_pipe_simulation *simulation)
{
    int copies = program->placement == FM_PIPE_MIRROR ? 2 : 1;
    fm_base_table_cell(&comparison->table, "%s", name);
    fm_base_table_cell(&comparison->table, "%.6g", simulation->makespan);
    fm_base_table_cell(&comparison->table, "%.1f", 100 * simulation->bubble_ratio);
    fm_base_table_cell(&comparison->table, "%.6g", simulation->memory_peak);
    fm_base_table_cell(&comparison->table, "%dx", copies);
    fm_base_table_cell(&comparison->table, "%s", "");
    fm_json *json = &comparison->json;
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "schedule", name);
    fm_base_json_real(json, "makespan", simulation->makespan);
    fm_base_json_real(json, "bubble_ratio", simulation->bubble_ratio);
    fm_base_json_real(json, "memory_peak", simulation->memory_peak);
    fm_base_json_int(json, "parameters", copies);
    fm_base_json_end(json);
}

// A size that a schedule does not allow is a row that says so.
static fm_status compare_program(struct comparison *comparison, const char *name, fm_status made,
                                 fm_pipe_program *program)
{
    if (made == FM_ERR_ARG) {
        fm_base_table_cell(&comparison->table, "%s", name);
        for (int i = 0; i < 4; i++)
            fm_base_table_cell(&comparison->table, "-");
        fm_base_table_cell(&comparison->table, "%s", fm_error_message());
        fm_base_json_begin(&comparison->json, NULL, '{');
        fm_base_json_string(&comparison->json, "schedule", name);
        fm_base_json_string(&comparison->json, "refused", fm_error_message());
        fm_base_json_end(&comparison->json);
        return FM_OK;
    }
    FM_TRY(made);
    fm_pipe_simulation *simulation = NULL;
    fm_status status = simulate(program, comparison->options, &simulation);
    if (status == FM_OK)
        compare_row(comparison, name, program, simulation);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
    return status;
}

static fm_status compare_all(struct comparison *comparison)
{
    static const char *const searched[] = {"search, loop", "search, v", "search, mirror"};
    const struct pipe_options *options = comparison->options;
    for (int i = FM_PIPE_CUSTOM + 1; i < FM_PIPE_SCHEDULE_COUNT; i++) {
        fm_pipe_shape shape = {.size = sizeof shape,
                               .schedule = (fm_pipe_schedule)i,
                               .ranks = (int)options->ranks,
                               .micro_batches = (int)options->micro_batches,
                               .lanes = i == FM_PIPE_INTERLEAVED ? (int)options->virtual_stages : 0};
        fm_pipe_program *program = NULL;
        fm_status made = fm_pipe_program_generate(&shape, &program);
        FM_TRY(compare_program(comparison, fm_pipe_schedule_name(shape.schedule), made, program));
    }
    for (int i = 0; i <= FM_PIPE_MIRROR && options->search; i++) {
        fm_pipe_program *program = NULL;
        fm_status made = find_program(options, (fm_pipe_placement)i, &program);
        FM_TRY(compare_program(comparison, searched[i], made, program));
    }
    return FM_OK;
}

static fm_status run_compare(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)out_exit;
    struct comparison comparison = {.options = given};
    fm_base_table_column(&comparison.table, "schedule", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&comparison.table, "makespan", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&comparison.table, "bubble", "%", FM_ALIGN_POINT);
    fm_base_table_column(&comparison.table, "peak memory", NULL, FM_ALIGN_POINT);
    fm_base_table_column(&comparison.table, "parameters", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&comparison.table, "", NULL, FM_ALIGN_LEFT);
    fm_base_json_begin(&comparison.json, NULL, '[');
    fm_status status = compare_all(&comparison);
    fm_base_json_end(&comparison.json);
    int text = !invocation->json && status == FM_OK;
    fm_status table =
        fm_base_table_finish(&comparison.table, text ? stdout : NULL, fm_base_text_terminal(STDOUT_FILENO));
    if (text)
        printf(
            "\nPeak memory counts micro-batches held by a rank, each of 1/%d of the model's activations.\n",
            (int)comparison.options->ranks);
    fm_status json =
        fm_base_json_finish(&comparison.json, invocation->json && status == FM_OK ? stdout : NULL);
    return status != FM_OK ? status : table != FM_OK ? table : json;
}

static int ends_in(const char *name, const char *ending)
{
    size_t length = strlen(name);
    return length > strlen(ending) && strcmp(name + length - strlen(ending), ending) == 0;
}

// Text for a terminal: its width and, where it is one, colours.
static fm_status draw_text(const fm_pipe_program *program, const fm_pipe_simulation *simulation,
                           const char *output, fm_pipe_text *out_text)
{
    enum { COLUMNS_DEFAULT = 160, COLUMNS_LEAST = 20 };
    int columns = output ? 0 : fm_base_text_terminal(STDOUT_FILENO);
    int color = columns > 0;
    columns = columns < COLUMNS_LEAST ? COLUMNS_DEFAULT : columns;
    return fm_pipe_draw_text(program, simulation, columns, color, out_text);
}

static fm_status render(const fm_pipe_program *program, const fm_pipe_simulation *simulation,
                        const char *output, fm_pipe_text *out_text)
{
    if (!output || ends_in(output, ".txt"))
        return draw_text(program, simulation, output, out_text);
    if (ends_in(output, ".svg"))
        return fm_pipe_draw_svg(program, simulation, out_text);
    return fm_pipe_draw_trace(program, simulation, out_text);
}

static fm_status run_draw(const fm_invocation *invocation, const void *given, int *out_exit)
{
    (void)invocation;
    const struct pipe_options *options = given;
    if (options->output && !ends_in(options->output, ".svg") && !ends_in(options->output, ".json") &&
        !ends_in(options->output, ".txt")) {
        *out_exit = 2;
        return fm_base_error_set(FM_ERR_ARG,
                                 "output is \"%s\"; expected a name that ends in .svg, .json or .txt",
                                 options->output);
    }
    fm_pipe_program *program = NULL;
    fm_pipe_simulation *simulation = NULL;
    fm_pipe_text text = {0};
    FM_TRY(make_program(options, out_exit, &program));
    fm_status status = simulate(program, options, &simulation);
    if (status == FM_OK)
        status = render(program, simulation, options->output, &text);
    if (status == FM_OK && options->output) {
        status = fm_base_file_save(options->output, text.text, text.length);
    } else if (status == FM_OK) {
        fputs(text.text, stdout);
        printf("makespan %g, bubble %.1f %%, at most %g held on a rank\n", simulation->makespan,
               100 * simulation->bubble_ratio, simulation->memory_peak);
    }
    fm_base_mem_free(text.text);
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
    return status;
}

static const fm_command plan_command = {
    .name = "plan",
    .summary = "print the program of every rank",
    .details =
        "The programs, what each rank sends, receives and holds, and the simulated time. --json prints\n"
        "{\"schedule\", \"ranks\", \"micro_batches\", \"ops\"}: ops[rank] is a list of [KIND, lane, chunk], "
        "or\n"
        "[\"FB\", lane, chunk, lane, chunk] for a forward overlapped with a backward.",
    .options = plan_schema,
    .options_size = sizeof(struct pipe_options),
    .has_json = 1,
    .run = run_plan,
};

static const fm_command check_command = {
    .name = "check",
    .summary = "prove a program right, or name its first fault",
    .operands = "FILE",
    .details =
        "FILE holds a program, or a list of programs, as 'plan --json' prints them; '-' is standard input. "
        "Checked "
        "are each\nrank's order, messages and their order, deadlock over links that block, and buffers.",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_check,
};

static const fm_command compare_command = {
    .name = "compare",
    .summary = "simulate all schedules at one size and tabulate them",
    .options = compare_schema,
    .options_size = sizeof(struct pipe_options),
    .has_json = 1,
    .run = run_compare,
};

static const fm_command draw_command = {
    .name = "draw",
    .summary = "draw a simulated step: chart, Chrome trace or text",
    .options = draw_schema,
    .options_size = sizeof(struct pipe_options),
    .run = run_draw,
};

static const fm_command *const pipe_children[] = {&plan_command, &check_command, &compare_command,
                                                  &draw_command, NULL};

const fm_command fm_cmd_pipe = {
    .name = "pipe",
    .summary = "pipeline schedules: plan, check, compare, draw",
    .details =
        "The schedule 'search' is the best program found for the given costs, placement and memory limit.",
    .children = pipe_children,
};
