// Chimera (Li, Hoefler 2021): two 1F1B pipelines in opposite directions, merged.
#include "pipe_internal.h"

// In slots of one F or one B, a unit of `ranks` micro-batches, half in each direction, runs as
//
//     F of direction 0, chunk m, on rank r   at slot  r + 2m
//     F of direction 1                       at slot  ranks - 1 - r + 2m
//     B of direction 0                       at slot  2 ranks - 1 - r + 2m
//     B of direction 1                       at slot  ranks + r + 2m
//
// With an even number of ranks no two of these meet on a rank, and units follow each other every 2 * ranks
// slots, again without meeting. So a rank's program is its slots in ascending order.
void fm_pipe_generate_chimera(struct fm_pipe_builder *builder, int rank)
{
    int ranks = builder->program->ranks;
    int half = ranks / 2;
    const struct {
        fm_pipe_kind kind;
        int lane;
        int slot;
    } streams[] = {{FM_PIPE_F, 0, rank},
                   {FM_PIPE_F, 1, ranks - 1 - rank},
                   {FM_PIPE_B, 0, 2 * ranks - 1 - rank},
                   {FM_PIPE_B, 1, ranks + rank}};
    enum { STREAMS = sizeof streams / sizeof streams[0] };
    int next[STREAMS] = {0};
    for (int left = STREAMS * builder->chunks; left > 0; left--) {
        int best = -1;
        int64_t best_slot = INT64_MAX;
        for (int i = 0; i < STREAMS; i++) {
            int64_t slot =
                (int64_t)streams[i].slot + 2 * (next[i] % half) + (int64_t)2 * ranks * (next[i] / half);
            if (next[i] < builder->chunks && slot < best_slot) {
                best = i;
                best_slot = slot;
            }
        }
        fm_pipe_builder_push(builder, streams[best].kind, streams[best].lane, next[best]);
        next[best]++;
    }
}
