#include "eplb_assign.h"

#include "fm_gen.h"
#include "fm_test.h"

enum { SIZE_MAX_TRIED = 7, SIZE_LARGE = 60 };

static int64_t best_matching(const int32_t weight[][SIZE_LARGE], int rows, int columns, int row, int used)
{
    if (row == rows)
        return 0;
    int64_t best = best_matching(weight, rows, columns, row + 1, used);
    for (int column = 0; column < columns; column++)
        if (!(used >> column & 1)) {
            int64_t here =
                weight[row][column] + best_matching(weight, rows, columns, row + 1, used | 1 << column);
            best = here > best ? here : best;
        }
    return best;
}

static int64_t match(fm_gen *gen, int rows, int columns, int32_t weight[][SIZE_LARGE], int largest)
{
    int32_t row_begin[SIZE_LARGE + 1] = {0};
    int32_t column[SIZE_LARGE * SIZE_LARGE];
    int32_t value[SIZE_LARGE * SIZE_LARGE];
    double density = fm_gen_real(gen, 0, 1);
    int edges = 0;
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < columns; c++) {
            weight[r][c] = fm_gen_chance(gen, density) ? (int32_t)fm_gen_int(gen, 1, largest) : 0;
            if (weight[r][c] > 0) {
                column[edges] = c;
                value[edges++] = weight[r][c];
            }
        }
        row_begin[r + 1] = edges;
    }
    fm_eplb_assigner assigner;
    assert_ok(fm_eplb_assigner_init(&assigner, rows > columns ? rows : columns));
    fm_eplb_edges problem = {rows, columns, row_begin, column, value};
    int32_t column_of[SIZE_LARGE];
    int64_t claimed = fm_eplb_assign(&assigner, &problem, column_of);
    int64_t sum = 0;
    uint64_t used = 0;
    for (int r = 0; r < rows; r++)
        if (column_of[r] >= 0) {
            assert_false(used >> column_of[r] & 1);
            used |= (uint64_t)1 << column_of[r];
            sum += weight[r][column_of[r]];
        }
    assert_int_equal(sum, claimed);
    // The certificate of optimality: profits and prices cover every pair.
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            assert_true(assigner.profit[r] >= 0 && assigner.price[c] >= 0 &&
                        assigner.profit[r] + assigner.price[c] >= weight[r][c]);
    fm_eplb_assigner_clean_up(&assigner);
    return sum;
}

static void small_matchings_weigh_the_most(fm_gen *gen)
{
    static int32_t weight[SIZE_LARGE][SIZE_LARGE];
    int rows = (int)fm_gen_int(gen, 1, SIZE_MAX_TRIED);
    int columns = (int)fm_gen_int(gen, 1, SIZE_MAX_TRIED);
    int64_t sum = match(gen, rows, columns, weight, fm_gen_chance(gen, 0.5) ? 2 : 20);
    assert_int_equal(sum, best_matching((const int32_t(*)[SIZE_LARGE])weight, rows, columns, 0, 0));
}

static void large_matchings_are_certified(fm_gen *gen)
{
    static int32_t weight[SIZE_LARGE][SIZE_LARGE];
    match(gen, (int)fm_gen_int(gen, 20, SIZE_LARGE), (int)fm_gen_int(gen, 20, SIZE_LARGE), weight, 3);
}

static void assign_property(void **state)
{
    (void)state;
    fm_gen_property(200, small_matchings_weigh_the_most);
    fm_gen_property(50, large_matchings_are_certified);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(assign_property)};
    return fm_test_run("eplb.assign", tests);
}
