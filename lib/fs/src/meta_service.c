// A service of the names: one thread has the connections, several run transactions, one collects.
#include <stdio.h>
#include <time.h>

#include "fathom/clock.h"
#include "fathom/log.h"
#include "fathom/net.h"
#include "meta_service_private.h"
#include "meta_serve.h"
#include "metrics.h"

enum {
    THREADS = 32, // transactions that LMDB commits together; PostgreSQL has 16 connections for them
    THREADS_MAX = 256,
    MESSAGE_BYTES = 512,
    COLLECT = 256, // pieces of the collector's work at once
    COLLECT_PAUSE_S = 1
};

struct client { // of a connection
    struct fm_fs_meta_identity identity;
};

struct job {
    struct job *next;
    fm_fs_meta_service *service;
    fm_net_request *request;
    struct fm_fs_meta_identity identity; // as the connection's was; a new one goes back to it
    int identified;
    fm_status status;
    char message[MESSAGE_BYTES];
    struct fm_fs_meta_answer answer;
    uint8_t *payload; // of the answer; NULL: has none
    fm_net_task task;
};

struct fm_fs_meta_service {
    fm_fs_meta *meta;
    fm_net_key key;
    char admin_token[FM_FS_TOKEN_BYTES];
    struct fm_fs_meta_hosting hosting;
    fm_net_loop *loop;
    fm_net_listener *listener;
    fm_fs_metrics *metrics;
    pthread_t threads[THREADS_MAX + 1];
    uint32_t thread_count;
    pthread_mutex_t lock;
    pthread_cond_t work, tick;
    struct job *first, *last;
    int ending;
    unsigned posted; // jobs that the loop will have back; under the lock
    fm_fs_meta_service_counts counts;
};

static void add(uint64_t *count, uint64_t by)
{
    __atomic_fetch_add(count, by, __ATOMIC_RELAXED);
}

/* What a job does */

static fm_status identify(struct job *job, const char *token)
{
    fm_status status =
        fm_fs_meta_identify(job->service->meta, job->service->admin_token, token, &job->identity);
    job->identified = status == FM_OK;
    return status;
}

static fm_status check_identity(struct job *job)
{
    const uint64_t recheck_ns = (uint64_t)job->service->hosting.recheck_ms * 1000000;
    char token[FM_FS_TOKEN_BYTES];
    if (!job->identity.known)
        return fm_base_error_set(FM_ERR_NET_AUTH, "no token was sent");
    if (fm_base_clock_ns() - job->identity.checked_ns < recheck_ns)
        return FM_OK;
    memcpy(token, job->identity.token, sizeof token);
    return identify(job, token);
}

static fm_status tell_who(struct job *job)
{
    const fm_fs_user *user = &job->identity.user;
    job->answer.numbers[0] = job->identity.trusted ? 1 : 0;
    job->answer.numbers[1] = user->uid;
    job->answer.numbers[2] = user->gid;
    job->answer.payload_bytes = 4 * (size_t)user->group_count;
    job->payload = fm_base_mem_alloc(job->answer.payload_bytes + 1); // there may be none
    if (!job->payload)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for an answer");
    for (uint32_t i = 0; i < user->group_count; i++)
        fm_put_le32(job->payload + 4 * i, user->groups[i]);
    return FM_OK;
}

