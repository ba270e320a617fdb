#include "bpe.h"

/** Pieces as long as this are merged by looking at all pairs; longer ones through a heap. */
enum { SHORT_PIECE = 48 };
/** Remembered pieces: longer ones are rare. */
enum { CACHE_BYTES = 24, CACHE_IDS = 8, CACHE_SLOTS = 1 << 13 };

struct cached {
    uint8_t length, count; // length 0: free
    char bytes[CACHE_BYTES];
    int32_t ids[CACHE_IDS];
};

/** Pairs of a long piece, the lowest rank first, of equal ones the leftmost. */
struct candidate {
    int32_t rank, at, id;
};

struct encoder {
    const fm_tokenizer *tokenizer;
    int32_t *ids;
    size_t count, capacity;
    struct cached *cache; // NULL: the text is too short for it to pay
    // Of a long piece, grown as needed.
    int32_t *symbols, *next, *previous;
    struct candidate *heap;
    size_t symbol_capacity, heap_count;
};

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to encode");
}

static fm_status append(struct encoder *encoder, const int32_t *ids, size_t count)
{
    if (count > encoder->capacity - encoder->count) {
        size_t capacity = encoder->capacity * 2 + count;
        int32_t *grown = fm_base_mem_realloc(encoder->ids, capacity, sizeof *grown);
        if (!grown)
            return no_memory();
        encoder->ids = grown;
        encoder->capacity = capacity;
    }
    memcpy(encoder->ids + encoder->count, ids, count * sizeof *ids);
    encoder->count += count;
    return FM_OK;
}

static size_t merge_short(const fm_tokenizer *tokenizer, int32_t *symbols, size_t count)
{
    const struct fm_bpe_slot *pairs[SHORT_PIECE];
    for (size_t i = 0; i + 1 < count; i++)
        pairs[i] = fm_model_bpe_find(tokenizer, symbols[i], symbols[i + 1]);
    while (count > 1) {
        size_t best = count;
        for (size_t i = 0; i + 1 < count; i++)
            if (pairs[i] && (best == count || pairs[i]->rank < pairs[best]->rank))
                best = i;
        if (best == count)
            break;
        symbols[best] = pairs[best]->id;
        memmove(symbols + best + 1, symbols + best + 2, (count - best - 2) * sizeof *symbols);
        for (size_t i = best + 1; i + 2 < count; i++)
            pairs[i] = pairs[i + 1];
        count--;
        pairs[best] =
            best + 1 < count ? fm_model_bpe_find(tokenizer, symbols[best], symbols[best + 1]) : NULL;
        if (best > 0)
            pairs[best - 1] = fm_model_bpe_find(tokenizer, symbols[best - 1], symbols[best]);
    }
    return count;
}

static int before(const struct candidate *a, const struct candidate *b)
{
    return a->rank < b->rank || (a->rank == b->rank && a->at < b->at);
}

#define HEAP_ITEM struct candidate
#include "bpe_heap.h"

static void offer(struct encoder *encoder, int32_t at)
{
    int32_t next = encoder->next[at];
    if (next < 0)
        return;
    const struct fm_bpe_slot *slot =
        fm_model_bpe_find(encoder->tokenizer, encoder->symbols[at], encoder->symbols[next]);
    if (slot)
        heap_push(encoder->heap, &encoder->heap_count, (struct candidate){slot->rank, at, slot->id});
}

