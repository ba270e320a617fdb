// Steps 1 and 2 of verification: each rank's order by itself, and the circle when ranks wait for each other.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fathom/mem.h"
#include "pipe_internal.h"

fm_status fm_pipe_fault_set(const fm_pipe_program *program, int rank, size_t op, fm_pipe_fault *out_fault,
                            const char *format, ...)
{
    fm_pipe_fault fault = {.rank = rank, .op = (int)op};
    int used;
    if (op < fm_pipe_count_of(program, rank)) {
        char name[FM_PIPE_OP_TEXT_BYTES];
        used = snprintf(fault.text, sizeof fault.text, "rank %d, op %zu (%s): ", rank, op,
                        fm_pipe_op_text(&fm_pipe_ops_of(program, rank)[op], name));
    } else {
        used = snprintf(fault.text, sizeof fault.text, "rank %d, after its last op (%zu): ", rank, op);
    }
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(fault.text + used, sizeof fault.text - (size_t)used, format, arguments);
    va_end(arguments);
    if (out_fault)
        *out_fault = fault;
    return fm_base_error_set(FM_ERR_FORMAT, "%s", fault.text);
}

// What has happened to a visit so far.
enum { FORWARD = 1, INPUT = 2, WEIGHT = 4, DONE = FORWARD | INPUT | WEIGHT };

struct rank_check {
    const fm_pipe_program *program;
    int rank;
    uint8_t *visits; // [visits of the program] flags
    fm_pipe_fault *out_fault;
};

static fm_status check_names(const struct rank_check *check, size_t i, int lane, int32_t chunk)
{
    const fm_pipe_program *program = check->program;
    if (lane >= program->lanes)
        return fm_pipe_fault_set(program, check->rank, i, check->out_fault,
                                 "there is no lane %d; expected 0 to %d", lane, program->lanes - 1);
    int chunks = program->chunks[fm_pipe_direction(program, lane)];
    if (chunk < 0 || chunk >= chunks)
        return fm_pipe_fault_set(program, check->rank, i, check->out_fault,
                                 "there is no chunk %d in lane %d; expected 0 to %d", chunk, lane,
                                 chunks - 1);
    return FM_OK;
}

static fm_status check_backward(const struct rank_check *check, size_t i, const fm_pipe_op *op)
{
    int lane = fm_pipe_back_lane(op);
    int32_t chunk = fm_pipe_back_chunk(op);
    FM_TRY(check_names(check, i, lane, chunk));
    uint8_t *visit = &check->visits[fm_pipe_visit(check->program, check->rank, lane, chunk)];
    if (check->program->forward_only)
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "a forward-only program has no backward");
    if (!(*visit & FORWARD))
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "the backward of lane %d chunk %d comes before its forward", lane, chunk);
    if (*visit & INPUT)
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "lane %d chunk %d has had its backward already", lane, chunk);
    *visit |= op->kind == FM_PIPE_I ? INPUT : INPUT | WEIGHT;
    return FM_OK;
}

static fm_status check_weight(const struct rank_check *check, size_t i, const fm_pipe_op *op)
{
    FM_TRY(check_names(check, i, op->lane, op->chunk));
    uint8_t *visit = &check->visits[fm_pipe_visit(check->program, check->rank, op->lane, op->chunk)];
    if (!(*visit & INPUT))
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "its I has not run; nothing is queued");
    if (*visit & WEIGHT)
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "its weight gradient has been computed already");
    *visit |= WEIGHT;
    return FM_OK;
}

static fm_status check_forward(const struct rank_check *check, size_t i, const fm_pipe_op *op)
{
    FM_TRY(check_names(check, i, op->lane, op->chunk));
    uint8_t *visit = &check->visits[fm_pipe_visit(check->program, check->rank, op->lane, op->chunk)];
    if (*visit & FORWARD)
        return fm_pipe_fault_set(check->program, check->rank, i, check->out_fault,
                                 "lane %d chunk %d has had its forward already", op->lane, op->chunk);
    *visit |= FORWARD;
    return FM_OK;
}

