// Dispatch and combine against the oracle: chosen shapes, random ones, and equality of bits across all ways to spread the
// same tokens over ranks and nodes. The argument is the number of random rounds.
#include "ep_oracle.h"
#include "fm_test.h"

static int random_rounds = 150;

static void any_round(fm_gen *gen)
{
    ep_shape shape = ep_shape_draw(gen, 8);
    ep_inputs inputs = ep_inputs_draw(gen, &shape);
    ep_round_check(&inputs, NULL);
    ep_inputs_free(&inputs);
}

static void random_rounds_agree_with_the_oracle(void **state)
{
    (void)state;
    fm_gen_property(random_rounds, any_round);
}

static void check_shape(ep_shape shape)
{
    fm_gen gen = fm_gen_seeded(7);
    ep_inputs inputs = ep_inputs_draw(&gen, &shape);
    ep_round_check(&inputs, NULL);
    ep_inputs_free(&inputs);
}

static void chosen_shapes_agree_with_the_oracle(void **state)
{
    (void)state;
    // A model's hidden size, several experts a rank.
    check_shape((ep_shape){.ranks = 2,
                           .hidden = 7168,
                           .experts = 64,
                           .topk = 8,
                           .tokens = {33, 40},
                           .arrangement = FM_EP_EXPANDED,
                           .alignment = 16,
                           .recv_format = FM_EP_FP8_F32,
                           .weighted = 1,
                           .biases = 2,
                           .all_to_expert = -1});
    // One expert a rank, everything to one of them, two nodes of three.
    check_shape((ep_shape){.ranks = 6,
                           .ranks_per_node = 3,
                           .hidden = 128,
                           .experts = 6,
                           .topk = 1,
                           .tokens = {7, 0, 31, 1, 5, 9},
                           .arrangement = FM_EP_EXPANDED,
                           .alignment = 128,
                           .masked = 0,
                           .all_to_expert = 4,
                           .check = 1});
    // Nobody has a token.
    check_shape((ep_shape){.ranks = 4,
                           .ranks_per_node = 2,
                           .hidden = 8,
                           .experts = 8,
                           .topk = 2,
                           .arrangement = FM_EP_PLAIN,
                           .alignment = 1,
                           .all_to_expert = -1});
    // All choices are -1.
    check_shape((ep_shape){.ranks = 3,
                           .ranks_per_node = 2,
                           .hidden = 130,
                           .experts = 3,
                           .topk = 3,
                           .tokens = {4, 5, 6},
                           .arrangement = FM_EP_EXPANDED,
                           .alignment = 3,
                           .masked = 1,
                           .biases = 1,
                           .all_to_expert = -1});
}

static void results_do_not_depend_on_ranks_or_nodes(void **state)
{
    (void)state;
    enum { TOKENS = 48, HIDDEN = 136, TOPK = 6, EXPERTS = 24 };
    static const int shapes[][2] = {{1, 0}, {2, 0}, {3, 0}, {4, 0}, {8, 0},
                                    {8, 1}, {8, 4}, {8, 3}, {6, 2}, {4, 2}};
    static fm_bf16 first[TOKENS * HIDDEN], other[TOKENS * HIDDEN];
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        ep_shape shape = {.ranks = shapes[s][0],
                          .ranks_per_node = shapes[s][1],
                          .hidden = HIDDEN,
                          .experts = EXPERTS,
                          .topk = TOPK,
                          .arrangement = FM_EP_EXPANDED,
                          .alignment = 16,
                          .recv_format = FM_EP_FP8_UE8M0,
                          .weighted = 1,
                          .biases = 1,
                          .masked = 0.1,
                          .all_to_expert = -1};
        for (int r = 0; r < shape.ranks; r++)
            shape.tokens[r] = TOKENS / shape.ranks;
        fm_gen gen = fm_gen_seeded(99); // the same tokens every time
        ep_inputs inputs = ep_inputs_draw(&gen, &shape);
        assert_int_equal(inputs.total, TOKENS);
        ep_round_check(&inputs, s == 0 ? first : other);
        ep_inputs_free(&inputs);
        if (s > 0)
            assert_memory_equal(first, other, sizeof first);
    }
}

int main(int count, char **arguments)
{
    if (count > 1)
        random_rounds = atoi(arguments[1]); // NOLINT(cert-err34-c): CMakeLists.txt wrote it
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chosen_shapes_agree_with_the_oracle),
        cmocka_unit_test(results_do_not_depend_on_ranks_or_nodes),
        cmocka_unit_test(random_rounds_agree_with_the_oracle),
    };
    return fm_test_run("ep_round", tests);
}
