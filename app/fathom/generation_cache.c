#include "generation_cache.h"

#include <string.h>

#include "fathom/fs_kvcache.h"
#include "fathom/mem.h"
#include "fathom/serve.h"

enum { CACHE_BYTES_MAX = 256 << 20 };

/** What an engine said. */
struct answer {
    int32_t *ids; // [wanted]
    int wanted, count, cached, ended;
    fm_serve_finish finish;
};

static int take_token(void *context, const fm_serve_token *token)
{
    struct answer *answer = context;
    answer->ids[answer->count++] = token->id;
    return answer->count == answer->wanted;
}

static void take_end(void *context, fm_serve_finish finish, int cached, const char *message)
{
    struct answer *answer = context;
    (void)message;
    answer->finish = finish;
    answer->cached = cached;
    answer->ended = 1;
}

static fm_status ask(fm_serve *serve, const int32_t *ids, int count, struct answer *answer)
{
    uint64_t ticket;
    fm_serve_request request = {.size = sizeof request,
                                .prompt = ids,
                                .prompt_count = count,
                                .max_tokens = answer->wanted,
                                .sampling = {.top_p = 1},
                                .ignore_end = 1,
                                .on_token = take_token,
                                .on_end = take_end,
                                .context = answer};
    FM_TRY(fm_model_serve_submit(serve, &request, &ticket));
    while (!answer->ended)
        FM_TRY(fm_model_serve_step(serve));
    return answer->finish == FM_SERVE_FAILED ? fm_base_error_set(FM_ERR_INTERNAL, "a continuation failed")
                                             : FM_OK;
}

// One engine, from its opening to its end, and with it the cache.
static fm_status live(fm_model *model, fm_fs *fs, const char *folder, const int32_t *ids, int count,
                      struct answer *answer, fm_serve_stats *out_stats)
{
    fm_fs_kvcache_options limits = {.size = sizeof limits, .bytes_max = CACHE_BYTES_MAX};
    fm_serve_options options = {.size = sizeof options, .cache_bytes = CACHE_BYTES_MAX, .running_max = 1};
    fm_serve *serve = NULL;
    FM_TRY(fm_fs_kvcache_open(fs, folder, &limits, &options.store));
    fm_status status = fm_model_serve_open(model, &options, &serve);
    if (status == FM_OK)
        status = ask(serve, ids, count, answer);
    if (status == FM_OK)
        fm_model_serve_stats(serve, out_stats);
    fm_model_serve_close(serve);
    fm_fs_kvcache_close(options.store);
    return status;
}

static fm_status write_and_return(fm_model *model, fm_fs *fs, const char *folder, int32_t *ids,
                                  const fm_cache_text *text, int32_t *again, fm_cache_figures *out_figures)
{
    int written = text->prompt + text->stored;
    struct answer first = {.ids = ids + text->prompt, .wanted = text->stored + text->more};
    struct answer second = {.ids = again, .wanted = text->more};
    fm_serve_stats wrote, read;
    FM_TRY(live(model, fs, folder, ids, text->prompt, &first, &wrote));
    FM_TRY(live(model, fs, folder, ids, written, &second, &read));
    if (first.count != first.wanted || second.count != second.wanted ||
        memcmp(ids + written, again, (size_t)text->more * sizeof *again) != 0)
        return fm_base_error_set(FM_ERR_INTERNAL, "a text went on differently from its stored beginning");
    *out_figures = (fm_cache_figures){wrote.stored_blocks, read.loaded_blocks, second.cached, written};
    return FM_OK;
}

fm_status fm_app_generation_revisit(fm_model *model, fm_fs *fs, const char *folder, const int32_t *prompt,
                                    const fm_cache_text *text, fm_cache_figures *out_figures)
{
    fm_status removed = fm_fs_remove_all(fs, folder);
    if (removed < 0 && removed != FM_ERR_NOT_FOUND)
        return removed;
    size_t all = (size_t)text->prompt + (size_t)text->stored + (size_t)text->more;
    int32_t *ids = fm_base_mem_zalloc(all, sizeof *ids);
    int32_t *again = fm_base_mem_zalloc((size_t)text->more, sizeof *again);
    fm_status status =
        ids && again ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tokens", all);
    if (status == FM_OK) {
        memcpy(ids, prompt, (size_t)text->prompt * sizeof *ids);
        status = write_and_return(model, fs, folder, ids, text, again, out_figures);
    }
    fm_base_mem_free(ids);
    fm_base_mem_free(again);
    return status;
}
