#include "text_pool.h"

#include <string.h>

#include "fathom/trace.h"

struct fm_trace_pool_slot {
    uint64_t hash; // 0: empty
    const char *bytes;
    uint32_t length;
    uint32_t text;
    int is_spelling; // holds escapes: a text may have the very bytes of another's spelling
};

static inline uint64_t load64(const char *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* A multiply-and-fold hash (after Wang Yi's wyhash), 16 bytes a step. Never 0. */
static uint64_t hash_of(const char *bytes, size_t length)
{
    // Odd constants with as many ones as zeros, so that every bit of the input reaches both halves of the product.
    const uint64_t k0 = 0xa0761d6478bd642f, k1 = 0xe7037ed1a0b428db;
    uint64_t hash = k0 ^ length;
    size_t i = 0;
    for (; length - i >= 16; i += 16)
        hash = mix(load64(bytes + i) ^ k1, load64(bytes + i + 8) ^ hash);
    uint64_t rest[2] = {0, 0};
    memcpy(rest, bytes + i, length - i);
    hash = mix(rest[0] ^ k1, rest[1] ^ hash);
    return mix(hash, k0) | 1;
}

static int hex_digits(const char *from, unsigned *out_value)
{
    unsigned value = 0;
    for (int i = 0; i < 4; i++) {
        char c = from[i];
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            digit = (unsigned)((c | 0x20) - 'a') + 10;
        else
            return 0;
        value = value * 16 + digit;
    }
    *out_value = value;
    return 1;
}

static size_t put_utf8(unsigned point, char *to)
{
    if (point < 0x80) {
        to[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (char)(0xC0 | point >> 6);
        to[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (char)(0xE0 | point >> 12);
        to[1] = (char)(0x80 | (point >> 6 & 0x3F));
        to[2] = (char)(0x80 | (point & 0x3F));
        return 3;
    }
    to[0] = (char)(0xF0 | point >> 18);
    to[1] = (char)(0x80 | (point >> 12 & 0x3F));
    to[2] = (char)(0x80 | (point >> 6 & 0x3F));
    to[3] = (char)(0x80 | (point & 0x3F));
    return 4;
}

/* "\uXXXX" or a pair of them at `from`; the bytes taken, 0 when it is none. */
static size_t unescape_point(const char *from, size_t left, unsigned *out_point)
{
    unsigned point, low;
    if (left < 6 || from[1] != 'u' || !hex_digits(from + 2, &point))
        return 0;
    size_t taken = 6;
    if (point >= 0xD800 && point < 0xDC00 && left >= 12 && from[6] == '\\' && from[7] == 'u' &&
        hex_digits(from + 8, &low) && low >= 0xDC00 && low < 0xE000) {
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
        taken = 12;
    } else if (point == 0 || (point >= 0xD800 && point < 0xE000)) {
        point = 0xFFFD;
    }
    *out_point = point;
    return taken;
}

size_t fm_trace_unescape(const char *spelling, size_t length, char *to)
{
    static const char from[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    size_t written = 0;
    for (size_t i = 0; i < length;) {
        unsigned point;
        size_t taken;
        const char *found;
        if (spelling[i] != '\\' || i + 1 == length) {
            to[written++] = spelling[i++];
        } else if (spelling[i + 1] && (found = strchr(from, spelling[i + 1]))) {
            to[written++] = meaning[found - from];
            i += 2;
        } else if ((taken = unescape_point(spelling + i, length - i, &point)) > 0) {
            written += put_utf8(point, to + written);
            i += taken;
        } else {
            to[written++] = spelling[i++];
        }
    }
    return written;
}

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for the names of a trace");
}

static fm_status grow_slots(struct fm_trace_text_pool *pool)
{
    size_t count = pool->slot_count ? 2 * pool->slot_count : 1024;
    struct fm_trace_pool_slot *slots = fm_base_mem_zalloc(count, sizeof *slots);
    if (!slots)
        return no_memory();
    for (size_t i = 0; i < pool->slot_count; i++) {
        if (!pool->slots[i].hash)
            continue;
        size_t at = pool->slots[i].hash & (count - 1);
        while (slots[at].hash)
            at = (at + 1) & (count - 1);
        slots[at] = pool->slots[i];
    }
    fm_base_mem_free(pool->slots);
    pool->slots = slots;
    pool->slot_count = count;
    return FM_OK;
}

static fm_status add_text(struct fm_trace_text_pool *pool, const char *bytes, size_t length, uint32_t *out)
{
    if (pool->count == pool->capacity) {
        size_t capacity = pool->capacity ? 2 * pool->capacity : 256;
        const char **texts = fm_base_mem_realloc(pool->texts, capacity, sizeof *texts);
        if (!texts)
            return no_memory();
        pool->texts = texts;
        uint32_t *lengths = fm_base_mem_realloc(pool->lengths, capacity, sizeof *lengths);
        if (!lengths)
            return no_memory();
        pool->lengths = lengths;
        pool->capacity = capacity;
    }
    if (pool->count >= FM_TRACE_NONE - 1 || length > UINT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than 2^32 - 2 names in a trace");
    char *copy = fm_base_arena_strndup(&pool->bytes, bytes, length);
    if (!copy)
        return no_memory();
    pool->texts[pool->count] = copy;
    pool->lengths[pool->count] = (uint32_t)length;
    *out = (uint32_t)pool->count++;
    return FM_OK;
}

static struct fm_trace_pool_slot *find(struct fm_trace_text_pool *pool, const char *bytes, size_t length,
                                       uint64_t hash, int is_spelling)
{
    size_t at = hash & (pool->slot_count - 1);
    for (;; at = (at + 1) & (pool->slot_count - 1)) {
        struct fm_trace_pool_slot *slot = &pool->slots[at];
        if (!slot->hash || (slot->hash == hash && slot->length == length &&
                            slot->is_spelling == is_spelling && memcmp(slot->bytes, bytes, length) == 0))
            return slot;
    }
}

/* The text of these very bytes, no escapes resolved. */
static fm_status intern_plain(struct fm_trace_text_pool *pool, const char *bytes, size_t length,
                              uint32_t *out_text)
{
    uint64_t hash = hash_of(bytes, length);
    struct fm_trace_pool_slot *slot = find(pool, bytes, length, hash, 0);
    if (!slot->hash) {
        uint32_t text = 0;
        FM_TRY(add_text(pool, bytes, length, &text));
        *slot = (struct fm_trace_pool_slot){hash, pool->texts[text], (uint32_t)length, text, 0};
        pool->slots_used++;
    }
    *out_text = slot->text;
    return FM_OK;
}

static fm_status intern_escaped(struct fm_trace_text_pool *pool, const char *spelling, size_t length,
                                uint32_t *out_text)
{
    uint64_t hash = hash_of(spelling, length);
    struct fm_trace_pool_slot *slot = find(pool, spelling, length, hash, 1);
    if (!slot->hash) {
        char *copy = fm_base_arena_strndup(&pool->bytes, spelling, length);
        char *text = fm_base_mem_alloc(length);
        if (!copy || !text) {
            fm_base_mem_free(text);
            return no_memory();
        }
        uint32_t number = 0;
        fm_status status = intern_plain(pool, text, fm_trace_unescape(spelling, length, text), &number);
        fm_base_mem_free(text);
        FM_TRY(status);
        slot = find(pool, spelling, length, hash, 1); // the text may have taken the place
        *slot = (struct fm_trace_pool_slot){hash, copy, (uint32_t)length, number, 1};
        pool->slots_used++;
    }
    *out_text = slot->text;
    return FM_OK;
}

/* Which recent spelling this may be: by its length and ends alone, for the bytes are compared anyway. */
static inline size_t recent_of(const char *bytes, size_t length)
{
    uint64_t first = 0, last = 0;
    if (length >= 8) {
        first = load64(bytes);
        last = load64(bytes + length - 8);
    } else {
        for (size_t i = 0; i < length; i++)
            first = first << 8 | (unsigned char)bytes[i];
    }
    return (mix(first ^ 0xa0761d6478bd642f, last + length * 0xe7037ed1a0b428db) >> 20) % FM_TRACE_POOL_RECENT;
}

fm_status fm_trace_pool_intern(struct fm_trace_text_pool *pool, const char *spelling, size_t length,
                               uint32_t *out_text)
{
    struct fm_trace_pool_recent *recent = &pool->recent[recent_of(spelling, length)];
    if (recent->bytes && recent->length == length && memcmp(recent->bytes, spelling, length) == 0) {
        *out_text = recent->text;
        return FM_OK;
    }
    // Room for the two entries that a spelling may need, and the table never more than half full.
    if (2 * (pool->slots_used + 2) > pool->slot_count)
        FM_TRY(grow_slots(pool));
    if (memchr(spelling, '\\', length)) // rare, and then twice: not worth a recent place
        return intern_escaped(pool, spelling, length, out_text);
    FM_TRY(intern_plain(pool, spelling, length, out_text));
    *recent = (struct fm_trace_pool_recent){pool->texts[*out_text], (uint32_t)length, *out_text};
    return FM_OK;
}

fm_status fm_trace_pool_intern_text(struct fm_trace_text_pool *pool, const char *text, size_t length,
                                    uint32_t *out_text)
{
    if (2 * (pool->slots_used + 1) > pool->slot_count)
        FM_TRY(grow_slots(pool));
    return intern_plain(pool, text, length, out_text);
}

void fm_trace_pool_clear(struct fm_trace_text_pool *pool)
{
    fm_base_arena_clear(&pool->bytes);
    fm_base_mem_free(pool->texts);
    fm_base_mem_free(pool->lengths);
    fm_base_mem_free(pool->slots);
    memset(pool, 0, sizeof *pool);
}
