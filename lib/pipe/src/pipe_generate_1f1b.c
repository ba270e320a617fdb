// GPipe, 1F1B and interleaved 1F1B: the schedules with an undivided backward.
#include "pipe_internal.h"

void fm_pipe_generate_gpipe(struct fm_pipe_builder *builder, int rank)
{
    (void)rank;
    for (int chunk = 0; chunk < builder->chunks; chunk++)
        fm_pipe_builder_push(builder, FM_PIPE_F, 0, chunk);
    for (int chunk = 0; chunk < builder->chunks; chunk++)
        fm_pipe_builder_push(builder, FM_PIPE_B, 0, chunk);
}

// `warmup` forwards, then a forward and a backward in turn, then the backwards that are left. Item k of
// either sequence goes round the lanes, `ranks` micro-batches on each, the backwards from the last lane down.
static void one_forward_one_backward(struct fm_pipe_builder *builder, int warmup)
{
    int ranks = builder->program->ranks;
    int lanes = builder->program->lanes;
    int round = ranks * lanes;
    int total = builder->chunks * lanes;
    int forwards = 0;
    for (int backwards = 0; backwards < total;) {
        int ahead = forwards - backwards;
        int forward = forwards < total && ahead <= warmup;
        int k = forward ? forwards++ : backwards++;
        int lane = k % round / ranks;
        int chunk = k / round * ranks + k % ranks;
        if (lanes == 1)
            chunk = k; // the chunks of a plain pipeline need not be padded to full rounds
        if (forward)
            fm_pipe_builder_push(builder, FM_PIPE_F, lane, chunk);
        else
            fm_pipe_builder_push(builder, FM_PIPE_B, lanes - 1 - lane, chunk);
    }
}

void fm_pipe_generate_1f1b(struct fm_pipe_builder *builder, int rank)
{
    one_forward_one_backward(builder, builder->program->ranks - 1 - rank);
}

void fm_pipe_generate_interleaved(struct fm_pipe_builder *builder, int rank)
{
    const fm_pipe_program *program = builder->program;
    if (program->lanes == 1)
        fm_pipe_generate_1f1b(builder, rank);
    else
        one_forward_one_backward(builder,
                                 2 * (program->ranks - 1 - rank) + (program->lanes - 1) * program->ranks);
}
