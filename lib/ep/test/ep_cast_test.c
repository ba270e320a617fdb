// BF16 to FP8 with scales.
#include <math.h>

#include "fathom/ep.h"
#include "fm_gen.h"
#include "fm_test.h"

enum { HIDDEN_MAX = 300 };

static float amax_of(const fm_bf16 *row, int first, int last)
{
    float most = 1e-4f;
    for (int i = first; i < last; i++) {
        float magnitude = fabsf(fm_bf16_to_f32(row[i]));
        if (isfinite(magnitude) && magnitude > most)
            most = magnitude;
    }
    return most;
}

static void any_row(fm_gen *gen)
{
    fm_bf16 row[HIDDEN_MAX];
    fm_e4m3 out[HIDDEN_MAX + 1];
    float scales[3] = {0};
    fm_ue8m0 powers[3] = {0};
    int hidden = (int)fm_gen_int(gen, 1, HIDDEN_MAX);
    int wild = fm_gen_chance(gen, 0.3);
    for (int i = 0; i < hidden; i++)
        row[i] = wild ? (fm_bf16)fm_gen_u64(gen) : fm_f32_to_bf16(fm_gen_normal(gen));
    for (int power = 0; power < 2; power++) {
        out[hidden] = 0xA5;
        fm_ep_cast_row(row, hidden, power ? FM_EP_FP8_UE8M0 : FM_EP_FP8_F32, out,
                       power ? (void *)powers : (void *)scales);
        assert_int_equal(out[hidden], 0xA5);
        for (int i = 0; i < hidden; i++) {
            int b = i / FM_EP_SCALE_BLOCK, end = (b + 1) * FM_EP_SCALE_BLOCK;
            float amax = amax_of(row, b * FM_EP_SCALE_BLOCK, end < hidden ? end : hidden);
            float scale = power ? fm_ue8m0_to_f32(powers[b]) : scales[b];
            assert_true(power ? scale >= amax / 448 && scale < 2.001f * amax / 448 : scale == amax / 448);
            float x = fm_bf16_to_f32(row[i]), back = fm_e4m3_to_f32(out[i]);
            if (!isfinite(x)) {
                assert_true(isnan(back));
                continue;
            }
            // Half a unit in the last of 3 mantissa bits, or half the smallest step, plus rounding in f32.
            double error = fabs((double)back * (double)scale - (double)x);
            assert_true(error <= fabs((double)x) * 0.0626 + 0.00098 * (double)scale);
        }
    }
}

static void every_channel_is_near_and_the_odd_are_nan(void **state)
{
    (void)state;
    fm_gen_property(400, any_row);
}

static void zeros_have_a_scale(void **state)
{
    (void)state;
    fm_bf16 row[4] = {0, 0x8000, 0, 0};
    fm_e4m3 out[4];
    float scale;
    fm_ep_cast_row(row, 4, FM_EP_FP8_F32, out, &scale);
    assert_true(scale == 1e-4f / 448);
    assert_int_equal(out[0], 0);
    assert_int_equal(out[1], 0x80);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_channel_is_near_and_the_odd_are_nan),
        cmocka_unit_test(zeros_have_a_scale),
    };
    return fm_test_run("ep_cast", tests);
}
