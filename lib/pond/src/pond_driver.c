/*
 * The driver gives tasks to whoever asks. An executor is a connection; the task it has is leased: a connection that breaks, or
 * says nothing for the length of a lease, gives it back. One that has had nothing to do for long is sent home.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/file.h"
#include "fathom/interrupt.h"
#include "fathom/log.h"
#include "fathom/span.h"
#include "pond_fleet.h"

enum {
    STRAGGLER_SAMPLES = 3, // tasks of a stage that are done before any is called slow
    COPIES_MAX = 2,        // of a task at a time
    NAME_BYTES = 320,      // of an executor: a host's and a process's
};

struct executor {
    struct executor *next;
    fm_net_conn *conn;
    fm_net_request *lease; // waits for a task; NULL: none
    int64_t task;          // at work; -1: none; -2: a copy that another has overtaken
    int attempt;           // of the task
    uint64_t begun_ns, begun_unix_ns, heard_ns;
    uint64_t idle_ns; // since when it waits
    int remote, track;
    int leaving; // was told to go
};

// Where executors come in.
struct door {
    struct fm_pond_driver *driver;
    int remote;
};

struct task {
    int copies, attempts, failures;
    uint64_t memory_bytes;
    int again; // waits to be given out
};

struct fm_pond_driver {
    fm_pond_run *run;
    fm_net_loop *loop;
    fm_net_listener *local, *remote;
    char address[FM_NET_ADDRESS_BYTES];
    struct executor *executors;
    struct door doors[2]; // of this machine, of others
    fm_pond_fleet fleet;
    fm_pond_trace *trace; // NULL: none could be begun
    fm_net_key key;
    uint64_t reported_ns;
    /* The stage at work; NULL between stages. */
    const char *stage;
    char *const *bodies;
    fm_pond_made *made;
    struct task *tasks;
    size_t task_count, done_count, next;
    uint64_t serial; // of the stage: a result of an earlier one is none of this
    fm_status status;
    char message[1024];
    int ending;
};

/* Tasks */

static void fail(struct fm_pond_driver *driver, fm_status status, const char *message)
{
    if (driver->status == FM_OK) {
        driver->status = status;
        snprintf(driver->message, sizeof driver->message, "%s", message);
    }
}

// Whether trying again may help.
static int is_passing(fm_status status)
{
    return status == FM_ERR_NOMEM || status == FM_ERR_IO || status == FM_ERR_UNAVAILABLE ||
           status == FM_ERR_NET_CLOSED || status == FM_ERR_INTERNAL || status == FM_ERR_TIMEOUT;
}

// Memory that was not enough is doubled, as far as there is any; DuckDB spills what it can before it gives up.
static int give_more_memory(const struct fm_pond_driver *driver, struct task *task)
{
    uint64_t most = 0, given = task->memory_bytes;
    if (fm_base_space_memory(&most) < 0 || most < driver->run->options.memory_bytes)
        most = driver->run->options.memory_bytes;
    task->memory_bytes = 2 * given < most ? 2 * given : most;
    return task->memory_bytes > given;
}

static void take_failure(struct fm_pond_driver *driver, size_t index, fm_status status, const char *message)
{
    struct task *task = &driver->tasks[index];
    if (driver->made[index].done)
        return;
    task->failures++;
    int exhausted = status == FM_ERR_NOMEM && !give_more_memory(driver, task);
    status = exhausted ? FM_ERR_LIMIT : status;
    if (!is_passing(status) || task->failures > driver->run->options.retries) {
        char text[1200];
        snprintf(text, sizeof text, "stage %s, task %zu%s: %s", driver->stage, index,
                 exhausted ? ", with all the memory there is" : "", message);
        fail(driver, status, text);
        return;
    }
    fm_log_warn("pond", "stage %s, task %zu failed and is run again: %s", driver->stage, index, message);
    driver->run->report.retries++;
    if (task->copies == 0)
        task->again = 1;
}

// What an executor has had, for the trace.
static void trace_task(struct fm_pond_driver *driver, const struct executor *executor, size_t index,
                       fm_status status, const fm_pond_made *made)
{
    fm_pond_trace_task task = {.stage = driver->stage,
                               .key = driver->made[index].key,
                               .number = index,
                               .memory_bytes = driver->tasks[index].memory_bytes,
                               .attempt = executor->attempt,
                               .status = status,
                               .usage = {.begin_unix_ns = executor->begun_unix_ns,
                                         .wall_ns = fm_base_clock_ns() - executor->begun_ns}};
    if (made) {
        task.rows_in = made->rows_in;
        task.rows = made->rows;
        task.bytes = made->bytes;
        task.usage = made->usage;
    }
    fm_pond_trace_task_add(driver->trace, executor->track, &task);
}

