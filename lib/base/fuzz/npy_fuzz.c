// Any bytes as a .npy file: refused, or an array whose every element lies in the file. Each input is read twice: as it
// is, and as a header behind its proper prefix (the first byte says how many bytes of elements follow).
#include <string.h>

#include "fathom/mem.h"
#include "fathom/npy.h"
#include "fuzz_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_file(const uint8_t *bytes, size_t length)
{
    fm_tensor tensor;
    if (fm_base_npy_parse(bytes, length, "fuzz", &tensor) < 0)
        return;
    size_t size;
    FUZZ_CHECK(fm_base_tensor_bytes(tensor.dtype, tensor.ndim, tensor.shape, &size) == FM_OK);
    FUZZ_CHECK((const uint8_t *)tensor.data + size == bytes + length);
    // The first element is the first of the data, the last by strides is the last.
    int64_t last = 0;
    for (int i = 0; i < tensor.ndim; i++)
        last += (tensor.shape[i] - 1) * tensor.stride[i];
    FUZZ_CHECK(size == 0 || (size_t)(last + 1) * (size_t)fm_base_dtype_bits(tensor.dtype) / 8 == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_file(data, size);
    if (size > 0 && size - 1 <= UINT16_MAX) {
        static const uint8_t prefix[8] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
        size_t length = 10 + (size - 1) + data[0];
        uint8_t *framed = calloc(length, 1);
        FUZZ_CHECK(framed);
        memcpy(framed, prefix, sizeof prefix);
        fm_put_le16(framed + 8, (uint16_t)(size - 1));
        memcpy(framed + 10, data + 1, size - 1);
        read_file(framed, length);
        free(framed);
    }
    return 0;
}
