#include "fm_test.h"
#include "fm_gen.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "numfmt_oracle.h"
#include "numfmt_table.h"

// Each level that this machine and FM_ISA allow.
#define EACH_LEVEL(level) (fm_isa level = FM_ISA_REF; level <= fm_base_cpu_isa(FM_ISA_AVX512); level++)

struct inputs {
    float *value;
    size_t n;
};

static void put(struct inputs *inputs, uint32_t bits)
{
    inputs->value[inputs->n++] = fm_f32_from_bits(bits);
}

/*
 * The numbers where a mistake would show: every upper half with lower halves around the ties of all formats;
 * every value of every format and every last number before the next, with their neighbours, of both signs;
 * random ones.
 */
static struct inputs critical_inputs(void)
{
    static const uint16_t lower[] = {0,      1,      0x0FFF, 0x1000, 0x1001, 0x1FFF, 0x2000, 0x2FFF,
                                     0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF};
    enum { LOWER = sizeof lower / sizeof lower[0], RANDOM = 100000 };
    size_t capacity = 65536 * LOWER + RANDOM;
    for (int format = 0; format < NUMFMT_COUNT; format++)
        capacity += (numfmt_oracle_get((enum numfmt)format)->infinity + 1) * 2 * 7;
    struct inputs inputs = {fm_base_mem_alloc(capacity * sizeof(float)), 0};
    assert_non_null(inputs.value);
    for (uint32_t upper = 0; upper < 65536; upper++)
        for (size_t i = 0; i < LOWER; i++)
            put(&inputs, upper << 16 | lower[i]);
    for (int format = 0; format < NUMFMT_COUNT; format++) {
        const struct numfmt_oracle *oracle = numfmt_oracle_get((enum numfmt)format);
        for (uint32_t code = 0; code <= oracle->infinity; code++) {
            uint32_t value = numfmt_oracle_widen(oracle, code);
            for (uint32_t sign = 0; sign < 2; sign++) {
                for (uint32_t delta = 0; delta < 3; delta++)
                    put(&inputs, (value + delta - 1) ^ sign << 31);
                for (uint32_t delta = 0; delta < 4; delta++)
                    put(&inputs, (oracle->last[code] + delta - 1) ^ sign << 31);
            }
        }
    }
    fm_gen gen = fm_gen_seeded(1);
    for (int i = 0; i < RANDOM; i++)
        put(&inputs, fm_f32_bits(fm_gen_any_float(&gen)));
    assert_true(inputs.n == capacity);
    return inputs;
}

static void check_codes(const char *what, fm_isa level, const struct inputs *inputs, const void *got,
                        const void *want, size_t size)
{
    if (memcmp(got, want, inputs->n * size) == 0)
        return;
    for (size_t i = 0; i < inputs->n; i++) {
        uint32_t g = size == 2 ? ((const uint16_t *)got)[i] : ((const uint8_t *)got)[i];
        uint32_t w = size == 2 ? ((const uint16_t *)want)[i] : ((const uint8_t *)want)[i];
        if (g != w)
            fail_msg("f32 %08x (%a) to %s at level %s: %04x, expected %04x", fm_f32_bits(inputs->value[i]),
                     (double)inputs->value[i], what, fm_base_isa_name(level), g, w);
    }
}

static void narrow8(const char *what, const struct inputs *inputs, const uint8_t *want,
                    void (*convert)(const struct fm_numfmt_table *, const struct inputs *, uint8_t *))
{
    uint8_t *got = fm_base_mem_alloc(inputs->n);
    assert_non_null(got);
    for
        EACH_LEVEL(level)
        {
            convert(fm_base_numfmt_table(level), inputs, got);
            check_codes(what, level, inputs, got, want, 1);
        }
    fm_base_mem_free(got);
}

static void to_e4m3(const struct fm_numfmt_table *table, const struct inputs *inputs, uint8_t *out)
{
    table->f32_to_e4m3(inputs->value, inputs->n, out);
}

