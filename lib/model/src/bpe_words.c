#include "bpe_words.h"

#include <stdlib.h>

#include "model_compute.h"

// Text is cut at the end of a line after so many bytes: the cuts depend on the text alone.
enum { CHUNK_BYTES = 1 << 19 };

static uint64_t hash(const char *bytes, size_t length)
{
    uint64_t value = 0xCBF29CE484222325u; // FNV-1a
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)bytes[i]) * 0x100000001B3u;
    return value ^ value >> 32;
}

static struct fm_bpe_word *slot_of(struct fm_bpe_word *slots, size_t capacity, const char *bytes,
                                   size_t length)
{
    for (size_t at = hash(bytes, length) & (capacity - 1);; at = (at + 1) & (capacity - 1)) {
        struct fm_bpe_word *slot = &slots[at];
        if (slot->length == 0 || (slot->length == length && memcmp(slot->bytes, bytes, length) == 0))
            return slot;
    }
}

static fm_status grow(struct fm_bpe_words *words)
{
    size_t capacity = words->capacity ? 2 * words->capacity : 4096;
    struct fm_bpe_word *slots = fm_base_mem_zalloc(capacity, sizeof *slots);
    if (!slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu words", capacity);
    for (size_t i = 0; i < words->capacity; i++)
        if (words->slots[i].length)
            *slot_of(slots, capacity, words->slots[i].bytes, words->slots[i].length) = words->slots[i];
    fm_base_mem_free(words->slots);
    words->slots = slots;
    words->capacity = capacity;
    return FM_OK;
}

fm_status fm_model_bpe_words_add(struct fm_bpe_words *words, const char *bytes, size_t length, int64_t count)
{
    if (2 * words->count >= words->capacity)
        FM_TRY(grow(words));
    struct fm_bpe_word *slot = slot_of(words->slots, words->capacity, bytes, length);
    if (slot->length == 0) {
        slot->bytes = fm_base_arena_strndup(&words->bytes, bytes, length);
        if (!slot->bytes)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a word of %zu bytes", length);
        slot->length = (uint32_t)length;
        words->count++;
    }
    slot->count += count;
    return FM_OK;
}

void fm_model_bpe_words_free(struct fm_bpe_words *words)
{
    fm_base_mem_free(words->slots);
    fm_base_arena_clear(&words->bytes);
    *words = (struct fm_bpe_words){0};
}

struct count_work {
    const char *text;
    size_t *cuts; // chunk i is [cuts[i], cuts[i + 1])
    struct fm_bpe_pattern *const *patterns;
    int pattern_count;
    struct fm_bpe_words *tables; // a thread's
    fm_status *statuses;
};

static fm_status count_piece(void *context, const char *bytes, size_t length)
{
    return fm_model_bpe_words_add(context, bytes, length, 1);
}

static void count_part(void *context, int64_t begin, int64_t end, int thread)
{
    const struct count_work *work = context;
    for (int64_t i = begin; i < end && work->statuses[thread] == FM_OK; i++)
        work->statuses[thread] =
            fm_model_bpe_split(work->patterns, work->pattern_count, work->text + work->cuts[i],
                               work->cuts[i + 1] - work->cuts[i], count_piece, &work->tables[thread]);
}

static size_t cut(const char *text, size_t length, size_t *cuts)
{
    size_t count = 0, at = 0;
    cuts[0] = 0;
    while (at < length) {
        const char *line = length - at > CHUNK_BYTES
                               ? memchr(text + at + CHUNK_BYTES, '\n', length - at - CHUNK_BYTES)
                               : NULL;
        at = line ? (size_t)(line - text) + 1 : length;
        cuts[++count] = at;
    }
    return count;
}

static int by_bytes(const void *left, const void *right)
{
    const struct fm_bpe_word *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

// All tables into the first, and its words in order.
static fm_status gather(struct fm_bpe_words *tables, int threads, struct fm_bpe_word **out_words)
{
    for (int t = 1; t < threads; t++)
        for (size_t i = 0; i < tables[t].capacity; i++) {
            const struct fm_bpe_word *word = &tables[t].slots[i];
            if (word->length)
                FM_TRY(fm_model_bpe_words_add(&tables[0], word->bytes, word->length, word->count));
        }
    struct fm_bpe_word *words = fm_base_mem_zalloc(tables[0].count + 1, sizeof *words);
    if (!words)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu words", tables[0].count);
    size_t count = 0;
    for (size_t i = 0; i < tables[0].capacity; i++)
        if (tables[0].slots[i].length)
            words[count++] = tables[0].slots[i];
    qsort(words, count, sizeof *words, by_bytes);
    *out_words = words;
    return FM_OK;
}

fm_status fm_model_bpe_words_count(const char *text, size_t length, struct fm_bpe_pattern *const *patterns,
                                   int pattern_count, int threads, struct fm_bpe_words *out_table,
                                   struct fm_bpe_word **out_words)
{
    struct fm_model_compute team = {.threads = threads};
    size_t *cuts = fm_base_mem_zalloc(length / CHUNK_BYTES + 2, sizeof *cuts);
    struct fm_bpe_words *tables = fm_base_mem_zalloc((size_t)threads, sizeof *tables);
    fm_status *statuses = fm_base_mem_zalloc((size_t)threads, sizeof *statuses);
    fm_status status = FM_OK;
    if (!cuts || !tables || !statuses)
        status = fm_base_error_set(FM_ERR_NOMEM, "no memory to count words");
    if (status == FM_OK) {
        struct count_work work = {text, cuts, patterns, pattern_count, tables, statuses};
        fm_model_share(&team, (int64_t)cut(text, length, cuts), 1, count_part, &work);
        for (int t = 0; t < threads && status == FM_OK; t++)
            if (statuses[t] < 0) // the message was another thread's
                status =
                    fm_base_error_set(statuses[t], "counting words: %s", fm_base_status_text(statuses[t]));
    }
    if (status == FM_OK)
        status = gather(tables, threads, out_words);
    for (int t = status == FM_OK; tables && t < threads; t++)
        fm_model_bpe_words_free(&tables[t]);
    if (status == FM_OK)
        *out_table = tables[0];
    fm_base_mem_free(statuses);
    fm_base_mem_free(tables);
    fm_base_mem_free(cuts);
    return status;
}
