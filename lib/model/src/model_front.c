/*
 * The process that speaks for ranks in others: it starts them (mpirun, srun), hears the first of them on a socket, and
 * passes every call on. The ranks are a process group of their own, so that Ctrl-C reaches this process alone, which ends them
 * in order; if it is killed, the first rank finds its socket closed and all end.
 */
#include "model_front.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/file.h"
#include "fathom/run_id.h"

extern char **environ;

enum {
    ARGUMENTS_MAX = 64,
    JOIN_POLL_MS = 50,
    JOIN_WAIT_MS = 100 * 1000, // until the first rank calls: launchers of clusters take their time
    END_WAIT_MS = 30 * 1000,   // for processes that were asked to end
};

fm_status fm_model_front_send(int socket, const void *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t sent = send(socket, (const char *)bytes + done, count - done, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return fm_base_error_set(FM_ERR_IO, "the other end has gone: %s", strerror(errno));
        done += sent > 0 ? (size_t)sent : 0;
    }
    return FM_OK;
}

fm_status fm_model_front_receive(int socket, void *bytes, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t got = recv(socket, (char *)bytes + done, count - done, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return fm_base_error_set(FM_ERR_IO, "the other end has gone%s%s", got < 0 ? ": " : "",
                                     got < 0 ? strerror(errno) : "");
        done += got > 0 ? (size_t)got : 0;
    }
    return FM_OK;
}

// Where the first rank calls: a socket in a folder that is this user's alone.
static fm_status listen_at(struct fm_model_front *front, struct sockaddr_un *address, int *out_listener)
{
    enum { FOLDER_BYTES = 96 }; // a socket's path is short
    const char *parent = getenv("TMPDIR");
    char name[64];
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    FM_TRY(fm_base_run_name("ranks", name, sizeof name));
    if (snprintf(front->folder, FOLDER_BYTES, "%s/%s-XXXXXX", parent ? parent : "/tmp", name) >= FOLDER_BYTES)
        snprintf(front->folder, FOLDER_BYTES, "/tmp/%s-XXXXXX", name);
    if (!mkdtemp(front->folder)) {
        front->folder[0] = 0;
        return fm_base_error_set(FM_ERR_IO, "no folder for the ranks' socket: %s", strerror(errno));
    }
    snprintf(address->sun_path, sizeof address->sun_path, "%.96s/socket", front->folder);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)address, sizeof *address) != 0 ||
        listen(listener, 1) != 0) {
        fm_status status = fm_base_error_set(FM_ERR_IO, "%s: %s", address->sun_path, strerror(errno));
        if (listener >= 0)
            close(listener);
        return status;
    }
    *out_listener = listener;
    return FM_OK;
}

static void forget_folder(struct fm_model_front *front)
{
    if (front->folder[0])
        (void)!fm_base_dir_remove(front->folder); // what cannot be removed, `fathom clean` finds
    front->folder[0] = 0;
}

static char *spell(const struct fm_trainer *trainer)
{
    struct fm_model_front_start start;
    char *digits = fm_base_mem_alloc(2 * sizeof start + 1);
    memset(&start, 0, sizeof start); // padding, too, is sent
    start.config = trainer->model.config;
    start.training = trainer->training;
    start.training.transport = FM_MODEL_MPI;
    start.training.rank_command = NULL;
    for (size_t i = 0; digits && i < sizeof start; i++)
        snprintf(digits + 2 * i, 3, "%02x", ((const unsigned char *)&start)[i]);
    return digits;
}

