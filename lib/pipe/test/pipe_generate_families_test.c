// Small programs of each family, written out, as their papers draw them.
#include "pipe_cases.h"

static void expect(fm_pipe_program *program, const char *const *texts)
{
    for (int rank = 0; rank < program->ranks; rank++)
        assert_string_equal(pipe_case_print(program, rank), texts[rank]);
    fm_pipe_program_free(program);
}
#define EXPECT(program, ...) expect(program, (const char *const[]){__VA_ARGS__})

static void gpipe_and_1f1b(void **state)
{
    (void)state;
    EXPECT(pipe_case(FM_PIPE_GPIPE, 2, 3, 0), "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2",
           "F0.0 F0.1 F0.2 B0.0 B0.1 B0.2");
    EXPECT(pipe_case(FM_PIPE_1F1B, 3, 4, 0), "F0.0 F0.1 F0.2 B0.0 F0.3 B0.1 B0.2 B0.3",
           "F0.0 F0.1 B0.0 F0.2 B0.1 F0.3 B0.2 B0.3", "F0.0 B0.0 F0.1 B0.1 F0.2 B0.2 F0.3 B0.3");
    EXPECT(pipe_case(FM_PIPE_1F1B, 3, 1, 0), "F0.0 B0.0", "F0.0 B0.0", "F0.0 B0.0");
}

static void interleaved(void **state)
{
    (void)state;
    EXPECT(pipe_case(FM_PIPE_INTERLEAVED, 2, 4, 2),
           "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 F0.3 B1.1 F1.2 B0.0 F1.3 B0.1 B1.2 B1.3 B0.2 B0.3",
           "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 F0.3 B0.1 F1.2 B1.2 F1.3 B1.3 B0.2 B0.3");
    // Three micro-batches are not a multiple of the ranks: the fourth is left out.
    EXPECT(pipe_case(FM_PIPE_INTERLEAVED, 2, 3, 2),
           "F0.0 F0.1 F1.0 F1.1 F0.2 B1.0 B1.1 F1.2 B0.0 B0.1 B1.2 B0.2",
           "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 F0.2 B0.0 B0.1 F1.2 B1.2 B0.2");
    fm_pipe_program *one = pipe_case(FM_PIPE_INTERLEAVED, 4, 9, 1);
    fm_pipe_program *plain = pipe_case(FM_PIPE_1F1B, 4, 9, 0);
    assert_memory_equal(one->ops, plain->ops, fm_pipe_op_total(plain) * sizeof *plain->ops);
    fm_pipe_program_free(one);
    fm_pipe_program_free(plain);
}

static void zero_bubble(void **state)
{
    (void)state;
    EXPECT(pipe_case(FM_PIPE_ZB_H1, 3, 4, 0), "F0.0 F0.1 F0.2 I0.0 W0.0 F0.3 I0.1 W0.1 I0.2 W0.2 I0.3 W0.3",
           "F0.0 F0.1 I0.0 F0.2 I0.1 W0.0 F0.3 I0.2 W0.1 I0.3 W0.2 W0.3",
           "F0.0 I0.0 F0.1 I0.1 F0.2 I0.2 W0.0 F0.3 I0.3 W0.1 W0.2 W0.3");
    EXPECT(pipe_case(FM_PIPE_ZB_H2, 2, 4, 0), "F0.0 F0.1 F0.2 I0.0 W0.0 F0.3 I0.1 W0.1 I0.2 W0.2 I0.3 W0.3",
           "F0.0 I0.0 F0.1 I0.1 F0.2 I0.2 W0.0 F0.3 I0.3 W0.1 W0.2 W0.3");
    EXPECT(pipe_case(FM_PIPE_ZB_V, 2, 4, 0),
           "F0.0 F0.1 F0.2 F1.0 I1.0 W1.0 F1.1 I1.1 W1.1 F0.3 I0.0 W0.0 F1.2 I1.2 W1.2 I0.1 W0.1 F1.3 I1.3 "
           "W1.3 I0.2 "
           "W0.2 I0.3 W0.3",
           "F0.0 F1.0 F0.1 F1.1 I1.0 W1.0 F0.2 I0.0 W0.0 F1.2 I1.1 W1.1 F0.3 I0.1 W0.1 F1.3 I1.2 W1.2 I0.2 "
           "I1.3 I0.3 "
           "W0.2 W1.3 W0.3");
}

static void chimera(void **state)
{
    (void)state;
    EXPECT(pipe_case(FM_PIPE_CHIMERA, 4, 4, 0), "F0.0 F0.1 F1.0 B1.0 F1.1 B1.1 B0.0 B0.1",
           "F0.0 F1.0 F0.1 F1.1 B1.0 B0.0 B1.1 B0.1", "F1.0 F0.0 F1.1 F0.1 B0.0 B1.0 B0.1 B1.1",
           "F1.0 F1.1 F0.0 B0.0 F0.1 B0.1 B1.0 B1.1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gpipe_and_1f1b),
        cmocka_unit_test(interleaved),
        cmocka_unit_test(zero_bubble),
        cmocka_unit_test(chimera),
    };
    return fm_test_run("pipe.pipe_generate_families", tests);
}
