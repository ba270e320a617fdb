/*
 * The benchmark's records: a 128-bit linear congruential generator X, of which record n takes X[n + 1] for its key and, in
 * the layout of gensort 1.5, X[n + 2] ... X[n + 10] for the rest. Constants and layouts are those that sortbenchmark.org
 * publishes.
 */
#include <stdio.h>
#include <string.h>

#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fathom/pond_records.h"
#include "fathom/rng.h"
#include "pond_output.h"
#include "pond_team.h"

__extension__ typedef unsigned __int128 wide;

enum {
    PIECES = 10,                                      // of a record in layout 1.5, ten bytes each
    PATTERN_BITS = 48,                                // that skew replaces at most
    FILE_RECORDS = 10485760,                          // about 1 GB, a whole number of pages
    UNIT_RECORDS = 40960,                             // 4 MB, too
    UNIT_BYTES = UNIT_RECORDS * FM_POND_RECORD_BYTES, // made and written at once
};

#define WIDE(high, low) ((wide)(high) << 64 | (low))
#define MULTIPLIER      WIDE(0x2360ED051FC65DA4ULL, 0x4385DF649FCCF645ULL)
#define INCREMENT       WIDE(0x4A696D4772617952ULL, 0x4950202020202001ULL)

// What pieces 2 to 10 are combined with, so that a record's pieces are no record's keys.
static const struct {
    uint64_t high;
    uint16_t low;
} masks[PIECES] = {
    {0, 0},
    {0xF0E8E4E2E1D8D4D2ULL, 0xD1CC},
    {0xCAC9C6C5C3B8B4B2ULL, 0xB1AC},
    {0xAAA9A6A5A39C9A99ULL, 0x9695},
    {0x938E8D8B87787472ULL, 0x716C},
    {0x6A696665635C5A59ULL, 0x5655},
    {0x534E4D4B473C3A39ULL, 0x3635},
    {0x332E2D2B271E1D1BULL, 0x170F},
    {0xC8C4C2C198949291ULL, 0x8CE0},
    {0x170F332E2D2B271EULL, 0x1D1B},
};

static wide next(wide value)
{
    return value * MULTIPLIER + INCREMENT;
}

// X[index], by the binary digits of the index: each step applied 2^k times is a step again.
static wide skip_to(uint64_t index)
{
    wide value = 0, multiplier = MULTIPLIER, increment = INCREMENT;
    for (; index > 0; index >>= 1) {
        if (index & 1)
            value = value * multiplier + increment;
        increment += increment * multiplier;
        multiplier *= multiplier;
    }
    return value;
}

static void put_piece(uint8_t *to, uint64_t high, uint16_t low)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(high >> (56 - 8 * i));
    to[8] = (uint8_t)(low >> 8);
    to[9] = (uint8_t)low;
}

static void put_bytes(uint8_t *to, const char *bytes, int count)
{
    for (int i = 0; i < count; i++)
        to[i] = (uint8_t)bytes[i];
}

static void put_hex(uint8_t *to, wide value, int first, int count, int copies)
{
    for (int i = first; i < first + count; i++)
        for (int copy = 0; copy < copies; copy++)
            *to++ = (uint8_t) "0123456789ABCDEF"[(int)(value >> (124 - 4 * i)) & 15];
}

static uint64_t pattern_of(uint64_t number)
{
    int length = number ? 64 - __builtin_clzll(number) : 0;
    return fm_base_rng_at(2, (uint64_t)length, 0);
}

static void skew_binary(uint8_t *key, uint64_t number, uint64_t low)
{
    unsigned bits = (unsigned)(low >> 32) & 63;
    if (bits == 0 || bits > PATTERN_BITS)
        return;
    uint64_t high = 0, mask = ~(uint64_t)0 << (64 - bits);
    for (int i = 0; i < 8; i++)
        high = high << 8 | key[i];
    high = (high & ~mask) | (pattern_of(number) & mask);
    for (int i = 0; i < 8; i++)
        key[i] = (uint8_t)(high >> (56 - 8 * i));
}

static void skew_ascii(uint8_t *key, uint64_t number, uint64_t low)
{
    unsigned bytes = (unsigned)(low >> 32) & 7;
    uint64_t pattern = pattern_of(number);
    for (unsigned i = 0; i < bytes && bytes < 7; i++, pattern /= 95)
        key[i] = (uint8_t)(' ' + pattern % 95);
}

static void make_ascii(uint8_t *to, wide value, uint64_t number, int skew)
{
    uint64_t high = (uint64_t)(value >> 64), low = (uint64_t)value;
    for (int i = 0; i < 8; i++, high /= 95)
        to[i] = (uint8_t)(' ' + high % 95);
    to[8] = (uint8_t)(' ' + low % 95);
    to[9] = (uint8_t)(' ' + low / 95 % 95);
    if (skew)
        skew_ascii(to, number, (uint64_t)value);
    put_bytes(to + 10, "  ", 2);
    put_hex(to + 12, number, 0, 32, 1);
    put_bytes(to + 44, "  ", 2);
    put_hex(to + 46, value, 19, 13, 4);
    put_bytes(to + 98, "\r\n", 2);
}

