// Steps 3 to 5 of verification: the plan is run over model links and model buffers. Nothing here trusts
// pipe_planner.c.
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

// A rank has at most two peers, and one link to each: side 0 to the next rank on the ring, side 1 to the one
// before, side 0 for both when they are the same rank.
static int side_of(const fm_pipe_program *program, int rank, int peer)
{
    return peer != (rank + 1) % program->ranks;
}

static int peer_on(const fm_pipe_program *program, int rank, int side)
{
    return side == 0 ? (rank + 1) % program->ranks : (rank + program->ranks - 1) % program->ranks;
}

static const struct fm_pipe_post *posts_of(const fm_pipe_plan *plan, int rank, int sends, size_t *out_count)
{
    const struct fm_pipe_rank_plan *mine = &plan->ranks[rank];
    *out_count = sends ? mine->needs.sends : mine->needs.receives;
    return sends ? plan->sends + mine->first_send : plan->receives + mine->first_receive;
}

// The next post from *at on that goes to (or comes from) `peer`; NULL when there is none.
static const struct fm_pipe_post *next_post(const struct fm_pipe_post *posts, size_t count, size_t *at,
                                            int peer)
{
    while (*at < count)
        if (posts[(*at)++].peer == peer)
            return &posts[*at - 1];
    return NULL;
}

static const char *kind_text(const struct fm_pipe_post *post)
{
    return post->kind == FM_PIPE_ACTIVATION ? "activation" : "gradient";
}

static fm_status mismatch(const fm_pipe_plan *plan, int from, int to, const struct fm_pipe_post *send,
                          const struct fm_pipe_post *receive, fm_pipe_fault *out_fault)
{
    if (!send)
        return fm_pipe_fault_set(plan->program, to, receive->boundary, out_fault,
                                 "receives the %s of stage %d chunk %d from rank %d, which never sends it",
                                 kind_text(receive), receive->stage, receive->chunk, from);
    if (!receive)
        return fm_pipe_fault_set(plan->program, from, send->boundary, out_fault,
                                 "sends the %s of stage %d chunk %d to rank %d, which never receives it",
                                 kind_text(send), send->stage, send->chunk, to);
    return fm_pipe_fault_set(
        plan->program, to, receive->boundary, out_fault,
        "receives the %s of stage %d chunk %d from rank %d, but the %s of stage %d chunk %d is sent "
        "at that place",
        kind_text(receive), receive->stage, receive->chunk, from, kind_text(send), send->stage, send->chunk);
}

// The k-th message that goes into a link is the k-th that is taken out of it.
static fm_status check_link(const fm_pipe_plan *plan, int from, int to, fm_pipe_fault *out_fault)
{
    size_t send_count;
    size_t receive_count;
    const struct fm_pipe_post *sends = posts_of(plan, from, 1, &send_count);
    const struct fm_pipe_post *receives = posts_of(plan, to, 0, &receive_count);
    size_t send_at = 0;
    size_t receive_at = 0;
    for (;;) {
        const struct fm_pipe_post *send = next_post(sends, send_count, &send_at, to);
        const struct fm_pipe_post *receive = next_post(receives, receive_count, &receive_at, from);
        if (!send && !receive)
            return FM_OK;
        if (!send || !receive || send->kind != receive->kind || send->direction != receive->direction ||
            send->stage != receive->stage || send->chunk != receive->chunk)
            return mismatch(plan, from, to, send, receive, out_fault);
    }
}

// What a slot holds: the visit it belongs to, or nothing.
enum { NOTHING = -1 };

struct buffers {
    const fm_pipe_plan *plan;
    int rank;
    size_t op;
    int64_t *holds[2];    // [slots] visit whose tensor lies there
    uint32_t *sending[2]; // [slots] 1 + boundary at which the slot's latest send is posted
    uint32_t *read_at[2]; // [slots] 1 + op that read it last
    fm_pipe_fault *out_fault;
};

static const char *const pool_names[2] = {"activation", "gradient"};

static int32_t slots_of(const struct buffers *buffers, int kind)
{
    const fm_pipe_needs *needs = &buffers->plan->ranks[buffers->rank].needs;
    return kind == FM_PIPE_ACTIVATION ? needs->activation_slots : needs->gradient_slots;
}

