#include "fm_test.h"

#include "bench_si.h"

static void figures_have_three_digits(void **state)
{
    (void)state;
    static const struct {
        double value;
        const char *unit, *text;
    } rows[] = {
        {0.0123, "s", "12.3 ms"},  {1.25e-6, "s", "1.25 us"},           {3.27e-10, "s", "0.327 ns"},
        {75, "s", "1 min 15 s"},   {2.24e12, "flop/s", "2.24 Tflop/s"}, {999.6, "B/s", "1.00 kB/s"},
        {999.4, "B/s", "999 B/s"}, {1.7e10, "B/s", "17.0 GB/s"},        {1.25, "run/s", "1.25 run/s"},
        {0.4567, "1", "0.457"},    {-3.5e-9, "s", "-3.50 ns"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(fm_bench_si(rows[i].value, rows[i].unit).text, rows[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures_have_three_digits)};
    return fm_test_run("bench.si", tests);
}
