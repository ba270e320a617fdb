// `fathom rank`: one rank of a training whose recipe asks for ranks that are processes.
#include "commands.h"
#include "fathom/model_train.h"
#include "fathom/span.h"
#include "fathom/trace_write.h"

static fm_status begin(void *context, const char *path)
{
    fm_trace_writer **writer = context;
    FM_TRY(fm_trace_writer_open(path, writer));
    return fm_base_span_enable(0);
}

static fm_status drain(void *context)
{
    fm_trace_writer **writer = context;
    return fm_trace_writer_drain(*writer);
}

static fm_status end(void *context)
{
    fm_trace_writer **writer = context, *whole = *writer;
    fm_base_span_disable();
    *writer = NULL;
    return fm_trace_writer_close(whole);
}

static fm_status run_rank(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    if (invocation->operand_count < 2)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%d operands; expected the two that `fathom run` gives its ranks",
                                 invocation->operand_count);
    fm_trace_writer *writer = NULL;
    const fm_model_rank_recorder recorder = {&writer, begin, drain, end};
    fm_status status = fm_model_rank_run(invocation->operands[0], invocation->operands[1], &recorder);
    fm_status closed = fm_trace_writer_close(writer); // of a training that was cut short
    return status < 0 ? status : closed;
}

const fm_command fm_cmd_rank = {
    .name = "rank",
    .summary = "be one rank of a training: `fathom run` starts these",
    .details =
        "A launcher of MPI's programs starts it with where to call and what to train. It ends with the run.",
    .operands = "ADDRESS START",
    .operands_max = 2,
    .run = run_rank,
};