// A symbol merged into its left neighbour becomes -1. A candidate is stale when its pair is no longer that of its rank.
static fm_status merge_long(struct encoder *encoder, size_t count)
{
    encoder->heap_count = 0;
    for (size_t i = 0; i < count; i++) {
        encoder->next[i] = i + 1 < count ? (int32_t)i + 1 : -1;
        encoder->previous[i] = (int32_t)i - 1;
    }
    for (size_t i = 0; i + 1 < count; i++)
        offer(encoder, (int32_t)i);
    while (encoder->heap_count > 0) {
        struct candidate top = heap_pop(encoder->heap, &encoder->heap_count);
        int32_t left = top.at, right = encoder->next[left];
        if (encoder->symbols[left] < 0 || right < 0)
            continue;
        const struct fm_bpe_merge *merge = &encoder->tokenizer->merges[top.rank];
        if (encoder->symbols[left] != merge->left || encoder->symbols[right] != merge->right)
            continue;
        encoder->symbols[left] = top.id;
        encoder->symbols[right] = -1;
        encoder->next[left] = encoder->next[right];
        if (encoder->next[left] >= 0)
            encoder->previous[encoder->next[left]] = left;
        offer(encoder, left);
        if (encoder->previous[left] >= 0)
            offer(encoder, encoder->previous[left]);
    }
    for (int32_t at = 0; at >= 0; at = encoder->next[at])
        FM_TRY(append(encoder, &encoder->symbols[at], 1));
    return FM_OK;
}

static fm_status grow_symbols(struct encoder *encoder, size_t count)
{
    if (count <= encoder->symbol_capacity)
        return FM_OK;
    size_t capacity = encoder->symbol_capacity * 2 + count;
    fm_base_mem_free(encoder->symbols);
    fm_base_mem_free(encoder->heap);
    encoder->symbol_capacity = 0;
    // Every merge offers at most two candidates beside the first ones.
    encoder->heap = fm_base_mem_zalloc(3 * capacity, sizeof *encoder->heap);
    encoder->symbols = fm_base_mem_zalloc(3 * capacity, sizeof *encoder->symbols);
    if (!encoder->symbols || !encoder->heap)
        return no_memory();
    encoder->next = encoder->symbols + capacity;
    encoder->previous = encoder->next + capacity;
    encoder->symbol_capacity = capacity;
    return FM_OK;
}

static struct cached *cache_slot(const struct encoder *encoder, const char *bytes, size_t length)
{
    uint64_t hash = length;
    if (!encoder->cache || length > CACHE_BYTES)
        return NULL;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)bytes[i]) * 0x100000001B3u; // FNV-1a's prime
    return &encoder->cache[(hash ^ hash >> 29) % CACHE_SLOTS];
}

static fm_status encode_piece(void *context, const char *bytes, size_t length)
{
    struct encoder *encoder = context;
    const int32_t *byte_ids = encoder->tokenizer->byte_ids;
    if (length > SHORT_PIECE) {
        FM_TRY(grow_symbols(encoder, length));
        for (size_t i = 0; i < length; i++)
            encoder->symbols[i] = byte_ids[(unsigned char)bytes[i]];
        return merge_long(encoder, length);
    }
    struct cached *slot = cache_slot(encoder, bytes, length);
    if (slot && slot->length == length && memcmp(slot->bytes, bytes, length) == 0)
        return append(encoder, slot->ids, slot->count);
    int32_t symbols[SHORT_PIECE];
    for (size_t i = 0; i < length; i++)
        symbols[i] = byte_ids[(unsigned char)bytes[i]];
    size_t count = merge_short(encoder->tokenizer, symbols, length);
    if (slot && count <= CACHE_IDS) {
        slot->length = (uint8_t)length;
        slot->count = (uint8_t)count;
        memcpy(slot->bytes, bytes, length);
        memcpy(slot->ids, symbols, count * sizeof *symbols);
    }
    return append(encoder, symbols, count);
}

// The longest added token that the text begins with; -1: none. Tokens are sorted, so those with one more equal byte are a
// part of those before.
static int32_t added_at(const fm_tokenizer *tokenizer, const struct fm_bpe_added *added, const char *text,
                        size_t length)
{
    int low = 0, high = added->count;
    int32_t found = -1;
    for (size_t depth = 0; low < high; depth++) {
        const struct fm_bpe_token *first = &tokenizer->tokens[added->ids[low]];
        if (first->length == depth) {
            found = added->ids[low++];
            if (low == high)
                break;
        }
        if (depth == length)
            break;
        unsigned char byte = (unsigned char)text[depth];
        int bounds[2];
        for (int upper = 0; upper < 2; upper++) {
            int from = low, to = high;
            while (from < to) {
                int middle = from + (to - from) / 2;
                unsigned char other = (unsigned char)tokenizer->tokens[added->ids[middle]].bytes[depth];
                if (upper ? other <= byte : other < byte)
                    from = middle + 1;
                else
                    to = middle;
            }
            bounds[upper] = from;
        }
        low = bounds[0];
        high = bounds[1];
    }
    return found;
}

