#include "kv_server.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "fathom/fs_kv.h"
#include "fm_test.h"

static char bin[2048];
static char folder[2048];
static char spec[4096];
static pid_t server;

static void give_up(const char *what)
{
    char command[4096];
    fprintf(stderr, "the PostgreSQL server of the test: %s: %s\n", what, strerror(errno));
    snprintf(command, sizeof command, "tail -n 20 '%s/log' >&2", folder);
    if (system(command) != 0) // NOLINT(cert-env33-c): the path is ours
        fprintf(stderr, "no log\n");
    exit(1);
}

// The newest version's programs; they are in nobody's PATH on Debian.
static int find_programs(void)
{
    const char *given = getenv("FM_POSTGRESQL_BIN");
    char path[2100];
    glob_t found;
    if (given)
        snprintf(bin, sizeof bin, "%s", given);
    else if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &found) == 0) {
        snprintf(bin, sizeof bin, "%s", found.gl_pathv[found.gl_pathc - 1]);
        globfree(&found);
    } else
        snprintf(bin, sizeof bin, "/usr/bin");
    snprintf(path, sizeof path, "%s/initdb", bin);
    if (access(path, X_OK) != 0)
        return 0;
    snprintf(path, sizeof path, "%s/postgres", bin);
    return access(path, X_OK) == 0;
}

// The server refuses to run as root, so root runs it as somebody else; NULL: it runs as who we are.
static const struct passwd *other_user(void)
{
    if (geteuid() != 0)
        return NULL;
    const struct passwd *user = getpwnam("postgres");
    if (!user)
        user = getpwnam("nobody");
    if (!user)
        give_up("neither a user postgres nor nobody");
    return user;
}

static pid_t start(const struct passwd *user, const char *const arguments[])
{
    pid_t child = fork();
    if (child != 0)
        return child;
    char log[2100];
    snprintf(log, sizeof log, "%s/log", folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0 || chdir(folder) != 0)
        _exit(126);
    if (user && (setgroups(0, NULL) != 0 || setgid(user->pw_gid) != 0 || setuid(user->pw_uid) != 0))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGQUIT); // a test that is killed leaves no server
    char *const *vector;              // execv() does not write to them, but says so nowhere
    memcpy(&vector, &arguments, sizeof vector);
    execv(vector[0], vector);
    _exit(127);
}

void kv_server_stop(void)
{
    if (server <= 0)
        return;
    kill(server, SIGQUIT);
    waitpid(server, NULL, 0);
    server = -1;
}

int kv_server_cut(void)
{
    static const char cut_all[] = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                                  "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    char program[2100];
    int status = 0;
    snprintf(program, sizeof program, "%s/psql", bin);
    const char *arguments[] = {program, "-h", folder,  "-U",       "fathom", "-q",
                               "-t",    "-c", cut_all, "postgres", NULL};
    pid_t child = start(other_user(), arguments);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void make_cluster(const struct passwd *user)
{
    char program[2100];
    char data[2100];
    int status = 0;
    snprintf(program, sizeof program, "%s/initdb", bin);
    snprintf(data, sizeof data, "%s/data", folder);
    const char *arguments[] = {program,  "-D", data, "-A",   "trust",      "-U",
                               "fathom", "-N", "-E", "UTF8", "--locale=C", NULL};
    pid_t child = start(user, arguments);
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        give_up("initdb failed");
}

static void start_server(const struct passwd *user)
{
    char program[2100];
    char data[2100];
    snprintf(program, sizeof program, "%s/postgres", bin);
    snprintf(data, sizeof data, "%s/data", folder);
    // Nothing here survives the test, so nothing is flushed.
    const char *arguments[] = {program,
                               "-D",
                               data,
                               "-k",
                               folder,
                               "-c",
                               "listen_addresses=",
                               "-c",
                               "fsync=off",
                               "-c",
                               "full_page_writes=off",
                               "-c",
                               "shared_buffers=16MB",
                               NULL};
    server = start(user, arguments);
    if (server < 0)
        give_up("fork");
    atexit(kv_server_stop);
}

const char *kv_server_start(const char **out_reason)
{
    if (server)
        return spec;
    if (!find_programs()) {
        *out_reason = "no PostgreSQL server here (install postgresql)";
        return NULL;
    }
    const struct passwd *user = other_user();
    snprintf(folder, sizeof folder, "%s/pg", fm_test_tmpdir());
    if (mkdir(folder, 0700) != 0 || chmod(fm_test_tmpdir(), 0711) != 0 ||
        (user && chown(folder, user->pw_uid, user->pw_gid) != 0))
        give_up(folder);
    make_cluster(user);
    start_server(user);
    snprintf(spec, sizeof spec, "postgresql:host=%s user=fathom dbname=postgres", folder);
    fm_fs_kv *kv = NULL;
    fm_wait wait = fm_base_wait_begin(30000);
    while (fm_fs_kv_open(spec, NULL, &kv) < 0)
        if (waitpid(server, NULL, WNOHANG) != 0 || fm_base_wait_step(&wait) < 0)
            give_up(fm_error_message());
    fm_fs_kv_close(kv);
    return spec;
}
