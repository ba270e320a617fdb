// `fathom rank`: one rank of a training whose recipe asks for ranks that are processes.
#include "commands.h"
#include "fathom/model_train.h"

static fm_status run_rank(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    if (invocation->operand_count < 2)
        return fm_base_error_set(FM_ERR_ARG,
                                 "%d operands; expected the two that `fathom run` gives its ranks",
                                 invocation->operand_count);
    return fm_model_rank_run(invocation->operands[0], invocation->operands[1]);
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
