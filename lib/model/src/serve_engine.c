/*
 * The engine: requests wait in a queue and run in a list; the blocks that they fill stay in a tree.
 *
 * One thread steps. It alone changes the list of what runs, and all blocks; the mutex guards the queue, the marks of
 * cancellation and the sums, which other threads touch. It is not held while the model computes or a callback runs.
 */
#include <math.h>
#include <pthread.h>
#include <time.h>

#include "fathom/file.h"
#include "fathom/log.h"
#include "fathom/mem.h"
#include "serve_private.h"

static int64_t blocks_for(int64_t positions)
{
    return (positions + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK;
}

static void destroy_entry(struct serve_entry *entry)
{
    fm_model_session_close(entry->session);
    fm_base_mem_free(entry->ids);
    fm_base_mem_free(entry->keys);
    fm_base_mem_free(entry->path);
    fm_base_mem_free(entry);
}

static void append(struct serve_entry **list, struct serve_entry *entry)
{
    while (*list)
        list = &(*list)->next;
    entry->next = NULL;
    *list = entry;
}

static void unlist(struct serve_entry **list, const struct serve_entry *entry)
{
    while (*list != entry)
        list = &(*list)->next;
    *list = entry->next;
}

// A quarter of the memory that is there; what was asked for must be.
static fm_status choose_cache(int64_t *bytes)
{
    uint64_t available;
    FM_TRY(fm_base_space_memory(&available));
    if (*bytes == 0)
        *bytes = (int64_t)(available / 4);
    if ((uint64_t)*bytes > available)
        return fm_base_error_set(FM_ERR_LIMIT, "a cache of %.1f GiB; %.1f GiB of memory are available",
                                 (double)*bytes / (1 << 30), (double)available / (1 << 30));
    return FM_OK;
}

// The cache, and what a step writes to: a request has a row of logits, and one behind its draft.
static fm_status take_step(fm_serve *serve)
{
    FM_TRY(fm_model_pool_open(serve->model, (int)serve->stats.blocks_total, &serve->pool));
    FM_TRY(fm_model_serve_prefix_open(&serve->pool, &serve->prefix));
    size_t rows = (size_t)serve->running_max;
    int vocab = fm_model_config_of(serve->model)->vocab;
    serve->logits = fm_base_mem_zalloc((1 + (size_t)serve->drafts) * rows * (size_t)vocab, sizeof(float));
    serve->parts = fm_base_mem_zalloc(rows, sizeof *serve->parts);
    serve->drafted = fm_base_mem_zalloc(rows, sizeof *serve->drafted);
    serve->batch =
        fm_base_mem_zalloc(rows, sizeof *serve->batch); // NOLINT(bugprone-sizeof-expression): pointers
    return serve->logits && serve->parts && serve->drafted && serve->batch
               ? FM_OK
               : fm_base_error_set(FM_ERR_NOMEM, "no memory for the logits of %d requests",
                                   serve->running_max);
}

static void free_step(fm_serve *serve)
{
    fm_model_serve_prefix_close(&serve->prefix);
    fm_model_pool_close(&serve->pool);
    fm_base_mem_free(serve->logits);
    fm_base_mem_free(serve->parts);
    fm_base_mem_free(serve->drafted);
    fm_base_mem_free(serve->batch);
}

fm_status fm_model_serve_open(fm_model *model, const fm_serve_options *options, fm_serve **out_serve)
{
    int64_t bytes = options->cache_bytes, block_bytes = fm_model_session_block_bytes(model);
    if (bytes < 0 || options->running_max < 0 || options->waiting_max < 0 || options->chunk_tokens < 0 ||
        options->replan_steps < 0)
        return fm_base_error_set(FM_ERR_ARG, "an option of the engine is negative");
    FM_TRY(choose_cache(&bytes));
    if (bytes < block_bytes)
        return fm_base_error_set(FM_ERR_LIMIT,
                                 "a cache of %lld bytes; this model needs at least one block of %lld",
                                 (long long)bytes, (long long)block_bytes);
    fm_serve *serve = fm_base_mem_zalloc(1, sizeof *serve);
    if (!serve)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the engine");
    serve->model = model;
    serve->running_max = options->running_max ? options->running_max : 64;
    serve->waiting_max = options->waiting_max ? options->waiting_max : 256;
    serve->chunk = options->chunk_tokens ? options->chunk_tokens : 256;
    serve->replan = options->replan_steps ? options->replan_steps : 256;
    serve->stats.blocks_total = bytes / block_bytes < INT32_MAX ? bytes / block_bytes : INT32_MAX;
    fm_model_experts_stats(model, &serve->stats.experts);
    serve->drafts = fm_model_drafts(model);
    serve->store = options->store;
    fm_status status = serve->store ? fm_model_serve_store_open(serve) : FM_OK;
    if (status == FM_OK)
        status = take_step(serve);
    if (status < 0) {
        free_step(serve);
        fm_base_mem_free(serve);
        return status;
    }
    pthread_mutex_init(&serve->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&serve->work, &attributes);
    pthread_condattr_destroy(&attributes);
    *out_serve = serve;
    return FM_OK;
}

static fm_status check_request(const fm_serve *serve, const fm_serve_request *request)
{
    const fm_model_config *config = fm_model_config_of(serve->model);
    if (request->prompt_count < 1)
        return fm_base_error_set(FM_ERR_ARG, "the prompt is empty");
    if (request->max_tokens < 1)
        return fm_base_error_set(FM_ERR_ARG, "max_tokens is %d; expected at least 1", request->max_tokens);
    if (request->top_logprobs < 0 || request->top_logprobs > FM_SERVE_TOP_MAX)
        return fm_base_error_set(FM_ERR_ARG, "top_logprobs is %d; expected 0 to %d", request->top_logprobs,
                                 FM_SERVE_TOP_MAX);
    for (int i = 0; i < request->prompt_count; i++)
        if (request->prompt[i] < 0 || request->prompt[i] >= config->vocab)
            return fm_base_error_set(FM_ERR_ARG, "token %d of the prompt has id %d; expected 0 to %d", i,
                                     (int)request->prompt[i], config->vocab - 1);
    if (request->prompt_count >= config->context)
        return fm_base_error_set(FM_ERR_LIMIT,
                                 "the prompt has %d tokens; the model's context has %d, the answer included",
                                 request->prompt_count, config->context);
    int64_t positions = (int64_t)request->prompt_count + request->max_tokens;
    if (positions > config->context)
        positions = config->context;
    if (blocks_for(positions) > serve->stats.blocks_total)
        return fm_base_error_set(FM_ERR_LIMIT, "%lld tokens do not fit into a cache of %lld",
                                 (long long)positions, (long long)serve->stats.blocks_total * FM_MODEL_BLOCK);
    return FM_OK;
}

fm_status fm_model_serve_submit(fm_serve *serve, const fm_serve_request *request, uint64_t *out_ticket)
{
    FM_TRY(check_request(serve, request));
    int context = fm_model_config_of(serve->model)->context;
    int room = context - request->prompt_count < request->max_tokens ? context - request->prompt_count
                                                                     : request->max_tokens;
    struct serve_entry *entry = fm_base_mem_zalloc(1, sizeof *entry);
    int32_t *ids = fm_base_mem_zalloc((size_t)request->prompt_count + (size_t)room, sizeof *ids);
    size_t blocks = ((size_t)request->prompt_count + (size_t)room) / FM_MODEL_BLOCK + 1;
    struct serve_node **path =
        fm_base_mem_zalloc(blocks, sizeof *path); // NOLINT(bugprone-sizeof-expression): pointers
    if (!entry || !ids || !path) {
        fm_base_mem_free(entry);
        fm_base_mem_free(ids);
        fm_base_mem_free(path);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a request");
    }
    memcpy(ids, request->prompt, (size_t)request->prompt_count * sizeof *ids);
    entry->request = *request;
    entry->ids = ids;
    entry->path = path;
    entry->count = request->prompt_count;
    entry->count_max = request->prompt_count + room;
    pthread_mutex_lock(&serve->mutex);
    int full = serve->stats.waiting >= serve->waiting_max;
    if (!full) {
        *out_ticket = entry->ticket = ++serve->last_ticket;
        append(&serve->waiting, entry);
        serve->stats.waiting++;
        pthread_cond_signal(&serve->work);
    }
    pthread_mutex_unlock(&serve->mutex);
    if (full) {
        destroy_entry(entry);
        return fm_base_error_set(FM_ERR_BUSY, "%d requests wait already", serve->waiting_max);
    }
    return FM_OK;
}

void fm_model_serve_cancel(fm_serve *serve, uint64_t ticket)
{
    pthread_mutex_lock(&serve->mutex);
    for (int list = 0; list < 2; list++)
        for (struct serve_entry *entry = list ? serve->running : serve->waiting; entry; entry = entry->next)
            if (entry->ticket == ticket)
                entry->cancelled = 1;
    pthread_cond_signal(&serve->work);
    pthread_mutex_unlock(&serve->mutex);
}

static int64_t blocks_free(const fm_serve *serve)
{
    return serve->stats.blocks_total - serve->reserved - serve->prefix.used - serve->prefix.unused;
}

// For those who ask. Locked.
static void note_blocks(fm_serve *serve)
{
    serve->stats.blocks_running = serve->reserved + serve->prefix.used;
    serve->stats.blocks_kept = serve->prefix.unused;
    serve->stats.blocks_shared = serve->prefix.shared;
}

// Frees `blocks` if those that nobody uses suffice.
static int make_room(fm_serve *serve, int64_t blocks)
{
    if (blocks_free(serve) + serve->prefix.unused < blocks)
        return 0;
    while (blocks_free(serve) < blocks)
        fm_model_serve_prefix_evict(&serve->prefix);
    return 1;
}

static struct serve_node *last_node(const struct serve_entry *entry)
{
    return entry->path_count ? entry->path[entry->path_count - 1] : NULL;
}

// Where the next block of the entry that is not shared begins.
static int boundary(const struct serve_entry *entry)
{
    return entry->path_count * FM_MODEL_BLOCK;
}

// One more block is shared, and one fewer the entry's own.
static void go_along(fm_serve *serve, struct serve_entry *entry, struct serve_node *node)
{
    entry->path[entry->path_count++] = node;
    if (entry->blocks > 0) {
        entry->blocks--;
        serve->reserved--;
    }
}

// Goes on from whole blocks that others have filled; tells how many tokens that gave. At least one is left to compute: its
// logits are what is asked for.
static int attach(fm_serve *serve, struct serve_entry *entry)
{
    int before = entry->fed;
    while (entry->fed == boundary(entry) && entry->fed + FM_MODEL_BLOCK < entry->count) {
        struct serve_node *node =
            fm_model_serve_prefix_find(&serve->prefix, last_node(entry), entry->ids + entry->fed);
        if (!node || fm_model_session_borrow(entry->session, node->block) < 0)
            break;
        fm_model_serve_prefix_use(&serve->prefix, node);
        go_along(serve, entry, node);
        entry->fed += FM_MODEL_BLOCK;
    }
    return entry->fed - before;
}

/* A shorter beginning is not worth copying a block for. */
enum { SERVE_PREFIX_MIN = 16 };

// Copies the block that goes on as the entry does for longest, which differs from it before its end.
static int copy_part(fm_serve *serve, struct serve_entry *entry)
{
    int length, left = entry->count - 1 - entry->fed;
    if (entry->fed != boundary(entry))
        return 0;
    const struct serve_node *node =
        fm_model_serve_prefix_longest(&serve->prefix, last_node(entry), entry->ids + entry->fed,
                                      left < FM_MODEL_BLOCK ? left : FM_MODEL_BLOCK - 1, &length);
    if (!node || entry->fed + length < SERVE_PREFIX_MIN ||
        fm_model_session_reserve(entry->session, entry->fed + length) < 0)
        return 0;
    size_t bytes = fm_model_block_bytes(serve->model);
    memcpy(fm_model_session_block(entry->session, entry->path_count),
           serve->pool.memory + bytes * (size_t)node->block, bytes);
    entry->fed += length;
    entry->session->length = entry->session->drafted = entry->fed;
    return length;
}

// Lets others share the blocks that the entry has filled; one that somebody else has filled meanwhile takes its place.
static void publish(fm_serve *serve, struct serve_entry *entry)
{
    fm_model_session *session = entry->session;
    int filled = serve->drafts && session->drafted < entry->fed ? session->drafted : entry->fed;
    while (boundary(entry) + FM_MODEL_BLOCK <= filled) {
        const int32_t *ids = entry->ids + boundary(entry);
        struct serve_node *node = fm_model_serve_prefix_find(&serve->prefix, last_node(entry), ids);
        if (node)
            fm_model_serve_prefix_use(&serve->prefix, node);
        else
            node = fm_model_serve_prefix_add(&serve->prefix, last_node(entry), ids, FM_MODEL_BLOCK,
                                             session->table[entry->path_count]);
        if (!node)
            return; // without memory they are not shared
        fm_model_session_share(session, node->block);
        go_along(serve, entry, node);
    }
}

// Keeps what a finished request has of a block that is not whole, in place of what somebody had of it.
static void keep_part(fm_serve *serve, struct serve_entry *entry)
{
    int length, count = entry->fed - boundary(entry);
    const int32_t *ids = entry->ids + boundary(entry);
    if (count < 1 || count >= FM_MODEL_BLOCK || entry->fed < SERVE_PREFIX_MIN)
        return;
    struct serve_node *node =
        fm_model_serve_prefix_longest(&serve->prefix, last_node(entry), ids, count, &length);
    if (length == count)
        return; // all of it is there
    if (node && node->filled == length)
        fm_model_serve_prefix_remove(&serve->prefix, node);
    node = fm_model_serve_prefix_add(&serve->prefix, last_node(entry), ids, count,
                                     entry->session->table[entry->path_count]);
    if (!node)
        return;
    fm_model_session_share(entry->session, node->block);
    entry->blocks--;
    serve->reserved--;
}

// Gives an entry's cache back; what it shares stays as long as there is room.
static void release(fm_serve *serve, struct serve_entry *entry)
{
    while (entry->path_count > 0)
        fm_model_serve_prefix_leave(&serve->prefix, entry->path[--entry->path_count]);
    fm_model_session_close(entry->session);
    entry->session = NULL;
    serve->reserved -= entry->blocks;
    entry->blocks = 0;
    entry->fed = 0;
    entry->has_draft = entry->looked_up = 0;
}

// Tokens that came from a cache. After a preemption this would count what the request computed itself. Locked.
static void count_cached(fm_serve *serve, struct serve_entry *entry, int tokens)
{
    serve->stats.cached_tokens += tokens;
    if (!entry->restarted)
        entry->cached += tokens;
}

// Tells whether an older request is filling the block of a prompt that this one has next: then it computes nothing now, and needs
// no blocks.
static int awaits(const fm_serve *serve, const struct serve_entry *entry)
{
    int begin = boundary(entry), end = begin + FM_MODEL_BLOCK;
    if (entry->fed != begin || end >= entry->count)
        return 0;
    for (const struct serve_entry *other = serve->running; other && other != entry; other = other->next)
        if (other->path_count == entry->path_count && last_node(other) == last_node(entry) &&
            other->fed < end && end <= other->count &&
            memcmp(other->ids + begin, entry->ids + begin, FM_MODEL_BLOCK * sizeof *entry->ids) == 0)
            return 1;
    return 0;
}

// Moves waiting requests to the running ones while there is room. Locked.
static void admit(fm_serve *serve)
{
    while (serve->waiting && serve->stats.running < serve->running_max) {
        struct serve_entry *entry = serve->waiting;
        if (!entry->session && fm_model_pool_session(&serve->pool, serve->model, &entry->session) < 0)
            break; // memory may be there at the next step
        int cached = attach(serve, entry);
        int64_t more = awaits(serve, entry) ? 0 : blocks_for(entry->count + 1) - entry->path_count;
        if (!make_room(serve, more)) {
            release(serve, entry);
            break;
        }
        entry->blocks = more;
        serve->reserved += more;
        if (more > 0)
            cached += copy_part(serve, entry);
        count_cached(serve, entry, cached);
        serve->waiting = entry->next;
        serve->stats.waiting--;
        append(&serve->running, entry);
        serve->stats.running++;
    }
}

static struct serve_entry *youngest(const fm_serve *serve)
{
    struct serve_entry *entry = serve->running;
    while (entry->next)
        entry = entry->next;
    return entry;
}

// The request admitted last goes back to the head of the queue. Locked.
static void preempt(fm_serve *serve)
{
    struct serve_entry *entry = youngest(serve);
    unlist(&serve->running, entry);
    release(serve, entry);
    entry->restarted = 1;
    serve->stats.running--;
    serve->stats.preemptions++;
    entry->next = serve->waiting;
    serve->waiting = entry;
    serve->stats.waiting++;
}

// Blocks for the next token of each. Whoever is alone fits: submitting saw to that. Locked.
static void grow(fm_serve *serve)
{
    for (struct serve_entry *entry = serve->running, *next; entry; entry = next) {
        int64_t more = blocks_for(entry->count + 1) - entry->path_count - entry->blocks;
        if (entry->count == entry->count_max)
            more = blocks_for(entry->count) - entry->path_count - entry->blocks;
        if (awaits(serve, entry))
            more = 0;
        while (more > 0 && !make_room(serve, more)) {
            int self = youngest(serve) == entry;
            preempt(serve);
            if (self)
                return;
        }
        if (more > 0) {
            entry->blocks += more;
            serve->reserved += more;
        }
        next = entry->next;
    }
}

// Takes an entry off its list, for finish().
static void leave(fm_serve *serve, struct serve_entry *entry, int running)
{
    unlist(running ? &serve->running : &serve->waiting, entry);
    *(running ? &serve->stats.running : &serve->stats.waiting) -= 1;
}

// Ends a request that is on no list any more; its cache is kept where it may serve others.
static void finish(fm_serve *serve, struct serve_entry *entry, fm_serve_finish how, const char *message)
{
    fm_serve_request request = entry->request;
    int cached = entry->cached, put = 0;
    if (entry->session && serve->store && how != FM_SERVE_FAILED)
        put = fm_model_serve_store_save(serve, entry);
    if (entry->session && how != FM_SERVE_FAILED) {
        entry->fed = fm_model_session_rest(entry->session);
        publish(serve, entry);
        keep_part(serve, entry);
    }
    release(serve, entry);
    destroy_entry(entry);
    pthread_mutex_lock(&serve->mutex);
    serve->stats.finished[how]++;
    serve->stats.stored_blocks += put;
    note_blocks(serve);
    pthread_mutex_unlock(&serve->mutex);
    if (request.on_end)
        request.on_end(request.context, how, cached, message);
}

static void end_cancelled(fm_serve *serve)
{
    for (;;) {
        struct serve_entry *found = NULL;
        pthread_mutex_lock(&serve->mutex);
        for (int list = 0; list < 2 && !found; list++)
            for (found = list ? serve->running : serve->waiting; found && !found->cancelled;)
                found = found->next;
        if (found) {
            int running = 0;
            for (const struct serve_entry *entry = serve->running; entry; entry = entry->next)
                running |= entry == found;
            leave(serve, found, running);
        }
        pthread_mutex_unlock(&serve->mutex);
        if (!found)
            return;
        finish(serve, found, FM_SERVE_CANCELLED, NULL);
    }
}

// Puts a guess behind the one token that an entry has to feed: where the model chooses it, too, a pass is saved.
static int guess(const fm_serve *serve, struct serve_entry *entry)
{
    if (!entry->has_draft || entry->count >= entry->count_max)
        return 0;
    entry->has_draft = 0;
    entry->ids[entry->count] = entry->draft;
    return serve->drafts;
}

// The batch of a step: whoever awaits one token gives it; what the chunk leaves room for comes from prompts.
static int gather(fm_serve *serve)
{
    int count = 0, room = serve->chunk, vocab = fm_model_config_of(serve->model)->vocab;
    int64_t rows = 1 + serve->drafts;
    for (int prompts = 0; prompts < 2; prompts++)
        for (struct serve_entry *entry = serve->running; entry; entry = entry->next) {
            int left = entry->count - entry->fed, take = left, guessed = 0;
            if ((left > 1) != prompts || (prompts && awaits(serve, entry)))
                continue;
            if (prompts) {
                take = left < room ? left : room;
                room -= take;
            } else {
                guessed = guess(serve, entry);
            }
            if (take == 0)
                continue;
            float *logits = take == left ? serve->logits + (int64_t)count * rows * vocab : NULL;
            serve->parts[count] = (fm_model_part){entry->session, entry->ids + entry->fed, take + guessed,
                                                  guessed ? FM_MODEL_ALL : FM_MODEL_LAST, logits};
            serve->batch[count++] = entry;
        }
    return count;
}

// Log of the sum of exponentials.
static double log_total(const float *logits, int vocab)
{
    double most = -HUGE_VAL, sum = 0;
    for (int i = 0; i < vocab; i++)
        most = fmax(most, (double)logits[i]);
    for (int i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - most);
    return most + log(sum);
}

static void fill_logprobs(const fm_serve_request *request, const float *logits, int vocab, int32_t *ids,
                          float *logprobs, fm_serve_token *token)
{
    double total = log_total(logits, vocab);
    token->logprob = (float)((double)logits[token->id] - total);
    token->top_ids = ids;
    token->top_logprobs = logprobs;
    for (int i = 0; i < vocab; i++) {
        int at = token->top_count;
        while (at > 0 && logits[ids[at - 1]] < logits[i])
            at--;
        if (at == request->top_logprobs)
            continue;
        if (token->top_count < request->top_logprobs)
            token->top_count++;
        memmove(ids + at + 1, ids + at, (size_t)(token->top_count - at - 1) * sizeof *ids);
        ids[at] = i;
    }
    for (int i = 0; i < token->top_count; i++)
        logprobs[i] = (float)((double)logits[ids[i]] - total);
}

// Draws the next token of an entry; tells whether it goes on.
static int advance(fm_serve *serve, struct serve_entry *entry, const float *logits, fm_serve_finish *out_how)
{
    const fm_model_config *config = fm_model_config_of(serve->model);
    const fm_serve_request *request = &entry->request;
    fm_serve_token token = {0};
    int32_t ids[FM_SERVE_TOP_MAX];
    float logprobs[FM_SERVE_TOP_MAX];
    *out_how = FM_SERVE_FAILED;
    if (fm_model_sample(logits, config->vocab, &request->sampling, entry->count, &token.id) < 0)
        return 0;
    *out_how = FM_SERVE_STOP;
    if (token.id == config->eos && !request->ignore_end)
        return 0;
    if (request->logprobs)
        fill_logprobs(request, logits, config->vocab, ids, logprobs, &token);
    entry->ids[entry->count++] = token.id;
    serve->tokens_now++;
    if (request->on_token && request->on_token(request->context, &token))
        return 0;
    *out_how = FM_SERVE_LENGTH;
    return entry->count < entry->count_max;
}

static void end_entry(fm_serve *serve, struct serve_entry *entry, fm_serve_finish how, const char *message)
{
    pthread_mutex_lock(&serve->mutex);
    leave(serve, entry, 1);
    pthread_mutex_unlock(&serve->mutex);
    finish(serve, entry, how, message);
}

// What an entry gets from its part of a step; tells whether it goes on. The token behind an accepted guess comes from the
// second row of logits.
static int take(fm_serve *serve, struct serve_entry *entry, const fm_model_part *part,
                fm_serve_finish *out_how)
{
    int guessed = part->which == FM_MODEL_ALL, goes_on = 1;
    int32_t draft = guessed ? part->ids[1] : 0; // read before the token that is drawn takes its place
    entry->fed += part->count - guessed;
    if (part->logits)
        goes_on = advance(serve, entry, part->logits, out_how);
    if (guessed && goes_on) {
        serve->drafted_now++;
        if (entry->ids[entry->count - 1] == draft) {
            serve->accepted_now++;
            entry->fed++;
            goes_on = advance(serve, entry, part->logits + fm_model_config_of(serve->model)->vocab, out_how);
        }
    }
    if (guessed && fm_model_session_cut(entry->session, entry->fed) < 0) {
        *out_how = FM_SERVE_FAILED;
        return 0;
    }
    return goes_on;
}

// Shows the head all that was fed, and lets it guess for those who await one token. Guesses are no promises: where it fails
// there are none.
static void draft(fm_serve *serve)
{
    int count = 0;
    for (struct serve_entry *entry = serve->running; entry && serve->drafts; entry = entry->next) {
        int drafted = fm_model_session_drafted(entry->session);
        if (drafted == entry->fed)
            continue;
        entry->has_draft = entry->count - entry->fed == 1;
        serve->drafted[count++] = (fm_model_draft){entry->session, entry->ids + drafted + 1,
                                                   entry->has_draft ? &entry->draft : NULL};
    }
    if (count == 0 || fm_model_draft_batch(serve->drafted, count) == FM_OK)
        return;
    for (struct serve_entry *entry = serve->running; entry; entry = entry->next)
        entry->has_draft = 0;
}

// What others have computed of prompts since they were admitted. Locked.
static void share(fm_serve *serve)
{
    for (struct serve_entry *entry = serve->running; entry; entry = entry->next)
        if (entry->count - entry->fed > 1)
            count_cached(serve, entry, attach(serve, entry));
}

// What the store knows of prompts that have computed nothing, and need not wait for others who do.
static void load(fm_serve *serve)
{
    for (struct serve_entry *entry = serve->running; entry && serve->store; entry = entry->next) {
        if (entry->looked_up || awaits(serve, entry))
            continue;
        entry->looked_up = 1;
        int loaded = fm_model_serve_store_load(serve, entry);
        publish(serve, entry);
        pthread_mutex_lock(&serve->mutex);
        count_cached(serve, entry, loaded);
        serve->stats.loaded_blocks += (loaded + FM_MODEL_BLOCK - 1) / FM_MODEL_BLOCK;
        pthread_mutex_unlock(&serve->mutex);
    }
}

static int64_t save(fm_serve *serve)
{
    int64_t put = 0;
    for (struct serve_entry *entry = serve->running; entry && serve->store; entry = entry->next)
        put += fm_model_serve_store_save(serve, entry);
    return put;
}

// Between steps experts may change workers. A plan that fails leaves them where they are, which is no request's matter.
static void replan(fm_serve *serve)
{
    if (serve->model->placed && fm_model_experts_turn(serve->model, serve->replan) < 0)
        fm_log_error("serve", "experts were not planned: %s", fm_error_message());
}

fm_status fm_model_serve_step(fm_serve *serve)
{
    end_cancelled(serve);
    pthread_mutex_lock(&serve->mutex);
    share(serve);
    grow(serve);
    admit(serve);
    note_blocks(serve);
    pthread_mutex_unlock(&serve->mutex);
    load(serve);
    int count = gather(serve), prompts = 0;
    if (count == 0)
        return FM_OK;
    if (fm_model_feed_batch(serve->parts, count) < 0) {
        // Whoever came last asked for more than there is; the others go on at the next step.
        end_entry(serve, youngest(serve), FM_SERVE_FAILED, fm_error_message());
        return FM_OK;
    }
    serve->tokens_now = serve->drafted_now = serve->accepted_now = 0;
    for (int i = 0; i < count; i++) {
        struct serve_entry *entry = serve->batch[i];
        fm_serve_finish how = FM_SERVE_FAILED;
        prompts +=
            entry->fed + serve->parts[i].count <= entry->request.prompt_count ? serve->parts[i].count : 0;
        if (!take(serve, entry, &serve->parts[i], &how))
            end_entry(serve, entry, how, how == FM_SERVE_FAILED ? fm_error_message() : NULL);
    }
    draft(serve);
    int64_t put = save(serve);
    for (struct serve_entry *entry = serve->running; entry; entry = entry->next)
        publish(serve, entry);
    replan(serve);
    pthread_mutex_lock(&serve->mutex);
    note_blocks(serve);
    fm_model_experts_stats(serve->model, &serve->stats.experts);
    serve->stats.stored_blocks += put;
    serve->stats.steps++;
    serve->stats.prompt_tokens += prompts;
    serve->stats.tokens += serve->tokens_now;
    serve->stats.drafted_tokens += serve->drafted_now;
    serve->stats.accepted_tokens += serve->accepted_now;
    pthread_mutex_unlock(&serve->mutex);
    return FM_OK;
}

int fm_model_serve_wait(fm_serve *serve, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)timeout_ms * 1000000;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&serve->mutex);
    while (!serve->waiting && !serve->running &&
           pthread_cond_timedwait(&serve->work, &serve->mutex, &until) == 0) {
    }
    int work = serve->waiting || serve->running;
    pthread_mutex_unlock(&serve->mutex);
    return work;
}

void fm_model_serve_stats(fm_serve *serve, fm_serve_stats *out_stats)
{
    pthread_mutex_lock(&serve->mutex);
    *out_stats = serve->stats;
    pthread_mutex_unlock(&serve->mutex);
}

void fm_model_serve_close(fm_serve *serve)
{
    if (!serve)
        return;
    for (int list = 0; list < 2; list++)
        for (struct serve_entry *entry = list ? serve->running : serve->waiting; entry; entry = entry->next)
            entry->cancelled = 1;
    end_cancelled(serve);
    pthread_cond_destroy(&serve->work);
    pthread_mutex_destroy(&serve->mutex);
    free_step(serve);
    fm_base_mem_free(serve);
}
