/*
 * Caches that outlive the program: each whole block of a text that was computed is put into a store under the hash of all
 * tokens up to its end, and a request whose prompt begins with such blocks reads them instead of computing them.
 *
 * The hash begins with what the cache's bytes depend on: sizes, number formats, and samples of every weight. Blocks are put
 * on the thread that steps, as soon as they are full: a program that is killed loses what was not full yet. What is read is
 * as exact as what was computed, so answers do not change.
 */
#include "model_low.h"
#include "serve_private.h"

#include "fathom/log.h"

/* Of each weight this many bytes at its beginning, middle and end: a fine-tuned model differs in them. */
enum { SAMPLE = 256 };

static void mix(fm_fs_kvcache_key *key, const void *bytes, size_t size)
{
    const fm_fs_kvcache_key before = *key;
    fm_fs_kvcache_key_next(&before, bytes, size, key);
}

static fm_status mix_weight(void *context, const char *name, struct fm_model_weight *weight)
{
    fm_fs_kvcache_key *key = context;
    const char *bytes = weight->matrix.data ? weight->matrix.data : (const char *)weight->packed.panels;
    size_t count = (size_t)(weight->rows ? weight->rows : 1) * (size_t)weight->columns;
    size_t size = count * (size_t)fm_base_dtype_bits(weight->matrix.dtype) / 8;
    const int64_t shape[3] = {weight->rows, weight->columns, weight->matrix.dtype};
    mix(key, name, strlen(name));
    mix(key, shape, sizeof shape);
    for (size_t part = 0; bytes && part < 3; part++) {
        size_t at = size > SAMPLE ? (size - SAMPLE) / 2 * part : 0;
        mix(key, bytes + at, size > SAMPLE ? SAMPLE : size);
    }
    return FM_OK;
}

fm_status fm_model_serve_store_open(fm_serve *serve)
{
    const fm_model *model = serve->model;
    const fm_model_config *c = &model->config;
    const fm_model_yarn *y = &c->yarn;
    const double shape[] = {2, // of this list and the bytes of a block: a new layout gets a new number
                            c->family,
                            c->layers,
                            c->heads,
                            c->topk,
                            c->groups,
                            c->topk_groups,
                            c->gate,
                            c->normalise_topk,
                            c->routed_scale,
                            c->epsilon,
                            c->rope_theta,
                            y->factor,
                            y->beta_fast,
                            y->beta_slow,
                            y->mscale,
                            y->mscale_all_dim,
                            y->original_context,
                            model->compute.low ? (double)model->compute.low->dtype : 0,
                            model->mla ? (double)model->form : 0,
                            model->predict,
                            FM_MODEL_BLOCK};
    struct fm_model_weights weights = model->weights; // the visitor's are not const
    fm_fs_kvcache_key_next(NULL, shape, sizeof shape, &serve->root);
    return fm_model_weights_each(c, &weights, model->predict, mix_weight, &serve->root);
}

// Keys of the entry's first `count` blocks; how many there are, where memory is short.
static int make_keys(const fm_serve *serve, struct serve_entry *entry, int count)
{
    if (!entry->keys)
        entry->keys = fm_base_mem_zalloc((size_t)entry->count_max / FM_MODEL_BLOCK + 1, sizeof *entry->keys);
    for (; entry->keys && entry->key_count < count; entry->key_count++) {
        int i = entry->key_count;
        fm_fs_kvcache_key_next(i ? &entry->keys[i - 1] : &serve->root,
                               entry->ids + (ptrdiff_t)i * FM_MODEL_BLOCK,
                               FM_MODEL_BLOCK * sizeof *entry->ids, &entry->keys[i]);
    }
    return entry->key_count < count ? entry->key_count : count;
}

// Reads blocks from `first` on into the entry's cache, which holds those before it; tells how many came.
static int read_blocks(const fm_serve *serve, struct serve_entry *entry, int first, int count)
{
    fm_model_session *session = entry->session;
    size_t bytes = fm_model_block_bytes(serve->model), hits;
    int came = 0;
    fm_fs_kvcache_block *blocks = fm_base_mem_zalloc((size_t)count, sizeof *blocks);
    if (!blocks || fm_model_session_reserve(session, (first + count) * FM_MODEL_BLOCK) < 0) {
        fm_base_mem_free(blocks);
        return 0;
    }
    for (int i = 0; i < count; i++)
        blocks[i] = (fm_fs_kvcache_block){.key = entry->keys[first + i],
                                          .buffer = fm_model_session_block(session, first + i),
                                          .capacity = bytes};
    if (fm_fs_kvcache_read(serve->store, blocks, (size_t)count, &hits) == FM_OK)
        while (came < count && blocks[came].size == bytes)
            came++;
    fm_base_mem_free(blocks);
    return came;
}

int fm_model_serve_store_load(fm_serve *serve, struct serve_entry *entry)
{
    size_t known = 0;
    int here = entry->fed / FM_MODEL_BLOCK;
    // At least one token is left to compute: its logits are what is asked for.
    int count = make_keys(serve, entry, (entry->count - 1) / FM_MODEL_BLOCK);
    if (count == 0 || fm_fs_kvcache_match(serve->store, entry->keys, (size_t)count, &known) < 0)
        return 0;
    entry->stored = (int)known;
    if ((int)known <= here)
        return 0;
    int came = read_blocks(serve, entry, here, (int)known - here);
    if (came == 0)
        return 0;
    int before = entry->fed;
    entry->fed = (here + came) * FM_MODEL_BLOCK;
    entry->stored = here + came;
    entry->session->length = entry->session->drafted = entry->fed;
    return entry->fed - before;
}

int fm_model_serve_store_save(fm_serve *serve, struct serve_entry *entry)
{
    const fm_model_session *session = entry->session;
    int filled = serve->drafts && session->drafted < entry->fed ? session->drafted : entry->fed, put = 0;
    int count = make_keys(serve, entry, filled / FM_MODEL_BLOCK);
    for (; entry->stored < count && !serve->store_failed; entry->stored++, put++) {
        fm_status status = fm_fs_kvcache_put(serve->store, &entry->keys[entry->stored],
                                             fm_model_session_block(session, entry->stored),
                                             fm_model_block_bytes(serve->model));
        if (status < 0) {
            fm_log_error("serve", "the prefix cache takes no more blocks: %s", fm_error_message());
            serve->store_failed = 1;
            break;
        }
    }
    return put;
}
