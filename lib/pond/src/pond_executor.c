#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fathom/log.h"
#include "fathom/mem.h"
#include "fathom/pond.h"
#include "pond_protocol.h"
#include "pond_task.h"

struct executor {
    fm_net_loop *loop;
    fm_net_conn *conn;
    fm_net_timer beat;
    char *buffer; // for tasks: address space, of which what tasks need becomes memory
    fm_status status;
    char message[1024]; // of the status
    int over;
    int working; // the thread runs, or has ended and not been joined
    /* The task at work, on a thread of its own so that beats go on. */
    pthread_t thread;
    fm_net_task ended;
    size_t task_bytes;
    uint64_t number;
    fm_status task_status;
    char *result;
    char task_message[1024];
    uint8_t done_args[FM_POND_DONE_ARGS_BYTES];
    struct iovec payload;
};

static void end(struct executor *executor, fm_status status)
{
    if (!executor->over && status < 0) {
        executor->status = status;
        snprintf(executor->message, sizeof executor->message, "%s", fm_error_message());
    }
    executor->over = 1;
    fm_net_loop_stop(executor->loop);
}

static void ask(struct executor *executor);

static void run_task(struct executor *executor)
{
    fm_doc *task = NULL;
    executor->result = NULL;
    executor->task_status = fm_base_doc_parse_json(executor->buffer, executor->task_bytes, "task", &task);
    int64_t number = 0;
    if (executor->task_status == FM_OK) {
        if (fm_base_doc_int(fm_base_doc_get(task, "number"), "number", 0, INT64_MAX, &number) == FM_OK)
            executor->number = (uint64_t)number;
        executor->task_status = fm_pond_task_run(task, &executor->result);
    }
    snprintf(executor->task_message, sizeof executor->task_message, "%s",
             executor->task_status < 0 ? fm_error_message() : "");
    fm_base_doc_free(task);
}

static void *run_thread(void *argument)
{
    struct executor *executor = argument;
    run_task(executor);
    fm_net_loop_post(executor->loop, &executor->ended);
    return NULL;
}

static void told(void *context, const fm_net_reply *reply)
{
    struct executor *executor = context;
    fm_base_mem_free(executor->result);
    executor->result = NULL;
    if (reply->status < 0)
        end(executor, reply->status == FM_ERR_CANCELLED ? FM_OK : reply->status);
    else
        ask(executor);
}

// The task's thread has ended: tell the driver.
static void tell(void *context)
{
    struct executor *executor = context;
    pthread_join(executor->thread, NULL);
    executor->working = 0;
    fm_net_timer_stop(executor->loop, &executor->beat);
    char *text = executor->task_status < 0 ? executor->task_message : executor->result;
    fm_put_le64(executor->done_args, executor->number);
    fm_put_le32(executor->done_args + 8, (uint32_t)executor->task_status);
    executor->payload = (struct iovec){text, strlen(text)};
    const fm_net_call call = {.method = FM_POND_CALL_DONE,
                              .body = {.args = executor->done_args,
                                       .args_bytes = sizeof executor->done_args,
                                       .payload = &executor->payload,
                                       .payload_count = executor->payload.iov_len ? 1 : 0},
                              .done = told,
                              .context = executor};
    fm_status status = fm_net_conn_call(executor->conn, &call);
    if (status < 0)
        end(executor, status);
}

static void beaten(void *context, const fm_net_reply *reply)
{
    (void)context, (void)reply; // a connection that broke says so by itself
}

static void beat(void *context)
{
    struct executor *executor = context;
    uint8_t args[8];
    fm_put_le64(args, executor->number);
    const fm_net_call call = {.method = FM_POND_CALL_BEAT,
                              .body = {.args = args, .args_bytes = sizeof args},
                              .done = beaten,
                              .context = executor};
    fm_status status = fm_net_conn_call(executor->conn, &call);
    if (status == FM_OK)
        status = fm_net_timer_start(executor->loop, &executor->beat, FM_POND_BEAT_NS);
    if (status < 0)
        end(executor, status);
}

static void leased(void *context, const fm_net_reply *reply)
{
    struct executor *executor = context;
    if (reply->status < 0) {
        end(executor, reply->status == FM_ERR_CANCELLED ? FM_OK : reply->status);
        return;
    }
    executor->task_bytes = reply->payload_bytes;
    executor->ended = (fm_net_task){.run = tell, .context = executor};
    fm_status status = fm_net_timer_start(executor->loop, &executor->beat, FM_POND_BEAT_NS);
    if (status == FM_OK && pthread_create(&executor->thread, NULL, run_thread, executor) != 0)
        status = fm_base_error_set(FM_ERR_LIMIT, "no thread for a task");
    executor->working = status == FM_OK;
    if (status < 0)
        end(executor, status);
}

static void ask(struct executor *executor)
{
    char name[300];
    gethostname(name, 256);
    name[255] = '\0';
    snprintf(name + strlen(name), 24, " %d", (int)getpid());
    const fm_net_call call = {.method = FM_POND_CALL_LEASE,
                              .body = {.args = name, .args_bytes = strlen(name)},
                              .reply_buffer = executor->buffer,
                              .reply_bytes = FM_POND_TASK_BYTES_MAX,
                              .timeout_ns = FM_NET_FOREVER,
                              .done = leased,
                              .context = executor};
    fm_status status = fm_net_conn_call(executor->conn, &call);
    if (status < 0)
        end(executor, status);
}

static void down(void *context, fm_net_conn *conn, fm_status status)
{
    struct executor *executor = context;
    (void)conn;
    executor->conn = NULL;
    if (!executor->over)
        end(executor, status);
}

static fm_status serve_on(struct executor *executor, const char *address, const fm_net_security *security)
{
    const fm_net_connect_options connecting = {
        .size = sizeof connecting, .down = down, .context = executor, .security = *security};
    executor->beat = (fm_net_timer){.fire = beat, .context = executor};
    FM_TRY(fm_net_loop_connect(executor->loop, address, &connecting, &executor->conn));
    ask(executor);
    FM_TRY(fm_net_loop_run(executor->loop));
    return executor->status < 0 ? fm_base_error_set(executor->status, "%s", executor->message) : FM_OK;
}

fm_status fm_pond_executor_serve(const char *address, const fm_net_security *security)
{
    struct executor executor = {0};
    executor.buffer = mmap(NULL, FM_POND_TASK_BYTES_MAX, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (executor.buffer == MAP_FAILED)
        return fm_base_error_set(FM_ERR_NOMEM, "no address space for tasks");
    fm_status status = fm_net_loop_new(NULL, &executor.loop);
    if (status == FM_OK) {
        status = serve_on(&executor, address, security);
        // A task that is still at work may end: its folder serves the next run.
        if (executor.working)
            pthread_join(executor.thread, NULL);
        fm_base_mem_free(executor.result);
        fm_net_loop_free(executor.loop);
    }
    munmap(executor.buffer, FM_POND_TASK_BYTES_MAX);
    return status;
}

fm_status fm_pond_executor_run(const char *address, const char *key_path)
{
    fm_net_key key;
    FM_TRY(fm_net_key_read(key_path, &key));
    const fm_net_security security = {.mode = FM_NET_KEYED, .key = &key};
    fm_status status = fm_pond_executor_serve(address, &security);
    fm_net_key_clear(&key);
    return status;
}
