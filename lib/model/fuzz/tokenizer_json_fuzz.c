// Any bytes are read as tokenizer.json, and what is taken encodes and decodes a text; a NUL byte ends the file, and what follows is
// the text.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"
#include "fathom/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char usual[] = "Hello, w\xC3\xB6rld 123 \xFF<|end|>\n";
    const char *json = (const char *)data, *end = size ? memchr(json, 0, size) : NULL;
    size_t length = end ? (size_t)(end - json) : size;
    const char *text = end ? end + 1 : usual;
    size_t text_length = end ? size - length - 1 : sizeof usual - 1;
    fm_tokenizer *tokenizer;
    int32_t *ids;
    char *back;
    size_t count, back_length;
    if (fm_model_tokenizer_parse(json, length, "fuzz", &tokenizer) < 0)
        return 0;
    int vocab = fm_model_tokenizer_vocab(tokenizer);
    if (fm_model_tokenizer_encode(tokenizer, text, text_length, &ids, &count) == FM_OK) {
        for (size_t i = 0; i < count; i++)
            if (ids[i] < 0 || ids[i] >= vocab)
                abort();
        if (fm_model_tokenizer_decode(tokenizer, ids, count, 0, &back, &back_length) < 0 ||
            back_length != text_length || memcmp(back, text, text_length) != 0)
            abort(); // what was encoded must come back
        fm_base_mem_free(back);
        fm_base_mem_free(ids);
    }
    fm_model_tokenizer_close(tokenizer);
    return 0;
}
