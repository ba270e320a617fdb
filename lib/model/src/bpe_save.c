// tokenizer.json, written.
#include "bpe.h"

#include "fathom/doc.h"
#include "fathom/file.h"

// A token's bytes as vocabulary files write them; `out` has room for two bytes for each and a 0.
static void to_characters(const uint16_t characters[256], const struct fm_bpe_token *token, char *out)
{
    for (uint32_t i = 0; i < token->length; i++) {
        unsigned character = characters[(unsigned char)token->bytes[i]];
        if (character >= 0x80) {
            *out++ = (char)(0xC0 | character >> 6);
            character = 0x80 | (character & 0x3F);
        }
        *out++ = (char)character;
    }
    *out = 0;
}

static void write_added(fm_json *json, const fm_tokenizer *tokenizer)
{
    fm_base_json_begin(json, "added_tokens", '[');
    for (int id = 0; id < tokenizer->vocab; id++) {
        const struct fm_bpe_token *token = &tokenizer->tokens[id];
        if (!token->added)
            continue;
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_int(json, "id", id);
        fm_base_json_string(json, "content", token->bytes);
        fm_base_json_bool(json, "single_word", 0);
        fm_base_json_bool(json, "lstrip", 0);
        fm_base_json_bool(json, "rstrip", 0);
        fm_base_json_bool(json, "normalized", token->normalized);
        fm_base_json_bool(json, "special", token->special);
        fm_base_json_end(json);
    }
    fm_base_json_end(json);
}

static void write_byte_level(fm_json *json, const char *key)
{
    fm_base_json_begin(json, key, '{');
    fm_base_json_string(json, "type", "ByteLevel");
    fm_base_json_bool(json, "add_prefix_space", 0);
    fm_base_json_bool(json, "trim_offsets", 1);
    fm_base_json_bool(json, "use_regex", 0);
    fm_base_json_end(json);
}

static void write_pretokenizer(fm_json *json, const fm_tokenizer *tokenizer)
{
    fm_base_json_begin(json, "pre_tokenizer", '{');
    fm_base_json_string(json, "type", "Sequence");
    fm_base_json_begin(json, "pretokenizers", '[');
    for (int i = 0; i < tokenizer->pattern_count; i++) {
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_string(json, "type", "Split");
        fm_base_json_begin(json, "pattern", '{');
        fm_base_json_string(json, tokenizer->pattern_literal[i] ? "String" : "Regex",
                            tokenizer->pattern_texts[i]);
        fm_base_json_end(json);
        fm_base_json_string(json, "behavior", "Isolated");
        fm_base_json_bool(json, "invert", 0);
        fm_base_json_end(json);
    }
    write_byte_level(json, NULL);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

static void write_model(fm_json *json, const fm_tokenizer *tokenizer, char *text)
{
    uint16_t characters[256];
    fm_model_bpe_byte_characters(characters);
    fm_base_json_begin(json, "model", '{');
    fm_base_json_string(json, "type", "BPE");
    fm_base_json_null(json, "dropout");
    fm_base_json_null(json, "unk_token");
    fm_base_json_null(json, "continuing_subword_prefix");
    fm_base_json_null(json, "end_of_word_suffix");
    fm_base_json_bool(json, "fuse_unk", 0);
    fm_base_json_bool(json, "byte_fallback", 0);
    fm_base_json_begin(json, "vocab", '{');
    for (int id = 0; id < tokenizer->vocab; id++) {
        const struct fm_bpe_token *token = &tokenizer->tokens[id];
        if (!token->bytes || token->added)
            continue;
        to_characters(characters, token, text);
        fm_base_json_int(json, text, id);
    }
    fm_base_json_end(json);
    fm_base_json_begin(json, "merges", '[');
    for (int i = 0; i < tokenizer->merge_count; i++) {
        to_characters(characters, &tokenizer->tokens[tokenizer->merges[i].left], text);
        size_t length = strlen(text);
        text[length] = ' '; // no byte is written as a space
        to_characters(characters, &tokenizer->tokens[tokenizer->merges[i].right], text + length + 1);
        fm_base_json_string(json, NULL, text);
    }
    fm_base_json_end(json);
    fm_base_json_end(json);
}

fm_status fm_model_tokenizer_save(const fm_tokenizer *tokenizer, const char *path)
{
    fm_json json = {.pretty = 1};
    size_t longest = 0;
    for (int id = 0; id < tokenizer->vocab; id++)
        longest = tokenizer->tokens[id].length > longest ? tokenizer->tokens[id].length : longest;
    char *text =
        fm_base_mem_zalloc(longest + 1, 4); // two tokens of up to two bytes a character, a space, a 0
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to write a tokenizer");
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_string(&json, "version", "1.0");
    fm_base_json_null(&json, "truncation");
    fm_base_json_null(&json, "padding");
    write_added(&json, tokenizer);
    fm_base_json_null(&json, "normalizer");
    write_pretokenizer(&json, tokenizer);
    fm_base_json_null(&json, "post_processor");
    write_byte_level(&json, "decoder");
    write_model(&json, tokenizer, text);
    fm_base_json_end(&json);
    fm_base_mem_free(text);
    fm_status status = json.status == FM_OK ? fm_base_file_save(path, json.text, json.length) : FM_OK;
    fm_status finished = fm_base_json_finish(&json, NULL);
    return finished < 0 ? finished : status;
}
