/*
 * Training. Words are counted once; then the most frequent pair is merged, again and again. A pair knows the words it was
 * seen in, so a merge touches those alone, and a heap of pairs yields the next one: a pair's count only falls once it
 * exists (it rises in the step that makes its newer token, and is offered to the heap after that), so an entry whose count
 * is out of date is put back with the right one.
 */
#include "bpe_words.h"

#include <limits.h>
#include <stdio.h>

#include "fathom/cpu.h"

struct word {
    int32_t *symbols;
    uint32_t count;
    int64_t weight;
};

struct pair {
    int32_t left, right;
    int64_t count;
    uint32_t *words; // that may hold it; one may be listed twice, or hold it no more
    uint32_t word_count, word_capacity;
    int offered; // in the heap, or to be
};

struct entry {
    int64_t count;
    int32_t left, right;
    uint32_t pair;
};

struct trainer {
    struct word *words;
    size_t word_count;
    int32_t *symbols; // of all words
    struct pair *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *index; // hash table of pairs: number + 1; 0: free
    size_t index_capacity;
    struct entry *heap;
    size_t heap_count, heap_capacity;
    uint32_t *fresh; // pairs that the running merge made
    size_t fresh_count, fresh_capacity;
};

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory to train a tokenizer");
}

// Room for one more; `size` bytes each.
static fm_status reserve(void **array, size_t count, size_t *capacity, size_t size)
{
    if (count < *capacity)
        return FM_OK;
    size_t wanted = *capacity ? 2 * *capacity : 64;
    void *grown = fm_base_mem_realloc(*array, wanted, size);
    if (!grown)
        return no_memory();
    *array = grown;
    *capacity = wanted;
    return FM_OK;
}

static size_t index_at(const struct trainer *trainer, int32_t left, int32_t right)
{
    uint64_t key = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    size_t at = (size_t)(key >> 20) & (trainer->index_capacity - 1);
    for (; trainer->index[at]; at = (at + 1) & (trainer->index_capacity - 1)) {
        const struct pair *pair = &trainer->pairs[trainer->index[at] - 1];
        if (pair->left == left && pair->right == right)
            break;
    }
    return at;
}

static fm_status grow_index(struct trainer *trainer)
{
    size_t capacity = trainer->index_capacity ? 2 * trainer->index_capacity : 1 << 16;
    uint32_t *index = fm_base_mem_zalloc(capacity, sizeof *index);
    if (!index)
        return no_memory();
    fm_base_mem_free(trainer->index);
    trainer->index = index;
    trainer->index_capacity = capacity;
    for (size_t i = 0; i < trainer->pair_count; i++)
        trainer->index[index_at(trainer, trainer->pairs[i].left, trainer->pairs[i].right)] = (uint32_t)i + 1;
    return FM_OK;
}

static fm_status pair_of(struct trainer *trainer, int32_t left, int32_t right, uint32_t *out_pair)
{
    if (2 * trainer->pair_count >= trainer->index_capacity)
        FM_TRY(grow_index(trainer));
    size_t at = index_at(trainer, left, right);
    if (!trainer->index[at]) {
        void *pairs = trainer->pairs;
        FM_TRY(reserve(&pairs, trainer->pair_count, &trainer->pair_capacity, sizeof *trainer->pairs));
        trainer->pairs = pairs;
        trainer->pairs[trainer->pair_count++] = (struct pair){.left = left, .right = right};
        trainer->index[at] = (uint32_t)trainer->pair_count;
    }
    *out_pair = trainer->index[at] - 1;
    return FM_OK;
}

static int before(const struct entry *a, const struct entry *b)
{
    if (a->count != b->count)
        return a->count > b->count;
    return a->left != b->left ? a->left < b->left : a->right < b->right;
}

#define HEAP_ITEM struct entry
#include "bpe_heap.h"

