/* Byte-level BPE: what its files share. */
#ifndef FM_BPE_H
#define FM_BPE_H

#include "fathom/mem.h"
#include "fathom/tokenizer.h"

/** A regular expression that splits text: PCRE2 lives in bpe_pattern.c alone. */
struct fm_bpe_pattern;

FM_MUST_USE fm_status fm_model_bpe_pattern_open(const char *text, size_t length, int literal,
                                                struct fm_bpe_pattern **out_pattern);
void fm_model_bpe_pattern_close(struct fm_bpe_pattern *pattern);

/** Takes a piece of text; anything but FM_OK stops the splitting. */
typedef fm_status (*fm_bpe_piece)(void *context, const char *bytes, size_t length);
/** Splits any bytes by `count` patterns, one after the other: each match and each gap is split by the next, and what the
 * last leaves is a piece. Runs of bytes that are not UTF-8 are pieces. */
FM_MUST_USE fm_status fm_model_bpe_split(struct fm_bpe_pattern *const *patterns, int count, const char *bytes,
                                         size_t length, fm_bpe_piece piece, void *context);

struct fm_bpe_token {
    const char *bytes; // NULL: no token has this id
    uint32_t length;
    uint8_t added, special, normalized;
};

struct fm_bpe_merge {
    int32_t left, right, id;
};

/** A slot of the table of merges; `id` -1: free. */
struct fm_bpe_slot {
    int32_t left, right, rank, id;
};

/** Added tokens in the order of their bytes. */
struct fm_bpe_added {
    int32_t *ids;
    int count;
};

enum { FM_BPE_PATTERNS_MAX = 16 };

struct fm_tokenizer {
    int vocab;
    struct fm_bpe_token *tokens; // [vocab]
    fm_arena bytes;              // of the tokens
    int32_t byte_ids[256];
    struct fm_bpe_merge *merges; // in the order of their ranks
    int merge_count;
    struct fm_bpe_slot *slots; // hash table of the merges
    uint32_t slot_mask;
    struct fm_bpe_added added[2]; // matched in this order: those that are not normalised, those that are
    struct fm_bpe_pattern *patterns[FM_BPE_PATTERNS_MAX];
    char *pattern_texts[FM_BPE_PATTERNS_MAX];
    int pattern_literal[FM_BPE_PATTERNS_MAX];
    int pattern_count;
};

/** Adds a pattern. */
FM_MUST_USE fm_status fm_model_bpe_add_pattern(fm_tokenizer *tokenizer, const char *text, int literal);
/** Builds what encoding needs from tokens, merges and patterns. FM_ERR_FORMAT: a byte has no token. */
FM_MUST_USE fm_status fm_model_bpe_index(fm_tokenizer *tokenizer);
/** The merge of two tokens; NULL: none. */
const struct fm_bpe_slot *fm_model_bpe_find(const fm_tokenizer *tokenizer, int32_t left, int32_t right);

/** The character that stands for a byte in vocabulary files: the byte's own where it is printable Latin-1, else one from
 * U+0100 on, in order. */
void fm_model_bpe_byte_characters(uint16_t out_characters[256]);

/** Words with a leading space, numbers of up to three digits, signs, white space. */
extern const char fm_model_bpe_standard_pattern[];
/** GPT-2's, which ByteLevel uses by itself. */
extern const char fm_model_bpe_gpt2_pattern[];

#endif
