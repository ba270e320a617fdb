// Loops in several threads; what one thread may do to another's loop.
#include "net_peer.h"

#include <pthread.h>
#include <stdatomic.h>

#include "fathom/clock.h"
#include "fathom/mem.h"

enum { CALLERS = 3, POSTERS = 2, TASKS = 1500 };

// Requests are answered by another thread's leave: it takes them off a queue and posts the answer back, as a
// thread that waits for a disk would.
struct job {
    struct backend *backend;
    fm_net_request *request;
    fm_net_task task;
    struct job *next;
};

struct backend {
    fm_net_loop *loop;
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct job *jobs;
    int stop;
    int answered; // the loop's thread
};

static void answer_job(void *context)
{
    struct job *job = context;
    const fm_net_answer answer = {
        .body = {.args = job->request->args, .args_bytes = job->request->args_bytes}};
    fm_status status = fm_net_request_reply(job->request, &answer);
    assert_int_equal(status, FM_OK);
    job->backend->answered++;
    fm_base_mem_free(job);
}

static void *work(void *context)
{
    struct backend *backend = context;
    pthread_mutex_lock(&backend->lock);
    while (!backend->stop || backend->jobs) {
        struct job *job = backend->jobs;
        if (!job) {
            pthread_cond_wait(&backend->filled, &backend->lock);
            continue;
        }
        backend->jobs = job->next;
        pthread_mutex_unlock(&backend->lock);
        fm_net_loop_post(backend->loop, &job->task);
        pthread_mutex_lock(&backend->lock);
    }
    pthread_mutex_unlock(&backend->lock);
    return NULL;
}

static void serve(void *context, fm_net_request *request)
{
    struct backend *backend = context;
    struct job *job = fm_base_mem_zalloc(1, sizeof *job);
    *job = (struct job){.backend = backend, .request = request, .task = {.run = answer_job, .context = job}};
    pthread_mutex_lock(&backend->lock);
    job->next = backend->jobs;
    backend->jobs = job;
    pthread_cond_signal(&backend->filled);
    pthread_mutex_unlock(&backend->lock);
}

static void *run_loop(void *context)
{
    return fm_net_loop_run(context) == FM_OK ? NULL : context;
}

struct caller {
    fm_net_loop *loop;
    struct net_client client;
    int done;
    int wrong;
};

struct errand {
    struct caller *caller;
    fm_net_task task;
    uint64_t number;
};

static void errand_done(void *context, const fm_net_reply *reply)
{
    struct errand *errand = context;
    struct caller *caller = errand->caller;
    caller->wrong +=
        reply->status != FM_OK || reply->args_bytes != 8 || memcmp(reply->args, &errand->number, 8) != 0;
    if (++caller->done == POSTERS * TASKS)
        fm_net_loop_stop(caller->loop);
}

static void run_errand(void *context)
{
    struct errand *errand = context;
    const fm_net_call call = {.body = {.args = &errand->number, .args_bytes = sizeof errand->number},
                              .done = errand_done,
                              .context = errand};
    fm_status status = fm_net_conn_call(errand->caller->client.conn, &call);
    assert_int_equal(status, FM_OK);
}

struct poster {
    struct caller *callers;
    struct errand errands[CALLERS][TASKS];
};

static void *post(void *context)
{
    struct poster *poster = context;
    for (int i = 0; i < TASKS; i++)
        for (int k = 0; k < CALLERS; k++) {
            struct errand *errand = &poster->errands[k][i];
            *errand =
                (struct errand){.caller = &poster->callers[k], .number = (uint64_t)i << 32 | (uint64_t)k};
            errand->task = (fm_net_task){.run = run_errand, .context = errand};
            fm_net_loop_post(poster->callers[k].loop, &errand->task);
        }
    return NULL;
}

static void threads_post_to_loops(void **state)
{
    (void)state;
    struct backend backend = {
        .loop = net_test_loop(NULL), .lock = PTHREAD_MUTEX_INITIALIZER, .filled = PTHREAD_COND_INITIALIZER};
    const fm_net_service service = {.size = sizeof service, .serve = serve, .context = &backend};
    const fm_net_listen_options options = {
        .size = sizeof options, .service = &service, .security = net_keyed};
    fm_net_listener *listener;
    assert_ok(fm_net_loop_listen(backend.loop, "127.0.0.1:0", &options, &listener));
    static struct caller callers[CALLERS];
    static struct poster posters[POSTERS];
    pthread_t threads[2 + CALLERS + POSTERS];
    int count = 0;
    memset(callers, 0, sizeof callers);
    for (int i = 0; i < CALLERS; i++) {
        const fm_net_limits limits = {.queue_max = POSTERS * TASKS};
        callers[i].loop = net_test_loop(&limits);
        net_client_connect(&callers[i].client, callers[i].loop, fm_net_listener_address(listener),
                           &net_keyed);
    }
    pthread_create(&threads[count++], NULL, run_loop, backend.loop);
    pthread_create(&threads[count++], NULL, work, &backend);
    for (int i = 0; i < CALLERS; i++)
        pthread_create(&threads[count++], NULL, run_loop, callers[i].loop);
    for (int i = 0; i < POSTERS; i++) {
        posters[i].callers = callers;
        pthread_create(&threads[count++], NULL, post, &posters[i]);
    }
    for (int i = 2; i < count; i++) { // callers stop themselves when all is answered
        void *result;
        pthread_join(threads[i], &result);
        assert_null(result);
    }
    fm_net_loop_stop(backend.loop);
    pthread_join(threads[0], NULL);
    pthread_mutex_lock(&backend.lock);
    backend.stop = 1;
    pthread_cond_signal(&backend.filled);
    pthread_mutex_unlock(&backend.lock);
    pthread_join(threads[1], NULL);
    for (int i = 0; i < CALLERS; i++) {
        assert_int_equal(callers[i].done, POSTERS * TASKS);
        assert_int_equal(callers[i].wrong, 0);
        fm_net_loop_free(callers[i].loop);
    }
    assert_int_equal(backend.answered, CALLERS * POSTERS * TASKS);
    fm_net_loop_free(backend.loop);
}

struct counter {
    fm_net_task task;
    atomic_int ran;
};

static void count(void *context)
{
    struct counter *counter = context;
    atomic_fetch_add(&counter->ran, 1);
}

static void a_sleeping_loop_wakes(void **state)
{
    (void)state;
    fm_net_loop *loop = net_test_loop(NULL);
    struct counter counter = {.task = {.run = count, .context = &counter}};
    pthread_t thread;
    pthread_create(&thread, NULL, run_loop, loop);
    for (int i = 0; i < 200;
         i++) { // one at a time: each must wake a loop that sleeps for ever, or is about to
        fm_net_loop_post(loop, &counter.task);
        fm_wait wait = fm_base_wait_begin(10000);
        while (atomic_load(&counter.ran) <= i)
            assert_ok(fm_base_wait_step(&wait));
    }
    fm_net_loop_stop(loop);
    pthread_join(thread, NULL);
    fm_net_loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_post_to_loops),
        cmocka_unit_test(a_sleeping_loop_wakes),
    };
    return fm_test_run("net.thread", tests);
}
