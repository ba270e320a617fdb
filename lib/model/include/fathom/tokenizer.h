/**
 * @file tokenizer.h
 * Byte-level BPE tokenizers: read from and written as Hugging Face's tokenizer.json, and trained.
 *
 *     fm_tokenizer *tokenizer;
 *     int32_t *ids;
 *     size_t count;
 *     FM_TRY(fm_model_tokenizer_open("DeepSeek-V3/tokenizer.json", &tokenizer));
 *     FM_TRY(fm_model_tokenizer_encode(tokenizer, text, length, &ids, &count));
 *     ...
 *     fm_base_mem_free(ids);
 *     fm_model_tokenizer_close(tokenizer);
 *
 * Text becomes tokens in four steps: added tokens ("<|end|>") are cut out, leftmost and longest first; what lies between
 * them is split by the file's patterns, one after the other; each piece's bytes are looked up as tokens; neighbours are
 * merged, the merge that comes first in the file's list first, and of equal ones the leftmost. The result is that of
 * Hugging Face's tokenizers library without special tokens being added.
 *
 * Text may be any bytes. Bytes that are not UTF-8 are never matched by a pattern: each run of them is a piece of its own,
 * so that decoding gives back exactly what was encoded.
 *
 * Read are files whose model is BPE without dropout, unknown token, prefixes, suffixes or byte fallback; whose
 * pre-tokenizer is ByteLevel, or a Sequence of Split (by Regex or String, behaviour Isolated) that ends in ByteLevel, without
 * added prefix space; and that have no normalizer, or an empty one. Everything else is FM_ERR_UNSUPPORTED.
 *
 * An open tokenizer is immutable: any number of threads may use one.
 */
#ifndef FATHOM_TOKENIZER_H
#define FATHOM_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_tokenizer fm_tokenizer;

/** Reads tokenizer.json. FM_ERR_FORMAT: malformed, a merge of tokens that do not exist, a byte without a token;
 *  FM_ERR_UNSUPPORTED: see above (the message says what is known); or as fm_base_doc_load(); FM_ERR_NOMEM. */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_open(const char *path, fm_tokenizer **out_tokenizer);
/** The same from memory; `name` stands for the file in messages. */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_parse(const char *text, size_t length, const char *name,
                                                      fm_tokenizer **out_tokenizer);
/** NULL is allowed. */
FM_API void fm_model_tokenizer_close(fm_tokenizer *tokenizer);
/** One more than the largest id. */
FM_API int fm_model_tokenizer_vocab(const fm_tokenizer *tokenizer);
/** The id of a token by its text (bytes, as it decodes); -1: there is none. */
FM_API int32_t fm_model_tokenizer_find(const fm_tokenizer *tokenizer, const char *token);

/** Encodes `length` bytes. The caller frees `out_ids` with fm_base_mem_free(). FM_ERR_LIMIT: 2 GiB of text or more;
 *  FM_ERR_NOMEM; FM_ERR_INTERNAL: a pattern ran out of its matching budget. */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_encode(const fm_tokenizer *tokenizer, const char *text,
                                                       size_t length, int32_t **out_ids, size_t *out_count);

/** Decodes to bytes, 0-terminated beside their length; special tokens give nothing where `skip_special` is not 0. A cut
 *  through a character leaves bytes that are not UTF-8. FM_ERR_ARG: an id without a token. The caller frees. */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_decode(const fm_tokenizer *tokenizer, const int32_t *ids,
                                                       size_t count, int skip_special, char **out_text,
                                                       size_t *out_length);

/** Zero-initialise, then set `size`. */
typedef struct fm_tokenizer_training {
    size_t size;
    int vocab; /**< tokens in all: 256 bytes, the special ones, and merges; at least 256 + specials */
    const char *const *special; /**< NULL-terminated; they get the first ids. NULL: none */
    const char *pattern; /**< PCRE2, splits the text; NULL: words with a leading space, numbers of up to three
                                     digits, runs of signs and of white space, in every script */
    int threads;         /**< 0: fm_base_cpu_threads() */
} fm_tokenizer_training;

/**
 * Trains on a text, which special tokens may divide: the pair of neighbouring tokens that occurs most often becomes a token, again and again; of equally
 * frequent pairs the one with the lower ids. The result does not depend on the number of threads. Where the text is too
 * small, the vocabulary is, too. FM_ERR_ARG: a field; FM_ERR_FORMAT: the pattern; FM_ERR_LIMIT: 2 GiB of text or more,
 * or more than 15 special tokens; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_train(const char *text, size_t length,
                                                      const fm_tokenizer_training *training,
                                                      fm_tokenizer **out_tokenizer);
/** Writes tokenizer.json. FM_ERR_NOMEM, or as fm_base_file_save(). */
FM_API FM_MUST_USE fm_status fm_model_tokenizer_save(const fm_tokenizer *tokenizer, const char *path);

#ifdef __cplusplus
}
#endif
#endif
