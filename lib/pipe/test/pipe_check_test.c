#include "pipe_cases.h"

static const fm_pipe_program line_of_two = {.ranks = 2, .lanes = 1, .micro_batches = 2};
static const fm_pipe_program v_of_one = {.placement = FM_PIPE_V, .ranks = 1, .lanes = 2, .micro_batches = 1};

// Verifies a program given as text; NULL message: it is right.
static void expect(fm_pipe_program layout, const char *const *texts, int rank, int op, const char *message)
{
    fm_pipe_program *program = pipe_case_text(layout, texts);
    fm_pipe_fault fault = {.rank = -1, .op = -1};
    fm_status status = fm_pipe_program_verify(program, 2, &fault);
    if (!message) {
        assert_ok(status);
        assert_int_equal(fault.rank, -1);
    } else {
        assert_int_equal(status, FM_ERR_FORMAT);
        assert_string_equal(fault.text, fm_error_message());
        if (fault.rank != rank || fault.op != op || !strstr(fault.text, message))
            fail_msg("rank %d op %d: %s; expected rank %d op %d: %s", fault.rank, fault.op, fault.text, rank,
                     op, message);
    }
    fm_pipe_program_free(program);
}
#define EXPECT(layout, rank, op, message, ...) \
    expect(layout, (const char *const[]){__VA_ARGS__}, rank, op, message)

static void each_rank_is_checked_in_order(void **state)
{
    (void)state;
    const char *good = "F0.0 F0.1 B0.0 I0.1 W0.1";
    EXPECT(line_of_two, 0, 0, NULL, good, good);
    EXPECT(line_of_two, 0, 0, "comes before its forward", "B0.0 F0.0 F0.1 B0.1", good);
    EXPECT(line_of_two, 1, 1, "has had its forward already", good, "F0.0 F0.0 B0.0 F0.1 B0.1");
    EXPECT(line_of_two, 1, 3, "has had its backward already", good, "F0.0 F0.1 B0.0 B0.0 B0.1");
    EXPECT(line_of_two, 1, 3, "nothing is queued", good, "F0.0 F0.1 B0.0 W0.1 I0.1");
    EXPECT(line_of_two, 1, 5, "computed already", good, "F0.0 F0.1 I0.0 B0.1 W0.0 W0.0");
    EXPECT(line_of_two, 1, 3, "computed already", good, "F0.0 F0.1 B0.0 W0.0 B0.1");
    EXPECT(line_of_two, 1, 3, "lane 0 chunk 1 has had no F", good, "F0.0 I0.0 W0.0");
    EXPECT(line_of_two, 1, 3, "chunk 1 has had no B", good, "F0.0 F0.1 B0.0");
    EXPECT(line_of_two, 1, 4, "has had no W after its I", good, "F0.0 F0.1 B0.0 I0.1");
    EXPECT(line_of_two, 0, 0, "chunk 0 has had no F", "", good);
    EXPECT(line_of_two, 0, 1, "there is no lane 1", "F0.0 F1.0 B0.0", good);
    EXPECT(line_of_two, 0, 1, "there is no chunk 2", "F0.0 F0.2 B0.0", good);
    EXPECT(line_of_two, 1, 1, "comes before its forward", good, "F0.0 F0.1&B0.1 B0.0");
    EXPECT(line_of_two, 1, 1, NULL, good, "F0.0 F0.1&B0.0 B0.1");
    fm_pipe_program forward_only = line_of_two;
    forward_only.forward_only = 1;
    EXPECT(forward_only, 0, 0, NULL, "F0.0 F0.1", "F0.0 F0.1");
    EXPECT(forward_only, 1, 2, "has no backward", "F0.0 F0.1", "F0.0 F0.1 B0.0");
}

static void a_kind_that_is_none_is_found(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_GPIPE, 1, 2, 0);
    fm_pipe_ops_mutable(program)[2].kind = 5;
    assert_fails(fm_pipe_program_verify(program, 0, NULL), FM_ERR_FORMAT, "kind 5 is not one of");
    fm_pipe_program_free(program);
}

static void circles_are_named_all_round(void **state)
{
    (void)state;
    // Rank 0 wants the gradient of chunk 0 before it sends chunk 1; rank 1 wants chunk 1 before it does that gradient.
    EXPECT(line_of_two, 0, 1,
           "deadlock: it waits for op 2 of rank 1 (B lane 0 chunk 0), which stands at op 1 (F lane 0 chunk "
           "1) and waits for "
           "op 2 of rank 0 (F lane 0 chunk 1)",
           "F0.0 B0.0 F0.1 B0.1", "F0.0 F0.1 B0.0 B0.1");
    // A rank that waits for itself.
    EXPECT(v_of_one, 0, 0, "waits for op 1 of rank 0 (F lane 0 chunk 0)", "F1.0 F0.0 B1.0 B0.0");
    // An innocent rank waits for two that wait for each other: these are named.
    fm_pipe_program line_of_three = {.ranks = 3, .lanes = 1, .micro_batches = 2};
    EXPECT(line_of_three, 1, 1, "deadlock: it waits for op 2 of rank 2", "F0.0 F0.1 B0.0 B0.1",
           "F0.0 B0.0 F0.1 B0.1", "F0.0 F0.1 B0.0 B0.1");
}

