#include "eplb_files.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/mem.h"
#include "fathom/npy.h"

enum {
    // 58 layers of 256 experts are 15 thousand loads; a thousand times that is surely another kind of file.
    LOADS_MAX = 1 << 24,
    FILE_BYTES_MAX = 1 << 30,
};

// Room for one more load; NULL when there is none.
static float *next_load(struct fm_eplb_loads *loads, size_t count, size_t *capacity)
{
    if (count < *capacity)
        return loads->weight + count;
    size_t wanted = *capacity ? 2 * *capacity : 1024;
    float *moved = count < LOADS_MAX ? fm_base_mem_realloc(loads->weight, wanted, sizeof *moved) : NULL;
    if (!moved)
        return NULL;
    loads->weight = moved;
    *capacity = wanted;
    return moved + count;
}

static fm_status too_many(size_t count)
{
    if (count >= LOADS_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "more than %d loads", LOADS_MAX);
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for more than %zu loads", count);
}

static fm_status check_load(double value, const char *name, int line, int column)
{
    if (!(value >= 0) || isinf((float)value))
        return fm_base_error_set(FM_ERR_FORMAT, "%s:%d: load %d is %g; expected a finite number, 0 or more",
                                 name, line, column, value);
    return FM_OK;
}

// Skips blanks that do not end the line.
static const char *skip_blanks(const char *at)
{
    while (*at == ' ' || *at == '\t' || *at == '\r')
        at++;
    return at;
}

// One line: numbers with commas between. *out_columns is how many.
static fm_status read_csv_line(struct fm_eplb_loads *loads, size_t *count, size_t *capacity, const char *at,
                               const char *name, int line, int *out_columns)
{
    for (int column = 1;; column++) {
        at = skip_blanks(at);
        char *end;
        double value = strtod(at, &end);
        if (end == at || *at == '\n')
            return fm_base_error_set(FM_ERR_FORMAT, "%s:%d: load %d is \"%.*s\"; expected a number", name,
                                     line, column, (int)strcspn(at, ",\r\n"), at);
        FM_TRY(check_load(value, name, line, column));
        float *load = next_load(loads, *count, capacity);
        if (!load)
            return too_many(*count);
        *load = (float)value;
        ++*count;
        at = skip_blanks(end);
        *out_columns = column;
        if (*at == '\n' || *at == 0)
            return FM_OK;
        if (*at++ != ',')
            return fm_base_error_set(
                FM_ERR_FORMAT, "%s:%d: \"%.*s\" follows load %d; expected a comma or the end of the line",
                name, line, (int)strcspn(at - 1, ",\r\n"), at - 1, column);
    }
}

static fm_status read_csv(const char *text, const char *name, struct fm_eplb_loads *loads)
{
    size_t count = 0;
    size_t capacity = 0;
    int line = 1;
    for (const char *at = text; *at; line++) {
        const char *first = skip_blanks(at);
        size_t length = strcspn(at, "\n");
        if (*first != '\n' && *first != '#' && *first != 0) {
            int columns = 0;
            FM_TRY(read_csv_line(loads, &count, &capacity, first, name, line, &columns));
            if (loads->layers > 0 && columns != loads->experts)
                return fm_base_error_set(FM_ERR_FORMAT, "%s:%d: %d loads; expected %d as in the lines before",
                                         name, line, columns, loads->experts);
            loads->experts = columns;
            loads->layers++;
        }
        at += length + (at[length] == '\n');
    }
    if (loads->layers == 0)
        return fm_base_error_set(FM_ERR_FORMAT,
                                 "%s holds no loads; expected a line of numbers for each layer", name);
    return FM_OK;
}

