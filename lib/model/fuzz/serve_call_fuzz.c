// Any bytes are read as the body of a chat and of a completion; what is taken has prompts and limits that fit.
#include <stdint.h>
#include <stdlib.h>

#include "serve_call.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct serve_face *face, int chat, const uint8_t *data, size_t size)
{
    struct serve_call call;
    if (fm_model_serve_call_read(face, chat, (const char *)data, size, &call) < 0)
        return;
    if (call.prompt_count < 1 || call.prompt_count * call.n > SERVE_CHOICES_MAX || call.max_tokens < 1)
        abort();
    for (int i = 0; i < call.prompt_count; i++)
        for (int j = 0; j < call.prompts[i].count; j++)
            if (call.prompts[i].ids[j] < 0 || call.prompts[i].ids[j] >= face->config->vocab)
                abort();
    fm_model_serve_call_free(&call);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char template[] =
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}{{ thinking }}";
    static fm_chat *chat; // both of the whole process: training takes longer than reading a body
    static fm_tokenizer *tokenizer;
    static const fm_model_config config = {.vocab = 300, .context = 64, .bos = 0, .eos = 1};
    fm_tokenizer_training training = {.size = sizeof training, .vocab = 300, .threads = 1};
    static const char text[] = "a body of a chat, a body of a completion";
    if (!chat && (fm_model_chat_parse(template, sizeof template - 1, "t", NULL, NULL, &chat) < 0 ||
                  fm_model_tokenizer_train(text, sizeof text - 1, &training, &tokenizer) < 0))
        abort();
    const struct serve_face face = {&config, tokenizer, chat, "m", 1, 128};
    check(&face, 0, data, size);
    check(&face, 1, data, size);
    return 0;
}