static fm_status serve_job(struct job *job)
{
    uint32_t groups[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request request;
    fm_net_request *from = job->request;
    FM_TRY(fm_fs_meta_request_decode(from->args, from->args_bytes, groups, &request));
    request.method = from->method;
    request.payload = from->payload_bytes ? from->payload : "";
    request.payload_bytes = from->payload_bytes;
    if (request.method == FM_FS_META_HELLO) {
        FM_TRY(identify(job, request.name));
        return tell_who(job);
    }
    // Its client has asked somebody else by now; whatever it got there, this must not happen after it.
    if (from->deadline_ns != FM_NET_FOREVER && fm_net_loop_now_ns(job->service->loop) > from->deadline_ns)
        return fm_base_error_set(FM_ERR_CANCELLED, "the request is too old");
    FM_TRY(check_identity(job));
    if (fm_fs_meta_answers_bulk(request.method)) {
        job->payload = fm_base_mem_alloc(FM_FS_META_WIRE_PAYLOAD);
        if (!job->payload)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for an answer");
    }
    return fm_fs_meta_serve_request(job->service->meta, &job->identity, &request, &job->answer, job->payload);
}

static void job_free(struct job *job)
{
    fm_base_mem_free(job->payload);
    fm_base_mem_free(job);
}

static void sent(void *context, fm_status status)
{
    (void)status;
    job_free(context);
}

static void reply(void *context)
{
    struct job *job = context;
    fm_fs_meta_service *service = job->service;
    uint8_t args[FM_FS_META_WIRE_REPLY];
    struct iovec piece = {job->payload, job->answer.payload_bytes};
    pthread_mutex_lock(&service->lock);
    service->posted--;
    pthread_mutex_unlock(&service->lock);
    fm_net_request *request = job->request;
    struct client *client = request->conn ? fm_net_conn_user(request->conn) : NULL;
    if (client && job->identified)
        client->identity = job->identity;
    else if (client && job->status == FM_ERR_NET_AUTH)
        client->identity.known = 0;
    fm_base_mem_free(request->user);
    request->user = NULL;
    fm_status status = job->status;
    if (status == FM_OK) {
        fm_fs_meta_answer_encode(&job->answer, args);
        const fm_net_answer answer = {.body = {.args = args,
                                               .args_bytes = sizeof args,
                                               .payload = &piece,
                                               .payload_count = piece.iov_len ? 1 : 0},
                                      .sent = sent,
                                      .context = job};
        status = fm_net_request_reply(request, &answer);
        if (status == FM_OK)
            return;
    } else {
        fm_base_error_set(status, "%s", job->message);
    }
    fm_net_request_fail(request, status);
    job_free(job);
}

static void run_job(struct job *job)
{
    fm_fs_meta_service *service = job->service;
    uint64_t begin = fm_base_clock_ns();
    job->status = serve_job(job);
    if (job->status < 0) {
        snprintf(job->message, sizeof job->message, "%s", fm_error_message());
        add(job->status == FM_ERR_NET_AUTH || job->status == FM_ERR_PERM ? &service->counts.refused
                                                                         : &service->counts.failures,
            1);
    }
    add(&service->counts.requests, 1);
    add(&service->counts.busy_ns, fm_base_clock_ns() - begin);
    job->task = (fm_net_task){.run = reply, .context = job};
    fm_net_loop_post(service->loop, &job->task);
}

static void *work(void *context)
{
    fm_fs_meta_service *service = context;
    pthread_mutex_lock(&service->lock);
    while (!service->ending) {
        struct job *job = service->first;
        if (!job) {
            pthread_cond_wait(&service->work, &service->lock);
            continue;
        }
        service->first = job->next;
        service->posted++;
        pthread_mutex_unlock(&service->lock);
        run_job(job);
        pthread_mutex_lock(&service->lock);
    }
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

static void *collect(void *context)
{
    fm_fs_meta_service *service = context;
    const struct fm_fs_meta_hosting *hosting = &service->hosting;
    pthread_mutex_lock(&service->lock);
    while (!service->ending) {
        struct timespec until;
        size_t done = 0;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += COLLECT_PAUSE_S;
        pthread_cond_timedwait(&service->tick, &service->lock, &until);
        pthread_mutex_unlock(&service->lock);
        fm_status status = hosting->collect(hosting->context, COLLECT, &done);
        if (status < 0)
            fm_log_info("fs", "collecting removed files: %s", fm_error_message());
        add(&service->counts.collected, done);
        pthread_mutex_lock(&service->lock);
    }
    pthread_mutex_unlock(&service->lock);
    return NULL;
}

/* Connections */

static void opened(void *context, fm_net_conn *conn)
{
    fm_fs_meta_service *service = context;
    add(&service->counts.connections, 1);
    fm_net_conn_set_user(conn, fm_base_mem_zalloc(1, sizeof(struct client)));
}

static void closed(void *context, fm_net_conn *conn, fm_status status)
{
    fm_fs_meta_service *service = context;
    (void)status;
    add(&service->counts.connections, (uint64_t)-1);
    fm_base_mem_free(fm_net_conn_user(conn));
    fm_net_conn_set_user(conn, NULL);
}

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    (void)context;
    request->user = fm_base_mem_alloc(request->payload_bytes);
    if (!request->user)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes", request->payload_bytes);
    *out_payload = request->user;
    return FM_OK;
}

static void drop(void *context, fm_net_request *request)
{
    (void)context;
    fm_base_mem_free(request->user);
}

static void take_request(void *context, fm_net_request *request)
{
    fm_fs_meta_service *service = context;
    const struct client *client = request->conn ? fm_net_conn_user(request->conn) : NULL;
    struct job *job = client ? fm_base_mem_zalloc(1, sizeof *job) : NULL;
    if (!job) {
        fm_base_mem_free(request->user);
        fm_net_request_fail(request, fm_base_error_set(FM_ERR_NOMEM, "no memory for a request"));
        return;
    }
    job->service = service;
    job->request = request;
    job->identity = client->identity;
    pthread_mutex_lock(&service->lock);
    if (service->first)
        service->last->next = job;
    else
        service->first = job;
    service->last = job;
    pthread_cond_signal(&service->work);
    pthread_mutex_unlock(&service->lock);
}

/* Life */

static fm_status start_threads(fm_fs_meta_service *service, uint32_t threads)
{
    if (threads > THREADS_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%u threads; expected at most %d", threads, THREADS_MAX);
    for (uint32_t i = 0; i < (threads ? threads : THREADS); i++, service->thread_count++)
        if (pthread_create(&service->threads[service->thread_count], NULL, work, service) != 0)
            return fm_base_error_set(FM_ERR_LIMIT, "no thread for transactions");
    if (service->hosting.collect &&
        pthread_create(&service->threads[service->thread_count], NULL, collect, service) != 0)
        return fm_base_error_set(FM_ERR_LIMIT, "no thread for the collector");
    service->thread_count += service->hosting.collect ? 1 : 0;
    return FM_OK;
}

static fm_status start(fm_fs_meta_service *service, const char *listen, uint32_t threads)
{
    const fm_net_loop_options loop = {
        .size = sizeof loop,
        .limits = {.args_bytes_max = FM_FS_META_WIRE_ARGS, .payload_bytes_max = FM_FS_META_WIRE_PAYLOAD}};
    const fm_net_service own = {.size = sizeof own,
                                .land = land,
                                .serve = take_request,
                                .drop = drop,
                                .opened = opened,
                                .closed = closed,
                                .context = service};
    const fm_net_listen_options options = {.size = sizeof options,
                                           .service = &own,
                                           .security = {FM_NET_KEYED, &service->key, service->hosting.tls}};
    FM_TRY(fm_net_loop_new(&loop, &service->loop));
    FM_TRY(start_threads(service, threads));
    return fm_net_loop_listen(service->loop, listen, &options, &service->listener);
}

fm_status fm_fs_meta_service_new(fm_fs_meta *meta, const fm_net_key *cluster, const char *listen,
                                 uint32_t threads, const struct fm_fs_meta_hosting *hosting,
                                 fm_fs_meta_service **out_service)
{
    pthread_condattr_t monotonic;
    fm_fs_meta_service *service = fm_base_mem_zalloc(1, sizeof *service);
    if (!service)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a service of the names");
    service->meta = meta;
    if (hosting)
        service->hosting = *hosting;
    if (!service->hosting.recheck_ms)
        service->hosting.recheck_ms = FM_FS_META_RECHECK_MS;
    fm_fs_meta_key_derive(cluster, &service->key);
    fm_fs_meta_admin_token(cluster, service->admin_token);
    pthread_mutex_init(&service->lock, NULL);
    pthread_cond_init(&service->work, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&service->tick, &monotonic);
    pthread_condattr_destroy(&monotonic);
    fm_status status = start(service, listen, threads);
    service->hosting.tls = NULL; // the listener's, which holds it
    if (status < 0) {
        service->hosting.end = NULL; // its context is still the caller's
        fm_fs_meta_service_free(service);
        return status;
    }
    *out_service = service;
    return FM_OK;
}

const char *fm_fs_meta_service_address(const fm_fs_meta_service *service)
{
    return fm_net_listener_address(service->listener);
}

fm_status fm_fs_meta_service_run(fm_fs_meta_service *service)
{
    return fm_net_loop_run(service->loop);
}

void fm_fs_meta_service_stop(fm_fs_meta_service *service)
{
    fm_net_loop_stop(service->loop);
}

static void end_threads(fm_fs_meta_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->ending = 1;
    pthread_cond_broadcast(&service->work);
    pthread_cond_broadcast(&service->tick);
    pthread_mutex_unlock(&service->lock);
    for (uint32_t i = 0; i < service->thread_count; i++)
        pthread_join(service->threads[i], NULL);
}

static void end_loop(fm_fs_meta_service *service)
{
    fm_fs_metrics_close(service->metrics);
    if (service->listener)
        fm_net_listener_close(service->listener);
    while (service->posted && fm_net_loop_progress(service->loop, 0) == FM_OK)
        ;                    // what was done is answered
    while (service->first) { // what nobody began is not
        struct job *job = service->first;
        service->first = job->next;
        fm_base_mem_free(job->request->user);
        job_free(job);
    }
    fm_net_loop_free(service->loop);
}

void fm_fs_meta_service_free(fm_fs_meta_service *service)
{
    char message[MESSAGE_BYTES];
    if (!service)
        return;
    // Who frees after a failure wants to know of that one, not of what the end of its connections says.
    snprintf(message, sizeof message, "%s", fm_error_message());
    end_threads(service);
    if (service->loop)
        end_loop(service);
    if (service->hosting.end)
        service->hosting.end(service->hosting.context);
    fm_net_key_clear(&service->key);
    memset(service->admin_token, 0, sizeof service->admin_token);
    pthread_cond_destroy(&service->tick);
    pthread_cond_destroy(&service->work);
    pthread_mutex_destroy(&service->lock);
    fm_base_mem_free(service);
    fm_base_error_set(FM_ERR_CANCELLED, "%s", message);
}

void fm_fs_meta_service_count(fm_fs_meta_service *service, fm_fs_meta_service_counts *out_counts)
{
    const fm_fs_meta_service_counts *counts = &service->counts;
    *out_counts =
        (fm_fs_meta_service_counts){.requests = __atomic_load_n(&counts->requests, __ATOMIC_RELAXED),
                                    .failures = __atomic_load_n(&counts->failures, __ATOMIC_RELAXED),
                                    .refused = __atomic_load_n(&counts->refused, __ATOMIC_RELAXED),
                                    .connections = __atomic_load_n(&counts->connections, __ATOMIC_RELAXED),
                                    .busy_ns = __atomic_load_n(&counts->busy_ns, __ATOMIC_RELAXED),
                                    .collected = __atomic_load_n(&counts->collected, __ATOMIC_RELAXED)};
}

static void write_metrics(void *context, struct fm_fs_metrics_text *text)
{
    fm_fs_meta_service_counts counts;
    fm_fs_meta_service_count(context, &counts);
    fm_fs_metrics_one(text, "meta_requests_total", "counter", "Requests that were served.",
                      (double)counts.requests);
    fm_fs_metrics_one(text, "meta_failures_total", "counter", "Requests that failed, refused ones aside.",
                      (double)counts.failures);
    fm_fs_metrics_one(text, "meta_refused_total", "counter",
                      "Requests refused for want of a token or of a permission.", (double)counts.refused);
    fm_fs_metrics_one(text, "meta_connections", "gauge", "Connections that are open.",
                      (double)counts.connections);
    fm_fs_metrics_one(text, "meta_busy_seconds_total", "counter",
                      "Time that requests took in the service, summed.", (double)counts.busy_ns * 1e-9);
    fm_fs_metrics_one(text, "meta_collected_total", "counter",
                      "Pieces of what removals left that were collected.", (double)counts.collected);
}

fm_status fm_fs_meta_service_metrics(fm_fs_meta_service *service, const char *address,
                                     const char **out_address)
{
    if (service->metrics)
        return fm_base_error_set(FM_ERR_STATE, "metrics are at %s already",
                                 fm_fs_metrics_address(service->metrics));
    FM_TRY(fm_fs_metrics_open(service->loop, address, write_metrics, service, &service->metrics));
    *out_address = fm_fs_metrics_address(service->metrics);
    return FM_OK;
}