static fm_status read_json_rows(const fm_doc *rows, const char *name, struct fm_eplb_loads *loads)
{
    FM_TRY(fm_base_doc_expect(rows, "weight", FM_DOC_ARRAY));
    size_t capacity = 0;
    size_t count = 0;
    for (size_t layer = 0; layer < fm_base_doc_count(rows); layer++) {
        const fm_doc *row = fm_base_doc_at(rows, layer);
        FM_TRY(fm_base_doc_expect(row, "a layer's loads", FM_DOC_ARRAY));
        if (layer > 0 && fm_base_doc_count(row) != (size_t)loads->experts)
            return fm_base_doc_error(FM_ERR_FORMAT, row,
                                     "layer %zu has %zu loads; expected %d as in the layers before", layer,
                                     fm_base_doc_count(row), loads->experts);
        if (fm_base_doc_count(row) >= LOADS_MAX)
            return fm_base_doc_error(FM_ERR_LIMIT, row, "more than %d loads", LOADS_MAX);
        loads->experts = (int)fm_base_doc_count(row);
        for (size_t e = 0; e < fm_base_doc_count(row); e++) {
            const fm_doc *node = fm_base_doc_at(row, e);
            double value = 0;
            FM_TRY(fm_base_doc_real(node, "a load", &value));
            FM_TRY(check_load(value, name, fm_base_doc_line(node), (int)e + 1));
            float *load = next_load(loads, count, &capacity);
            if (!load)
                return too_many(count);
            *load = (float)value;
            count++;
        }
        loads->layers++;
    }
    if (count == 0)
        return fm_base_doc_error(FM_ERR_FORMAT, rows,
                                 "there are no loads; expected a list of numbers for each layer");
    return FM_OK;
}

static fm_status read_json(const char *text, size_t length, const char *name, struct fm_eplb_loads *loads)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_parse_json(text, length, name, &root));
    const fm_doc *rows = root;
    fm_status status = FM_OK;
    if (fm_base_doc_type(root) == FM_DOC_OBJECT) {
        rows = fm_base_doc_get(root, "weight");
        if (!rows)
            status = fm_base_doc_error(FM_ERR_FORMAT, root,
                                       "there is no \"weight\"; expected {\"weight\": [[...], ...]}");
    }
    if (status == FM_OK)
        status = read_json_rows(rows, name, loads);
    fm_base_doc_free(root);
    return status;
}

static fm_status read_npy(const char *bytes, size_t length, const char *path, const char *name,
                          struct fm_eplb_loads *loads)
{
    fm_tensor shape;
    FM_TRY(fm_base_npy_parse(bytes, length, name, &shape));
    if (shape.ndim < 1 || shape.ndim > 2)
        return fm_base_error_set(FM_ERR_FORMAT, "%s has %d dimensions; expected 2: layers and experts", name,
                                 shape.ndim);
    if (fm_base_tensor_count(&shape) < 1 || fm_base_tensor_count(&shape) > LOADS_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "%s holds %lld loads; expected 1 to %d", name,
                                 (long long)fm_base_tensor_count(&shape), LOADS_MAX);
    if (!path)
        return fm_base_error_set(FM_ERR_UNSUPPORTED,
                                 "%s is an .npy array; expected CSV or JSON there, or a file name", name);
    fm_tensor tensor;
    FM_TRY(fm_base_npy_load_f32(path, &tensor));
    loads->weight = tensor.data;
    loads->layers = tensor.ndim == 2 ? (int)tensor.shape[0] : 1;
    loads->experts = (int)tensor.shape[tensor.ndim - 1];
    for (int layer = 0; layer < loads->layers; layer++)
        for (int e = 0; e < loads->experts; e++) {
            double value = (double)loads->weight[(size_t)layer * (size_t)loads->experts + (size_t)e];
            if (!(value >= 0) || isinf(value))
                return fm_base_error_set(FM_ERR_FORMAT,
                                         "%s: element [%d, %d] is %g; expected a finite number, 0 or more",
                                         name, layer, e, value);
        }
    return FM_OK;
}

