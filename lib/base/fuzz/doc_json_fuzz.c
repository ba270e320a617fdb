// Any bytes as a document: refused, or a sound tree.
#include "doc_fuzz_tree.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_doc *root;
    if (fm_base_doc_parse_json((const char *)data, size, "fuzz", &root) == FM_OK)
        doc_fuzz_tree(root);
    FUZZ_CHECK(fm_base_mem_live() == 0);
    return 0;
}
