/* Opening chat templates. */
#include <stdio.h>

#include "chat_private.h"
#include "fathom/file.h"

enum { CHAT_TEMPLATE_BYTES_MAX = 1 << 20 }; // DeepSeek's have 3 KiB

static fm_status copy(char **out_copy, const char *text)
{
    if (text && !(*out_copy = fm_base_mem_strdup(text)))
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a chat template");
    return FM_OK;
}

static fm_status parse(fm_chat *chat, const char *text, size_t length)
{
    // The tree views the text, so the arena keeps both.
    char *kept = fm_base_arena_strndup(&chat->arena, text, length);
    if (!kept)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", chat->name);
    struct chat_scan scan = {
        .name = chat->name, .text = kept, .length = length, .line = 1, .arena = &chat->arena};
    return fm_model_chat_parse_tree(&scan, &chat->body);
}

fm_status fm_model_chat_parse(const char *text, size_t length, const char *name, const char *bos,
                              const char *eos, fm_chat **out_chat)
{
    if (length > CHAT_TEMPLATE_BYTES_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "%s has %zu bytes; at most %d are read", name, length,
                                 CHAT_TEMPLATE_BYTES_MAX);
    fm_chat *chat = fm_base_mem_zalloc(1, sizeof *chat);
    if (!chat)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %s", name);
    fm_status status = copy(&chat->name, name);
    if (status == FM_OK)
        status = copy(&chat->bos, bos);
    if (status == FM_OK)
        status = copy(&chat->eos, eos);
    if (status == FM_OK)
        status = parse(chat, text, length);
    if (status != FM_OK) {
        fm_model_chat_close(chat);
        return status;
    }
    *out_chat = chat;
    return FM_OK;
}

void fm_model_chat_close(fm_chat *chat)
{
    if (!chat)
        return;
    fm_base_arena_clear(&chat->arena);
    fm_base_mem_free(chat->name);
    fm_base_mem_free(chat->bos);
    fm_base_mem_free(chat->eos);
    fm_base_mem_free(chat);
}

// A special token: its text, or an object with "content"; null or absent: NULL.
static fm_status read_token(const fm_doc *config, const char *key, const char **out_text)
{
    const fm_doc *node = fm_base_doc_get(config, key);
    if (fm_base_doc_type(node) == FM_DOC_OBJECT)
        node = fm_base_doc_get(node, "content");
    if (fm_base_doc_type(node) == FM_DOC_NULL) {
        *out_text = NULL;
        return FM_OK;
    }
    return fm_base_doc_string(node, key, out_text);
}

// The template in the configuration; NULL: it has none.
static fm_status read_template(const fm_doc *config, const char **out_text)
{
    const fm_doc *node = fm_base_doc_get(config, "chat_template");
    *out_text = NULL;
    if (fm_base_doc_type(node) == FM_DOC_ARRAY) {
        const fm_doc *list = node;
        node = NULL;
        for (size_t i = 0; i < fm_base_doc_count(list) && !node; i++) {
            const char *name;
            FM_TRY(fm_base_doc_string(fm_base_doc_get(fm_base_doc_at(list, i), "name"), "name", &name));
            if (strcmp(name, "default") == 0)
                node = fm_base_doc_get(fm_base_doc_at(list, i), "template");
        }
    }
    return fm_base_doc_type(node) == FM_DOC_NULL ? FM_OK
                                                 : fm_base_doc_string(node, "chat_template", out_text);
}

static fm_status open_config(const char *directory, const fm_doc *config, fm_chat **out_chat)
{
    const char *bos, *eos, *text;
    char path[4096];
    FM_TRY(read_token(config, "bos_token", &bos));
    FM_TRY(read_token(config, "eos_token", &eos));
    FM_TRY(read_template(config, &text));
    if (text)
        return fm_model_chat_parse(text, strlen(text), "chat_template", bos, eos, out_chat);
    char *bytes;
    size_t length;
    snprintf(path, sizeof path, "%s/chat_template.jinja", directory);
    fm_status status = fm_base_file_read(path, CHAT_TEMPLATE_BYTES_MAX, &bytes, &length);
    if (status == FM_ERR_NOT_FOUND)
        return fm_base_error_set(status, "%s has neither chat_template in tokenizer_config.json nor %s",
                                 directory, "chat_template.jinja");
    FM_TRY(status);
    status = fm_model_chat_parse(bytes, length, "chat_template.jinja", bos, eos, out_chat);
    fm_base_mem_free(bytes);
    return status;
}

fm_status fm_model_chat_open(const char *directory, fm_chat **out_chat)
{
    char path[4096];
    fm_doc *config;
    if (snprintf(path, sizeof path, "%s/tokenizer_config.json", directory) >= (int)sizeof path)
        return fm_base_error_set(FM_ERR_LIMIT, "the path of the model is longer than %zu bytes", sizeof path);
    FM_TRY(fm_base_doc_load(path, &config));
    fm_status status = open_config(directory, config, out_chat);
    fm_base_doc_free(config);
    return status;
}
