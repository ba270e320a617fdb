/* Counting pieces of text: the input of training, and of statistics. */
#ifndef FM_BPE_WORDS_H
#define FM_BPE_WORDS_H

#include "bpe.h"

struct fm_bpe_word {
    const char *bytes;
    uint32_t length;
    int64_t count;
};

/** A hash table of words; zero-initialised, it is empty. */
struct fm_bpe_words {
    struct fm_bpe_word *slots; // length 0: free
    size_t capacity, count;
    fm_arena bytes;
};

FM_MUST_USE fm_status fm_model_bpe_words_add(struct fm_bpe_words *words, const char *bytes, size_t length,
                                             int64_t count);
void fm_model_bpe_words_free(struct fm_bpe_words *words);
/** Counts the pieces of a text by a team of `threads`; words come in the order of their bytes, whatever the team. The
 * caller frees `out_words`, and the table that owns the bytes. */
FM_MUST_USE fm_status fm_model_bpe_words_count(const char *text, size_t length,
                                               struct fm_bpe_pattern *const *patterns, int pattern_count,
                                               int threads, struct fm_bpe_words *out_table,
                                               struct fm_bpe_word **out_words);

#endif
