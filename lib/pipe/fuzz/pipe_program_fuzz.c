// Program files from outside: the reader refuses or reads, the verifier judges, and what is right can be planned,
// simulated and drawn.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "fathom/mem.h"
#include "fathom/pipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const fm_pipe_program *program)
{
    static const fm_pipe_stage_cost cost = {.f = 1, .i = 1, .w = 1};
    const fm_pipe_costs costs = {.size = sizeof costs, .stages = &cost, .stage_count = 1};
    fm_pipe_fault fault;
    fm_status status = fm_pipe_program_verify(program, 1, &fault);
    fm_pipe_plan *plan = NULL;
    fm_pipe_simulation *simulation = NULL;
    if (status != fm_pipe_plan_create(program, &plan))
        abort(); // what can be planned is right, and the other way round
    if (status != fm_pipe_simulation_run(program, &costs, &simulation))
        abort();
    fm_pipe_text text = {0};
    if (simulation && fm_pipe_draw_text(program, simulation, 80, 0, &text) != FM_OK)
        abort();
    fm_base_mem_free(text.text);
    fm_pipe_simulation_free(simulation);
    fm_pipe_plan_free(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_doc *doc = NULL;
    fm_pipe_program *program = NULL;
    if (fm_base_doc_parse_json((const char *)data, size, "fuzz", &doc) != FM_OK)
        return 0;
    if (fm_pipe_program_read(doc, &program) == FM_OK)
        use(program);
    fm_pipe_program_free(program);
    fm_base_doc_free(doc);
    return 0;
}
