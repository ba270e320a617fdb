/* What holds for every document, whichever parser accepted it. */
#ifndef DOC_FUZZ_TREE_H
#define DOC_FUZZ_TREE_H

#include "../test/doc_compare.h"
#include "fathom/mem.h"
#include "fuzz_check.h"

/** Lines never go back in document order, and every member is found under its key. */
static inline int doc_fuzz_lines(const fm_doc *node, int line)
{
    FUZZ_CHECK(fm_base_doc_line(node) >= line);
    line = fm_base_doc_line(node);
    for (size_t i = 0; i < fm_base_doc_count(node); i++) {
        const char *key = fm_base_doc_key(node, i);
        FUZZ_CHECK(!key || fm_base_doc_get(node, key) == fm_base_doc_at(node, i));
        line = doc_fuzz_lines(fm_base_doc_at(node, i), line);
    }
    return line;
}

/** Written as JSON and read again, the tree is the same. Frees it. */
static inline void doc_fuzz_tree(fm_doc *root)
{
    doc_fuzz_lines(root, 1);
    fm_json json = {.pretty = 1};
    doc_rewrite(&json, NULL, root);
    FUZZ_CHECK(json.status == FM_OK ||
               json.status == FM_ERR_LIMIT); // the writer nests 64 deep, the readers 256
    if (json.status == FM_OK) {
        fm_doc *again;
        FUZZ_CHECK(fm_base_doc_parse_json(json.text, json.length, "again", &again) == FM_OK);
        FUZZ_CHECK(doc_equal(root, again));
        fm_base_doc_free(again);
    }
    (void)!fm_base_json_finish(&json, NULL);
    fm_base_doc_free(root);
    FUZZ_CHECK(fm_base_mem_live() == 0);
}

#endif