static fm_status check_rank(const struct rank_check *check)
{
    const fm_pipe_program *program = check->program;
    const fm_pipe_op *ops = fm_pipe_ops_of(program, check->rank);
    size_t count = fm_pipe_count_of(program, check->rank);
    for (size_t i = 0; i < count; i++) {
        if (ops[i].kind >= FM_PIPE_KIND_COUNT)
            return fm_pipe_fault_set(program, check->rank, i, check->out_fault,
                                     "kind %d is not one of F, B, I, W, FB", ops[i].kind);
        // The backward half first: a pair may not overlap a visit's backward with its own forward.
        if (fm_pipe_has_backward(&ops[i]))
            FM_TRY(check_backward(check, i, &ops[i]));
        if (fm_pipe_has_forward(&ops[i]))
            FM_TRY(check_forward(check, i, &ops[i]));
        if (ops[i].kind == FM_PIPE_W)
            FM_TRY(check_weight(check, i, &ops[i]));
    }
    uint8_t wanted = program->forward_only ? FORWARD : DONE;
    for (int lane = 0; lane < program->lanes; lane++)
        for (int chunk = 0; chunk < program->chunks[fm_pipe_direction(program, lane)]; chunk++) {
            uint8_t missing = wanted & ~check->visits[fm_pipe_visit(program, check->rank, lane, chunk)];
            if (missing)
                return fm_pipe_fault_set(program, check->rank, count, check->out_fault,
                                         "lane %d chunk %d has had no %s", lane, chunk,
                                         missing & FORWARD ? "F"
                                         : missing & INPUT ? "B, and no I with its W"
                                                           : "W after its I");
        }
    return FM_OK;
}

fm_status fm_pipe_check_ranks(const fm_pipe_program *program, fm_pipe_fault *out_fault)
{
    struct rank_check check = {.program = program, .out_fault = out_fault};
    check.visits = fm_base_mem_zalloc(fm_pipe_visit_total(program), 1);
    if (!check.visits)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to check %zu visits", fm_pipe_visit_total(program));
    fm_status status = FM_OK;
    while (status == FM_OK && check.rank < program->ranks) {
        status = check_rank(&check);
        check.rank++;
    }
    fm_base_mem_free(check.visits);
    return status;
}

// The op that a stopped rank waits for: 1 with the rank and the position that it must pass, else 0.
static int awaited(const fm_pipe_program *program, const size_t *cursor, int rank, int *out_rank,
                   size_t *out_op)
{
    const fm_pipe_op *op = &fm_pipe_ops_of(program, rank)[cursor[rank]];
    for (int half = 0; half < 2; half++) {
        int is_forward = half == 0;
        if (is_forward ? !fm_pipe_has_forward(op) : !fm_pipe_has_backward(op))
            continue;
        int lane = is_forward ? op->lane : fm_pipe_back_lane(op);
        int32_t chunk = is_forward ? op->chunk : fm_pipe_back_chunk(op);
        int from_stage = fm_pipe_stage(program, rank, lane) + (is_forward ? -1 : 1);
        if (from_stage < 0 || from_stage >= program->stages)
            continue;
        int from;
        int from_lane = fm_pipe_locate(program, fm_pipe_direction(program, lane), from_stage, &from);
        const fm_pipe_op *ops = fm_pipe_ops_of(program, from);
        for (size_t i = cursor[from]; i < fm_pipe_count_of(program, from); i++) {
            int match =
                is_forward ? fm_pipe_has_forward(&ops[i]) && ops[i].lane == from_lane && ops[i].chunk == chunk
                           : fm_pipe_has_backward(&ops[i]) && fm_pipe_back_lane(&ops[i]) == from_lane &&
                                 fm_pipe_back_chunk(&ops[i]) == chunk;
            if (match) {
                *out_rank = from;
                *out_op = i;
                return 1;
            }
        }
    }
    return 0;
}

static void FM_PRINTF(4, 5) append(char *text, size_t size, size_t *used, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text + *used, size - *used, format, arguments);
    va_end(arguments);
    *used += (size_t)length < size - *used ? (size_t)length : size - *used - 1;
}

fm_status fm_pipe_check_circle(const fm_pipe_program *program, const size_t *cursor, fm_pipe_fault *out_fault)
{
    int rank = 0;
    while (cursor[rank] == fm_pipe_count_of(program, rank))
        rank++;
    // Every stopped rank waits for an op that another stopped rank has not reached, so after `ranks` steps
    // the walk is on the circle; a second walk from there names it once round.
    int from = rank;
    size_t op = 0;
    for (int i = 0; i < program->ranks; i++)
        if (awaited(program, cursor, rank, &from, &op))
            rank = from;
    int begin = rank;
    char text[320] = "";
    size_t used = 0;
    do {
        char here[FM_PIPE_OP_TEXT_BYTES];
        char there[FM_PIPE_OP_TEXT_BYTES];
        awaited(program, cursor, rank, &from, &op);
        if (used)
            append(text, sizeof text, &used, ", which stands at op %zu (%s) and ", cursor[rank],
                   fm_pipe_op_text(&fm_pipe_ops_of(program, rank)[cursor[rank]], here));
        append(text, sizeof text, &used, "waits for op %zu of rank %d (%s)", op, from,
               fm_pipe_op_text(&fm_pipe_ops_of(program, from)[op], there));
        rank = from;
    } while (rank != begin && used < sizeof text - 1);
    return fm_pipe_fault_set(program, begin, cursor[begin], out_fault, "deadlock: it %s", text);
}
