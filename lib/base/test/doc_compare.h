/* What tests and fuzz targets of documents share: writing a tree as JSON, and comparing two trees. */
#ifndef DOC_COMPARE_H
#define DOC_COMPARE_H

#include <math.h>
#include <string.h>

#include "fathom/doc.h"

/** Reads a scalar; the type was looked at, so it cannot fail. */
#define DOC_READ(call) ((void)!(call))

/** Writes the node under `key`. */
static inline void doc_rewrite(fm_json *json, const char *key, const fm_doc *node)
{
    int64_t integer = 0;
    double real = 0;
    int truth = 0;
    const char *text = NULL;
    switch (fm_base_doc_type(node)) {
    case FM_DOC_NULL:
        fm_base_json_null(json, key);
        break;
    case FM_DOC_BOOL:
        DOC_READ(fm_base_doc_bool(node, "bool", &truth));
        fm_base_json_bool(json, key, truth);
        break;
    case FM_DOC_INT:
        DOC_READ(fm_base_doc_int(node, "int", INT64_MIN, INT64_MAX, &integer));
        fm_base_json_int(json, key, integer);
        break;
    case FM_DOC_REAL:
        DOC_READ(fm_base_doc_real(node, "real", &real));
        fm_base_json_real(json, key, real);
        break;
    case FM_DOC_STRING:
        DOC_READ(fm_base_doc_string(node, "string", &text));
        fm_base_json_string(json, key, text);
        break;
    case FM_DOC_ARRAY:
    case FM_DOC_OBJECT:
        fm_base_json_begin(json, key, fm_base_doc_type(node) == FM_DOC_OBJECT ? '{' : '[');
        for (size_t i = 0; i < fm_base_doc_count(node); i++)
            doc_rewrite(json, fm_base_doc_key(node, i), fm_base_doc_at(node, i));
        fm_base_json_end(json);
        break;
    }
}

/** True when both trees hold the same values in the same order; lines may differ. */
static inline int doc_equal(const fm_doc *a, const fm_doc *b)
{
    if (fm_base_doc_type(a) != fm_base_doc_type(b) || fm_base_doc_count(a) != fm_base_doc_count(b))
        return 0;
    double reals[2] = {0};
    const char *texts[2] = {"", ""};
    int64_t integers[2] = {0};
    const fm_doc *nodes[2] = {a, b};
    for (int i = 0; i < 2; i++) {
        int truth = 0;
        switch (fm_base_doc_type(nodes[i])) {
        case FM_DOC_BOOL:
            DOC_READ(fm_base_doc_bool(nodes[i], "bool", &truth));
            integers[i] = truth;
            break;
        case FM_DOC_INT:
            DOC_READ(fm_base_doc_int(nodes[i], "int", INT64_MIN, INT64_MAX, &integers[i]));
            break;
        case FM_DOC_REAL:
            DOC_READ(fm_base_doc_real(nodes[i], "real", &reals[i]));
            break;
        case FM_DOC_STRING:
            DOC_READ(fm_base_doc_string(nodes[i], "string", &texts[i]));
            break;
        default:
            break;
        }
    }
    if (integers[0] != integers[1] || reals[0] != reals[1] || signbit(reals[0]) != signbit(reals[1]) ||
        strcmp(texts[0], texts[1]) != 0)
        return 0;
    for (size_t i = 0; i < fm_base_doc_count(a); i++) {
        const char *key = fm_base_doc_key(a, i);
        const char *other = fm_base_doc_key(b, i);
        if ((key && strcmp(key, other) != 0) || !doc_equal(fm_base_doc_at(a, i), fm_base_doc_at(b, i)))
            return 0;
    }
    return 1;
}

#endif