static fm_status offer(struct trainer *trainer, uint32_t number)
{
    const struct pair *pair = &trainer->pairs[number];
    void *heap = trainer->heap;
    FM_TRY(reserve(&heap, trainer->heap_count, &trainer->heap_capacity, sizeof *trainer->heap));
    trainer->heap = heap;
    heap_push(trainer->heap, &trainer->heap_count,
              (struct entry){pair->count, pair->left, pair->right, number});
    return FM_OK;
}

// A pair occurs `weight` times more (or less) in a word.
static fm_status count_pair(struct trainer *trainer, int32_t left, int32_t right, int64_t weight,
                            uint32_t word)
{
    uint32_t number;
    FM_TRY(pair_of(trainer, left, right, &number));
    struct pair *pair = &trainer->pairs[number];
    pair->count += weight;
    if (weight < 0)
        return FM_OK;
    if (pair->word_count == 0 || pair->words[pair->word_count - 1] != word) {
        size_t capacity = pair->word_capacity;
        void *words = pair->words;
        FM_TRY(reserve(&words, pair->word_count, &capacity, sizeof *pair->words));
        pair->words = words;
        pair->word_capacity = (uint32_t)capacity;
        pair->words[pair->word_count++] = word;
    }
    if (!pair->offered) {
        pair->offered = 1;
        void *fresh = trainer->fresh;
        FM_TRY(reserve(&fresh, trainer->fresh_count, &trainer->fresh_capacity, sizeof *trainer->fresh));
        trainer->fresh = fresh;
        trainer->fresh[trainer->fresh_count++] = number;
    }
    return FM_OK;
}

static fm_status offer_fresh(struct trainer *trainer)
{
    for (size_t i = 0; i < trainer->fresh_count; i++)
        FM_TRY(offer(trainer, trainer->fresh[i]));
    trainer->fresh_count = 0;
    return FM_OK;
}

static int is_special(const fm_tokenizer *tokenizer, const struct fm_bpe_word *word)
{
    for (int id = 0; tokenizer->tokens[id].special; id++)
        if (tokenizer->tokens[id].length == word->length &&
            memcmp(tokenizer->tokens[id].bytes, word->bytes, word->length) == 0)
            return 1;
    return 0;
}

static fm_status begin(struct trainer *trainer, const struct fm_bpe_word *counted, size_t count,
                       const fm_tokenizer *tokenizer)
{
    int32_t first_byte = tokenizer->vocab - 256;
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += counted[i].length;
    trainer->words = fm_base_mem_zalloc(count + 1, sizeof *trainer->words);
    trainer->symbols = fm_base_mem_zalloc(total + 1, sizeof *trainer->symbols);
    if (!trainer->words || !trainer->symbols)
        return no_memory();
    trainer->word_count = count;
    int32_t *at = trainer->symbols;
    for (size_t i = 0; i < count; i++) {
        struct word *word = &trainer->words[i];
        *word = (struct word){at, counted[i].length, counted[i].count};
        if (is_special(tokenizer, &counted[i])) {
            word->count = 0;
            continue;
        }
        for (uint32_t j = 0; j < word->count; j++)
            *at++ = first_byte + (unsigned char)counted[i].bytes[j];
        for (uint32_t j = 0; j + 1 < word->count; j++)
            FM_TRY(count_pair(trainer, word->symbols[j], word->symbols[j + 1], word->weight, (uint32_t)i));
    }
    return offer_fresh(trainer);
}

// Replaces left, right by id in one word, from left to right, and counts what that changes.
static fm_status merge_word(struct trainer *trainer, uint32_t number, int32_t left, int32_t right, int32_t id)
{
    struct word *word = &trainer->words[number];
    int32_t *s = word->symbols;
    uint32_t to = 0;
    for (uint32_t from = 0; from < word->count; from++) {
        if (from + 1 == word->count || s[from] != left || s[from + 1] != right) {
            s[to++] = s[from];
            continue;
        }
        FM_TRY(count_pair(trainer, left, right, -word->weight, number));
        if (to > 0) {
            FM_TRY(count_pair(trainer, s[to - 1], left, -word->weight, number));
            FM_TRY(count_pair(trainer, s[to - 1], id, word->weight, number));
        }
        if (from + 2 < word->count) {
            FM_TRY(count_pair(trainer, right, s[from + 2], -word->weight, number));
            FM_TRY(count_pair(trainer, id, s[from + 2], word->weight, number));
        }
        s[to++] = id;
        from++;
    }
    word->count = to;
    return FM_OK;
}

