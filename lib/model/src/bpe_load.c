// tokenizer.json, read.
#include "bpe.h"

#include <limits.h>
#include <stdio.h>

#include "fathom/doc.h"

enum { VOCAB_MAX = 1 << 24 };

static int present(const fm_doc *node)
{
    return node && fm_base_doc_type(node) != FM_DOC_NULL;
}

static fm_status type_of(const fm_doc *node, const char *what, const char **out_type)
{
    FM_TRY(fm_base_doc_expect(node, what, FM_DOC_OBJECT));
    return fm_base_doc_string(fm_base_doc_get(node, "type"), "type", out_type);
}

// A field that must be absent, null, false, 0 or empty.
static fm_status must_be_off(const fm_doc *object, const char *key)
{
    const fm_doc *node = fm_base_doc_get(object, key);
    const char *text = "";
    int flag = 0;
    double real = 0;
    fm_doc_type type = fm_base_doc_type(node);
    if (type == FM_DOC_STRING)
        FM_TRY(fm_base_doc_string(node, key, &text));
    else if (type == FM_DOC_BOOL)
        FM_TRY(fm_base_doc_bool(node, key, &flag));
    else if (type == FM_DOC_INT || type == FM_DOC_REAL)
        FM_TRY(fm_base_doc_real(node, key, &real));
    if (text[0] || flag || real != 0)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "%s is set; expected a tokenizer without it", key);
    return FM_OK;
}

static fm_status read_normalizer(const fm_doc *node)
{
    const char *type;
    if (!present(node))
        return FM_OK;
    FM_TRY(type_of(node, "normalizer", &type));
    if (strcmp(type, "Sequence") != 0 || fm_base_doc_count(fm_base_doc_get(node, "normalizers")) > 0)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node,
                                 "normalizer %s; expected none: byte-level tokenizers take text as it is",
                                 type);
    return FM_OK;
}

static fm_status read_split(const fm_doc *node, fm_tokenizer *tokenizer)
{
    const fm_doc *pattern = fm_base_doc_get(node, "pattern");
    const fm_doc *regex = fm_base_doc_get(pattern, "Regex"), *literal = fm_base_doc_get(pattern, "String");
    const char *behavior, *text;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "behavior"), "behavior", &behavior));
    if (strcmp(behavior, "Isolated") != 0)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "Split with behavior %s; known: Isolated",
                                 behavior);
    FM_TRY(must_be_off(node, "invert"));
    FM_TRY(fm_base_doc_string(regex ? regex : literal, "pattern.Regex or pattern.String", &text));
    fm_status status = fm_model_bpe_add_pattern(tokenizer, text, regex == NULL);
    if (status == FM_OK)
        return FM_OK;
    char reason[512];
    snprintf(reason, sizeof reason, "%s", fm_base_error_message());
    return fm_base_doc_error(status, node, "%s", reason);
}

static fm_status read_byte_level(const fm_doc *node, fm_tokenizer *tokenizer)
{
    const fm_doc *use = fm_base_doc_get(node, "use_regex");
    int regex = 1; // as the original has it where the key is absent
    FM_TRY(must_be_off(node, "add_prefix_space"));
    if (present(use))
        FM_TRY(fm_base_doc_bool(use, "use_regex", &regex));
    return regex ? fm_model_bpe_add_pattern(tokenizer, fm_model_bpe_gpt2_pattern, 0) : FM_OK;
}

static fm_status read_one_pretokenizer(const fm_doc *node, fm_tokenizer *tokenizer, int *is_byte_level)
{
    const char *type;
    FM_TRY(type_of(node, "pre_tokenizer", &type));
    *is_byte_level = strcmp(type, "ByteLevel") == 0;
    if (*is_byte_level)
        return read_byte_level(node, tokenizer);
    if (strcmp(type, "Split") == 0)
        return read_split(node, tokenizer);
    return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "pre_tokenizer %s; known: Sequence, Split, ByteLevel",
                             type);
}

static fm_status read_pretokenizer(const fm_doc *node, fm_tokenizer *tokenizer)
{
    const char *type;
    int is_byte_level = 0;
    FM_TRY(type_of(node, "pre_tokenizer", &type));
    if (strcmp(type, "Sequence") != 0) {
        FM_TRY(read_one_pretokenizer(node, tokenizer, &is_byte_level));
    } else {
        const fm_doc *list = fm_base_doc_get(node, "pretokenizers");
        FM_TRY(fm_base_doc_expect(list, "pretokenizers", FM_DOC_ARRAY));
        for (size_t i = 0; i < fm_base_doc_count(list); i++) {
            if (is_byte_level)
                return fm_base_doc_error(
                    FM_ERR_UNSUPPORTED, fm_base_doc_at(list, i),
                    "a pre-tokenizer follows ByteLevel; expected ByteLevel to be the last");
            FM_TRY(read_one_pretokenizer(fm_base_doc_at(list, i), tokenizer, &is_byte_level));
        }
    }
    if (!is_byte_level)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, node, "pre_tokenizer does not end in ByteLevel");
    return FM_OK;
}

