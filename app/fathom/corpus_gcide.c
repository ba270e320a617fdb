#include "corpus_gcide.h"

#include <stdio.h>
#include <string.h>

#include "corpus_text.h"
#include "fathom/mem.h"

/** Letter codes by name; those of an accent and a letter are in `accents`. */
static const struct {
    const char *code, *text;
} names[] = {{"ae", "æ"},     {"AE", "Æ"},    {"oe", "œ"},   {"OE", "Œ"},    {"eth", "ð"},  {"thorn", "þ"},
             {"imac", "ī"},   {"aum", "ä"},   {"oum", "ö"},  {"uum", "ü"},   {"deg", "°"},  {"root", "√"},
             {"sect", "§"},   {"ng", "ŋ"},    {"add", "ạ"},  {"udd", "ụ"},   {"yogh", "ȝ"}, {"asl", "a"},
             {"pounds", "£"}, {"alpha", "α"}, {"beta", "β"}, {"delta", "δ"}, {"pi", "π"},   {"theta", "θ"},
             {"phi", "φ"},    {"Delta", "Δ"}, {"=oo", "oo"}, {"oo^", "oo"},  {"=ae", "ǣ"},  {"th", "th"},
             {"bprime", "″"}, {"dsdot", "ṣ"}, {"prime", "′"}};

/** Accents: the letters of `letters`, one by one, become the characters of `accented`. */
static const struct {
    char before, after; // where the code has its mark
    const char *letters;
    const char *accented;
} accents[] = {{'\'', 0, "aeiouyAEIOUY", "áéíóúýÁÉÍÓÚÝ"}, {'`', 0, "aeiouAEIOU", "àèìòùÀÈÌÒÙ"},
               {'"', 0, "aeiouyAEIOU", "äëïöüÿÄËÏÖÜ"},    {'^', 0, "aeiouAEIOU", "âêîôûÂÊÎÔÛ"},
               {'=', 0, "aeiouyAEIOU", "āēīōūȳĀĒĪŌŪ"},    {'-', 0, "aeiouAEIOU", "āēīōūĀĒĪŌŪ"},
               {'~', 0, "aeinouANOU", "ãẽĩñõũÃÑÕŨ"},      {',', 0, "cCsSt", "çÇşŞţ"},
               {'.', 0, "aegnotruzs", "ȧėġṅȯṫṙụżṣ"},      {'*', 0, "auAU", "åůÅŮ"},
               {0, '^', "aeiouyAEIOU", "ăĕĭŏŭy̆ĂĔĬŎŬ"}};

struct cleaner {
    char *out; // an entry's text; never longer than twice what it came from
    size_t length;
    fm_app_document document;
    void *context;
};

static size_t character_size(const char *at)
{
    unsigned char first = (unsigned char)*at;
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

// The UTF-8 text of a letter code of `size` bytes; NULL: it is none. *out_size: its bytes.
static const char *letter(const char *code, size_t size, size_t *out_size)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i].code) == size && memcmp(names[i].code, code, size) == 0) {
            *out_size = strlen(names[i].text);
            return names[i].text;
        }
    for (size_t i = 0; size == 2 && i < sizeof accents / sizeof accents[0]; i++) {
        int mark_first = accents[i].before && code[0] == accents[i].before;
        int mark_last = accents[i].after && code[1] == accents[i].after;
        const char *found = mark_first  ? strchr(accents[i].letters, code[1])
                            : mark_last ? strchr(accents[i].letters, code[0])
                                        : NULL;
        if (!found)
            continue;
        const char *at = accents[i].accented;
        for (const char *skip = accents[i].letters; skip < found; skip++)
            at += character_size(at);
        *out_size = character_size(at);
        return at;
    }
    return NULL;
}

static void put(struct cleaner *cleaner, const char *bytes, size_t size)
{
    memcpy(cleaner->out + cleaner->length, bytes, size);
    cleaner->length += size;
}

static void put_space(struct cleaner *cleaner)
{
    if (cleaner->length > 0 && cleaner->out[cleaner->length - 1] != ' ' &&
        cleaner->out[cleaner->length - 1] != '\n')
        put(cleaner, " ", 1);
}

static void end_line(struct cleaner *cleaner)
{
    while (cleaner->length > 0 && cleaner->out[cleaner->length - 1] == ' ')
        cleaner->length--;
    if (cleaner->length > 0 && cleaner->out[cleaner->length - 1] != '\n')
        put(cleaner, "\n", 1);
}

// A byte above ASCII: a UTF-8 character as it is, else the Latin-1 letter that it was. Returns the bytes taken.
static size_t put_high(struct cleaner *cleaner, const char *at, const char *end)
{
    size_t size = fm_app_utf8_size(at, end);
    if (size > 0) {
        put(cleaner, at, size);
        return size;
    }
    char two[2];
    fm_app_latin1_put((unsigned char)*at, two);
    put(cleaner, two, 2);
    return 1;
}

