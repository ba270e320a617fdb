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

/** In LogFMT-10 every channel takes the level next to it, and the ends of each block's range come back as they were. */
static void any_log_row(fm_gen *gen)
{
    fm_bf16 row[HIDDEN_MAX];
    uint8_t out[HIDDEN_MAX * 2];
    fm_bf16 ends[6] = {0};
    float back[HIDDEN_MAX];
    int hidden = (int)fm_gen_int(gen, 1, HIDDEN_MAX), wild = fm_gen_chance(gen, 0.3);
    float scale = ldexpf(1.0f, (int)fm_gen_int(gen, -60, 60));
    for (int i = 0; i < hidden; i++)
        row[i] = wild ? (fm_bf16)fm_gen_u64(gen) : fm_f32_to_bf16(scale * fm_gen_normal(gen));
    if (fm_gen_chance(gen, 0.2))
        memset(row, 0, sizeof row);
    size_t bytes = fm_ep_row_bytes(FM_EP_LOGFMT10, hidden);
    assert_int_equal(bytes, (hidden * 10 + 7) / 8);
    out[bytes] = 0xA5;
    fm_ep_cast_row(row, hidden, FM_EP_LOGFMT10, out, ends);
    assert_int_equal(out[bytes], 0xA5);
    fm_ep_uncast_row(out, ends, hidden, FM_EP_LOGFMT10, back);
    for (int i = 0; i < hidden; i++) {
        double x = (double)fm_bf16_to_f32(row[i]),
               low = (double)fm_bf16_to_f32(ends[i / FM_EP_SCALE_BLOCK * 2]);
        double high = (double)fm_bf16_to_f32(ends[i / FM_EP_SCALE_BLOCK * 2 + 1]);
        if (!isfinite(x)) {
            assert_true(isnan(back[i]));
            continue;
        }
        double step = low > 0 ? pow(high / low, 1.0 / 509) - 1 : 0;
        double bound = fabs(x) < low ? 0.5001 * low : fabs(x) * (0.5005 * step + 1e-5);
        assert_true(fabs((double)back[i] - x) <= bound);
        assert_true(x == 0 || back[i] == 0 || (back[i] < 0) == (x < 0));
        if (fabs(x) == high || (fabs(x) == low && low > 0))
            assert_true(fabs(fabs((double)back[i]) - fabs(x)) <= 1e-5 * fabs(x));
    }
}

static void every_channel_takes_the_nearest_level(void **state)
{
    (void)state;
    fm_gen_property(300, any_log_row);
}

/** The figures of README.md: root mean square of the error of normal rows, relative to that of the rows. */
static void errors_are_as_documented(void **state)
{
    (void)state;
    enum { ROWS = 40, HIDDEN = 7168 };
    static fm_bf16 row[HIDDEN];
    static uint8_t out[2 * HIDDEN];
    static float scales[HIDDEN], back[HIDDEN];
    static const struct {
        fm_ep_format format;
        double low, high;
    } expected[] = {{FM_EP_BF16, 0, 0},
                    {FM_EP_FP8_F32, 0.02, 0.03},
                    {FM_EP_FP8_UE8M0, 0.02, 0.03},
                    {FM_EP_LOGFMT10, 0.002, 0.005}};
    fm_gen gen = fm_gen_seeded(1);
    for (size_t f = 0; f < sizeof expected / sizeof expected[0]; f++) {
        double error = 0, all = 0;
        for (int r = 0; r < ROWS; r++) {
            for (int i = 0; i < HIDDEN; i++)
                row[i] = fm_f32_to_bf16(fm_gen_normal(&gen));
            fm_ep_cast_row(row, HIDDEN, expected[f].format, out, scales);
            fm_ep_uncast_row(out, scales, HIDDEN, expected[f].format, back);
            for (int i = 0; i < HIDDEN; i++) {
                double x = (double)fm_bf16_to_f32(row[i]);
                error += ((double)back[i] - x) * ((double)back[i] - x);
                all += x * x;
            }
        }
        double relative = sqrt(error / all);
        print_message("format %d: %.5f\n", (int)expected[f].format, relative);
        assert_true(relative >= expected[f].low && relative <= expected[f].high);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_channel_is_near_and_the_odd_are_nan),
        cmocka_unit_test(zeros_have_a_scale),
        cmocka_unit_test(every_channel_takes_the_nearest_level),
        cmocka_unit_test(errors_are_as_documented),
    };
    return fm_test_run("ep_cast", tests);
}