// One past the largest id of vocabulary and added tokens.
static fm_status read_size(const fm_doc *vocab, const fm_doc *added, int *out_size)
{
    int64_t id, last = -1;
    for (size_t i = 0; i < fm_base_doc_count(vocab); i++) {
        FM_TRY(fm_base_doc_int(fm_base_doc_at(vocab, i), "token id", 0, VOCAB_MAX, &id));
        last = id > last ? id : last;
    }
    for (size_t i = 0; i < fm_base_doc_count(added); i++) {
        FM_TRY(fm_base_doc_int(fm_base_doc_get(fm_base_doc_at(added, i), "id"), "id", 0, VOCAB_MAX, &id));
        last = id > last ? id : last;
    }
    *out_size = (int)last + 1;
    return FM_OK;
}

/** The way back from the characters that stand for bytes. */
struct alphabet {
    int16_t bytes[0x200]; // by character; -1: none
};

// Turns a vocabulary entry into its bytes; -1 where a character stands for none.
static int64_t to_bytes(const struct alphabet *alphabet, const char *text, char *out)
{
    int64_t count = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at; count++) {
        unsigned character = *at++;
        if (character >= 0x80) {
            if ((character & 0xE0) != 0xC0 || (*at & 0xC0) != 0x80)
                return -1;
            character = (character & 0x1F) << 6 | (*at++ & 0x3F);
        }
        if (character >= 0x200 || alphabet->bytes[character] < 0)
            return -1;
        out[count] = (char)alphabet->bytes[character];
    }
    return count;
}

static fm_status read_vocab(const fm_doc *vocab, fm_tokenizer *tokenizer)
{
    struct alphabet alphabet;
    uint16_t characters[256];
    fm_model_bpe_byte_characters(characters);
    memset(alphabet.bytes, -1, sizeof alphabet.bytes);
    for (int byte = 0; byte < 256; byte++)
        alphabet.bytes[characters[byte]] = (int16_t)byte;
    for (size_t i = 0; i < fm_base_doc_count(vocab); i++) {
        const char *text = fm_base_doc_key(vocab, i);
        size_t size = strlen(text);
        int64_t id = -1;
        FM_TRY(fm_base_doc_int(fm_base_doc_at(vocab, i), "token id", 0, VOCAB_MAX, &id));
        char *bytes = fm_base_arena_alloc(&tokenizer->bytes, size + 1);
        if (!bytes)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the vocabulary");
        int64_t length = to_bytes(&alphabet, text, bytes);
        if (length < 0) { // an added token that the vocabulary lists too is written as it is
            memcpy(bytes, text, size + 1);
            length = (int64_t)size;
        }
        if (tokenizer->tokens[id].bytes)
            return fm_base_doc_error(FM_ERR_FORMAT, fm_base_doc_at(vocab, i), "a second token has the id %d",
                                     (int)id);
        tokenizer->tokens[id] = (struct fm_bpe_token){.bytes = bytes, .length = (uint32_t)length};
    }
    return FM_OK;
}

static fm_status read_added(const fm_doc *added, fm_tokenizer *tokenizer)
{
    for (size_t i = 0; i < fm_base_doc_count(added); i++) {
        const fm_doc *node = fm_base_doc_at(added, i);
        const char *content;
        int64_t id = -1;
        int special = 0, normalized = 1;
        FM_TRY(fm_base_doc_int(fm_base_doc_get(node, "id"), "id", 0, VOCAB_MAX, &id));
        FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "content"), "content", &content));
        FM_TRY(must_be_off(node, "single_word"));
        FM_TRY(must_be_off(node, "lstrip"));
        FM_TRY(must_be_off(node, "rstrip"));
        if (present(fm_base_doc_get(node, "special")))
            FM_TRY(fm_base_doc_bool(fm_base_doc_get(node, "special"), "special", &special));
        if (present(fm_base_doc_get(node, "normalized")))
            FM_TRY(fm_base_doc_bool(fm_base_doc_get(node, "normalized"), "normalized", &normalized));
        if (!content[0])
            return fm_base_doc_error(FM_ERR_FORMAT, node, "an added token is empty");
        size_t length = strlen(content);
        char *bytes = fm_base_arena_strndup(&tokenizer->bytes, content, length);
        if (!bytes)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the added tokens");
        tokenizer->tokens[id] =
            (struct fm_bpe_token){bytes, (uint32_t)length, 1, (uint8_t)special, (uint8_t)normalized};
    }
    return FM_OK;
}

// A token's id by the text that the vocabulary gives it.
static fm_status id_of(const fm_doc *vocab, const fm_doc *merge, const char *token, int32_t *out_id)
{
    int64_t id = -1;
    const fm_doc *node = fm_base_doc_get(vocab, token);
    if (!node)
        return fm_base_doc_error(FM_ERR_FORMAT, merge, "a merge names \"%s\", which the vocabulary lacks",
                                 token);
    FM_TRY(fm_base_doc_int(node, "token id", 0, VOCAB_MAX, &id));
    *out_id = (int32_t)id;
    return FM_OK;
}

