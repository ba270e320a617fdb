/* The trainer's calls where its ranks are processes: each becomes a request. */
#include <limits.h>
#include <stdio.h>

#include "model_front.h"

static size_t ids_bytes(const struct fm_trainer *trainer, int sequences, int length)
{
    size_t width = (size_t)length + 1 + (size_t)trainer->model.config.predict_layers;
    return (size_t)sequences * width * sizeof(int32_t);
}

fm_status fm_model_front_step(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                              fm_model_step_result *out_result)
{
    struct fm_model_front_reply reply;
    FM_TRY(fm_model_front_ask(trainer, FM_MODEL_FRONT_STEP, sequences, length, ids,
                              ids_bytes(trainer, sequences, length), &reply, NULL));
    *out_result = reply.result;
    return FM_OK;
}

fm_status fm_model_front_evaluate(struct fm_trainer *trainer, const int32_t *ids, int sequences, int length,
                                  double *out_loss)
{
    struct fm_model_front_reply reply;
    FM_TRY(fm_model_front_ask(trainer, FM_MODEL_FRONT_EVALUATE, sequences, length, ids,
                              ids_bytes(trainer, sequences, length), &reply, NULL));
    *out_loss = reply.loss;
    return FM_OK;
}

int64_t fm_model_front_products(struct fm_trainer *trainer, fm_dtype dtype)
{
    struct fm_model_front_reply reply;
    fm_status status =
        fm_model_front_ask(trainer, FM_MODEL_FRONT_PRODUCTS, (int32_t)dtype, 0, NULL, 0, &reply, NULL);
    return status < 0 ? 0 : reply.number;
}

fm_status fm_model_front_export(struct fm_trainer *trainer, fm_dtype dtype, const char *folder)
{
    struct fm_model_front_reply reply;
    return fm_model_front_ask(trainer, FM_MODEL_FRONT_EXPORT, (int32_t)dtype, 0, folder, strlen(folder) + 1,
                              &reply, NULL);
}

// A name (NULL: none) and notes, 0-terminated one after the other; the caller's to free.
static char *join(const char *name, const char *const *notes, size_t *out_bytes)
{
    size_t bytes = name ? strlen(name) + 1 : 0, at = bytes;
    for (const char *const *note = notes; note && *note; note++)
        bytes += strlen(*note) + 1;
    char *joined = fm_base_mem_alloc(bytes + 1);
    if (!joined)
        return NULL;
    if (name)
        memcpy(joined, name, at);
    for (const char *const *note = notes; note && *note; note++) {
        size_t size = strlen(*note) + 1;
        memcpy(joined + at, *note, size);
        at += size;
    }
    *out_bytes = bytes;
    return joined;
}

static fm_status no_memory(void)
{
    return fm_base_error_set(FM_ERR_NOMEM, "no memory for a request to the ranks");
}

fm_status fm_model_front_save(struct fm_trainer *trainer, const char *path, const char *const *notes)
{
    struct fm_model_front_reply reply;
    size_t bytes;
    char *payload = join(path, notes, &bytes);
    if (!payload)
        return no_memory();
    fm_status status = fm_model_front_ask(trainer, FM_MODEL_FRONT_SAVE, 0, 0, payload, bytes, &reply, NULL);
    fm_base_mem_free(payload);
    return status;
}

fm_status fm_model_front_pack(struct fm_trainer *trainer, const char *const *notes, void **out_bytes,
                              size_t *out_length)
{
    struct fm_model_front_reply reply;
    size_t bytes;
    void *data = NULL;
    char *payload = join(NULL, notes, &bytes);
    if (!payload)
        return no_memory();
    fm_status status = fm_model_front_ask(trainer, FM_MODEL_FRONT_PACK, 0, 0, payload, bytes, &reply, &data);
    fm_base_mem_free(payload);
    FM_TRY(status);
    *out_bytes = data;
    *out_length = (size_t)reply.bytes;
    return FM_OK;
}

// Requests after which experts may lie elsewhere answer with the map.
static fm_status ask_map(struct fm_trainer *trainer, enum fm_model_front_op op, int32_t b,
                         const void *payload, size_t bytes, struct fm_model_front_reply *out_reply)
{
    void *map = NULL;
    FM_TRY(fm_model_front_ask(trainer, op, 0, b, payload, bytes, out_reply, &map));
    if (out_reply->bytes == trainer->front->map_count * sizeof *trainer->front->expert_in && map)
        memcpy(trainer->front->expert_in, map, (size_t)out_reply->bytes);
    fm_base_mem_free(map);
    return FM_OK;
}

fm_status fm_model_front_load(struct fm_trainer *trainer, const char *path)
{
    struct fm_model_front_reply reply;
    return ask_map(trainer, FM_MODEL_FRONT_LOAD, 0, path, strlen(path) + 1, &reply);
}

fm_status fm_model_front_unpack(struct fm_trainer *trainer, const void *bytes, size_t length,
                                const char *name)
{
    struct fm_model_front_reply reply;
    size_t head =
        fm_round_up(strlen(name) + 1, sizeof(uint64_t)); // a file in memory wants its header aligned
    char *payload = length < SIZE_MAX - head && head < INT_MAX ? fm_base_mem_zalloc(head + length, 1) : NULL;
    if (!payload)
        return no_memory();
    memcpy(payload, name, strlen(name) + 1);
    memcpy(payload + head, bytes, length);
    fm_status status = ask_map(trainer, FM_MODEL_FRONT_UNPACK, (int32_t)head, payload, head + length, &reply);
    fm_base_mem_free(payload);
    return status;
}

fm_status fm_model_front_place(struct fm_trainer *trainer, const int32_t *expert_in, int64_t *out_moved)
{
    struct fm_model_front_reply reply;
    FM_TRY(ask_map(trainer, FM_MODEL_FRONT_PLACE, 0, expert_in, trainer->front->map_count * sizeof *expert_in,
                   &reply));
    *out_moved = reply.number;
    return FM_OK;
}

fm_status fm_model_trainer_record(fm_trainer *trainer, const char *path)
{
    struct fm_model_front_reply reply;
    if (!trainer->front)
        return FM_OK;
    return fm_model_front_ask(trainer, FM_MODEL_FRONT_RECORD, 0, 0, path, path ? strlen(path) + 1 : 0, &reply,
                              NULL);
}
