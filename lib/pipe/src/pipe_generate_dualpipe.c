// DualPipe and DualPipeV: the eight steps of the original's step() function, as ops.
#include "pipe_internal.h"

// One rank's walk through the steps. Phases are as the rank sees them; `flip` turns them into lanes.
struct walk {
    struct fm_pipe_builder *builder;
    int flip;
    int forwards[2];
    int backwards[2];
    // Backwards whose W is queued, oldest first. Step 3 queues and runs at most `half` of them, steps 6 and 7
    // queue at most half + 2 together, and half is at most the ranks.
    struct {
        int lane;
        int chunk;
    } queue[2 * FM_PIPE_RANKS_MAX + 4];
    int queued;
    int run;
};

static void forward(struct walk *walk, int phase)
{
    fm_pipe_builder_push(walk->builder, FM_PIPE_F, phase ^ walk->flip, walk->forwards[phase]++);
}

static void backward(struct walk *walk, int phase, int split)
{
    int lane = phase ^ walk->flip;
    int chunk = walk->backwards[phase]++;
    fm_pipe_builder_push(walk->builder, split ? FM_PIPE_I : FM_PIPE_B, lane, chunk);
    if (split) {
        walk->queue[walk->queued].lane = lane;
        walk->queue[walk->queued].chunk = chunk;
        walk->queued++;
    }
}

static void weight(struct walk *walk)
{
    fm_pipe_builder_push(walk->builder, FM_PIPE_W, walk->queue[walk->run].lane, walk->queue[walk->run].chunk);
    walk->run++;
}

static void pair(struct walk *walk, int forward_phase)
{
    int back_phase = forward_phase ^ 1;
    fm_pipe_builder_push_pair(walk->builder, forward_phase ^ walk->flip, walk->forwards[forward_phase],
                              back_phase ^ walk->flip, walk->backwards[back_phase]);
    walk->forwards[forward_phase]++;
    walk->backwards[back_phase]++;
}

// `half`: ranks of half a DualPipe; `h`: distance from the outer end; the middle rank (h == half - 1) gets
// its first phase-1 input from its own partner and cannot overlap the first pair.
static void eight_steps(struct walk *walk, int half, int h)
{
    int outer = half - 1 - h;
    for (int i = 0; i < 2 * outer; i++) // 1
        forward(walk, 0);
    for (int i = 0; i < h + 1; i++) { // 2
        forward(walk, 0);
        forward(walk, 1);
    }
    for (int i = 0; i < outer; i++) { // 3
        backward(walk, 1, 1);
        weight(walk);
        forward(walk, 1);
    }
    for (int i = 0; i < walk->builder->chunks - 2 * half + h + 1; i++) { // 4
        if (i == 0 && outer == 0) {
            forward(walk, 0);
            backward(walk, 1, 0);
        } else {
            pair(walk, 0);
        }
        pair(walk, 1);
    }
    for (int i = 0; i < outer; i++) { // 5
        backward(walk, 1, 0);
        pair(walk, 1);
    }
    int split = 0;
    for (int i = 0; i < h + 1; i++) { // 6: from the middle on, W is left for later
        split |= i == (h + 1) / 2 && h % 2 == 1;
        backward(walk, 1, split);
        split |= i == (h + 1) / 2 && h % 2 == 0;
        backward(walk, 0, split);
    }
    for (int i = 0; i < outer; i++) { // 7
        weight(walk);
        backward(walk, 0, 1);
    }
    for (int i = 0; i < h + 1; i++) // 8
        weight(walk);
}

void fm_pipe_generate_dualpipe(struct fm_pipe_builder *builder, int rank)
{
    int ranks = builder->program->ranks;
    int second_half = rank >= ranks / 2;
    struct walk walk = {.builder = builder, .flip = second_half};
    eight_steps(&walk, ranks / 2, second_half ? ranks - 1 - rank : rank);
}

void fm_pipe_generate_dualpipev(struct fm_pipe_builder *builder, int rank)
{
    struct walk walk = {.builder = builder};
    eight_steps(&walk, builder->program->ranks, rank);
}