enum { MERGE_BYTES = 4096 }; // of both tokens; no tokenizer has any near it

static fm_status read_merge(const fm_doc *vocab, const fm_doc *node, struct fm_bpe_merge *merge)
{
    char left[MERGE_BYTES], both[MERGE_BYTES];
    const char *first, *second;
    if (fm_base_doc_type(node) == FM_DOC_ARRAY && fm_base_doc_count(node) == 2) {
        FM_TRY(fm_base_doc_string(fm_base_doc_at(node, 0), "merge", &first));
        FM_TRY(fm_base_doc_string(fm_base_doc_at(node, 1), "merge", &second));
    } else {
        const char *text;
        FM_TRY(fm_base_doc_string(node, "merge", &text));
        second = strchr(text, ' ');
        if (!second || (size_t)(second - text) >= sizeof left)
            return fm_base_doc_error(FM_ERR_FORMAT, node,
                                     "merge \"%.80s\"; expected two tokens with a space between", text);
        memcpy(left, text, (size_t)(second - text));
        left[second++ - text] = 0;
        first = left;
    }
    if ((size_t)snprintf(both, sizeof both, "%s%s", first, second) >= sizeof both)
        return fm_base_doc_error(FM_ERR_LIMIT, node, "a merge of more than %d bytes", MERGE_BYTES);
    FM_TRY(id_of(vocab, node, first, &merge->left));
    FM_TRY(id_of(vocab, node, second, &merge->right));
    return id_of(vocab, node, both, &merge->id);
}

static fm_status read_model(const fm_doc *model, const fm_doc *added, fm_tokenizer *tokenizer)
{
    static const char *const off[] = {
        "dropout",       "unk_token",    "continuing_subword_prefix", "end_of_word_suffix",
        "byte_fallback", "ignore_merges"};
    const fm_doc *vocab = fm_base_doc_get(model, "vocab"), *merges = fm_base_doc_get(model, "merges");
    const char *type;
    FM_TRY(type_of(model, "model", &type));
    if (strcmp(type, "BPE") != 0)
        return fm_base_doc_error(FM_ERR_UNSUPPORTED, model, "model %s; known: BPE", type);
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++)
        FM_TRY(must_be_off(model, off[i]));
    FM_TRY(fm_base_doc_expect(vocab, "vocab", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_expect(merges, "merges", FM_DOC_ARRAY));
    FM_TRY(read_size(vocab, added, &tokenizer->vocab));
    size_t count = fm_base_doc_count(merges);
    if (count > INT_MAX / 4)
        return fm_base_doc_error(FM_ERR_LIMIT, merges, "%zu merges", count);
    tokenizer->tokens = fm_base_mem_zalloc((size_t)tokenizer->vocab + 1, sizeof *tokenizer->tokens);
    tokenizer->merges = fm_base_mem_zalloc(count + 1, sizeof *tokenizer->merges);
    if (!tokenizer->tokens || !tokenizer->merges)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %d tokens", tokenizer->vocab);
    FM_TRY(read_vocab(vocab, tokenizer));
    FM_TRY(read_added(added, tokenizer));
    for (size_t i = 0; i < count; i++)
        FM_TRY(read_merge(vocab, fm_base_doc_at(merges, i), &tokenizer->merges[i]));
    tokenizer->merge_count = (int)count;
    return FM_OK;
}

static fm_status read_all(const fm_doc *root, fm_tokenizer *tokenizer)
{
    const fm_doc *added = fm_base_doc_get(root, "added_tokens");
    FM_TRY(fm_base_doc_expect(root, "tokenizer.json", FM_DOC_OBJECT));
    if (present(added))
        FM_TRY(fm_base_doc_expect(added, "added_tokens", FM_DOC_ARRAY));
    FM_TRY(read_normalizer(fm_base_doc_get(root, "normalizer")));
    FM_TRY(read_pretokenizer(fm_base_doc_get(root, "pre_tokenizer"), tokenizer));
    FM_TRY(read_model(fm_base_doc_get(root, "model"), added, tokenizer));
    return fm_model_bpe_index(tokenizer);
}

// Makes a tokenizer of a document, which it frees.
static fm_status make(fm_doc *root, fm_tokenizer **out_tokenizer)
{
    fm_tokenizer *tokenizer = fm_base_mem_zalloc(1, sizeof *tokenizer);
    fm_status status =
        tokenizer ? read_all(root, tokenizer) : fm_base_error_set(FM_ERR_NOMEM, "no memory for a tokenizer");
    fm_base_doc_free(root);
    if (status < 0)
        fm_model_tokenizer_close(tokenizer);
    else
        *out_tokenizer = tokenizer;
    return status;
}

fm_status fm_model_tokenizer_open(const char *path, fm_tokenizer **out_tokenizer)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    return make(root, out_tokenizer);
}

fm_status fm_model_tokenizer_parse(const char *text, size_t length, const char *name,
                                   fm_tokenizer **out_tokenizer)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_parse_json(text, length, name, &root));
    return make(root, out_tokenizer);
}