// Cuts out the added tokens of list `list` and those after it, and splits the rest.
// NOLINTNEXTLINE(misc-no-recursion): two deep
static fm_status encode_from(struct encoder *encoder, int list, const char *text, size_t length)
{
    const fm_tokenizer *tokenizer = encoder->tokenizer;
    if (list == 2)
        return fm_model_bpe_split(tokenizer->patterns, tokenizer->pattern_count, text, length, encode_piece,
                                  encoder);
    const struct fm_bpe_added *added = &tokenizer->added[list];
    uint8_t begins[256] = {0};
    size_t done = 0;
    for (int i = 0; i < added->count; i++)
        begins[(unsigned char)tokenizer->tokens[added->ids[i]].bytes[0]] = 1;
    for (size_t at = 0; added->count > 0 && at < length;) {
        int32_t id =
            begins[(unsigned char)text[at]] ? added_at(tokenizer, added, text + at, length - at) : -1;
        if (id < 0) {
            at++;
            continue;
        }
        if (at > done)
            FM_TRY(encode_from(encoder, list + 1, text + done, at - done));
        FM_TRY(append(encoder, &id, 1));
        done = at += tokenizer->tokens[id].length;
    }
    return done < length ? encode_from(encoder, list + 1, text + done, length - done) : FM_OK;
}

fm_status fm_model_tokenizer_encode(const fm_tokenizer *tokenizer, const char *text, size_t length,
                                    int32_t **out_ids, size_t *out_count)
{
    struct encoder encoder = {.tokenizer = tokenizer, .capacity = length / 4 + 16};
    if (length >= (size_t)INT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%zu bytes of text; expected less than 2 GiB in one call",
                                 length);
    encoder.ids = fm_base_mem_alloc(encoder.capacity * sizeof *encoder.ids);
    if (length > 4096)
        encoder.cache = fm_base_mem_zalloc(CACHE_SLOTS, sizeof *encoder.cache);
    fm_status status = encoder.ids ? encode_from(&encoder, 0, text, length) : no_memory();
    fm_base_mem_free(encoder.cache);
    fm_base_mem_free(encoder.symbols);
    fm_base_mem_free(encoder.heap);
    if (status < 0) {
        fm_base_mem_free(encoder.ids);
        return status;
    }
    *out_ids = encoder.ids;
    *out_count = encoder.count;
    return FM_OK;
}

fm_status fm_model_tokenizer_decode(const fm_tokenizer *tokenizer, const int32_t *ids, size_t count,
                                    int skip_special, char **out_text, size_t *out_length)
{
    size_t length = 0;
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= tokenizer->vocab || !tokenizer->tokens[ids[i]].bytes)
            return fm_base_error_set(FM_ERR_ARG,
                                     "token %zu has id %d, which the tokenizer of %d tokens does not know", i,
                                     (int)ids[i], tokenizer->vocab);
        FM_TRY(fm_add_size(length, tokenizer->tokens[ids[i]].length, &length));
    }
    char *text = fm_base_mem_alloc(length + 1), *to = text;
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of text", length);
    for (size_t i = 0; i < count; i++) {
        const struct fm_bpe_token *token = &tokenizer->tokens[ids[i]];
        if (token->special && skip_special)
            continue;
        memcpy(to, token->bytes, token->length);
        to += token->length;
    }
    *to = 0;
    *out_length = (size_t)(to - text);
    *out_text = text;
    return FM_OK;
}
