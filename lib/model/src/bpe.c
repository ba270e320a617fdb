#include "bpe.h"

#include <stdlib.h>

void fm_model_bpe_byte_characters(uint16_t out_characters[256])
{
    uint16_t next = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        int printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        out_characters[byte] = printable ? (uint16_t)byte : next++;
    }
}

fm_status fm_model_bpe_add_pattern(fm_tokenizer *tokenizer, const char *text, int literal)
{
    int at = tokenizer->pattern_count;
    if (at == FM_BPE_PATTERNS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than %d patterns", FM_BPE_PATTERNS_MAX);
    char *copy = fm_base_mem_strdup(text);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a pattern");
    fm_status status = fm_model_bpe_pattern_open(text, strlen(text), literal, &tokenizer->patterns[at]);
    if (status < 0) {
        fm_base_mem_free(copy);
        return status;
    }
    tokenizer->pattern_texts[at] = copy;
    tokenizer->pattern_literal[at] = literal;
    tokenizer->pattern_count++;
    return FM_OK;
}

static uint32_t hash_pair(int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9E3779B97F4A7C15u; // 2^64 / golden ratio: spreads neighbouring keys
    return (uint32_t)(key >> 32);
}

const struct fm_bpe_slot *fm_model_bpe_find(const fm_tokenizer *tokenizer, int32_t left, int32_t right)
{
    for (uint32_t at = hash_pair(left, right) & tokenizer->slot_mask;; at = (at + 1) & tokenizer->slot_mask) {
        const struct fm_bpe_slot *slot = &tokenizer->slots[at];
        if (slot->id < 0)
            return NULL;
        if (slot->left == left && slot->right == right)
            return slot;
    }
}

static fm_status index_merges(fm_tokenizer *tokenizer)
{
    uint32_t size = 16;
    while (size < 2 * (uint32_t)tokenizer->merge_count)
        size *= 2;
    tokenizer->slots = fm_base_mem_zalloc(size, sizeof *tokenizer->slots);
    if (!tokenizer->slots)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d merges", tokenizer->merge_count);
    tokenizer->slot_mask = size - 1;
    for (uint32_t i = 0; i < size; i++)
        tokenizer->slots[i].id = -1;
    for (int rank = 0; rank < tokenizer->merge_count; rank++) {
        const struct fm_bpe_merge *merge = &tokenizer->merges[rank];
        if (fm_model_bpe_find(tokenizer, merge->left, merge->right))
            continue; // the first of two equal merges counts
        uint32_t at = hash_pair(merge->left, merge->right) & tokenizer->slot_mask;
        while (tokenizer->slots[at].id >= 0)
            at = (at + 1) & tokenizer->slot_mask;
        tokenizer->slots[at] = (struct fm_bpe_slot){merge->left, merge->right, rank, merge->id};
    }
    return FM_OK;
}

static int by_bytes(const void *left, const void *right, void *context)
{
    const struct fm_bpe_token *tokens = context;
    const struct fm_bpe_token *a = &tokens[*(const int32_t *)left], *b = &tokens[*(const int32_t *)right];
    int order = memcmp(a->bytes, b->bytes, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

static fm_status index_added(fm_tokenizer *tokenizer, int normalized)
{
    struct fm_bpe_added *added = &tokenizer->added[normalized];
    int count = 0;
    for (int id = 0; id < tokenizer->vocab; id++)
        count += tokenizer->tokens[id].added && tokenizer->tokens[id].normalized == normalized;
    added->ids = fm_base_mem_zalloc((size_t)count + 1, sizeof *added->ids);
    if (!added->ids)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d added tokens", count);
    for (int id = 0; id < tokenizer->vocab; id++)
        if (tokenizer->tokens[id].added && tokenizer->tokens[id].normalized == normalized)
            added->ids[added->count++] = id;
    qsort_r(added->ids, (size_t)count, sizeof *added->ids, by_bytes, tokenizer->tokens);
    return FM_OK;
}

fm_status fm_model_bpe_index(fm_tokenizer *tokenizer)
{
    for (int byte = 0; byte < 256; byte++)
        tokenizer->byte_ids[byte] = -1;
    for (int id = 0; id < tokenizer->vocab; id++) {
        const struct fm_bpe_token *token = &tokenizer->tokens[id];
        if (token->bytes && token->length == 1 && !token->added)
            tokenizer->byte_ids[(unsigned char)token->bytes[0]] = id;
    }
    for (int byte = 0; byte < 256; byte++)
        if (tokenizer->byte_ids[byte] < 0)
            return fm_base_error_set(FM_ERR_FORMAT, "the vocabulary has no token for the byte 0x%02X", byte);
    FM_TRY(index_merges(tokenizer));
    FM_TRY(index_added(tokenizer, 0));
    return index_added(tokenizer, 1);
}

void fm_model_tokenizer_close(fm_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    for (int i = 0; i < tokenizer->pattern_count; i++) {
        fm_model_bpe_pattern_close(tokenizer->patterns[i]);
        fm_base_mem_free(tokenizer->pattern_texts[i]);
    }
    fm_base_mem_free(tokenizer->added[0].ids);
    fm_base_mem_free(tokenizer->added[1].ids);
    fm_base_mem_free(tokenizer->slots);
    fm_base_mem_free(tokenizer->merges);
    fm_base_mem_free(tokenizer->tokens);
    fm_base_arena_clear(&tokenizer->bytes);
    fm_base_mem_free(tokenizer);
}

int fm_model_tokenizer_vocab(const fm_tokenizer *tokenizer)
{
    return tokenizer->vocab;
}

int32_t fm_model_tokenizer_find(const fm_tokenizer *tokenizer, const char *token)
{
    size_t length = strlen(token);
    for (int id = 0; id < tokenizer->vocab; id++)
        if (tokenizer->tokens[id].bytes && tokenizer->tokens[id].length == length &&
            memcmp(tokenizer->tokens[id].bytes, token, length) == 0)
            return id;
    return -1;
}
