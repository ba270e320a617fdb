/*
 * All 2^32 f32 numbers through every narrowing conversion at every level: numfmt_sweep_test
 * bf16|fp16|e4m3|e5m2|e2m1|ue8m0. The oracle's table gives the expected codes as runs, so that the sweep
 * costs little more than the conversion.
 */
#include "fm_test.h"

#include "numfmt_oracle.h"
#include "numfmt_table.h"

enum { CHUNK = 1 << 15 }; // input, result and expectation together stay in a 512 KiB L2

static float input[CHUNK];
static uint16_t want16[CHUNK];
static uint16_t got16[CHUNK];
static uint8_t want8[CHUNK];
static uint8_t got8[CHUNK];
static enum numfmt format;

// The codes of CHUNK numbers from `bits` on, all of one sign. Codes only grow with the magnitude.
static void expect(const struct numfmt_oracle *oracle, uint32_t bits)
{
    uint32_t negative = bits >> 31 ? oracle->sign : 0;
    uint32_t magnitude = bits & 0x7FFFFFFF;
    uint32_t code = numfmt_oracle_narrow(oracle, magnitude);
    for (uint32_t i = 0; i < CHUNK;) {
        if (magnitude + i > 0x7F800000) {
            want16[i] = (uint16_t)numfmt_oracle_nan(oracle, bits + i);
            want8[i] = (uint8_t)want16[i];
            i++;
            continue;
        }
        uint32_t end = oracle->last[code] - magnitude + 1;
        end = end < CHUNK ? end : CHUNK;
        memset(want8 + i, (int)((code | negative) & 0xFF), end - i);
        for (; i < end; i++)
            want16[i] = (uint16_t)(code | negative);
        code++;
    }
}

static void expect_exact_powers(uint32_t bits)
{
    memset(want8, 0xFF, CHUNK);
    for (uint32_t i = 0; i < CHUNK; i++) {
        if (bits + i == 0x400000)
            want8[i] = 0;
        else if ((bits + i) % 0x800000 == 0 && bits + i > 0 && bits + i <= 0x7F000000)
            want8[i] = (uint8_t)((bits + i) / 0x800000);
    }
}

static void compare(const char *conversion, fm_isa level, uint32_t bits, const void *got, const void *want,
                    size_t size)
{
    if (memcmp(got, want, size) == 0)
        return;
    for (size_t i = 0; i < size; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want)[i])
            fail_msg("%s to %s at level %s: byte %zu of the codes of f32 %08x.. is wrong", conversion,
                     numfmt_oracle_get(format)->name, fm_base_isa_name(level), i, bits);
}

static void pack_expectation(void)
{
    for (uint32_t i = 0; i < CHUNK; i += 2)
        want8[i / 2] = (uint8_t)(want8[i] | want8[i + 1] << 4);
}

static void check_chunk(fm_isa level, uint32_t bits)
{
    const struct fm_numfmt_table *table = fm_base_numfmt_table(level);
    switch (format) {
    case NUMFMT_BF16:
        table->f32_to_bf16(input, CHUNK, got16);
        compare("f32", level, bits, got16, want16, sizeof got16);
        break;
    case NUMFMT_FP16:
        table->f32_to_fp16(input, CHUNK, got16);
        compare("f32", level, bits, got16, want16, sizeof got16);
        break;
    case NUMFMT_E4M3:
        table->f32_to_e4m3(input, CHUNK, got8);
        compare("f32", level, bits, got8, want8, sizeof got8);
        break;
    case NUMFMT_E5M2:
        table->f32_to_e5m2(input, CHUNK, got8);
        compare("f32", level, bits, got8, want8, sizeof got8);
        break;
    case NUMFMT_E2M1:
        table->f32_to_e2m1(input, CHUNK, got8);
        compare("f32", level, bits, got8, want8, CHUNK / 2);
        break;
    default:
        table->f32_to_ue8m0_ceil(input, CHUNK, got8);
        compare("f32 (ceil)", level, bits, got8, want8, sizeof got8);
        break;
    }
}

static void every_float(void **state)
{
    (void)state;
    const struct numfmt_oracle *oracle = numfmt_oracle_get(format);
    fm_isa top = fm_base_cpu_isa(FM_ISA_AVX512);
    uint32_t bits = 0;
    do {
        for (uint32_t i = 0; i < CHUNK; i++)
            input[i] = fm_f32_from_bits(bits + i);
        expect(oracle, bits);
        if (format == NUMFMT_E2M1)
            pack_expectation();
        for (fm_isa level = FM_ISA_REF; level <= top; level++)
            check_chunk(level, bits);
        if (format == NUMFMT_UE8M0) {
            expect_exact_powers(bits);
            for (fm_isa level = FM_ISA_REF; level <= top; level++) {
                fm_base_numfmt_table(level)->f32_to_ue8m0_exact(input, CHUNK, got8);
                compare("f32 (exact)", level, bits, got8, want8, sizeof got8);
            }
        }
        bits += CHUNK;
    } while (bits);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_float)};
    for (int i = 0; i < NUMFMT_COUNT; i++) {
        format = (enum numfmt)i;
        if (argc == 2 && strcmp(argv[1], numfmt_oracle_get(format)->name) == 0)
            return fm_test_run("base.numfmt_sweep", tests);
    }
    fprintf(stderr, "usage: numfmt_sweep_test bf16|fp16|e4m3|e5m2|e2m1|ue8m0\n");
    return 2;
}