static int starts_word(char c)
{
    return c == ' ' || c == '\n' || c == '(' || c == '[';
}

// Text without marks. `head`: the first line, whose pronunciation goes.
static void put_text(struct cleaner *cleaner, const char *at, const char *end, int head)
{
    while (at < end) {
        const char *close;
        size_t size;
        if (head && (*at == '\\' || *at == '(') &&
            (close = memchr(at + 1, *at == '\\' ? '\\' : ')', (size_t)(end - at - 1)))) {
            int goes =
                *at == '\\' || memchr(at, '?', (size_t)(close - at)) || memchr(at, '"', (size_t)(close - at));
            if (goes) {
                at = close + 1;
                if (at < end && *at == ',' && cleaner->length > 0 && cleaner->out[cleaner->length - 1] == ' ')
                    cleaner->length--;
                continue;
            }
        }
        if (*at == '[' && end - at > 2 && (close = memchr(at, ']', (size_t)(end - at))) && close - at < 10) {
            const char *text = letter(at + 1, (size_t)(close - at - 1), &size);
            if (text) {
                put(cleaner, text, size);
                at = close + 1;
                continue;
            }
        }
        if (*at == '?' && (cleaner->length == 0 || starts_word(cleaner->out[cleaner->length - 1]))) {
            while (at < end && *at == '?') // letters that were lost
                at++;
        } else if (*at == '{' || *at == '}') {
            at++;
        } else if (*at == ' ' || *at == '\t' || *at == '\r') {
            put_space(cleaner);
            at++;
        } else if ((unsigned char)*at >= 0x80) {
            at += put_high(cleaner, at, end);
        } else {
            if ((unsigned char)*at > ' ' && *at != 0x7F)
                put(cleaner, at, 1);
            at++;
        }
    }
}

// Where a source tag at the end of a line begins ("... [1913 Webster]"); the end where there is none.
static const char *cut_tag(const char *begin, const char *end)
{
    static const char *const sources[] = {"Webster", "WordNet", "PJC", "AS]",     "RH",
                                          "Century", "JC",      "RDH", "Stoddart"};
    if (end == begin || end[-1] != ']')
        return end;
    const char *open = end - 1;
    while (open > begin && *open != '[')
        open--;
    for (size_t i = 0; *open == '[' && end - open < 48 && i < sizeof sources / sizeof sources[0]; i++)
        if (memmem(open, (size_t)(end - open), sources[i], strlen(sources[i])))
            return open;
    return end;
}

// One entry's lines: joined into paragraphs at blank lines.
static fm_status entry(struct cleaner *cleaner, const char *at, const char *end)
{
    int first = 1;
    cleaner->length = 0;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        const char *stop = line_end ? line_end : end, *begin = at;
        while (begin < stop && (*begin == ' ' || *begin == '\t'))
            begin++;
        while (stop > begin && (stop[-1] == ' ' || stop[-1] == '\t' || stop[-1] == '\r'))
            stop--;
        if (begin == stop ||
            (stop - begin > 2 && *begin >= '0' && *begin <= '9' && (begin[1] == '.' || begin[2] == '.')))
            end_line(cleaner); // a blank line, or a numbered sense
        const char *cut = cut_tag(begin, stop);
        put_space(cleaner);
        put_text(cleaner, begin, cut, first);
        if (cut < stop)
            end_line(cleaner);
        first = 0;
        at = line_end ? line_end + 1 : end;
    }
    end_line(cleaner);
    if (cleaner->length < 24) // a bare cross reference teaches nothing
        return FM_OK;
    cleaner->out[cleaner->length] = 0;
    return cleaner->document(cleaner->context, cleaner->out, cleaner->length);
}

fm_status fm_app_gcide_entries(const char *text, size_t length, fm_app_document document, void *context)
{
    struct cleaner cleaner = {.document = document, .context = context};
    const char *end = text + length, *begin = NULL, *at = text;
    size_t room = 0;
    fm_status status = FM_OK;
    // An entry begins with a line that is not indented; those of the header have no pronunciation.
    while (at <= end && status == FM_OK) {
        const char *line_end = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
        const char *stop = line_end ? line_end : end;
        int is_head = at < end && *at != ' ' && *at != '\n' && memchr(at, '\\', (size_t)(stop - at));
        if ((is_head || at == end) && begin) {
            size_t need = 2 * (size_t)(at - begin) + 64;
            if (need > room) {
                fm_base_mem_free(cleaner.out);
                cleaner.out = fm_base_mem_alloc(need);
                room = need;
            }
            status = cleaner.out
                         ? entry(&cleaner, begin, at)
                         : fm_base_error_set(FM_ERR_NOMEM, "no memory for an entry of %zu bytes", need);
        }
        if (is_head)
            begin = at;
        if (at == end)
            break;
        at = line_end ? line_end + 1 : end;
    }
    fm_base_mem_free(cleaner.out);
    return status;
}
