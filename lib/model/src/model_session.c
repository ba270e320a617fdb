// Sessions: the latent caches of texts.
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
fm_status fm_model_session_reserve(fm_model_session *session, int positions)
{
    int blocks = (positions + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK;
    if (blocks > session->block_room) {
        int room = session->block_room + session->block_room / 2;
        room = room > blocks ? room : blocks;
        void *memory =
            fm_base_mem_realloc(session->blocks, (size_t)room, fm_model_block_bytes(session->model));
        if (memory)
            session->blocks = memory;
        int32_t *table = fm_base_mem_realloc(session->table, (size_t)room, sizeof *table);
        if (table)
            session->table = table;
        if (!memory || !table)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for the cache of position %d", positions - 1);
        for (int i = session->block_room; i < room; i++)
            table[i] = i;
        session->block_room = room;
    }
    session->block_count = blocks > session->block_count ? blocks : session->block_count;
    return FM_OK;
}

const void *fm_model_session_block(const fm_model_session *session, int index)
{
    return session->blocks + fm_model_block_bytes(session->model) * (size_t)index;
}

fm_status fm_model_session_append_block(fm_model_session *session, const void *block)
{
    size_t bytes = fm_model_block_bytes(session->model);
    FM_TRY(fm_model_session_reserve(session, session->length + FM_MODEL_BLOCK));
    memcpy(session->blocks + bytes * (size_t)(session->length / FM_MODEL_BLOCK), block, bytes);
    session->length += FM_MODEL_BLOCK;
    session->drafted = session->length;
    return FM_OK;
}