fm_status fm_app_eplb_loads_read(const char *path, struct fm_eplb_loads *out_loads)
{
    const char *file = strcmp(path, "-") == 0 ? NULL : path;
    const char *name = file ? path : "<standard input>";
    char *text = NULL;
    size_t length = 0;
    FM_TRY(fm_base_file_read(file, FILE_BYTES_MAX, &text, &length));
    struct fm_eplb_loads loads = {0};
    fm_status status;
    size_t first = 0;
    while (first < length && isspace((unsigned char)text[first]))
        first++;
    if (length >= 6 && memcmp(text, "\x93NUMPY", 6) == 0) {
        status = read_npy(text, length, file, name, &loads);
    } else if (first < length && (text[first] == '{' || text[first] == '[')) {
        status = read_json(text, length, name, &loads);
    } else {
        char *terminated = memchr(text, 0, length) ? NULL : fm_base_mem_realloc(text, length + 1, 1);
        if (terminated) {
            text = terminated;
            text[length] = 0;
            status = read_csv(text, name, &loads);
        } else {
            status = memchr(text, 0, length)
                         ? fm_base_error_set(FM_ERR_FORMAT, "%s is neither CSV nor JSON nor .npy", name)
                         : fm_base_error_set(FM_ERR_NOMEM, "no memory to read %s", name);
        }
    }
    fm_base_mem_free(text);
    if (status == FM_OK)
        *out_loads = loads;
    else
        fm_app_eplb_loads_free(&loads);
    return status;
}

void fm_app_eplb_loads_free(struct fm_eplb_loads *loads)
{
    fm_base_mem_free(loads->weight);
    *loads = (struct fm_eplb_loads){0};
}

static fm_status read_rows(const fm_doc *root, struct fm_eplb_plan_file *plan)
{
    const fm_doc *rows = fm_base_doc_get(root, "phy2log");
    FM_TRY(fm_base_doc_expect(rows, "phy2log", FM_DOC_ARRAY));
    size_t layers = fm_base_doc_count(rows);
    size_t slots = fm_base_doc_count(fm_base_doc_at(rows, 0));
    if (layers < 1 || slots < 1 || layers > LOADS_MAX / slots)
        return fm_base_doc_error(FM_ERR_FORMAT, rows,
                                 "phy2log is %zu layers of %zu slots; expected at least 1 of each", layers,
                                 slots);
    plan->phy2log = fm_base_mem_zalloc(layers * slots, sizeof(int32_t));
    if (!plan->phy2log)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan of %zu layers", layers);
    plan->layers = (int)layers;
    plan->slots = (int)slots;
    for (size_t layer = 0; layer < layers; layer++) {
        const fm_doc *row = fm_base_doc_at(rows, layer);
        FM_TRY(fm_base_doc_expect(row, "a layer of phy2log", FM_DOC_ARRAY));
        if (fm_base_doc_count(row) != slots)
            return fm_base_doc_error(FM_ERR_FORMAT, row,
                                     "layer %zu has %zu slots; expected %zu as in the layers before", layer,
                                     fm_base_doc_count(row), slots);
        for (size_t slot = 0; slot < slots; slot++) {
            int64_t expert = 0;
            FM_TRY(fm_base_doc_int(fm_base_doc_at(row, slot), "an expert of phy2log", -1, 65534, &expert));
            plan->phy2log[layer * slots + slot] = (int32_t)expert;
            plan->experts = expert >= plan->experts ? (int)expert + 1 : plan->experts;
        }
    }
    return FM_OK;
}

static fm_status read_speeds(const fm_doc *root, struct fm_eplb_plan_file *plan)
{
    const fm_doc *list = fm_base_doc_get(root, "gpu_speeds");
    if (!list)
        return FM_OK;
    FM_TRY(fm_base_doc_expect(list, "gpu_speeds", FM_DOC_ARRAY));
    if (fm_base_doc_count(list) != (size_t)plan->gpus)
        return fm_base_doc_error(FM_ERR_FORMAT, list,
                                 "gpu_speeds has %zu entries; expected %d, one for each GPU",
                                 fm_base_doc_count(list), plan->gpus);
    plan->gpu_speeds = fm_base_mem_zalloc((size_t)plan->gpus, sizeof(double));
    if (!plan->gpu_speeds)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan of %d GPUs", plan->gpus);
    for (int gpu = 0; gpu < plan->gpus; gpu++) {
        const fm_doc *node = fm_base_doc_at(list, (size_t)gpu);
        double *speed = &plan->gpu_speeds[gpu];
        FM_TRY(fm_base_doc_real(node, "a speed", speed));
        if (!(*speed > 0) || isinf(*speed))
            return fm_base_doc_error(FM_ERR_FORMAT, node, "a speed is %g; expected a finite number above 0",
                                     *speed);
    }
    return FM_OK;
}

