#include "bpe.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct fm_bpe_pattern {
    pcre2_code *code;
};

const char fm_model_bpe_standard_pattern[] = "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}{1,3}| "
                                             "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char fm_model_bpe_gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

fm_status fm_model_bpe_pattern_open(const char *text, size_t length, int literal,
                                    struct fm_bpe_pattern **out_pattern)
{
    int code;
    PCRE2_SIZE at;
    struct fm_bpe_pattern *pattern = fm_base_mem_zalloc(1, sizeof *pattern);
    if (!pattern)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a pattern");
    pattern->code = pcre2_compile((PCRE2_SPTR)text, length, PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP),
                                  &code, &at, NULL);
    if (!pattern->code) {
        char reason[128];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)reason, sizeof reason);
        fm_base_mem_free(pattern);
        return fm_base_error_set(FM_ERR_FORMAT, "pattern \"%.*s\": %s at byte %zu", (int)length, text, reason,
                                 at);
    }
    // Without a just-in-time compiler matching is slower and the same.
    (void)pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    *out_pattern = pattern;
    return FM_OK;
}

void fm_model_bpe_pattern_close(struct fm_bpe_pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_code_free(pattern->code);
    fm_base_mem_free(pattern);
}

struct split {
    struct fm_bpe_pattern *const *patterns;
    int count;
    pcre2_match_data *matches[FM_BPE_PATTERNS_MAX];
    fm_bpe_piece piece;
    void *context;
};

// NOLINTNEXTLINE(misc-no-recursion): as deep as there are patterns
static fm_status split_valid(struct split *split, int level, const char *bytes, size_t length)
{
    if (length == 0)
        return FM_OK;
    if (level == split->count)
        return split->piece(split->context, bytes, length);
    size_t done = 0, from = 0;
    while (from < length) {
        int found = pcre2_match(split->patterns[level]->code, (PCRE2_SPTR)bytes, length, from,
                                PCRE2_NO_UTF_CHECK, split->matches[level], NULL);
        if (found == PCRE2_ERROR_NOMATCH)
            break;
        if (found < 0)
            return fm_base_error_set(FM_ERR_INTERNAL,
                                     "a pattern failed on %zu bytes of text (PCRE2 error %d)", length, found);
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(split->matches[level]);
        size_t begin = ends[0], end = ends[1];
        if (end == begin) { // an empty match splits nothing; look again behind the next character
            from = end + 1;
            while (from < length && ((unsigned char)bytes[from] & 0xC0) == 0x80)
                from++;
            continue;
        }
        FM_TRY(split_valid(split, level + 1, bytes + done, begin - done));
        FM_TRY(split_valid(split, level + 1, bytes + begin, end - begin));
        done = from = end;
    }
    return split_valid(split, level + 1, bytes + done, length - done);
}

// Bytes of the well-formed UTF-8 character at `at` (Unicode 15, table 3-7); 0: there is none.
static size_t character(const unsigned char *at, size_t left)
{
    unsigned char first = at[0];
    if (first < 0x80)
        return 1;
    size_t size = first >= 0xC2 && first <= 0xDF   ? 2
                  : first >= 0xE0 && first <= 0xEF ? 3
                  : first >= 0xF0 && first <= 0xF4 ? 4
                                                   : 0;
    if (size == 0 || size > left)
        return 0;
    unsigned char low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    unsigned char high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((at[i] & 0xC0) != 0x80)
            return 0;
    return size;
}

static fm_status split_all(struct split *split, const char *bytes, size_t length)
{
    const unsigned char *at = (const unsigned char *)bytes;
    for (size_t i = 0; i < length;) {
        size_t valid = i, size;
        while (valid < length && (size = character(at + valid, length - valid)) > 0)
            valid += size;
        FM_TRY(split_valid(split, 0, bytes + i, valid - i));
        size_t bad = valid;
        while (bad < length && character(at + bad, length - bad) == 0)
            bad++;
        if (bad > valid)
            FM_TRY(split->piece(split->context, bytes + valid, bad - valid));
        i = bad;
    }
    return FM_OK;
}

fm_status fm_model_bpe_split(struct fm_bpe_pattern *const *patterns, int count, const char *bytes,
                             size_t length, fm_bpe_piece piece, void *context)
{
    struct split split = {.patterns = patterns, .count = count, .piece = piece, .context = context};
    fm_status status = FM_OK;
    for (int i = 0; i < count && status == FM_OK; i++) {
        split.matches[i] = pcre2_match_data_create_from_pattern(patterns[i]->code, NULL);
        if (!split.matches[i])
            status = fm_base_error_set(FM_ERR_NOMEM, "no memory to match a pattern");
    }
    if (status == FM_OK)
        status = split_all(&split, bytes, length);
    for (int i = 0; i < count; i++)
        pcre2_match_data_free(split.matches[i]);
    return status;
}
