#include <float.h>
#include <math.h>

#include "fm_gen.h"
#include "fm_test.h"

#include "fathom/eplb.h"

enum { SAMPLES_MAX = 40, WIDTH_MAX = 24 };

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a;
    float y = *(const float *)b;
    return (x > y) - (x < y);
}

static void estimates_are_those_of_the_last_samples(fm_gen *gen)
{
    static float sample[SAMPLES_MAX][WIDTH_MAX];
    int layers = (int)fm_gen_int(gen, 1, 4);
    int experts = (int)fm_gen_int(gen, 1, WIDTH_MAX / layers);
    int width = layers * experts;
    int window = (int)fm_gen_int(gen, 1, 12);
    int samples = (int)fm_gen_int(gen, 1, SAMPLES_MAX);
    double alpha = fm_gen_real(gen, 0.01, 1);
    fm_eplb_history *history;
    assert_ok(fm_eplb_history_new(layers, experts, window, alpha, &history));
    for (int k = 0; k < samples; k++) {
        for (int i = 0; i < width; i++)
            sample[k][i] = (float)fm_gen_int(gen, 0, fm_gen_chance(gen, 0.5) ? 3 : 100000);
        assert_ok(fm_eplb_history_push(history, sample[k]));
    }
    int count = samples < window ? samples : window;
    assert_int_equal(fm_eplb_history_count(history), count);
    float sum[WIDTH_MAX];
    float average[WIDTH_MAX];
    float quantile[WIDTH_MAX];
    double q = fm_gen_chance(gen, 0.3) ? (double)fm_gen_int(gen, 0, 1) : fm_gen_real(gen, 0, 1);
    assert_ok(fm_eplb_history_sum(history, sum));
    assert_ok(fm_eplb_history_average(history, average));
    assert_ok(fm_eplb_history_quantile(history, q, quantile));
    for (int i = 0; i < width; i++) {
        double expected_sum = 0;
        double expected_average = (double)sample[0][i];
        float column[SAMPLES_MAX];
        for (int k = 0; k < samples; k++)
            expected_average = (1 - alpha) * expected_average + alpha * (double)sample[k][i];
        for (int k = 0; k < count; k++) {
            column[k] = sample[samples - count + k][i];
            expected_sum += (double)column[k];
        }
        qsort(column, (size_t)count, sizeof column[0], ascending);
        double at = q * (count - 1);
        int low = (int)at;
        int high = low + 1 < count ? low + 1 : low;
        double expected = (double)column[low] + (at - low) * ((double)column[high] - (double)column[low]);
        assert_true((double)sum[i] == expected_sum); // whole numbers: exact
        assert_true(fabs((double)average[i] - expected_average) <= 1e-6 * expected_average);
        assert_true(fabs((double)quantile[i] - expected) <= 1e-6 * expected);
    }
    fm_eplb_history_free(history);
}

static void history_property(void **state)
{
    (void)state;
    fm_gen_property(200, estimates_are_those_of_the_last_samples);
}

static void bad_histories_are_refused(void **state)
{
    (void)state;
    fm_eplb_history *history = NULL;
    assert_fails(fm_eplb_history_new(0, 1, 1, 0.5, &history), FM_ERR_ARG, "0 layers");
    assert_fails(fm_eplb_history_new(1, 1, 1, 0, &history), FM_ERR_ARG, "alpha is 0");
    assert_fails(fm_eplb_history_new(1, 1, 1, (double)NAN, &history), FM_ERR_ARG, "alpha is nan");
    assert_null(history);
    assert_ok(fm_eplb_history_new(1, 2, 3, 0.5, &history));
    float weight[2] = {5, 5};
    assert_fails(fm_eplb_history_sum(history, weight), FM_ERR_STATE, "no sample");
    assert_fails(fm_eplb_history_average(history, weight), FM_ERR_STATE, "no sample");
    assert_fails(fm_eplb_history_quantile(history, 0.5, weight), FM_ERR_STATE, "no sample");
    assert_fails(fm_eplb_history_quantile(history, 1.5, weight), FM_ERR_ARG, "quantile is 1.5");
    assert_fails(fm_eplb_history_push(history, (float[]){1, -1}), FM_ERR_ARG, "expert 1");
    assert_int_equal(fm_eplb_history_count(history), 0);
    // The sum of the largest floats stays a load that can be planned with.
    assert_ok(fm_eplb_history_push(history, (float[]){FLT_MAX, 1}));
    assert_ok(fm_eplb_history_push(history, (float[]){FLT_MAX, 1}));
    assert_ok(fm_eplb_history_sum(history, weight));
    assert_true(isfinite((double)weight[0]));
    fm_eplb_history_free(history);
}

static fm_status make_history(void *context)
{
    (void)context;
    fm_eplb_history *history = NULL;
    FM_TRY(fm_eplb_history_new(2, 3, 4, 0.1, &history));
    fm_eplb_history_free(history);
    return FM_OK;
}

static void history_survives_without_memory(void **state)
{
    (void)state;
    fm_test_each_alloc_fails(make_history, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(history_property),
        cmocka_unit_test(bad_histories_are_refused),
        cmocka_unit_test(history_survives_without_memory),
    };
    return fm_test_run("eplb.history", tests);
}