static void take_result(struct fm_pond_driver *driver, const struct executor *executor, size_t index,
                        const char *text, size_t length)
{
    fm_pond_made *made = &driver->made[index];
    if (made->done)
        return;
    fm_status status = fm_pond_made_read(text, length, made);
    trace_task(driver, executor, index, status, status < 0 ? NULL : made);
    if (status < 0) {
        take_failure(driver, index, status, fm_error_message());
        return;
    }
    made->done = 1;
    driver->done_count++;
    driver->run->report.tasks_run++;
}

static void give_back(struct fm_pond_driver *driver, struct executor *executor, const char *why)
{
    if (executor->task < 0)
        return;
    size_t index = (size_t)executor->task;
    trace_task(driver, executor, index, FM_ERR_NET_CLOSED, NULL);
    executor->task = -1;
    driver->tasks[index].copies--;
    take_failure(driver, index, FM_ERR_NET_CLOSED, why);
}

static char *task_text(struct fm_pond_driver *driver, size_t index)
{
    const fm_pond_run *run = driver->run;
    fm_pond_text text = {0};
    fm_json folder = {0};
    fm_base_json_string(&folder, NULL, run->tasks.text);
    fm_pond_text_add(
        &text, "{\"number\": %llu, \"key\": \"%s\", \"folder\": %.*s, \"threads\": %d, \"memory\": %llu, %s",
        (unsigned long long)(driver->serial << 32 | index), driver->made[index].key, (int)folder.length,
        folder.text ? folder.text : "", run->options.threads,
        (unsigned long long)driver->tasks[index].memory_bytes, driver->bodies[index] + 1);
    if (fm_base_json_finish(&folder, NULL) < 0)
        text.failed = 1;
    if (text.failed)
        fm_pond_text_clear(&text);
    return text.text;
}

static void sent(void *context, fm_status status)
{
    (void)status;
    fm_base_mem_free(context);
}

static void give(struct fm_pond_driver *driver, struct executor *executor, size_t index)
{
    struct task *task = &driver->tasks[index];
    char *text = task_text(driver, index);
    if (!text) {
        fail(driver, FM_ERR_NOMEM, "no memory for a task");
        return;
    }
    struct iovec payload = {text, strlen(text)};
    const fm_net_answer answer = {
        .body = {.payload = &payload, .payload_count = 1}, .sent = sent, .context = text};
    fm_net_request *lease = executor->lease;
    executor->lease = NULL;
    if (fm_net_request_reply(lease, &answer) < 0) {
        fm_base_mem_free(text);
        fm_net_request_fail(lease, FM_ERR_NOMEM);
        return;
    }
    task->copies++;
    task->again = 0;
    executor->task = (int64_t)index;
    executor->attempt = ++task->attempts;
    executor->begun_ns = executor->heard_ns = fm_base_clock_ns();
    executor->begun_unix_ns = fm_base_clock_unix_ns();
}

