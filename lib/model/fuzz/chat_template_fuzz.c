// Any bytes are read as a template, and what is taken renders a conversation; a NUL byte ends the template, and what follows
// is the conversation.
#include <stdint.h>
#include <stdlib.h>

#include "fathom/chat.h"
#include "fathom/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char usual[] =
        "[{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"tool\", \"content\": null}]";
    const char *text = (const char *)data, *end = size ? memchr(text, 0, size) : NULL;
    size_t length = end ? (size_t)(end - text) : size, out_length;
    const char *conversation = end ? end + 1 : usual;
    size_t rest = end ? size - length - 1 : sizeof usual - 1;
    fm_chat *chat;
    fm_doc *messages;
    char *out;
    if (fm_model_chat_parse(text, length, "fuzz", "<b>", "<e>", &chat) < 0)
        return 0;
    if (fm_base_doc_parse_json(conversation, rest, "fuzz", &messages) == FM_OK) {
        if (fm_model_chat_render(chat, messages, messages, 1, &out, &out_length) == FM_OK) {
            if (out[out_length] != 0)
                abort();
            fm_base_mem_free(out);
        }
        fm_base_doc_free(messages);
    }
    fm_model_chat_close(chat);
    return 0;
}
