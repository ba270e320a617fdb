// Sessions: the latent caches of texts, in memory of their own or in blocks of a pool.
#include "model_private.h"

fm_status fm_model_session_open(fm_model *model, int positions_max, fm_model_session **out_session)
{
    int context = model->config.context;
    if (model->is_part)
        return fm_base_error_set(FM_ERR_STATE, "this is one rank's part of a model; expected a whole one, as "
                                               "fm_model_trainer_export() writes");
    if (positions_max == 0)
        positions_max = context;
    if (positions_max < 0 || positions_max > context)
        return fm_base_error_set(FM_ERR_LIMIT, "a session of %d positions; the model's context has %d",
                                 positions_max, context);
    fm_model_session *session = fm_base_mem_zalloc(1, sizeof *session);
    if (!session)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a session of %d positions", positions_max);
    session->model = model;
    session->positions_max = positions_max;
    *out_session = session;
    return FM_OK;
}

void fm_model_session_close(fm_model_session *session)
{
    if (!session)
        return;
    for (int i = session->borrowed; session->pool && i < session->block_count; i++)
        fm_model_pool_give(session->pool, session->table[i]);
    if (!session->pool)
        fm_base_mem_free(session->blocks);
    fm_base_mem_free(session->table);
    fm_base_mem_free(session->hidden);
    fm_base_mem_free(session);
}

int fm_model_session_length(const fm_model_session *session)
{
    return session->length;
}

int64_t fm_model_session_block_bytes(const fm_model *model)
{
    return (int64_t)fm_model_block_bytes(model);
}

fm_status fm_model_session_cut(fm_model_session *session, int length)
{
    if (length < 0 || length > session->length)
        return fm_base_error_set(FM_ERR_ARG, "length is %d; the session has %d positions", length,
                                 session->length);
    session->length = length;
    session->drafted = length < session->drafted ? length : session->drafted;
    return FM_OK;
}

int fm_model_session_rest(fm_model_session *session)
{
    if (session->model->predict)
        session->length = session->drafted;
    fm_base_mem_free(session->hidden);
    session->hidden = NULL;
    session->hidden_room = 0;
    return session->length;
}

// Room grows by a half, so that a long text is moved few times; pages that are not touched take no memory.
static fm_status grow(fm_model_session *session, int blocks)
{
    int room = session->block_room + session->block_room / 2;
    room = room > blocks ? room : blocks;
    void *memory = session->pool ? session->blocks
                                 : fm_base_mem_realloc(session->blocks, (size_t)room,
                                                       fm_model_block_bytes(session->model));
    if (memory)
        session->blocks = memory;
    int32_t *table = fm_base_mem_realloc(session->table, (size_t)room, sizeof *table);
    if (table)
        session->table = table;
    if (!memory || !table)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cache of position %d",
                                 blocks * FM_MODEL_BLOCK - 1);
    session->block_room = room;
    return FM_OK;
}

fm_status fm_model_session_reserve(fm_model_session *session, int positions)
{
    int blocks = (positions + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK;
    if (blocks > session->block_room)
        FM_TRY(grow(session, blocks));
    for (; session->block_count < blocks; session->block_count++) {
        int32_t block = session->pool ? fm_model_pool_take(session->pool) : session->block_count;
        if (block < 0)
            return fm_base_error_set(FM_ERR_NOMEM, "all %d blocks of the cache are in use",
                                     session->pool->capacity);
        session->table[session->block_count] = block;
    }
    return FM_OK;
}

void *fm_model_session_block(const fm_model_session *session, int index)
{
    return session->blocks + fm_model_block_bytes(session->model) * (size_t)session->table[index];
}

fm_status fm_model_session_borrow(fm_model_session *session, int32_t block)
{
    int at = session->borrowed;
    if (at == session->block_count) {
        if (at == session->block_room)
            FM_TRY(grow(session, at + 1));
        session->block_count++;
    } else {
        fm_model_pool_give(session->pool, session->table[at]);
    }
    session->table[at] = block;
    session->borrowed++;
    session->length = session->drafted = session->borrowed * FM_MODEL_BLOCK;
    return FM_OK;
}

void fm_model_session_share(fm_model_session *session, int32_t block)
{
    int32_t *own = &session->table[session->borrowed++];
    if (*own != block)
        fm_model_pool_give(session->pool, *own);
    *own = block;
}

fm_status fm_model_pool_open(const fm_model *model, int capacity, struct fm_model_pool *out_pool)
{
    size_t bytes = 0;
    struct fm_model_pool pool = {.capacity = capacity, .free_count = capacity};
    FM_TRY(fm_mul_size((size_t)capacity, fm_model_block_bytes(model), &bytes));
    pool.memory = fm_base_mem_aligned(bytes, FM_CACHE_LINE);
    pool.free = fm_base_mem_zalloc((size_t)capacity, sizeof *pool.free);
    if (!pool.memory || !pool.free) {
        fm_model_pool_close(&pool);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a cache of %d blocks", capacity);
    }
    for (int i = 0; i < capacity; i++)
        pool.free[i] = capacity - 1 - i;
    *out_pool = pool;
    return FM_OK;
}

void fm_model_pool_close(struct fm_model_pool *pool)
{
    fm_base_mem_free(pool->memory);
    fm_base_mem_free(pool->free);
    *pool = (struct fm_model_pool){0};
}

int32_t fm_model_pool_take(struct fm_model_pool *pool)
{
    return pool->free_count > 0 ? pool->free[--pool->free_count] : -1;
}

void fm_model_pool_give(struct fm_model_pool *pool, int32_t block)
{
    pool->free[pool->free_count++] = block;
}

fm_status fm_model_pool_session(struct fm_model_pool *pool, fm_model *model, fm_model_session **out_session)
{
    FM_TRY(fm_model_session_open(model, 0, out_session));
    (*out_session)->pool = pool;
    (*out_session)->blocks = pool->memory;
    return FM_OK;
}