static fm_status write_slot(struct buffers *buffers, int kind, int32_t slot, int64_t visit, int by_receive)
{
    int32_t slots = slots_of(buffers, kind);
    if (slot < 0 || slot >= slots)
        return fm_pipe_fault_set(buffers->plan->program, buffers->rank, buffers->op, buffers->out_fault,
                                 "%s slot %d does not exist; expected 0 to %d", pool_names[kind], slot,
                                 slots - 1);
    if (by_receive && buffers->sending[kind][slot] == buffers->op + 1)
        return fm_pipe_fault_set(buffers->plan->program, buffers->rank, buffers->op, buffers->out_fault,
                                 "%s slot %d is received into while it is being sent", pool_names[kind],
                                 slot);
    if (!by_receive && buffers->read_at[kind][slot] == buffers->op + 1)
        return fm_pipe_fault_set(buffers->plan->program, buffers->rank, buffers->op, buffers->out_fault,
                                 "%s slot %d is read and written by the same op", pool_names[kind], slot);
    buffers->holds[kind][slot] = visit;
    return FM_OK;
}

// Finds both faults: what was overwritten too early is not there any more when it is read.
static fm_status find_in_slot(const struct buffers *buffers, int kind, int32_t slot, int64_t visit)
{
    if (slot >= 0 && slot < slots_of(buffers, kind) && buffers->holds[kind][slot] == visit)
        return FM_OK;
    return fm_pipe_fault_set(
        buffers->plan->program, buffers->rank, buffers->op, buffers->out_fault,
        "%s slot %d is read, but what is needed has not been written there, or not any more",
        pool_names[kind], slot);
}

static fm_status read_slot(struct buffers *buffers, int kind, int32_t slot, int64_t visit)
{
    FM_TRY(find_in_slot(buffers, kind, slot, visit));
    buffers->read_at[kind][slot] = (uint32_t)buffers->op + 1;
    return FM_OK;
}

static int64_t visit_of_post(const fm_pipe_program *program, int rank, const struct fm_pipe_post *post)
{
    int at;
    int lane = fm_pipe_locate(program, post->direction, post->stage, &at);
    return (int64_t)fm_pipe_visit(program, rank, lane, post->chunk);
}

// Outputs on the way to another rank are held under the visit that they go to, as on arrival.
static int64_t receiver_visit(const fm_pipe_program *program, int rank, int lane, int chunk, int step)
{
    int to;
    int direction = fm_pipe_direction(program, lane);
    int to_lane = fm_pipe_locate(program, direction, fm_pipe_stage(program, rank, lane) + step, &to);
    return (int64_t)fm_pipe_visit(program, to, to_lane, chunk);
}

static fm_status run_op_reads(struct buffers *buffers, const fm_pipe_op *op,
                              const struct fm_pipe_slots *slots)
{
    const fm_pipe_program *program = buffers->plan->program;
    int rank = buffers->rank;
    if (fm_pipe_has_forward(op) && fm_pipe_stage(program, rank, op->lane) > 0)
        FM_TRY(read_slot(buffers, FM_PIPE_ACTIVATION, slots->x,
                         (int64_t)fm_pipe_visit(program, rank, op->lane, op->chunk)));
    if (op->kind == FM_PIPE_F)
        return FM_OK;
    int lane = fm_pipe_back_lane(op);
    int stage = fm_pipe_stage(program, rank, lane);
    int64_t visit = (int64_t)fm_pipe_visit(program, rank, lane, fm_pipe_back_chunk(op));
    if (stage > 0)
        FM_TRY(read_slot(buffers, FM_PIPE_ACTIVATION, slots->back_x, visit));
    if (stage + 1 < program->stages)
        FM_TRY(read_slot(buffers, FM_PIPE_GRADIENT, slots->dy, visit));
    return FM_OK;
}

static fm_status run_op_writes(struct buffers *buffers, const fm_pipe_op *op,
                               const struct fm_pipe_slots *slots)
{
    const fm_pipe_program *program = buffers->plan->program;
    int rank = buffers->rank;
    if (fm_pipe_has_forward(op) && fm_pipe_stage(program, rank, op->lane) + 1 < program->stages)
        FM_TRY(write_slot(buffers, FM_PIPE_ACTIVATION, slots->y,
                          receiver_visit(program, rank, op->lane, op->chunk, 1), 0));
    int lane = fm_pipe_back_lane(op);
    if (fm_pipe_has_backward(op) && fm_pipe_stage(program, rank, lane) > 0)
        FM_TRY(write_slot(buffers, FM_PIPE_GRADIENT, slots->dx,
                          receiver_visit(program, rank, lane, fm_pipe_back_chunk(op), -1), 0));
    return FM_OK;
}