static fm_status add_token(fm_tokenizer *tokenizer, const struct pair *pair, int32_t id)
{
    const struct fm_bpe_token *left = &tokenizer->tokens[pair->left],
                              *right = &tokenizer->tokens[pair->right];
    char *bytes = fm_base_arena_alloc(&tokenizer->bytes, (size_t)left->length + right->length + 1);
    if (!bytes)
        return no_memory();
    memcpy(bytes, left->bytes, left->length);
    memcpy(bytes + left->length, right->bytes, right->length);
    bytes[left->length + right->length] = 0;
    tokenizer->tokens[id] = (struct fm_bpe_token){.bytes = bytes, .length = left->length + right->length};
    tokenizer->merges[tokenizer->merge_count++] = (struct fm_bpe_merge){pair->left, pair->right, id};
    return FM_OK;
}

static fm_status merge_all(struct trainer *trainer, fm_tokenizer *tokenizer, int vocab)
{
    while (tokenizer->vocab < vocab && trainer->heap_count > 0) {
        struct entry top = heap_pop(trainer->heap, &trainer->heap_count);
        struct pair *pair = &trainer->pairs[top.pair];
        if (pair->count != top.count) {
            if (pair->count > 0)
                FM_TRY(offer(trainer, top.pair));
            continue;
        }
        if (pair->count < 2) // what occurs once teaches nothing
            break;
        int32_t id = tokenizer->vocab++, left = pair->left, right = pair->right;
        FM_TRY(add_token(tokenizer, pair, id));
        uint32_t *words = pair->words, count = pair->word_count;
        pair->words = NULL;
        pair->word_count = pair->word_capacity = 0;
        fm_status status = FM_OK;
        for (uint32_t i = 0; i < count && status == FM_OK; i++)
            status = merge_word(trainer, words[i], left, right, id);
        fm_base_mem_free(words);
        FM_TRY(status);
        FM_TRY(offer_fresh(trainer));
    }
    return FM_OK;
}

static void end(struct trainer *trainer)
{
    for (size_t i = 0; i < trainer->pair_count; i++)
        fm_base_mem_free(trainer->pairs[i].words);
    fm_base_mem_free(trainer->pairs);
    fm_base_mem_free(trainer->index);
    fm_base_mem_free(trainer->heap);
    fm_base_mem_free(trainer->fresh);
    fm_base_mem_free(trainer->words);
    fm_base_mem_free(trainer->symbols);
}

// Special tokens, then the 256 bytes in the order of their characters' code points in the file, as they stand.
static fm_status base_vocabulary(fm_tokenizer *tokenizer, const fm_tokenizer_training *training)
{
    tokenizer->tokens = fm_base_mem_zalloc((size_t)training->vocab, sizeof *tokenizer->tokens);
    tokenizer->merges = fm_base_mem_zalloc((size_t)training->vocab, sizeof *tokenizer->merges);
    if (!tokenizer->tokens || !tokenizer->merges)
        return no_memory();
    for (const char *const *special = training->special; special && *special; special++) {
        size_t length = strlen(*special);
        char *bytes = fm_base_arena_strndup(&tokenizer->bytes, *special, length);
        if (!bytes)
            return no_memory();
        tokenizer->tokens[tokenizer->vocab++] = (struct fm_bpe_token){bytes, (uint32_t)length, 1, 1, 0};
    }
    for (int byte = 0; byte < 256; byte++) {
        char one = (char)byte, *bytes = fm_base_arena_alloc(&tokenizer->bytes, 2);
        if (!bytes)
            return no_memory();
        bytes[0] = one;
        bytes[1] = 0;
        tokenizer->tokens[tokenizer->vocab++] = (struct fm_bpe_token){.bytes = bytes, .length = 1};
    }
    return FM_OK;
}

