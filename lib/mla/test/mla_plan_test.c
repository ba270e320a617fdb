#include "mla_plan.h"

#include "fm_gen.h"
#include "fm_test.h"

enum { BATCH_MAX = 40 };

static int64_t blocks_of(int64_t length)
{
    return length > 0 ? (length + FM_MLA_SPLIT_BLOCK - 1) / FM_MLA_SPLIT_BLOCK : 1;
}

// Pieces cover each list once and in order; only what is split has slots, all of them different.
static void check_cover(const fm_mla_plan *plan)
{
    int64_t slots = 0;
    assert_int_equal(plan->parts[0], 0);
    assert_int_equal(plan->parts[plan->part_count], plan->piece_count);
    int64_t piece = 0;
    for (int i = 0; i < plan->shape.batch; i++) {
        int64_t length = plan->lengths[i] + (plan->extra_lengths ? plan->extra_lengths[i] : 0), at = 0;
        int64_t first = piece;
        assert_int_equal(plan->splits[i], slots);
        do {
            const struct fm_mla_piece *now = &plan->pieces[piece++];
            assert_true(piece <= plan->piece_count);
            assert_int_equal(now->sequence, i);
            assert_int_equal(now->begin, at);
            assert_true(now->end > at || length == 0);
            assert_true(now->end == length || now->end % FM_MLA_SPLIT_BLOCK == 0);
            if (now->slot >= 0)
                assert_int_equal(now->slot, slots++);
            at = now->end;
        } while (at < length);
        int64_t count = piece - first;
        assert_int_equal(plan->splits[i + 1] - plan->splits[i], count > 1 ? count : 0);
    }
    assert_int_equal(piece, plan->piece_count);
    assert_int_equal(plan->splits[plan->shape.batch], slots);
}

// No part has more than its share of blocks and overheads, with one overhead for being cut where it is.
static void check_balance(const fm_mla_plan *plan, int parts)
{
    int64_t all = 0;
    for (int i = 0; i < plan->shape.batch; i++)
        all += blocks_of(plan->lengths[i]) + FM_MLA_SPLIT_OVERHEAD;
    int64_t payload = (all + parts - 1) / parts + FM_MLA_SPLIT_OVERHEAD;
    assert_true(plan->part_count <= parts);
    for (int64_t i = 0; i < plan->part_count; i++) {
        int64_t work = 0;
        for (int64_t j = plan->parts[i]; j < plan->parts[i + 1]; j++)
            work += blocks_of(plan->pieces[j].end - plan->pieces[j].begin) + FM_MLA_SPLIT_OVERHEAD;
        assert_true(work <= payload);
    }
}

static void random_plan(fm_gen *gen)
{
    int32_t lengths[BATCH_MAX], extra[BATCH_MAX];
    fm_mla_shape shape = {
        .batch = (int)fm_gen_int(gen, 0, BATCH_MAX), .s_q = 2, .h_q = 4, .h_kv = 1, .d_v = 16};
    for (int i = 0; i < shape.batch; i++) {
        lengths[i] = fm_gen_chance(gen, 0.1) ? 0 : (int32_t)fm_gen_size(gen, 0, 5000);
        extra[i] = (int32_t)fm_gen_int(gen, 0, 300);
    }
    fm_mla_split split = {.parts = (int)fm_gen_size(gen, 1, 70)};
    fm_mla_plan *plan;
    assert_ok(fm_mla_plan_dense(&shape, lengths, &split, &plan));
    check_cover(plan);
    check_balance(plan, split.parts);
    fm_mla_plan_free(plan);
    split = (fm_mla_split){.batch_invariant = 1};
    assert_ok(fm_mla_plan_sparse(&shape, 5000, lengths, 300, extra, &split, &plan));
    check_cover(plan);
    for (int64_t i = 0; i < plan->piece_count; i++)
        assert_int_equal(plan->pieces[i].begin % FM_MLA_SPLIT_INVARIANT, 0);
    fm_mla_plan_free(plan);
    split = (fm_mla_split){0};
    assert_ok(fm_mla_plan_dense(&shape, lengths, &split, &plan));
    check_cover(plan);
    fm_mla_plan_free(plan);
}

static void plans_cover_all_keys_and_balance(void **state)
{
    (void)state;
    fm_gen_property(200, random_plan);
}

// 4 parts of 16 blocks and an overhead each.
static void a_list_is_shared_out_as_the_algorithm_says(void **state)
{
    (void)state;
    const int32_t length = 4096;
    fm_mla_plan *plan;
    assert_ok(fm_mla_plan_dense(&(fm_mla_shape){.batch = 1, .s_q = 1, .h_q = 128, .h_kv = 1, .d_v = 512},
                                &length, &(fm_mla_split){0}, &plan));
    const int64_t ends[] = {16 * 64, 32 * 64, 48 * 64, 4096};
    assert_int_equal(plan->piece_count, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(plan->pieces[i].end, ends[i]);
    fm_mla_plan_free(plan);
}

static fm_status plan_a_split(void *arg)
{
    fm_mla_plan *plan;
    const int32_t length = 1000, *lengths = arg ? arg : &length;
    FM_TRY(fm_mla_plan_dense(&(fm_mla_shape){.batch = 1, .s_q = 1, .h_q = 2, .h_kv = 1, .d_v = 16}, lengths,
                             &(fm_mla_split){.parts = 4}, &plan));
    fm_mla_plan_free(plan);
    return fm_mla_plan_sparse(&(fm_mla_shape){.batch = 1, .s_q = 1, .h_q = 2, .h_kv = 1, .d_v = 16}, 1000,
                              lengths, 0, NULL, &(fm_mla_split){.parts = 4}, &plan) == FM_OK
               ? (fm_mla_plan_free(plan), FM_OK)
               : FM_ERR_NOMEM;
}

static void plans_survive_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(plan_a_split, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_cover_all_keys_and_balance),
        cmocka_unit_test(a_list_is_shared_out_as_the_algorithm_says),
        cmocka_unit_test(plans_survive_without_memory),
    };
    return fm_test_run("mla_plan", tests);
}