static void to_e5m2(const struct fm_numfmt_table *table, const struct inputs *inputs, uint8_t *out)
{
    table->f32_to_e5m2(inputs->value, inputs->n, out);
}

// Unpacked, so that it compares like the others.
static void to_e2m1(const struct fm_numfmt_table *table, const struct inputs *inputs, uint8_t *out)
{
    fm_e2m1x2 *packed = fm_base_mem_alloc((inputs->n + 1) / 2);
    assert_non_null(packed);
    table->f32_to_e2m1(inputs->value, inputs->n, packed);
    for (size_t i = 0; i < inputs->n; i++)
        out[i] = packed[i / 2] >> (i % 2 * 4) & 15;
    fm_base_mem_free(packed);
}

static void to_ue8m0_ceil(const struct fm_numfmt_table *table, const struct inputs *inputs, uint8_t *out)
{
    table->f32_to_ue8m0_ceil(inputs->value, inputs->n, out);
}

static void to_ue8m0_exact(const struct fm_numfmt_table *table, const struct inputs *inputs, uint8_t *out)
{
    table->f32_to_ue8m0_exact(inputs->value, inputs->n, out);
}

static void narrowing_to_bytes_agrees_with_the_oracle(void **state)
{
    (void)state;
    struct inputs inputs = critical_inputs();
    uint8_t *want = fm_base_mem_alloc(inputs.n);
    assert_non_null(want);
    static const struct {
        enum numfmt format;
        void (*convert)(const struct fm_numfmt_table *, const struct inputs *, uint8_t *);
    } cases[] = {{NUMFMT_E4M3, to_e4m3},
                 {NUMFMT_E5M2, to_e5m2},
                 {NUMFMT_E2M1, to_e2m1},
                 {NUMFMT_UE8M0, to_ue8m0_ceil}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const struct numfmt_oracle *oracle = numfmt_oracle_get(cases[c].format);
        for (size_t i = 0; i < inputs.n; i++)
            want[i] = (uint8_t)numfmt_oracle_narrow(oracle, fm_f32_bits(inputs.value[i]));
        narrow8(oracle->name, &inputs, want, cases[c].convert);
    }
    for (size_t i = 0; i < inputs.n; i++) {
        int exponent;
        double fraction = frexp((double)inputs.value[i], &exponent); // in [0.5, 1)
        int representable = fraction == 0.5 && exponent - 1 >= -127 && exponent - 1 <= 127;
        want[i] = representable ? (uint8_t)(exponent - 1 + 127) : 0xFF;
    }
    narrow8("ue8m0 (exact)", &inputs, want, to_ue8m0_exact);
    fm_base_mem_free(want);
    fm_base_mem_free(inputs.value);
}

static void narrowing_to_halves_agrees_with_the_oracle(void **state)
{
    (void)state;
    struct inputs inputs = critical_inputs();
    uint16_t *want = fm_base_mem_zalloc(inputs.n, 2);
    uint16_t *got = fm_base_mem_zalloc(inputs.n, 2);
    assert_true(want && got);
    for (int fp16 = 0; fp16 < 2; fp16++) {
        const struct numfmt_oracle *oracle = numfmt_oracle_get(fp16 ? NUMFMT_FP16 : NUMFMT_BF16);
        for (size_t i = 0; i < inputs.n; i++)
            want[i] = (uint16_t)numfmt_oracle_narrow(oracle, fm_f32_bits(inputs.value[i]));
        for
            EACH_LEVEL(level)
            {
                const struct fm_numfmt_table *table = fm_base_numfmt_table(level);
                (fp16 ? table->f32_to_fp16 : table->f32_to_bf16)(inputs.value, inputs.n, got);
                check_codes(oracle->name, level, &inputs, got, want, 2);
            }
    }
    fm_base_mem_free(got);
    fm_base_mem_free(want);
    fm_base_mem_free(inputs.value);
}