static fm_status run_boundary(struct buffers *buffers, size_t *sent, size_t *received)
{
    const fm_pipe_program *program = buffers->plan->program;
    size_t send_count;
    size_t receive_count;
    const struct fm_pipe_post *sends = posts_of(buffers->plan, buffers->rank, 1, &send_count);
    const struct fm_pipe_post *receives = posts_of(buffers->plan, buffers->rank, 0, &receive_count);
    for (; *sent < send_count && sends[*sent].boundary == buffers->op; (*sent)++) {
        const struct fm_pipe_post *post = &sends[*sent];
        FM_TRY(find_in_slot(buffers, post->kind, post->slot, visit_of_post(program, post->peer, post)));
        buffers->sending[post->kind][post->slot] = (uint32_t)buffers->op + 1;
    }
    for (; *received < receive_count && receives[*received].boundary == buffers->op; (*received)++) {
        const struct fm_pipe_post *post = &receives[*received];
        FM_TRY(write_slot(buffers, post->kind, post->slot, visit_of_post(program, buffers->rank, post), 1));
    }
    return FM_OK;
}

static fm_status check_buffers(struct buffers *buffers)
{
    const fm_pipe_program *program = buffers->plan->program;
    const fm_pipe_op *ops = fm_pipe_ops_of(program, buffers->rank);
    const struct fm_pipe_slots *slots = buffers->plan->slots + program->first[buffers->rank];
    size_t sent = 0;
    size_t received = 0;
    size_t count = fm_pipe_count_of(program, buffers->rank);
    for (buffers->op = 0; buffers->op < count; buffers->op++) {
        FM_TRY(run_boundary(buffers, &sent, &received));
        FM_TRY(run_op_reads(buffers, &ops[buffers->op], &slots[buffers->op]));
        FM_TRY(run_op_writes(buffers, &ops[buffers->op], &slots[buffers->op]));
    }
    FM_TRY(run_boundary(buffers, &sent, &received));
    const fm_pipe_needs *needs = &buffers->plan->ranks[buffers->rank].needs;
    if (sent != needs->sends || received != needs->receives)
        return fm_pipe_fault_set(
            program, buffers->rank, count, buffers->out_fault,
            "%zu of %zu sends and %zu of %zu receives come at no boundary in ascending order",
            needs->sends - sent, needs->sends, needs->receives - received, needs->receives);
    return FM_OK;
}

static fm_status check_rank_buffers(const fm_pipe_plan *plan, int rank, fm_pipe_fault *out_fault)
{
    struct buffers buffers = {.plan = plan, .rank = rank, .out_fault = out_fault};
    const fm_pipe_needs *needs = &plan->ranks[rank].needs;
    size_t slots[2] = {(size_t)needs->activation_slots, (size_t)needs->gradient_slots};
    int failed = 0;
    for (int kind = 0; kind < 2; kind++) {
        buffers.holds[kind] = fm_base_mem_alloc(slots[kind] * sizeof(int64_t));
        buffers.sending[kind] = fm_base_mem_zalloc(slots[kind], sizeof(uint32_t));
        buffers.read_at[kind] = fm_base_mem_zalloc(slots[kind], sizeof(uint32_t));
        failed |= !buffers.holds[kind] || !buffers.sending[kind] || !buffers.read_at[kind];
        for (size_t i = 0; !failed && i < slots[kind]; i++)
            buffers.holds[kind][i] = NOTHING;
    }
    fm_status status =
        failed ? fm_base_error_set(FM_ERR_NOMEM, "no memory to check the buffers of rank %d", rank)
               : check_buffers(&buffers);
    for (int kind = 0; kind < 2; kind++) {
        fm_base_mem_free(buffers.read_at[kind]);
        fm_base_mem_free(buffers.sending[kind]);
        fm_base_mem_free(buffers.holds[kind]);
    }
    return status;
}

fm_status fm_pipe_plan_check(const fm_pipe_plan *plan, fm_pipe_fault *out_fault)
{
    const fm_pipe_program *program = plan->program;
    for (int rank = 0; rank < program->ranks; rank++)
        for (int side = 0; side < 2; side++) {
            int peer = peer_on(program, rank, side);
            if (peer != rank && side_of(program, rank, peer) == side)
                FM_TRY(check_link(plan, rank, peer, out_fault));
        }
    for (int rank = 0; rank < program->ranks; rank++)
        FM_TRY(check_rank_buffers(plan, rank, out_fault));
    return FM_OK;
}

// A rank that stands at a boundary: what it has posted on its two links, there and before.
struct stand {
    size_t boundary;
    size_t sent, received; // in the rank's plan
    size_t posted_sends[2];
    size_t posted_receives[2];
};