static void make_14(uint8_t *to, wide value, uint64_t number)
{
    put_piece(to, (uint64_t)(value >> 64), (uint16_t)((uint64_t)value >> 48));
    put_bytes(to + 10, "\x00\x11", 2);
    put_hex(to + 12, number, 0, 32, 1);
    put_bytes(to + 44, "\x88\x99\xAA\xBB", 4);
    put_hex(to + 48, value, 20, 12, 4);
    put_bytes(to + 96, "\xCC\xDD\xEE\xFF", 4);
}

void fm_pond_records_make(fm_pond_layout layout, int skew, uint64_t first, uint64_t count, void *out_records)
{
    uint8_t *to = out_records;
    wide window[PIECES]; // X[n + 1] ... X[n + 10], from `at` on and round again
    window[0] = skip_to(first + 1);
    for (int i = 1; i < PIECES; i++)
        window[i] = next(window[i - 1]);
    unsigned at = 0;
    for (uint64_t number = first; number - first < count; number++, to += FM_POND_RECORD_BYTES) {
        wide value = window[at];
        if (layout == FM_POND_LAYOUT_ASCII) {
            make_ascii(to, value, number, skew);
        } else if (layout == FM_POND_LAYOUT_14) {
            make_14(to, value, number);
        } else {
            for (unsigned i = 0, from = at; i < PIECES; i++, from = from + 1 < PIECES ? from + 1 : 0)
                put_piece(to + (size_t)10 * i, (uint64_t)(window[from] >> 64) ^ masks[i].high,
                          (uint16_t)((uint64_t)window[from] >> 48) ^ masks[i].low);
        }
        if (skew && layout != FM_POND_LAYOUT_ASCII)
            skew_binary(to, number, (uint64_t)value);
        window[at] = next(window[at ? at - 1 : PIECES - 1]);
        at = at + 1 < PIECES ? at + 1 : 0;
    }
}

struct file_work {
    const fm_pond_make_options *options;
    fm_pond_team *team;
    fm_pond_output *output;
    uint64_t first, records;
    uint64_t claimed;
};

static fm_status make_units(void *context, int member)
{
    (void)member;
    struct file_work *work = context;
    fm_status status = FM_OK;
    uint8_t *unit = fm_pond_bulk_alloc(UNIT_BYTES);
    if (!unit)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d records", UNIT_RECORDS);
    while (status == FM_OK && !fm_pond_team_stopped(work->team)) {
        uint64_t at = __atomic_fetch_add(&work->claimed, UNIT_RECORDS, __ATOMIC_RELAXED);
        if (at >= work->records)
            break;
        uint64_t count = work->records - at < UNIT_RECORDS ? work->records - at : UNIT_RECORDS;
        fm_pond_records_make(work->options->layout, work->options->skew, work->first + at, count, unit);
        status = fm_pond_output_write(work->output, at * FM_POND_RECORD_BYTES, unit,
                                      (size_t)count * FM_POND_RECORD_BYTES);
    }
    fm_base_mem_free(unit);
    return status;
}

static fm_status write_file(const fm_pond_make_options *options, fm_pond_team *team, const char *path,
                            uint64_t first, uint64_t records)
{
    fm_pond_output output;
    FM_TRY(fm_pond_output_begin(&output, path, records * FM_POND_RECORD_BYTES));
    struct file_work work = {options, team, &output, first, records, 0};
    fm_status status = fm_pond_team_run(team, make_units, &work);
    if (status == FM_OK)
        status = fm_pond_output_commit(&output);
    fm_pond_output_discard(&output);
    return status;
}

fm_status fm_pond_records_write(const char *folder, const fm_pond_make_options *options)
{
    if (options->size != sizeof *options)
        return fm_base_error_set(FM_ERR_ARG, "options.size is %zu; expected %zu", options->size,
                                 sizeof *options);
    if (options->threads < 0 || options->threads > FM_POND_TEAM_MAX)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to %d", options->threads,
                                 FM_POND_TEAM_MAX);
    fm_pond_team team = {.members = options->threads ? options->threads : fm_pond_team_cores()};
    team.members = team.members > FM_POND_TEAM_MAX ? FM_POND_TEAM_MAX : team.members;
    FM_TRY(fm_base_dir_create(folder));
    size_t length = strlen(folder) + 64;
    char *path = fm_base_mem_alloc(length);
    if (!path)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a name");
    fm_status status = FM_OK;
    uint64_t done = 0;
    for (unsigned file = 0; status == FM_OK && (done < options->records || file == 0); file++) {
        uint64_t left = options->records - done;
        uint64_t records = left < FILE_RECORDS ? left : FILE_RECORDS;
        snprintf(path, length, "%s/part-%05u.dat", folder, file);
        status = write_file(options, &team, path, options->first + done, records);
        done += records;
    }
    fm_base_mem_free(path);
    return status;
}