// Every code of a format through one widening conversion at one level.
#define WIDENS(level, format, convert, S, codes)                                                            \
    do {                                                                                                    \
        static S from_[codes];                                                                              \
        static float got_[codes];                                                                           \
        for (uint32_t i_ = 0; i_ < (codes); i_++)                                                           \
            from_[i_] = (S)i_;                                                                              \
        fm_base_numfmt_table(level)->convert(from_, codes, got_);                                           \
        for (uint32_t i_ = 0; i_ < (codes); i_++)                                                           \
            if (fm_f32_bits(got_[i_]) != numfmt_oracle_widen(numfmt_oracle_get(format), i_))                \
                fail_msg(#convert " of %04x at level %s: %08x, expected %08x", i_, fm_base_isa_name(level), \
                         fm_f32_bits(got_[i_]), numfmt_oracle_widen(numfmt_oracle_get(format), i_));        \
    } while (0)

static void every_code_widens(void **state)
{
    (void)state;
    for
        EACH_LEVEL(level)
        {
            WIDENS(level, NUMFMT_BF16, bf16_to_f32, fm_bf16, 65536);
            WIDENS(level, NUMFMT_FP16, fp16_to_f32, fm_fp16, 65536);
            WIDENS(level, NUMFMT_E4M3, e4m3_to_f32, fm_e4m3, 256);
            WIDENS(level, NUMFMT_E5M2, e5m2_to_f32, fm_e5m2, 256);
            WIDENS(level, NUMFMT_UE8M0, ue8m0_to_f32, fm_ue8m0, 256);

            const struct fm_numfmt_table *table = fm_base_numfmt_table(level);
            uint8_t bytes[256];
            float f32[512];
            fm_bf16 bf16[512];
            for (int i = 0; i < 256; i++)
                bytes[i] = (uint8_t)i;
            table->e4m3_to_bf16(bytes, 256, bf16);
            for (uint32_t i = 0; i < 256; i++)
                assert_int_equal((uint32_t)bf16[i] << 16,
                                 numfmt_oracle_widen(numfmt_oracle_get(NUMFMT_E4M3), i));
            table->e2m1_to_f32(bytes, 512, f32);
            table->e2m1_to_bf16(bytes, 512, bf16);
            for (uint32_t i = 0; i < 512; i++) {
                uint32_t want =
                    numfmt_oracle_widen(numfmt_oracle_get(NUMFMT_E2M1), i % 2 ? i / 2 >> 4 : i / 2 & 15);
                assert_int_equal(fm_f32_bits(f32[i]), want);
                assert_int_equal((uint32_t)bf16[i] << 16, want);
            }
        }
}

