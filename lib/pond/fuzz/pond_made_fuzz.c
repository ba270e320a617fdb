// Any bytes are read as what a task says that it made: they come from executors of other machines, and from disks.
#include <stdlib.h>

#include "fathom/mem.h"
#include "pond_run.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_pond_made made = {.done = 0};
    if (fm_pond_made_read((const char *)data, size, &made) == FM_OK && (!made.parts || !made.columns))
        abort();
    fm_base_mem_free(made.parts);
    fm_base_mem_free(made.columns);
    return 0;
}
