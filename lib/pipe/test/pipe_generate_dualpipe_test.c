#include "pipe_cases.h"

static fm_doc *load_golden(void)
{
    char path[4096];
    const char *source = getenv("FM_SOURCE_DIR");
    snprintf(path, sizeof path, "%s/lib/pipe/test/golden/pipe_schedules.json", source ? source : ".");
    fm_doc *golden = NULL;
    assert_ok(fm_base_doc_load(path, &golden));
    return golden;
}

static void golden_programs_come_out_op_for_op(void **state)
{
    (void)state;
    fm_doc *golden = load_golden();
    assert_int_equal(fm_base_doc_count(golden), 6);
    for (size_t i = 0; i < fm_base_doc_count(golden); i++) {
        fm_pipe_program *original = NULL;
        assert_ok(fm_pipe_program_read(fm_base_doc_at(golden, i), &original));
        fm_pipe_program *ours = pipe_case(original->schedule, original->ranks, original->micro_batches, 0);
        for (int rank = 0; rank < ours->ranks; rank++) {
            assert_int_equal(fm_pipe_count_of(ours, rank), fm_pipe_count_of(original, rank));
            assert_memory_equal(fm_pipe_ops_of(ours, rank), fm_pipe_ops_of(original, rank),
                                fm_pipe_count_of(ours, rank) * sizeof(fm_pipe_op));
        }
        assert_ok(fm_pipe_program_verify(original, 3, NULL));
        fm_pipe_program_free(ours);
        fm_pipe_program_free(original);
    }
    fm_base_doc_free(golden);
}

// The original accepts an even number of ranks and an even number of at least 2 * ranks micro-batches. Its eight steps
// fix how often each kind of op comes; repeats of the steps: see the table of the library's README.
static void legal_sizes_have_the_steps_counts(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 16; ranks += 2)
        for (int micro_batches = 2 * ranks; micro_batches <= 5 * ranks; micro_batches += 2) {
            fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, ranks, micro_batches, 0);
            for (int rank = 0; rank < ranks; rank++) {
                int h = rank < ranks / 2 ? rank : ranks - 1 - rank;
                int outer = ranks / 2 - 1 - h;
                int main = micro_batches / 2 - ranks + h + 1;
                int counts[FM_PIPE_KIND_COUNT] = {0};
                for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++)
                    counts[fm_pipe_ops_of(program, rank)[i].kind]++;
                int unpaired = outer == 0;
                int split_in_6 = 2 * (h + 1) - 2 * ((h + 1) / 2) - (h % 2 == 0);
                assert_int_equal(counts[FM_PIPE_F], 2 * outer + 2 * (h + 1) + outer + unpaired);
                assert_int_equal(counts[FM_PIPE_FB], 2 * main - unpaired + outer);
                assert_int_equal(counts[FM_PIPE_W], counts[FM_PIPE_I]);
                assert_int_equal(counts[FM_PIPE_I], outer + split_in_6 + outer);
                assert_int_equal(counts[FM_PIPE_B], unpaired + outer + 2 * (h + 1) - split_in_6);
            }
            fm_pipe_program_free(program);
        }
}

// DualPipeV over P ranks is the first half of DualPipe over 2P with as many micro-batches in each direction; and the
// second half of DualPipe is the first with ranks and directions mirrored.
static void v_is_half_of_the_whole(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 9; ranks++)
        for (int micro_batches = 2 * ranks; micro_batches <= 5 * ranks + 1; micro_batches++) {
            fm_pipe_program *v = pipe_case(FM_PIPE_DUALPIPEV, ranks, micro_batches, 0);
            fm_pipe_program *whole = pipe_case(FM_PIPE_DUALPIPE, 2 * ranks, 2 * micro_batches, 0);
            for (int rank = 0; rank < ranks; rank++) {
                size_t count = fm_pipe_count_of(v, rank);
                assert_int_equal(count, fm_pipe_count_of(whole, rank));
                assert_memory_equal(fm_pipe_ops_of(v, rank), fm_pipe_ops_of(whole, rank),
                                    count * sizeof(fm_pipe_op));
                const fm_pipe_op *mirrored = fm_pipe_ops_of(whole, 2 * ranks - 1 - rank);
                for (size_t i = 0; i < count; i++) {
                    const fm_pipe_op *op = &fm_pipe_ops_of(v, rank)[i];
                    assert_int_equal(mirrored[i].kind, op->kind);
                    assert_int_equal(mirrored[i].lane, 1 - op->lane);
                    assert_int_equal(mirrored[i].chunk, op->chunk);
                }
            }
            fm_pipe_program_free(whole);
            fm_pipe_program_free(v);
        }
}

static void weight_parts_run_oldest_first(void **state)
{
    (void)state;
    fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, 8, 20, 0);
    for (int rank = 0; rank < 8; rank++) {
        size_t oldest = 0;
        const fm_pipe_op *ops = fm_pipe_ops_of(program, rank);
        for (size_t i = 0; i < fm_pipe_count_of(program, rank); i++) {
            if (ops[i].kind != FM_PIPE_W)
                continue;
            while (ops[oldest].kind != FM_PIPE_I)
                oldest++;
            assert_int_equal(ops[oldest].lane, ops[i].lane);
            assert_int_equal(ops[oldest].chunk, ops[i].chunk);
            oldest++;
        }
    }
    fm_pipe_program_free(program);
}

static void odd_and_few_micro_batches_work(void **state)
{
    (void)state;
    for (int ranks = 2; ranks <= 8; ranks += 2)
        for (int micro_batches = 1; micro_batches <= 2 * ranks + 3; micro_batches++) {
            fm_pipe_program *program = pipe_case(FM_PIPE_DUALPIPE, ranks, micro_batches, 0);
            assert_int_equal(program->chunks[0] + program->chunks[1], micro_batches);
            assert_ok(fm_pipe_program_verify(program, 1, NULL));
            fm_pipe_program_free(program);
            program = pipe_case(FM_PIPE_DUALPIPEV, ranks / 2, micro_batches, 0);
            assert_ok(fm_pipe_program_verify(program, 1, NULL));
            fm_pipe_program_free(program);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_programs_come_out_op_for_op),
        cmocka_unit_test(legal_sizes_have_the_steps_counts),
        cmocka_unit_test(v_is_half_of_the_whole),
        cmocka_unit_test(weight_parts_run_oldest_first),
        cmocka_unit_test(odd_and_few_micro_batches_work),
    };
    return fm_test_run("pipe.pipe_generate_dualpipe", tests);
}