// This process's environment, and: ranks share cores with others, so they wait without spinning and are bound to none; more
// of them than cores are allowed; and so is root. What the user has set stays. The array is the caller's to free.
static char **environment(struct fm_model_front *front)
{
    static char more[][48] = {"OMP_WAIT_POLICY=passive",
                              "OMPI_MCA_mpi_yield_when_idle=1",
                              "OMPI_MCA_hwloc_base_binding_policy=none",
                              "OMPI_MCA_rmaps_base_oversubscribe=1",
                              "OMPI_ALLOW_RUN_AS_ROOT=1",
                              "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"};
    enum { MORE = sizeof more / sizeof more[0] };
    // Open MPI's launchers of one user trip over one another as they make and remove the folder that they share.
    snprintf(front->setting, sizeof front->setting, "OMPI_MCA_orte_tmpdir_base=%s", front->folder);
    size_t count = 0;
    while (environ[count])
        count++;
    char **all = fm_base_mem_alloc((count + MORE + 2) * sizeof(char *));
    if (!all)
        return NULL;
    memcpy(all, environ, count * sizeof(char *));
    for (int i = 0; i < MORE; i++) {
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(more[i], "="), more[i]);
        if (!getenv(name))
            all[count++] = more[i];
    }
    all[count++] = front->setting;
    all[count] = NULL;
    return all;
}

static fm_status start(struct fm_model_front *front, char **arguments)
{
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    char **variables = environment(front);
    if (!variables)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to start %s", arguments[0]);
    // These two only initialise: on Linux they cannot fail.
    (void)posix_spawnattr_init(&attributes);
    (void)posix_spawn_file_actions_init(&actions);
    int failed = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    // Standard output is this process's own.
    failed = failed ? failed : posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    failed = failed ? failed : posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", 0, 0);
    failed = failed
                 ? failed
                 : posix_spawnp(&front->launcher, arguments[0], &actions, &attributes, arguments, variables);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    fm_base_mem_free(variables);
    if (failed) {
        front->launcher = 0;
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "%s: %s; expected a launcher of MPI's programs",
                                 arguments[0], strerror(failed));
    }
    return FM_OK;
}

static fm_status launch(struct fm_trainer *trainer, struct fm_model_front *front, const char *address)
{
    char *arguments[ARGUMENTS_MAX + 3], *digits = spell(trainer), *copy = fm_base_mem_strdup(address);
    int count = 0;
    fm_status status = digits && copy ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory to start ranks");
    while (status == FM_OK && count < ARGUMENTS_MAX && trainer->training.rank_command[count]) {
        arguments[count] = fm_base_mem_strdup(trainer->training.rank_command[count]);
        if (!arguments[count])
            status = fm_base_error_set(FM_ERR_NOMEM, "no memory to start ranks");
        else
            count++;
    }
    int given = count;
    arguments[count++] = copy;
    arguments[count++] = digits;
    arguments[count] = NULL;
    if (status == FM_OK)
        status = start(front, arguments);
    for (int i = 0; i < given; i++)
        fm_base_mem_free(arguments[i]);
    fm_base_mem_free(copy);
    fm_base_mem_free(digits);
    return status;
}

// Until the first rank calls, or its launcher gives up.
static fm_status await(struct fm_model_front *front, int listener)
{
    struct pollfd poller = {.fd = listener, .events = POLLIN};
    for (int waited = 0; waited < JOIN_WAIT_MS; waited += JOIN_POLL_MS) {
        int state;
        if (poll(&poller, 1, JOIN_POLL_MS) > 0) {
            front->socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
            return front->socket >= 0 ? FM_OK
                                      : fm_base_error_set(FM_ERR_IO, "the first rank: %s", strerror(errno));
        }
        if (waitpid(front->launcher, &state, WNOHANG) == front->launcher) {
            front->launcher = 0;
            return fm_base_error_set(FM_ERR_UNAVAILABLE,
                                     "the ranks' launcher has ended with status %d before they began",
                                     WIFEXITED(state) ? WEXITSTATUS(state) : 128 + WTERMSIG(state));
        }
    }
    return fm_base_error_set(FM_ERR_TIMEOUT, "no rank has called within %d s of its start",
                             JOIN_WAIT_MS / 1000);
}

static fm_status meet(struct fm_trainer *trainer, struct fm_model_front *front)
{
    struct sockaddr_un address;
    struct fm_model_front_reply hello;
    int listener = -1;
    FM_TRY(listen_at(front, &address, &listener));
    fm_status status = launch(trainer, front, address.sun_path);
    if (status == FM_OK)
        status = await(front, listener);
    close(listener);
    FM_TRY(status);
    FM_TRY(fm_model_front_receive(front->socket, &hello, sizeof hello));
    return hello.status < 0 ? fm_base_error_set(hello.status, "%s", hello.message) : FM_OK;
}

