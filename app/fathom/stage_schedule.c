// The pipeline schedule that training will follow: generated, proved, simulated, drawn.
#include <stddef.h>
#include <stdio.h>

#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/pipe.h"
#include "stage.h"

struct schedule_options {
    const char *schedule;
    int64_t ranks, micro_batches;
    double f, i, w, fb;
};

#define FIELD(name) offsetof(struct schedule_options, name)
static const fm_option schedule_schema[] = {
    {"schedule", FM_OPTION_STRING, FIELD(schedule), .value = "dualpipev",
     .help = "its name ('fathom pipe compare' lists them)"},
    {"ranks", FM_OPTION_INT, FIELD(ranks), .value = "4", .min = 1, .max = 4096, .help = "pipeline ranks"},
    {"micro-batches", FM_OPTION_INT, FIELD(micro_batches), .value = "12", .min = 1, .max = 1 << 20,
     .help = "in a step"},
    {"f", FM_OPTION_REAL, FIELD(f), .value = "1", .min = 0, .max = 1e9, .help = "time of a forward"},
    {"i", FM_OPTION_REAL, FIELD(i), .value = "1", .min = 0, .max = 1e9,
     .help = "time of a backward for the input"},
    {"w", FM_OPTION_REAL, FIELD(w), .value = "1", .min = 0, .max = 1e9,
     .help = "time of a backward for the weights"},
    {"fb", FM_OPTION_REAL, FIELD(fb), .value = "2.2", .min = 0, .max = 1e9,
     .help = "time of an overlapped forward and backward"},
    {0},
};

static fm_status draw(struct fm_stage_run *run, const fm_pipe_program *program,
                      const fm_pipe_simulation *simulation)
{
    char path[4096];
    fm_pipe_text svg;
    FM_TRY(fm_pipe_draw_svg(program, simulation, &svg));
    snprintf(path, sizeof path, "%s/schedule.svg", run->folder);
    fm_status status = fm_base_file_save(path, svg.text, svg.length);
    fm_base_mem_free(svg.text);
    return status;
}

static fm_status run_schedule(struct fm_stage_run *run, const void *given)
{
    const struct schedule_options *options = given;
    fm_pipe_shape shape = {
        .size = sizeof shape, .ranks = (int)options->ranks, .micro_batches = (int)options->micro_batches};
    FM_TRY(fm_pipe_schedule_parse(options->schedule, &shape.schedule));
    fm_pipe_stage_cost cost = {.f = options->f, .i = options->i, .w = options->w, .fb = options->fb};
    fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    fm_pipe_program *program = NULL;
    fm_pipe_simulation *simulation = NULL;
    FM_TRY(fm_pipe_program_generate(&shape, &program));
    fm_status status = fm_pipe_program_verify(program, 4, NULL);
    if (status == FM_OK)
        status = fm_pipe_simulation_run(program, &costs, &simulation);
    if (status == FM_OK) {
        fm_app_stage_text(run, "schedule, proved right", "%s", fm_pipe_schedule_name(shape.schedule));
        fm_app_stage_number(run, "ranks", shape.ranks, NULL);
        fm_app_stage_number(run, "micro-batches", shape.micro_batches, NULL);
        fm_app_stage_number(run, "makespan, simulated",
                            simulation->makespan / (options->f > 0 ? options->f : 1), "forward times");
        fm_app_stage_number(run, "bubble, simulated", 100 * simulation->bubble_ratio, "%");
        fm_app_stage_number(run, "peak activations of the worst rank", simulation->memory_peak,
                            "micro-batches");
        status = draw(run, program, simulation);
    }
    fm_pipe_simulation_free(simulation);
    fm_pipe_program_free(program);
    return status;
}

const struct fm_stage fm_stage_schedule = {
    .name = "schedule",
    .summary = "a pipeline schedule: generated, proved, simulated, drawn",
    .schema = schedule_schema,
    .options_size = sizeof(struct schedule_options),
    .run = run_schedule,
};
