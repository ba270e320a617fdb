/**
 * @file chat.h
 * Chat templates: how a model's conversations become text, as its tokenizer_config.json says in Jinja.
 *
 *     fm_chat *chat;
 *     FM_TRY(fm_model_chat_open("DeepSeek-V3", &chat));
 *     FM_TRY(fm_model_chat_render(chat, messages, NULL, 1, &text, &length));
 *     ...
 *     fm_base_mem_free(text);
 *     fm_model_chat_close(chat);
 *
 * Read is the part of Jinja that DeepSeek's templates are written in:
 *
 *     statements    if elif else endif, for ... in ... endfor, set name = ..., set namespace.name = ...
 *     expressions   or and not, == != < <= > >=, in, not in, is [not] defined/undefined/none/string/number/mapping/
 *                   iterable/true/false, + - ~, a if b else c, x.y, x[y], literals of text, whole numbers, true, false,
 *                   none
 *     calls         namespace(...), text.split(...), .strip() .lstrip() .rstrip() .startswith(...) .endswith(...)
 *     filters       tojson, trim, length
 *     in loops      loop.first .last .index .index0 .length
 *
 * with Jinja's rules for white space (`-`, and trim_blocks and lstrip_blocks as Hugging Face sets them), for scopes and for
 * what is undefined. Every other construct is FM_ERR_UNSUPPORTED when the template is read, and the message names it.
 *
 * An open template is immutable: any number of threads may render with one.
 */
#ifndef FATHOM_CHAT_H
#define FATHOM_CHAT_H

#include <stddef.h>

#include "fathom/doc.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_chat fm_chat;

/**
 * Reads `chat_template` of DIRECTORY/tokenizer_config.json (of a list of templates the one named "default"), or
 * DIRECTORY/chat_template.jinja, and the texts of `bos_token` and `eos_token`. FM_ERR_NOT_FOUND: there is none;
 * FM_ERR_FORMAT: the template is malformed (message: file, line, reason); FM_ERR_UNSUPPORTED: see above; or as
 * fm_base_doc_load() fails.
 */
FM_API FM_MUST_USE fm_status fm_model_chat_open(const char *directory, fm_chat **out_chat);
/** Reads a template from memory; `name` stands for it in messages. `bos` and `eos` may be NULL: then they are undefined. */
FM_API FM_MUST_USE fm_status fm_model_chat_parse(const char *text, size_t length, const char *name,
                                                 const char *bos, const char *eos, fm_chat **out_chat);
/** NULL is allowed. */
FM_API void fm_model_chat_close(fm_chat *chat);

/**
 * Renders a conversation: `messages` is an array of objects with `role` and `content`, `variables` an object whose members
 * the template sees by name (`tools`, `thinking`), or NULL. The caller frees `out_text`, which is 0-terminated beside its
 * length, with fm_base_mem_free(). FM_ERR_ARG: the messages do not fit the template, such as text added to none (message:
 * line of the template, reason); FM_ERR_LIMIT: more than 64 MiB of text or ten million steps; FM_ERR_NOMEM.
 */
FM_API FM_MUST_USE fm_status fm_model_chat_render(const fm_chat *chat, const fm_doc *messages,
                                                  const fm_doc *variables, int add_generation_prompt,
                                                  char **out_text, size_t *out_length);

#ifdef __cplusplus
}
#endif
#endif
