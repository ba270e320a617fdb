// Any bytes as a safetensors file: refused, or tensors that cover the data exactly. Each input is read twice: as it is,
// and as a header behind its proper length (the first byte says how many bytes of data follow).
#include <string.h>

#include "fathom/mem.h"
#include "fathom/safetensors.h"
#include "fuzz_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_file(const uint8_t *bytes, size_t length)
{
    fm_safetensors *file;
    if (fm_base_safetensors_open_memory(bytes, length, "fuzz", &file) < 0)
        return;
    const uint8_t *next = bytes + 8 + fm_get_le64(bytes);
    for (size_t i = 0; i < fm_base_safetensors_count(file); i++) {
        const fm_tensor *tensor = fm_base_safetensors_at(file, i);
        size_t size;
        FUZZ_CHECK(fm_base_tensor_bytes(tensor->dtype, tensor->ndim, tensor->shape, &size) == FM_OK);
        FUZZ_CHECK(fm_base_tensor_is_contiguous(tensor));
        FUZZ_CHECK(tensor->data == next); // the order of the data, no gap, no overlap
        FUZZ_CHECK(fm_base_safetensors_get(file, fm_base_safetensors_name(file, i)) == tensor);
        next += size;
    }
    FUZZ_CHECK(next == bytes + length);
    const fm_doc *metadata = fm_base_safetensors_metadata(file);
    for (size_t i = 0; i < fm_base_doc_count(metadata); i++)
        FUZZ_CHECK(fm_base_doc_type(fm_base_doc_at(metadata, i)) == FM_DOC_STRING);
    fm_base_safetensors_close(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_file(data, size);
    if (size > 0) {
        size_t length = 8 + (size - 1) + data[0];
        uint8_t *framed = calloc(length, 1);
        FUZZ_CHECK(framed);
        fm_put_le64(framed, size - 1);
        memcpy(framed + 8, data + 1, size - 1);
        read_file(framed, length);
        free(framed);
    }
    FUZZ_CHECK(fm_base_mem_live() == 0);
    return 0;
}