// Counts words between the special tokens that the text holds.
static fm_status count_words(const char *text, size_t length, const fm_tokenizer_training *training,
                             const fm_tokenizer *tokenizer, struct fm_bpe_words *table,
                             struct fm_bpe_word **words)
{
    struct fm_bpe_pattern *patterns[FM_BPE_PATTERNS_MAX] = {0};
    int count = 0, threads = training->threads ? training->threads : fm_base_cpu_threads();
    fm_status status = FM_OK;
    for (; status == FM_OK && training->special && training->special[count]; count++)
        status = fm_model_bpe_pattern_open(training->special[count], strlen(training->special[count]), 1,
                                           &patterns[count]);
    if (status == FM_OK) {
        patterns[count] = tokenizer->patterns[0];
        status = fm_model_bpe_words_count(text, length, patterns, count + 1, threads, table, words);
        patterns[count] = NULL; // the tokenizer's own
    }
    for (int i = 0; i < FM_BPE_PATTERNS_MAX; i++)
        fm_model_bpe_pattern_close(patterns[i]);
    return status;
}

static fm_status train(const char *text, size_t length, const fm_tokenizer_training *training,
                       fm_tokenizer *tokenizer)
{
    struct trainer trainer = {0};
    struct fm_bpe_words table = {0};
    struct fm_bpe_word *words = NULL;
    FM_TRY(fm_model_bpe_add_pattern(
        tokenizer, training->pattern ? training->pattern : fm_model_bpe_standard_pattern, 0));
    FM_TRY(base_vocabulary(tokenizer, training));
    FM_TRY(count_words(text, length, training, tokenizer, &table, &words));
    fm_status status = begin(&trainer, words, table.count, tokenizer);
    fm_base_mem_free(words);
    fm_model_bpe_words_free(&table);
    if (status == FM_OK)
        status = merge_all(&trainer, tokenizer, training->vocab);
    end(&trainer);
    return status < 0 ? status : fm_model_bpe_index(tokenizer);
}

fm_status fm_model_tokenizer_train(const char *text, size_t length, const fm_tokenizer_training *training,
                                   fm_tokenizer **out_tokenizer)
{
    int least = 256;
    if (training->size != sizeof *training)
        return fm_base_error_set(FM_ERR_ARG, "training.size is %zu; expected %zu", training->size,
                                 sizeof *training);
    for (const char *const *special = training->special; special && *special; special++, least++)
        if (!(*special)[0])
            return fm_base_error_set(FM_ERR_ARG, "special token %d is empty", least - 256);
    if (least - 256 >= FM_BPE_PATTERNS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%d special tokens; expected at most %d", least - 256,
                                 FM_BPE_PATTERNS_MAX - 1);
    if (training->vocab < least || training->vocab > 1 << 24)
        return fm_base_error_set(FM_ERR_ARG,
                                 "vocab is %d; expected %d (bytes and special tokens) to 16777216",
                                 training->vocab, least);
    if (training->threads < 0 || training->threads > 1024)
        return fm_base_error_set(FM_ERR_ARG, "threads is %d; expected 0 to 1024", training->threads);
    if (length >= (size_t)INT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%zu bytes of text; expected less than 2 GiB", length);
    fm_tokenizer *tokenizer = fm_base_mem_zalloc(1, sizeof *tokenizer);
    if (!tokenizer)
        return no_memory();
    fm_status status = train(text, length, training, tokenizer);
    if (status < 0)
        fm_model_tokenizer_close(tokenizer);
    else
        *out_tokenizer = tokenizer;
    return status;
}
