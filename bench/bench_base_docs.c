#include "bench_base.h"

#include "fathom/doc.h"
#include "fathom/mem.h"
#include "fathom/rng.h"
#include "fathom/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct text {
    char *bytes;
    size_t size;
    uint64_t result;
};

static void teardown(void *state)
{
    struct text *text = state;
    fm_base_mem_free(text->bytes);
    fm_base_mem_free(text);
}

// Moves what was written to `text`, behind `gap` bytes.
static fm_status take(fm_json *json, size_t gap, struct text *text)
{
    text->size = gap + json->length;
    text->bytes = fm_base_mem_alloc(text->size);
    if (text->bytes && json->status == FM_OK)
        memcpy(text->bytes + gap, json->text, json->length);
    fm_status status = fm_base_json_finish(json, NULL);
    return status == FM_OK && !text->bytes ? fm_base_error_set(FM_ERR_NOMEM, "no memory for the text")
                                           : status;
}

// Events as traces have them: half of the bytes are names and keys, half numbers.
static fm_status write_events(uint64_t seed, int count, struct text *text)
{
    fm_rng rng = fm_base_rng_begin(seed, 0);
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer_%d/expert_%d", (int)fm_base_rng_below(&rng, 61),
                 (int)fm_base_rng_below(&rng, 256));
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_string(&json, "name", name);
        fm_base_json_int(&json, "ts", (int64_t)fm_base_rng_below(&rng, 1000000000));
        fm_base_json_real(&json, "dur", fm_rng_double(&rng) * 1000);
        fm_base_json_begin(&json, "args", '{');
        fm_base_json_int(&json, "tokens", (int64_t)fm_base_rng_below(&rng, 4096));
        fm_base_json_bool(&json, "last", i + 1 == count);
        fm_base_json_end(&json);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    return take(&json, 0, text);
}

// The header of a checkpoint shard with this many small tensors, and their bytes.
static fm_status write_shard(int count, struct text *text)
{
    enum { TENSOR_BYTES = 32, LENGTH_BYTES = 8 };
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    for (int i = 0; i < count; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.mlp.experts.%d.gate_proj.weight", i / 256, i % 256);
        fm_base_json_begin(&json, name, '{');
        fm_base_json_string(&json, "dtype", "BF16");
        fm_base_json_begin(&json, "shape", '[');
        fm_base_json_int(&json, NULL, 4);
        fm_base_json_int(&json, NULL, 4);
        fm_base_json_end(&json);
        fm_base_json_begin(&json, "data_offsets", '[');
        fm_base_json_int(&json, NULL, (int64_t)i * TENSOR_BYTES);
        fm_base_json_int(&json, NULL, (int64_t)(i + 1) * TENSOR_BYTES);
        fm_base_json_end(&json);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    FM_TRY(take(&json, LENGTH_BYTES, text));
    size_t header = text->size;
    char *bytes = fm_base_mem_realloc(text->bytes, header + (size_t)count * TENSOR_BYTES, 1);
    if (!bytes)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the shard");
    fm_put_le64(bytes, header - LENGTH_BYTES);
    memset(bytes + header, 1, (size_t)count * TENSOR_BYTES);
    text->bytes = bytes;
    text->size = header + (size_t)count * TENSOR_BYTES;
    return FM_OK;
}

static fm_status setup_with(const fm_bench_setup *given, int is_shard, void **out_state)
{
    struct text *text = fm_base_mem_zalloc(1, sizeof *text);
    if (!text)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    int count = *(const int *)given->argument;
    fm_status status = is_shard ? write_shard(count, text) : write_events(given->seed, count, text);
    if (status < 0) {
        teardown(text);
        return status;
    }
    *out_state = text;
    return FM_OK;
}

static fm_status setup_events(const fm_bench_setup *given, void **out_state)
{
    return setup_with(given, 0, out_state);
}

static fm_status setup_shard(const fm_bench_setup *given, void **out_state)
{
    return setup_with(given, 1, out_state);
}

static uint64_t hash(const void *state)
{
    const struct text *text = state;
    return text->result;
}

static fm_status run_parse(void *state, int threads)
{
    (void)threads;
    struct text *text = state;
    fm_doc *root;
    FM_TRY(fm_base_doc_parse_json(text->bytes, text->size, "events", &root));
    size_t count = fm_base_doc_count(root);
    int64_t stamp;
    fm_status status =
        fm_base_doc_int(fm_base_doc_get(fm_base_doc_at(root, count - 1), "ts"), "ts", 0, INT64_MAX, &stamp);
    fm_base_doc_free(root);
    FM_TRY(status);
    const uint64_t found[2] = {count, (uint64_t)stamp};
    text->result = fm_bench_hash(0, found, sizeof found);
    return FM_OK;
}

static fm_status run_jansson(void *state, int threads)
{
    (void)threads;
    struct text *text = state;
    json_t *root = json_loadb(text->bytes, text->size, JSON_REJECT_DUPLICATES, NULL);
    if (!root)
        return fm_base_error_set(FM_ERR_FORMAT, "jansson refuses the text");
    const uint64_t found[2] = {
        json_array_size(root),
        (uint64_t)json_integer_value(json_object_get(json_array_get(root, json_array_size(root) - 1), "ts"))};
    text->result = fm_bench_hash(0, found, sizeof found);
    json_decref(root);
    return FM_OK;
}

static fm_status run_open(void *state, int threads)
{
    (void)threads;
    struct text *text = state;
    fm_safetensors *file;
    FM_TRY(fm_base_safetensors_open_memory(text->bytes, text->size, "shard", &file));
    text->result = fm_base_safetensors_count(file);
    fm_base_safetensors_close(file);
    return FM_OK;
}

// The header alone, parsed and not checked: what reading it costs at least on this way.
static fm_status run_jansson_header(void *state, int threads)
{
    (void)threads;
    struct text *text = state;
    json_t *root = json_loadb(text->bytes + 8, fm_get_le64(text->bytes), 0, NULL);
    if (!root)
        return fm_base_error_set(FM_ERR_FORMAT, "jansson refuses the header");
    text->result = json_object_size(root);
    json_decref(root);
    return FM_OK;
}

fm_status fm_bench_base_add_docs(fm_bench *bench)
{
    static const int few = 100;
    static const int many = 100000;
    static const int tensors = 10000; // a shard of DeepSeek-V3 has 500 to 900; a merged checkpoint 90,000
    fm_bench_case item = {
        .name = "json.100_events",
        .argument = &few,
        .items = few,
        .mode = FM_BENCH_IN_SMOKE,
        .threads = 1,
        .setup = setup_events,
        .run = run_parse,
        .hash = hash,
        .teardown = teardown,
        .peers = {{.name = "jansson", .run = run_jansson, .same_result = 1}},
    };
    FM_TRY(fm_bench_add(bench, &item));
    item.name = "json.100k_events";
    item.argument = &many;
    item.items = many;
    item.mode = FM_BENCH_IN_QUICK;
    FM_TRY(fm_bench_add(bench, &item));
    return fm_bench_add(
        bench, &(fm_bench_case){
                   .name = "safetensors.10k_tensors",
                   .argument = &tensors,
                   .items = tensors,
                   .mode = FM_BENCH_IN_SMOKE,
                   .threads = 1,
                   .setup = setup_shard,
                   .run = run_open,
                   .hash = hash,
                   .teardown = teardown,
                   .peers = {{.name = "jansson_header", .run = run_jansson_header, .same_result = 1}},
               });
}
