#include "model_trainer.h"

enum { FIRST_ITEMS = 64 };

static int grow(struct fm_model_queue *queue)
{
    if (queue->count < queue->capacity)
        return 1;
    int capacity = queue->capacity ? 2 * queue->capacity : FIRST_ITEMS;
    void *items = fm_base_mem_realloc(queue->items, (size_t)capacity, sizeof *queue->items);
    if (!items)
        return 0;
    queue->items = items;
    queue->capacity = capacity;
    return 1;
}

void fm_model_queue_add(struct fm_model_queue *queue, int64_t rows, const float *x,
                        const struct fm_model_weight *weight, const float *dy)
{
    if (rows == 0)
        return;
    // A copy: gradients of rows are changed where they lie as backward goes on.
    size_t cells = (size_t)(rows * weight->rows);
    float *copy = grow(queue) ? fm_model_scratch_take(&queue->scratch, cells) : NULL;
    if (!copy) {
        queue->status = FM_ERR_NOMEM;
        return;
    }
    memcpy(copy, dy, cells * sizeof *copy);
    queue->items[queue->count++] = (struct fm_model_queue_item){rows, x, weight, copy, {0}};
}

void fm_model_queue_add_experts(struct fm_model_queue *queue,
                                const struct fm_model_grouped_gradient *gradient)
{
    if (grow(queue))
        queue->items[queue->count++] = (struct fm_model_queue_item){.experts = *gradient};
    else
        queue->status = FM_ERR_NOMEM;
}

fm_status fm_model_queue_run(struct fm_model_queue *queue, const struct fm_model_compute *compute)
{
    fm_status status = queue->status;
    if (status < 0)
        status = fm_base_error_set(status, "no memory for gradients that wait for their turn");
    for (int i = 0; i < queue->count && status == FM_OK; i++) {
        const struct fm_model_queue_item *item = &queue->items[i];
        if (item->weight)
            fm_model_linear_weight(compute, item->rows, item->x, item->weight, item->dy);
        else
            status = fm_model_grouped_weights(compute, &item->experts);
    }
    queue->count = 0;
    queue->status = FM_OK;
    fm_model_scratch_release(&queue->scratch, (struct fm_model_mark){0, 0});
    return status;
}

void fm_model_queue_free(struct fm_model_queue *queue)
{
    fm_model_scratch_free(&queue->scratch);
    fm_base_mem_free(queue->items);
    *queue = (struct fm_model_queue){0};
}
