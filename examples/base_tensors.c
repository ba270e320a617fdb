// Writes two tensors to a safetensors file and reads them back through a mapping.
#include <inttypes.h>
#include <stdio.h>

#include "fathom/safetensors.h"

static fm_status round_trip(const char *path)
{
    float bias[3] = {0.5f, -1, 2};
    uint16_t codes[2][2] = {{0x3F80, 0xBF80}, {0, 0x4000}}; // BF16: 1, -1, 0, 2
    const char *names[] = {"bias", "weight"};
    fm_tensor tensors[2];
    FM_TRY(fm_base_tensor_init(&tensors[0], FM_DTYPE_F32, 1, (int64_t[]){3}, bias));
    FM_TRY(fm_base_tensor_init(&tensors[1], FM_DTYPE_BF16, 2, (int64_t[]){2, 2}, codes));
    FM_TRY(fm_base_safetensors_write(path, names, tensors, 2, NULL));

    fm_safetensors *file;
    FM_TRY(fm_base_safetensors_open(path, &file));
    for (size_t i = 0; i < fm_base_safetensors_count(file); i++) {
        const fm_tensor *tensor = fm_base_safetensors_at(file, i);
        printf("%s: %s, %" PRId64 " elements\n", fm_base_safetensors_name(file, i),
               fm_base_dtype_name(tensor->dtype), fm_base_tensor_count(tensor));
    }
    fm_base_safetensors_close(file);
    return FM_OK;
}

int main(void)
{
    const char *path = "example.safetensors";
    fm_status status = round_trip(path);
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    remove(path);
    return status < 0;
}