static void post_boundary(const fm_pipe_plan *plan, int rank, struct stand *stand)
{
    size_t send_count;
    size_t receive_count;
    const struct fm_pipe_post *sends = posts_of(plan, rank, 1, &send_count);
    const struct fm_pipe_post *receives = posts_of(plan, rank, 0, &receive_count);
    for (; stand->sent < send_count && sends[stand->sent].boundary <= stand->boundary; stand->sent++)
        stand->posted_sends[side_of(plan->program, rank, sends[stand->sent].peer)]++;
    for (; stand->received < receive_count && receives[stand->received].boundary <= stand->boundary;
         stand->received++)
        stand->posted_receives[side_of(plan->program, rank, receives[stand->received].peer)]++;
}

// The side on which a rank's posted messages have not all passed; -1 when they have. A send has passed when
// its receive is posted or `depth` or fewer messages lie in the link; a receive has passed when its send is
// posted.
static int stuck_side(const fm_pipe_program *program, const struct stand *stands, int rank, int depth,
                      int *out_sending)
{
    for (int side = 0; side < 2; side++) {
        int peer = peer_on(program, rank, side);
        if (peer == rank)
            continue;
        const struct stand *mine = &stands[rank];
        int back = side_of(program, peer, rank);
        *out_sending = mine->posted_sends[side] > stands[peer].posted_receives[back] + (size_t)depth;
        if (*out_sending || mine->posted_receives[side] > stands[peer].posted_sends[back])
            return side;
    }
    return -1;
}

static fm_status link_deadlock(const fm_pipe_plan *plan, const struct stand *stands, int rank, int depth,
                               fm_pipe_fault *out_fault)
{
    int sending = 0;
    int side = stuck_side(plan->program, stands, rank, depth, &sending);
    int peer = peer_on(plan->program, rank, side);
    return fm_pipe_fault_set(
        plan->program, rank, stands[rank].boundary, out_fault,
        "deadlock over links that hold %d messages: before it, a %s rank %d waits; that rank stands "
        "before op %zu",
        depth, sending ? "send to" : "receive from", peer, stands[peer].boundary);
}

fm_status fm_pipe_plan_check_links(const fm_pipe_plan *plan, int depth, fm_pipe_fault *out_fault)
{
    const fm_pipe_program *program = plan->program;
    size_t ranks = (size_t)program->ranks;
    struct stand *stands = fm_base_mem_zalloc(ranks, sizeof *stands);
    int *stack = fm_base_mem_alloc(ranks * (sizeof *stack + 1));
    fm_status status = FM_OK;
    if (!stands || !stack) {
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to check the links of %zu ranks", ranks);
        goto out;
    }
    uint8_t *stacked = (uint8_t *)(stack + ranks);
    memset(stacked, 1, ranks);
    size_t depth_of_stack = 0;
    for (int rank = 0; rank < program->ranks; rank++) {
        post_boundary(plan, rank, &stands[rank]);
        stack[depth_of_stack++] = rank;
    }
    while (depth_of_stack > 0) {
        int rank = stack[--depth_of_stack];
        int sending;
        stacked[rank] = 0;
        while (stands[rank].boundary <= fm_pipe_count_of(program, rank) &&
               stuck_side(program, stands, rank, depth, &sending) < 0) {
            stands[rank].boundary++;
            post_boundary(plan, rank, &stands[rank]);
            for (int side = 0; side < 2; side++) {
                int peer = peer_on(program, rank, side);
                if (!stacked[peer] && peer != rank) {
                    stacked[peer] = 1;
                    stack[depth_of_stack++] = peer;
                }
            }
        }
    }
    for (int rank = 0; rank < program->ranks && status == FM_OK; rank++)
        if (stands[rank].boundary <= fm_pipe_count_of(program, rank))
            status = link_deadlock(plan, stands, rank, depth, out_fault);
out:
    fm_base_mem_free(stack);
    fm_base_mem_free(stands);
    return status;
}

fm_status fm_pipe_program_verify(const fm_pipe_program *program, int depth_max, fm_pipe_fault *out_fault)
{
    if (!program)
        return fm_base_error_set(FM_ERR_ARG, "program must not be NULL");
    fm_pipe_plan *plan = NULL;
    FM_TRY(fm_pipe_plan_make(program, out_fault, &plan));
    fm_status status = fm_pipe_plan_check(plan, out_fault);
    for (int depth = 0; depth <= depth_max && status == FM_OK; depth++)
        status = fm_pipe_plan_check_links(plan, depth, out_fault);
    fm_pipe_plan_free(plan);
    return status;
}