static int by_time(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

// What a task may take before it is called slow: three times the median of those that are done, and a second.
static uint64_t slow_after_ns(const struct fm_pond_driver *driver)
{
    uint64_t times[1024];
    size_t count = 0;
    for (size_t i = 0; i < driver->task_count && count < 1024; i++)
        if (driver->made[i].done && driver->made[i].usage.wall_ns)
            times[count++] = driver->made[i].usage.wall_ns;
    if (count < STRAGGLER_SAMPLES)
        return UINT64_MAX;
    qsort(times, count, sizeof *times, by_time);
    return 3 * times[count / 2] + 1000000000u;
}

// A task that takes much longer than the others gets a second copy, once there is nothing else to do.
static int64_t find_straggler(const struct fm_pond_driver *driver)
{
    uint64_t limit = slow_after_ns(driver), now = fm_base_clock_ns();
    for (const struct executor *executor = driver->executors; executor; executor = executor->next)
        if (executor->task >= 0 && driver->tasks[executor->task].copies < COPIES_MAX &&
            !driver->made[executor->task].done && limit < UINT64_MAX && now - executor->begun_ns > limit)
            return executor->task;
    return -1;
}

static int64_t find_task(struct fm_pond_driver *driver, int *out_speculative)
{
    *out_speculative = 0;
    if (!driver->stage || driver->status < 0)
        return -1;
    for (size_t i = 0; i < driver->next; i++)
        if (driver->tasks[i].again)
            return (int64_t)i;
    while (driver->next < driver->task_count && driver->made[driver->next].done)
        driver->next++;
    if (driver->next < driver->task_count)
        return (int64_t)driver->next++;
    *out_speculative = 1;
    return find_straggler(driver);
}

static void give_out(struct fm_pond_driver *driver)
{
    for (struct executor *executor = driver->executors; executor; executor = executor->next) {
        int speculative;
        if (!executor->lease)
            continue;
        int64_t task = find_task(driver, &speculative);
        if (task < 0)
            return;
        give(driver, executor, (size_t)task);
        driver->run->report.speculative += (uint64_t)speculative;
    }
}

/* The service */

static void opened(void *context, fm_net_conn *conn)
{
    const struct door *door = context;
    struct fm_pond_driver *driver = door->driver;
    struct executor *executor = fm_base_mem_zalloc(1, sizeof *executor);
    if (!executor) {
        fm_net_conn_close(conn);
        return;
    }
    *executor =
        (struct executor){.next = driver->executors, .conn = conn, .task = -1, .remote = door->remote};
    driver->executors = executor;
    driver->fleet.connected += door->remote;
    driver->fleet.joined += (uint64_t)door->remote;
    fm_net_conn_set_user(conn, executor);
}

static void closed(void *context, fm_net_conn *conn, fm_status status)
{
    struct fm_pond_driver *driver = ((const struct door *)context)->driver;
    struct executor *executor = fm_net_conn_user(conn);
    (void)status;
    if (!executor)
        return;
    for (struct executor **link = &driver->executors; *link; link = &(*link)->next)
        if (*link == executor) {
            *link = executor->next;
            break;
        }
    driver->fleet.connected -= executor->remote;
    if (executor->lease)
        fm_net_request_fail(executor->lease, FM_ERR_CANCELLED);
    if (executor->track && !executor->leaving && !driver->ending)
        fm_pond_trace_mark(driver->trace, executor->track, "lost");
    if (!driver->ending)
        give_back(driver, executor, "its executor was lost");
    fm_base_mem_free(executor);
}

static void send_home(struct executor *executor)
{
    fm_net_request *lease = executor->lease;
    executor->lease = NULL;
    executor->leaving = 1;
    fm_net_request_fail(lease, fm_base_error_set(FM_ERR_CANCELLED, "there is no more work"));
}

// Who has waited for long goes; one stays, for a second copy of a task that turns out to be slow.
static void send_idle_home(struct fm_pond_driver *driver)
{
    uint64_t now = fm_base_clock_ns(), patience = (uint64_t)driver->run->options.idle_ms * 1000000u;
    int waiting = 0;
    for (struct executor *executor = driver->executors; executor; executor = executor->next) {
        if (!executor->lease)
            continue;
        // Those whom this run has not started could not be called back.
        int ours = !executor->remote || driver->fleet.remote_max;
        if (waiting++ && ours && now - executor->idle_ns > patience) {
            fm_pond_trace_mark(driver->trace, executor->track, "sent home");
            send_home(executor);
        }
    }
}

static fm_status land(void *context, fm_net_request *request, void **out_payload)
{
    (void)context;
    char *payload = fm_base_mem_alloc(request->payload_bytes + 1);
    if (!payload)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a result of %zu bytes", request->payload_bytes);
    *out_payload = payload;
    return FM_OK;
}

static void drop(void *context, fm_net_request *request)
{
    (void)context;
    fm_base_mem_free(request->payload);
}

static void acknowledge(fm_net_request *request)
{
    const fm_net_answer answer = {.status = FM_OK};
    if (fm_net_request_reply(request, &answer) < 0)
        fm_net_request_fail(request, FM_ERR_NOMEM);
}

static void take_done(struct fm_pond_driver *driver, struct executor *executor, fm_net_request *request)
{
    uint64_t number = fm_get_le64(request->args);
    fm_status status = (int32_t)fm_get_le32((const uint8_t *)request->args + 8);
    size_t index = (size_t)(number & 0xFFFFFFFF);
    char *text = request->payload;
    executor->task = -1;
    // What belongs to a stage that is over, another copy has done.
    if (driver->stage && number >> 32 == driver->serial && index < driver->task_count) {
        driver->tasks[index].copies--;
        if (status < 0) {
            trace_task(driver, executor, index, status, NULL);
            char message[1024];
            snprintf(message, sizeof message, "%.*s",
                     (int)(request->payload_bytes < 1000 ? request->payload_bytes : 1000), text ? text : "");
            take_failure(driver, index, status, message);
        } else {
            take_result(driver, executor, index, text ? text : "", request->payload_bytes);
        }
    }
    fm_base_mem_free(text);
}

static void name_executor(struct fm_pond_driver *driver, struct executor *executor,
                          const fm_net_request *request)
{
    char name[NAME_BYTES];
    size_t length = request->args_bytes < sizeof name ? request->args_bytes : sizeof name - 1;
    memcpy(name, request->args, length);
    name[length] = '\0';
    executor->track = fm_pond_trace_track(driver->trace, name);
    fm_pond_trace_mark(driver->trace, executor->track, "joined");
}

static void serve(void *context, fm_net_request *request)
{
    struct fm_pond_driver *driver = ((const struct door *)context)->driver;
    struct executor *executor = request->conn ? fm_net_conn_user(request->conn) : NULL;
    if (!executor) {
        fm_base_mem_free(request->payload);
        fm_net_request_fail(request, fm_base_error_set(FM_ERR_STATE, "the connection is closing"));
        return;
    }
    executor->heard_ns = fm_base_clock_ns();
    if (request->method == FM_POND_CALL_LEASE && !executor->lease) {
        executor->task = -1;
        if (driver->ending) {
            fm_net_request_fail(request, fm_base_error_set(FM_ERR_CANCELLED, "the run is over"));
            return;
        }
        if (!executor->track)
            name_executor(driver, executor, request);
        executor->lease = request;
        executor->idle_ns = executor->heard_ns;
        give_out(driver);
    } else if (request->method == FM_POND_CALL_DONE && request->args_bytes == FM_POND_DONE_ARGS_BYTES) {
        take_done(driver, executor, request);
        acknowledge(request);
    } else if (request->method == FM_POND_CALL_BEAT) {
        acknowledge(request);
    } else {
        fm_base_mem_free(request->payload);
        fm_net_request_fail(request,
                            fm_base_error_set(FM_ERR_FORMAT, "call %u is not known here", request->method));
    }
}

/* Life */

// An address that listens on all interfaces is reached by this machine's name.
static fm_status name_address(struct fm_pond_driver *driver)
{
    fm_net_address parsed;
    FM_TRY(fm_net_address_parse(fm_net_listener_address(driver->remote), &parsed));
    if (strcmp(parsed.host, "*") == 0 || strcmp(parsed.host, "0.0.0.0") == 0 ||
        strcmp(parsed.host, "::") == 0) {
        gethostname(parsed.host, sizeof parsed.host);
        parsed.host[sizeof parsed.host - 1] = '\0';
    }
    fm_net_address_format(&parsed, driver->fleet.remote_address);
    return FM_OK;
}

static fm_status listen_here(struct fm_pond_driver *driver)
{
    const fm_pond_run_options *options = &driver->run->options;
    const char *folder = getenv("TMPDIR");
    fm_net_service service = {.size = sizeof service,
                              .land = land,
                              .serve = serve,
                              .drop = drop,
                              .opened = opened,
                              .closed = closed,
                              .context = &driver->doors[0]};
    fm_net_listen_options listening = {
        .size = sizeof listening, .service = &service, .security = {.mode = FM_NET_SAME_USER}};
    if (folder && strlen(folder) > 64) // a socket's path has 107 bytes
        folder = NULL;
    snprintf(driver->address, sizeof driver->address, "unix:%s/fathom-pond-%d-%llx.sock",
             folder ? folder : "/tmp", (int)getpid(), (unsigned long long)fm_base_clock_ns());
    FM_TRY(fm_net_loop_listen(driver->loop, driver->address, &listening, &driver->local));
    driver->fleet.local_address = driver->address;
    if (!options->listen && !driver->fleet.remote_max)
        return FM_OK;
    if (!options->key_path)
        return fm_base_error_set(FM_ERR_ARG, "executors of other machines need a key: give key_path");
    FM_TRY(fm_net_key_read(options->key_path, &driver->key));
    listening.security = (fm_net_security){.mode = FM_NET_KEYED, .key = &driver->key};
    service.context = &driver->doors[1];
    FM_TRY(fm_net_loop_listen(driver->loop, options->listen ? options->listen : "*:0", &listening,
                              &driver->remote));
    fm_log_info("pond", "executors may join at %s", fm_net_listener_address(driver->remote));
    return name_address(driver);
}

// Without its trace a run is as good.
static void begin_trace(struct fm_pond_driver *driver)
{
    fm_pond_text path = {0};
    fm_pond_text_add(&path, "%.*s/trace.json", (int)(driver->run->tasks.length - strlen("/tasks")),
                     driver->run->tasks.text);
    if (!path.text || fm_pond_trace_open(path.text, &driver->trace) < 0)
        fm_log_warn("pond", "no trace of this run: %s", fm_error_message());
    fm_pond_text_clear(&path);
}

fm_status fm_pond_driver_new(fm_pond_run *run, struct fm_pond_driver **out_driver)
{
    struct fm_pond_driver *driver = fm_base_mem_zalloc(1, sizeof *driver);
    const fm_net_loop_options options = {.size = sizeof options,
                                         .limits = {.payload_bytes_max = FM_POND_TASK_BYTES_MAX}};
    if (!driver)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a driver");
    driver->run = run;
    driver->doors[0] = (struct door){driver, 0};
    driver->doors[1] = (struct door){driver, 1};
    fm_pond_fleet_init(&driver->fleet, run);
    begin_trace(driver);
    fm_status status = fm_net_loop_new(&options, &driver->loop);
    if (status == FM_OK)
        status = listen_here(driver);
    if (status < 0) {
        fm_pond_driver_free(driver);
        return status;
    }
    *out_driver = driver;
    return FM_OK;
}

void fm_pond_driver_free(struct fm_pond_driver *driver)
{
    if (!driver)
        return;
    driver->ending = 1;
    // Tasks that are still at work are copies of what is done, or of a run that ends.
    fm_pond_fleet_kill(&driver->fleet);
    // Executors elsewhere are told, and have a moment to hear it.
    for (struct executor *executor = driver->executors; executor; executor = executor->next)
        if (executor->lease)
            send_home(executor);
    fm_pond_fleet_stop(&driver->fleet);
    if (driver->remote && fm_net_loop_progress(driver->loop, 50000000) < 0)
        fm_log_warn("pond", "%s", fm_error_message());
    fm_net_loop_free(driver->loop);
    fm_pond_trace_close(driver->trace);
    fm_net_key_clear(&driver->key);
    fm_base_mem_free(driver);
}

static void check_leases(struct fm_pond_driver *driver)
{
    uint64_t now = fm_base_clock_ns();
    for (struct executor *executor = driver->executors; executor; executor = executor->next)
        if (executor->task >= 0 && now - executor->heard_ns > (uint64_t)FM_POND_LEASE_NS) {
            fm_net_conn_close(executor->conn);
            return; // the list has changed
        }
}

static void show(struct fm_pond_driver *driver)
{
    uint64_t now = fm_base_clock_ns();
    if (now - driver->reported_ns > 1000000000u) {
        int executors = 0;
        for (const struct executor *executor = driver->executors; executor; executor = executor->next)
            executors++;
        driver->reported_ns = now;
        fm_pond_status_save(driver->run, "running", driver->stage, executors);
    }
    if (!driver->run->options.progress)
        return;
    char label[64];
    snprintf(label, sizeof label, "%.40s", driver->stage);
    fm_base_progress_label(&driver->run->progress, label);
    fm_base_progress_update(&driver->run->progress,
                            driver->run->report.tasks_run + driver->run->report.tasks_kept);
}

static fm_status run_stage(struct fm_pond_driver *driver)
{
    while (driver->done_count < driver->task_count && driver->status == FM_OK) {
        FM_TRY(fm_pond_fleet_tend(&driver->fleet, driver->task_count - driver->done_count));
        give_out(driver);
        FM_TRY(fm_net_loop_progress(driver->loop, 200000000));
        check_leases(driver);
        send_idle_home(driver);
        FM_TRY(fm_base_interrupt_check());
        show(driver);
    }
    return driver->status < 0 ? fm_base_error_set(driver->status, "%s", driver->message) : FM_OK;
}

fm_status fm_pond_driver_run(struct fm_pond_driver *driver, const char *stage, char *const *bodies,
                             fm_pond_made *made, size_t count)
{
    FM_SPAN_ARGS(span, "stage", "pond", "tasks", NULL);
    span.args[0] = (int64_t)count;
    driver->tasks = fm_base_mem_zalloc(count + 1, sizeof *driver->tasks);
    if (!driver->tasks)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu tasks", count);
    driver->stage = stage;
    driver->bodies = bodies;
    driver->made = made;
    driver->task_count = count;
    driver->done_count = driver->next = 0;
    driver->serial++;
    for (size_t i = 0; i < count; i++) {
        driver->tasks[i].memory_bytes = driver->run->options.memory_bytes;
        driver->done_count += made[i].done != 0;
    }
    fm_status status = run_stage(driver);
    driver->stage = NULL;
    fm_base_mem_free(driver->tasks);
    driver->tasks = NULL;
    // Copies of tasks that others have done are not waited for: their executors begin anew.
    for (struct executor *executor = driver->executors; executor; executor = executor->next)
        executor->task = executor->task >= 0 ? -2 : executor->task;
    return status;
}
