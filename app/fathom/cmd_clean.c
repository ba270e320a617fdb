// `fathom clean`: what killed runs left behind. See fathom/run_id.h for how a run marks what is its own.
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "commands.h"
#include "fathom/clock.h"
#include "fathom/doc.h"
#include "fathom/file.h"
#include "fathom/run_id.h"
#include "fathom/text.h"

struct clean_options {
    int dry_run;
    double grace_s;
};

static const fm_option clean_schema[] = {
    {"dry-run", FM_OPTION_FLAG, offsetof(struct clean_options, dry_run), .letter = 'n',
     .help = "say what would be done, do nothing"},
    {"grace", FM_OPTION_REAL, offsetof(struct clean_options, grace_s), .value = "2", .unit = "s", .min = 0,
     .max = 600, .help = "how long a process may take to end before it is killed"},
    {0},
};

struct cleaning {
    const struct clean_options *options;
    fm_json json;
    int text; // people's lines go to standard output, unless --json was given
    int found;
    int failed;
};

static void report(struct cleaning *cleaning, const char *kind, const char *what, const char *run, int error)
{
    cleaning->found++;
    cleaning->failed += error != 0;
    fm_base_json_begin(&cleaning->json, NULL, '{');
    fm_base_json_string(&cleaning->json, "kind", kind);
    fm_base_json_string(&cleaning->json, "what", what);
    fm_base_json_string(&cleaning->json, "run", run);
    fm_base_json_bool(&cleaning->json, "removed", !error && !cleaning->options->dry_run);
    fm_base_json_end(&cleaning->json);
    if (!cleaning->text)
        return;
    // Anybody may give a file in /dev/shm a name that a terminal obeys.
    char line[8192];
    if (error)
        snprintf(line, sizeof line, "%-8s %s (run %s): %s", kind, what, run, strerror(error));
    else
        snprintf(line, sizeof line, "%-8s %s (run %s)%s", kind, what, run,
                 cleaning->options->dry_run ? ", left alone" : "");
    fm_base_text_clean(line);
    puts(line);
}

// The value of FM_RUN_ID in another process's environment; 0 when it has none or may not be read.
static int run_of_process(const char *pid, char *out_run)
{
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/environ", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    char *entry = NULL;
    size_t capacity = 0;
    int found = 0;
    while (!found && getdelim(&entry, &capacity, 0, file) > 0) {
        if (strncmp(entry, "FM_RUN_ID=", 10) == 0 && strlen(entry + 10) < FM_RUN_ID_BYTES) {
            // What is no run's name says nothing of a run that ended: such a process is left alone.
            char name[FM_RUN_ID_BYTES + 16];
            snprintf(name, sizeof name, "fathom.%s.", entry + 10);
            found = fm_base_run_of_name(name, out_run) == FM_OK;
        }
    }
    free(entry);
    fclose(file);
    return found;
}

static int end_process(pid_t pid, double grace_s)
{
    if (kill(pid, SIGTERM) != 0)
        return errno == ESRCH ? 0 : errno;
    uint64_t deadline = fm_base_clock_ns() + (uint64_t)(grace_s * 1e9);
    while (fm_base_clock_ns() < deadline) {
        if (kill(pid, 0) != 0)
            return 0;
        fm_base_clock_sleep_ns(50000000);
    }
    return kill(pid, SIGKILL) == 0 || errno == ESRCH ? 0 : errno;
}

static void clean_processes(struct cleaning *cleaning)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    while (proc && (entry = readdir(proc))) {
        char run[FM_RUN_ID_BYTES];
        if (!isdigit((unsigned char)entry->d_name[0]) || !run_of_process(entry->d_name, run) ||
            fm_base_run_alive(run))
            continue;
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid == getpid())
            continue;
        int error = cleaning->options->dry_run ? 0 : end_process(pid, cleaning->options->grace_s);
        report(cleaning, "process", entry->d_name, run, error);
    }
    if (proc)
        closedir(proc);
}

// Shared-memory objects, UNIX sockets and temporary folders named fathom.<run>.<what>.
static void clean_folder(struct cleaning *cleaning, const char *folder, const char *kind)
{
    DIR *directory = opendir(folder);
    struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char run[FM_RUN_ID_BYTES];
        if (fm_base_run_of_name(entry->d_name, run) < 0 || fm_base_run_alive(run))
            continue;
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        int error = 0;
        if (!cleaning->options->dry_run && fm_base_dir_remove(path) < 0)
            error = errno ? errno : EIO;
        report(cleaning, kind, path, run, error);
    }
    if (directory)
        closedir(directory);
}

static int unmount(const char *path)
{
    if (umount2(path, MNT_DETACH) == 0)
        return 0;
    // Not root: the set-uid helper of libfuse may.
    pid_t child = fork();
    if (child == 0) {
        execlp("fusermount3", "fusermount3", "-u", "-z", "-q", path, (char *)NULL);
        _exit(127);
    }
    int status = 1;
    if (child > 0)
        waitpid(child, &status, 0);
    return status == 0 ? 0 : EPERM;
}

// A FUSE mount whose server is gone answers ENOTCONN. Its type is fuse.fathom, its source the run's name.
static void clean_mounts(struct cleaning *cleaning)
{
    FILE *mounts = fopen("/proc/self/mounts", "r");
    char line[8192];
    while (mounts && fgets(line, sizeof line, mounts)) {
        char source[256];
        char path[4096];
        char type[64];
        char run[FM_RUN_ID_BYTES] = "unknown";
        struct stat info;
        if (sscanf(line, "%255s %4095s %63s", source, path, type) != 3 || strcmp(type, "fuse.fathom") != 0 ||
            stat(path, &info) == 0 || errno != ENOTCONN)
            continue;
        if (fm_base_run_of_name(source, run) < 0)
            strcpy(run, "unknown");
        report(cleaning, "mount", path, run, cleaning->options->dry_run ? 0 : unmount(path));
    }
    if (mounts)
        fclose(mounts);
}

static fm_status run_clean(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    struct cleaning cleaning = {.options = options, .text = !invocation->json, .json = {.pretty = 1}};
    const char *tmp = getenv("TMPDIR");
    fm_base_json_begin(&cleaning.json, NULL, '{');
    fm_base_json_begin(&cleaning.json, "left_behind", '[');
    clean_processes(&cleaning); // first: they hold the rest open
    clean_mounts(&cleaning);
    clean_folder(&cleaning, "/dev/shm", "shm");
    clean_folder(&cleaning, tmp ? tmp : "/tmp", "folder");
    fm_base_json_end(&cleaning.json);
    fm_base_json_end(&cleaning.json);
    FM_TRY(fm_base_json_finish(&cleaning.json, invocation->json ? stdout : NULL));
    if (cleaning.text && !cleaning.found)
        printf("nothing left behind\n");
    if (cleaning.failed)
        return fm_base_error_set(FM_ERR_PERM, "%d of %d things could not be removed", cleaning.failed,
                                 cleaning.found);
    return FM_OK;
}

const fm_command fm_cmd_clean = {
    .name = "clean",
    .summary = "find and end what a killed run left: ranks, mounts, shared memory, temporary folders",
    .details = "Only what belongs to a run whose first process is gone is touched.",
    .options = clean_schema,
    .options_size = sizeof(struct clean_options),
    .has_json = 1,
    .run = run_clean,
};
