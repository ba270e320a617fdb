// Plans DualPipeV over 2 ranks, proves the programs right, and shows a simulated step.
#include <stdio.h>

#include "fathom/mem.h"
#include "fathom/pipe.h"

static fm_status show(const fm_pipe_program *program)
{
    // Forward 1, gradient of the input 1, of the weights 1; a forward overlapped with a backward 2.2 instead of 3.
    const fm_pipe_stage_cost cost = {.f = 1, .i = 1, .w = 1, .fb = 2.2};
    const fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    fm_pipe_simulation *simulation;
    FM_TRY(fm_pipe_program_verify(program, 1, NULL));
    FM_TRY(fm_pipe_simulation_run(program, &costs, &simulation));
    printf("%s: makespan %g, bubble %.1f %%, at most %g micro-batches held\n",
           fm_pipe_schedule_name(program->schedule), simulation->makespan, 100 * simulation->bubble_ratio,
           simulation->memory_peak);
    fm_pipe_text text;
    fm_status status = fm_pipe_draw_text(program, simulation, 100, 0, &text);
    if (status == FM_OK) {
        fputs(text.text, stdout);
        fm_base_mem_free(text.text);
    }
    fm_pipe_simulation_free(simulation);
    return status;
}

int main(void)
{
    const fm_pipe_shape shape = {
        .size = sizeof shape, .schedule = FM_PIPE_DUALPIPEV, .ranks = 2, .micro_batches = 6};
    fm_pipe_program *program = NULL;
    fm_status status = fm_pipe_program_generate(&shape, &program);
    if (status == FM_OK)
        status = show(program);
    if (status != FM_OK)
        fprintf(stderr, "%s\n", fm_error_message());
    fm_pipe_program_free(program);
    return status != FM_OK;
}