static fm_status read_gpus(const fm_doc *root, struct fm_eplb_plan_file *plan)
{
    int64_t gpus = 0;
    FM_TRY(fm_base_doc_int(fm_base_doc_get(root, "gpus"), "gpus", 1, 65535, &gpus));
    plan->gpus = (int)gpus;
    plan->gpu_slots = fm_base_mem_zalloc((size_t)gpus, sizeof(int32_t));
    plan->slot_begin = fm_base_mem_zalloc((size_t)gpus + 1, sizeof(int32_t));
    if (!plan->gpu_slots || !plan->slot_begin)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a plan of %lld GPUs", (long long)gpus);
    const fm_doc *list = fm_base_doc_get(root, "gpu_slots");
    if (list) {
        FM_TRY(fm_base_doc_expect(list, "gpu_slots", FM_DOC_ARRAY));
        if (fm_base_doc_count(list) != (size_t)gpus)
            return fm_base_doc_error(FM_ERR_FORMAT, list,
                                     "gpu_slots has %zu entries; expected %lld, one for each GPU",
                                     fm_base_doc_count(list), (long long)gpus);
    } else if (plan->slots % plan->gpus != 0) {
        return fm_base_doc_error(FM_ERR_FORMAT, root,
                                 "%d slots on %d GPUs; expected a multiple, or gpu_slots", plan->slots,
                                 plan->gpus);
    }
    for (int gpu = 0; gpu < plan->gpus; gpu++) {
        int64_t here = plan->slots / plan->gpus;
        if (list)
            FM_TRY(fm_base_doc_int(fm_base_doc_at(list, (size_t)gpu), "an entry of gpu_slots", 0,
                                   plan->slots - plan->slot_begin[gpu], &here));
        plan->gpu_slots[gpu] = (int32_t)here;
        plan->slot_begin[gpu + 1] = plan->slot_begin[gpu] + (int32_t)here;
    }
    if (plan->slot_begin[plan->gpus] != plan->slots)
        return fm_base_doc_error(FM_ERR_FORMAT, list,
                                 "gpu_slots sum to %d; expected %d, the slots of phy2log",
                                 (int)plan->slot_begin[plan->gpus], plan->slots);
    return FM_OK;
}

fm_status fm_app_eplb_plan_read(const char *path, struct fm_eplb_plan_file *out_plan)
{
    fm_doc *root;
    FM_TRY(fm_base_doc_load(path, &root));
    struct fm_eplb_plan_file plan = {0};
    fm_status status = fm_base_doc_expect(root, "a plan", FM_DOC_OBJECT);
    if (status == FM_OK)
        status = read_rows(root, &plan);
    if (status == FM_OK)
        status = read_gpus(root, &plan);
    if (status == FM_OK)
        status = read_speeds(root, &plan);
    const fm_doc *experts = fm_base_doc_get(root, "experts");
    if (status == FM_OK && experts) {
        int64_t count = 0;
        status = fm_base_doc_int(experts, "experts", plan.experts, 65535, &count);
        plan.experts = (int)count;
        plan.names_experts = 1;
    }
    fm_base_doc_free(root);
    if (status == FM_OK)
        *out_plan = plan;
    else
        fm_app_eplb_plan_free(&plan);
    return status;
}

fm_status fm_app_eplb_plan_check(const struct fm_eplb_plan_file *plan, const char *path,
                                 const struct fm_eplb_loads *loads, int gpus)
{
    int experts_fit = plan->names_experts ? plan->experts == loads->experts : plan->experts <= loads->experts;
    if (plan->layers == loads->layers && experts_fit && plan->gpus == gpus)
        return FM_OK;
    return fm_base_error_set(FM_ERR_ARG,
                             "%s is a plan of %d layers and %d experts on %d GPUs; expected %d layers and %d "
                             "experts on %d GPUs",
                             path, plan->layers, plan->experts, plan->gpus, loads->layers, loads->experts,
                             gpus);
}

void fm_app_eplb_plan_free(struct fm_eplb_plan_file *plan)
{
    fm_base_mem_free(plan->phy2log);
    fm_base_mem_free(plan->slot_begin);
    fm_base_mem_free(plan->gpu_slots);
    fm_base_mem_free(plan->gpu_speeds);
    *plan = (struct fm_eplb_plan_file){0};
}