static void values_that_people_know(void **state)
{
    (void)state;
    assert_int_equal(fm_f32_to_bf16(1.0f), 0x3F80);
    assert_int_equal(fm_f32_to_fp16(65504.0f), 0x7BFF);
    assert_int_equal(fm_f32_to_fp16(65520.0f), 0x7C00);
    assert_int_equal(fm_f32_to_e4m3(448.0f), 0x7E);
    assert_int_equal(fm_f32_to_e4m3(1e30f), 0x7E);
    assert_int_equal(fm_f32_to_e4m3(-INFINITY), 0xFE);
    assert_int_equal(fm_f32_to_e4m3(NAN) & 0x7F, 0x7F);
    assert_int_equal(fm_f32_to_e4m3(-0.0f), 0x80);
    assert_int_equal(fm_f32_to_e4m3(0x1p-10f), 0x00); // half of the smallest: to even
    assert_int_equal(fm_f32_to_e4m3(0x1.8p-9f), 0x02);
    assert_int_equal(fm_f32_to_e5m2(57344.0f), 0x7B);
    assert_int_equal(fm_f32_to_e5m2(61440.0f), 0x7C);
    assert_int_equal(fm_f32_to_e2m1(0.25f), 0);
    assert_int_equal(fm_f32_to_e2m1(0.75f), 2);
    assert_int_equal(fm_f32_to_e2m1(-2.5f), 8 | 4);
    assert_int_equal(fm_f32_to_e2m1(5.0f), 6);
    assert_int_equal(fm_f32_to_e2m1(NAN), 7);
    assert_int_equal(fm_f32_to_ue8m0_ceil(1.0f), 127);
    assert_int_equal(fm_f32_to_ue8m0_ceil(1.001f), 128);
    assert_int_equal(fm_f32_to_ue8m0_ceil(0.0f), 0);
    assert_int_equal(fm_f32_to_ue8m0_exact(0.5f), 126);
    assert_int_equal(fm_f32_to_ue8m0_exact(3.0f), 0xFF);
    assert_true(fm_ue8m0_to_f32(0) == 0x1p-127f);
    assert_true(fm_e4m3_to_f32(0x01) == 0x1p-9f);
    assert_true(fm_e2m1_to_f32(0xF) == -6);
    // One rounding: by way of fp16 this would become 1 (a tie at 1.0625 made by the first rounding), which is
    // too far.
    assert_int_equal(fm_f32_to_e4m3(0x1.10002p0f), 0x39);
}

struct conversion {
    const char *name;
    void (*call)(const struct fm_numfmt_table *table, const void *from, size_t n, void *out);
    size_t s_size;
    size_t s_per;
    size_t d_size;
    size_t d_per;
};

#define CALL(name, S, s_per, D, d_per)                                                                  \
    static void call_##name(const struct fm_numfmt_table *table, const void *from, size_t n, void *out) \
    {                                                                                                   \
        table->name(from, n, out);                                                                      \
    }
FM_NUMFMT_LIST(CALL)

static const struct conversion conversions[] = {
#define ROW(name, S, s_per, D, d_per) {#name, call_##name, sizeof(S), s_per, sizeof(D), d_per},
    FM_NUMFMT_LIST(ROW)};

enum { CONVERSIONS = sizeof conversions / sizeof conversions[0] };

static size_t bytes_of(size_t n, size_t size, size_t per)
{
    return (n + per - 1) / per * size;
}

// Two accessible pages between two that are not.
static uint8_t *guarded(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *pages = mmap(NULL, 4 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    assert_int_equal(mprotect(pages + page, 2 * page, PROT_READ | PROT_WRITE), 0);
    return pages + page;
}

static void release_guarded(uint8_t *pages)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    munmap(pages - page, 4 * page);
}

// n elements whose source and result begin `skip` objects into their pages, or end that far before the end.
static void check_length(const struct conversion *c, fm_isa level, size_t n, size_t skip, int at_end,
                         uint8_t *from, uint8_t *out)
{
    size_t usable = 2 * (size_t)sysconf(_SC_PAGESIZE);
    size_t s_bytes = bytes_of(n, c->s_size, c->s_per);
    size_t d_bytes = bytes_of(n, c->d_size, c->d_per);
    uint8_t *s = at_end ? from + usable - s_bytes - skip * c->s_size : from + skip * c->s_size;
    uint8_t *d = at_end ? out + usable - d_bytes - skip * c->d_size : out + skip * c->d_size;
    _Alignas(8) uint8_t source[512]; // the reference gets its own aligned copy
    _Alignas(8) uint8_t want[512];
    memcpy(source, s, s_bytes);
    c->call(fm_base_numfmt_table(FM_ISA_REF), source, n, want);
    memset(out, 0xA5, usable);
    c->call(fm_base_numfmt_table(level), s, n, d);
    if (memcmp(d, want, d_bytes) != 0)
        fail_msg("%s of %zu elements at level %s differs from the reference", c->name, n,
                 fm_base_isa_name(level));
    for (uint8_t *byte = out; byte < out + usable; byte++)
        if ((byte < d || byte >= d + d_bytes) && *byte != 0xA5)
            fail_msg("%s of %zu elements at level %s writes outside", c->name, n, fm_base_isa_name(level));
    if (c->d_per == 2 && n % 2)
        assert_int_equal(d[d_bytes - 1] >> 4, 0);
}

