// The zero-bubble family: backward divided into I and W, so that the chain of gradients runs ahead of the
// weight work.
#include "pipe_internal.h"

// H1 (`height` 1) and H2 (`height` 2). Rank r begins with height * (ranks - 1 - r) forwards and lets W lag
// height * r micro-batches behind I, so that every rank holds height * (ranks - 1) + 1 visits at its peak.
static void handcrafted(struct fm_pipe_builder *builder, int rank, int height)
{
    int chunks = builder->chunks;
    int warmup = height * (builder->program->ranks - 1 - rank);
    int lag = height * rank;
    int forwards = 0;
    int weights = 0;
    while (forwards < warmup && forwards < chunks)
        fm_pipe_builder_push(builder, FM_PIPE_F, 0, forwards++);
    for (int backwards = 0; backwards < chunks; backwards++) {
        if (forwards < chunks)
            fm_pipe_builder_push(builder, FM_PIPE_F, 0, forwards++);
        fm_pipe_builder_push(builder, FM_PIPE_I, 0, backwards);
        if (backwards >= lag)
            fm_pipe_builder_push(builder, FM_PIPE_W, 0, weights++);
    }
    while (weights < chunks)
        fm_pipe_builder_push(builder, FM_PIPE_W, 0, weights++);
}

void fm_pipe_generate_zb_h1(struct fm_pipe_builder *builder, int rank)
{
    handcrafted(builder, rank, 1);
}

void fm_pipe_generate_zb_h2(struct fm_pipe_builder *builder, int rank)
{
    handcrafted(builder, rank, 2);
}

struct v_counts {
    int forward[2];
    int input[2];
    int weight[2];
};

static void v_forward(struct fm_pipe_builder *builder, struct v_counts *counts, int lane)
{
    fm_pipe_builder_push(builder, FM_PIPE_F, lane, counts->forward[lane]++);
}

static void v_input(struct fm_pipe_builder *builder, struct v_counts *counts, int lane)
{
    fm_pipe_builder_push(builder, FM_PIPE_I, lane, counts->input[lane]++);
}

static void v_weight(struct fm_pipe_builder *builder, struct v_counts *counts, int lane)
{
    fm_pipe_builder_push(builder, FM_PIPE_W, lane, counts->weight[lane]++);
}

// Qi et al. 2024, section on V-ZB: with F = I = W no rank idles between its first op and its last one.
void fm_pipe_generate_zb_v(struct fm_pipe_builder *builder, int rank)
{
    int chunks = builder->chunks;
    int below = builder->program->ranks - rank; // ranks from this one to the turn of the V
    struct v_counts counts = {0};
    // Warm-up: down the first arm, then both arms, then backwards of the second arm come in.
    for (int i = 0; i < 2 * below - 1; i++)
        v_forward(builder, &counts, 0);
    for (int i = 0; i < rank; i++) {
        v_forward(builder, &counts, 1);
        v_forward(builder, &counts, 0);
    }
    for (int i = 0; i < below; i++) {
        v_forward(builder, &counts, 1);
        v_input(builder, &counts, 1);
        v_weight(builder, &counts, 1);
    }
    // Steady state: all six ops of a micro-batch in turn.
    while (counts.forward[1] < chunks) {
        if (counts.forward[0] < chunks)
            v_forward(builder, &counts, 0);
        v_input(builder, &counts, 0);
        v_weight(builder, &counts, 0);
        v_forward(builder, &counts, 1);
        v_input(builder, &counts, 1);
        v_weight(builder, &counts, 1);
    }
    // Cool-down: the gradients first, the weights they leave behind fill the end.
    for (int i = 0; i < rank; i++) {
        v_input(builder, &counts, 0);
        v_input(builder, &counts, 1);
    }
    for (int i = 0; i < below; i++) {
        v_input(builder, &counts, 0);
        v_weight(builder, &counts, 0);
    }
    while (counts.weight[1] < chunks)
        v_weight(builder, &counts, 1);
    while (counts.weight[0] < chunks)
        v_weight(builder, &counts, 0);
}