// Whether a program is right, by a plain simulation with sets.
static int oracle(const fm_pipe_program *program)
{
    enum { CHUNKS = 16, STAGES = 16 };
    char forward[2][STAGES][CHUNKS] = {{{0}}};
    char backward[2][STAGES][CHUNKS] = {{{0}}}; // 1: I, 2: all
    size_t at[8] = {0};
    for (int moved = 1; moved;) {
        moved = 0;
        for (int rank = 0; rank < program->ranks; rank++) {
            if (at[rank] == fm_pipe_count_of(program, rank))
                continue;
            const fm_pipe_op *op = &fm_pipe_ops_of(program, rank)[at[rank]];
            int stage = fm_pipe_stage(program, rank, op->lane);
            int direction = fm_pipe_direction(program, op->lane);
            int ok = 1;
            int lane = fm_pipe_back_lane(op);
            int back = fm_pipe_stage(program, rank, lane);
            int back_direction = fm_pipe_direction(program, lane);
            char *done = &backward[back_direction][back][fm_pipe_back_chunk(op)];
            if (op->kind == FM_PIPE_W)
                ok = *done == 1;
            if (fm_pipe_has_backward(op))
                ok &= !*done && forward[back_direction][back][fm_pipe_back_chunk(op)] &&
                      (back == program->stages - 1 ||
                       backward[back_direction][back + 1][fm_pipe_back_chunk(op)]);
            if (fm_pipe_has_forward(op))
                ok &= !forward[direction][stage][op->chunk] &&
                      (stage == 0 || forward[direction][stage - 1][op->chunk]);
            if (!ok)
                continue;
            if (fm_pipe_has_forward(op))
                forward[direction][stage][op->chunk] = 1;
            if (op->kind != FM_PIPE_F)
                *done = op->kind == FM_PIPE_I ? 1 : 2;
            at[rank]++;
            moved = 1;
        }
    }
    int right = 1;
    for (int rank = 0; rank < program->ranks; rank++)
        right &= at[rank] == fm_pipe_count_of(program, rank);
    for (int direction = 0; direction < 2; direction++)
        for (int stage = 0; stage < program->stages; stage++)
            for (int chunk = 0; chunk < program->chunks[direction]; chunk++)
                right &= backward[direction][stage][chunk] == 2;
    return right;
}

// One to three random changes to a right program; the verifier and the oracle agree on what came out.
static void the_verifier_agrees_with_the_oracle(fm_gen *gen)
{
    fm_pipe_program *program = pipe_case_any(gen, 5, 6);
    if (program->lanes > 2 || program->forward_only) {
        fm_pipe_program_free(program);
        return;
    }
    fm_pipe_op *ops = fm_pipe_ops_mutable(program);
    for (int64_t changes = fm_gen_int(gen, 1, 3); changes > 0; changes--) {
        int rank = (int)fm_gen_int(gen, 0, program->ranks - 1);
        size_t begin = program->first[rank];
        size_t end = program->first[rank + 1];
        size_t i = begin + fm_gen_u64(gen) % (end - begin);
        size_t j = begin + fm_gen_u64(gen) % (end - begin);
        fm_pipe_op op = ops[i];
        switch (fm_gen_int(gen, 0, 3)) {
        case 0: // neighbours change places: often still right
            j = i + 1 < end ? i + 1 : i;
            ops[i] = ops[j];
            ops[j] = op;
            break;
        case 1:
            ops[i] = ops[j];
            ops[j] = op;
            break;
        case 2:
            ops[i] = ops[j];
            break;
        default:
            ops[i].kind = (uint8_t)fm_gen_int(gen, 0, FM_PIPE_KIND_COUNT - 1);
            break;
        }
    }
    fm_pipe_fault fault = {0};
    fm_status status = fm_pipe_program_verify(program, 1, &fault);
    if ((status == FM_OK) != oracle(program))
        fail_msg("the oracle differs; verdict: %s", status == FM_OK ? "right" : fault.text);
    fm_pipe_program_free(program);
}

static void random_changes_are_judged_right(void **state)
{
    (void)state;
    fm_gen_property(3000, the_verifier_agrees_with_the_oracle);
}

static fm_status verify(void *context)
{
    return fm_pipe_program_verify(context, 1, NULL);
}

static void refused_allocations_leave_nothing(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, 4, 8, 0);
    fm_test_each_alloc_fails(verify, program);
    fm_pipe_program_free(program);
    assert_fails(fm_pipe_program_verify(NULL, 0, NULL), FM_ERR_ARG, "NULL");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rank_is_checked_in_order),
        cmocka_unit_test(a_kind_that_is_none_is_found),
        cmocka_unit_test(circles_are_named_all_round),
        cmocka_unit_test(random_changes_are_judged_right),
        cmocka_unit_test(refused_allocations_leave_nothing),
    };
    return fm_test_run("pipe.pipe_check", tests);
}