static void every_length_and_offset(void **state)
{
    (void)state;
    uint8_t *from = guarded();
    uint8_t *out = guarded();
    fm_gen gen = fm_gen_seeded(2);
    fm_gen_fill(&gen, from, 2 * (size_t)sysconf(_SC_PAGESIZE));
    for (int c = 0; c < CONVERSIONS; c++)
        for
            EACH_LEVEL(level)
    for (size_t n = 0; n <= 70; n++)
        for (size_t skip = 0; skip < 3; skip++) {
            check_length(&conversions[c], level, n, skip, 0, from, out);
            check_length(&conversions[c], level, n, skip, 1, from, out);
        }
    release_guarded(from);
    release_guarded(out);
    for (int c = 0; c < CONVERSIONS; c++)
        for
            EACH_LEVEL(level)
    conversions[c].call(fm_base_numfmt_table(level), NULL, 0, NULL);
}

#define CALL_PUBLIC(name, S, s_per, D, d_per)                                                             \
    static void public_##name(const struct fm_numfmt_table *table, const void *from, size_t n, void *out) \
    {                                                                                                     \
        (void)table;                                                                                      \
        fm_base_##name(from, n, out);                                                                     \
    }
FM_NUMFMT_LIST(CALL_PUBLIC)

static const struct conversion public_conversions[] = {
#define PUBLIC_ROW(name, S, s_per, D, d_per) {#name, public_##name, sizeof(S), s_per, sizeof(D), d_per},
    FM_NUMFMT_LIST(PUBLIC_ROW)};

// The public functions, in a hostile floating-point mode, against the reference.
static void floating_point_mode_neither_matters_nor_changes(void **state)
{
    (void)state;
    struct inputs inputs = critical_inputs();
    uint8_t *want = fm_base_mem_zalloc(inputs.n, 4);
    uint8_t *got = fm_base_mem_zalloc(inputs.n, 4);
    assert_true(want && got);
    for (int i = 0; i < CONVERSIONS; i++) {
        const struct conversion *c = &public_conversions[i];
        // The inputs as floats, or their bytes as codes.
        conversions[i].call(fm_base_numfmt_table(FM_ISA_REF), inputs.value, inputs.n, want);
#if defined(__x86_64__)
        const uint32_t hostile = 0xFFC0; // toward zero, FTZ, DAZ; masked, no flag
        uint32_t mode = __builtin_ia32_stmxcsr();
        __builtin_ia32_ldmxcsr(hostile);
        c->call(NULL, inputs.value, inputs.n, got);
        uint32_t after = __builtin_ia32_stmxcsr();
        __builtin_ia32_ldmxcsr(mode);
        assert_int_equal(after, hostile);
#else
        c->call(NULL, inputs.value, inputs.n, got);
#endif
        if (memcmp(got, want, bytes_of(inputs.n, c->d_size, c->d_per)) != 0)
            fail_msg("fm_base_%s depends on the floating-point mode", c->name);
    }
    fm_base_mem_free(want);
    fm_base_mem_free(got);
    fm_base_mem_free(inputs.value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_that_people_know),
        cmocka_unit_test(every_code_widens),
        cmocka_unit_test(narrowing_to_bytes_agrees_with_the_oracle),
        cmocka_unit_test(narrowing_to_halves_agrees_with_the_oracle),
        cmocka_unit_test(every_length_and_offset),
        cmocka_unit_test(floating_point_mode_neither_matters_nor_changes),
    };
    return fm_test_run("base.numfmt", tests);
}