fm_status fm_model_front_open(struct fm_trainer *trainer, const struct fm_model_layout *layout)
{
    const fm_model_config *c = &trainer->model.config;
    size_t count = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts;
    struct fm_model_front *front = trainer->front = fm_base_mem_zalloc(1, sizeof *front);
    trainer->loads = fm_base_mem_zalloc(count + 1, sizeof *trainer->loads);
    trainer->model.is_part = 1;
    if (!front || !trainer->loads)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for ranks in processes");
    front->socket = -1;
    if (!trainer->training.rank_command || !trainer->training.rank_command[0])
        return fm_base_error_set(FM_ERR_ARG, "rank_command is empty; expected a launcher and a program");
    front->layout = *layout;
    front->map_count = count;
    front->expert_in = fm_base_mem_alloc((count + 1) * sizeof *front->expert_in);
    if (!front->expert_in)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for ranks in processes");
    for (size_t i = 0; i < count; i++)
        front->expert_in[i] = (int32_t)(i % (size_t)c->experts);
    return meet(trainer, front);
}

// Asked to end, they end; else they are ended.
static void end_launcher(pid_t launcher)
{
    for (int waited = 0; waited < END_WAIT_MS; waited += JOIN_POLL_MS) {
        if (waitpid(launcher, NULL, WNOHANG) != 0)
            return;
        (void)poll(NULL, 0, JOIN_POLL_MS);
    }
    (void)kill(-launcher, SIGKILL);
    (void)waitpid(launcher, NULL, 0);
}

void fm_model_front_close(struct fm_trainer *trainer)
{
    struct fm_model_front *front = trainer->front;
    struct fm_model_front_request quit = {.op = FM_MODEL_FRONT_QUIT};
    if (!front)
        return;
    if (front->socket >= 0) {
        (void)!fm_model_front_send(front->socket, &quit, sizeof quit); // who is gone need not be told
        close(front->socket);
    }
    if (front->launcher > 0)
        end_launcher(front->launcher);
    forget_folder(front);
    fm_base_mem_free(front->expert_in);
    fm_base_mem_free(front);
}

static fm_status receive_data(struct fm_trainer *trainer, const struct fm_model_front_reply *reply,
                              void **out_data)
{
    const fm_model_config *c = &trainer->model.config;
    int socket = trainer->front->socket;
    size_t loads = (size_t)(c->layers + c->predict_layers) * (size_t)c->experts * sizeof *trainer->loads;
    if (!out_data)
        return reply->bytes == loads
                   ? fm_model_front_receive(socket, trainer->loads, loads)
                   : fm_base_error_set(FM_ERR_FORMAT, "the ranks sent %zu bytes of loads; expected %zu",
                                       (size_t)reply->bytes, loads);
    void *data = fm_base_mem_alloc((size_t)reply->bytes + 1);
    if (!data)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes from the ranks",
                                 (size_t)reply->bytes);
    fm_status status = fm_model_front_receive(socket, data, (size_t)reply->bytes);
    if (status < 0)
        fm_base_mem_free(data);
    else
        *out_data = data;
    return status;
}

fm_status fm_model_front_ask(struct fm_trainer *trainer, enum fm_model_front_op op, int32_t a, int32_t b,
                             const void *payload, size_t bytes, struct fm_model_front_reply *out_reply,
                             void **out_data)
{
    struct fm_model_front_request request = {.op = op, .a = a, .b = b, .bytes = bytes};
    int socket = trainer->front->socket;
    fm_status status = fm_model_front_send(socket, &request, sizeof request);
    if (status == FM_OK)
        status = fm_model_front_send(socket, payload, bytes);
    if (status == FM_OK)
        status = fm_model_front_receive(socket, out_reply, sizeof *out_reply);
    if (status == FM_OK && out_reply->bytes > 0)
        status = receive_data(trainer, out_reply, out_data);
    if (status < 0)
        return fm_base_error_prefix(status, "ranks in processes");
    trainer->step = out_reply->steps;
    return out_reply->status < 0 ? fm_base_error_set(out_reply->status, "%s", out_reply->message) : FM_OK;
}
