/*
 * Executors elsewhere are started by a command: whatever starts processes on other machines here. Slurm is one such command, which
 * submits pilot jobs: an array whose elements are executors, that Slurm puts where there is room, when there is, and again when a
 * node fails.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fathom/log.h"
#include "pond_run.h"

#define SLURM_START                                                                                     \
    "sbatch --parsable --requeue --array=0-{last} --job-name=fathom-pond --open-mode=append "           \
    "--output={work}/executor-%A-%a.log {slurm} --wrap \"exec {fathom} pond executor --join {address} " \
    "--key {key}\""
#define SLURM_STOP "scancel {id}"

struct place {
    const char *name, *value;
};

static void fill_in(const char *template, const struct place *places, fm_pond_text *out)
{
    for (const char *at = template; *at;) {
        const struct place *place = places;
        size_t length = 0;
        for (; *at == '{' && place->name; place++) {
            length = strlen(place->name);
            if (strncmp(at + 1, place->name, length) == 0 && at[length + 1] == '}')
                break;
        }
        if (*at == '{' && place->name) {
            fm_pond_text_add(out, "%s", place->value);
            at += length + 2;
        } else {
            fm_pond_text_add_bytes(out, at++, 1);
        }
    }
}

// "partition=debug,time=10:00" becomes "--partition=debug --time=10:00"; words that could be more than options are refused.
static fm_status slurm_options(const char *given, fm_pond_text *out)
{
    if (strspn(given, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=,.:_-+/@%[]") !=
        strlen(given))
        return fm_base_error_set(
            FM_ERR_ARG, "slurm is '%s'; expected options of sbatch such as partition=batch,time=60", given);
    for (const char *at = given; *at;) {
        size_t length = strcspn(at, ",");
        if (length)
            fm_pond_text_add(out, "--%.*s ", (int)length, at);
        at += length + (at[length] == ',');
    }
    fm_pond_text_add(out, "%s", "");
    return fm_pond_text_status(out);
}

// Runs a command and takes the first line that it prints.
static fm_status run_command(const char *command, char *out_line, size_t size)
{
    char rest[256];
    FILE *pipe = popen(command, "re");
    out_line[0] = '\0';
    if (!pipe)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "%s", command);
    if (fgets(out_line, (int)size, pipe))
        while (fgets(rest, sizeof rest, pipe))
            continue;
    out_line[strcspn(out_line, "\r\n;")] = '\0';
    int result = pclose(pipe);
    if (result != 0)
        return fm_base_error_set(FM_ERR_UNAVAILABLE, "the command that starts executors failed (%s %d): %s",
                                 WIFEXITED(result) ? "exit" : "signal",
                                 WIFEXITED(result) ? WEXITSTATUS(result) : WTERMSIG(result), command);
    return FM_OK;
}

fm_status fm_pond_launch_start(const fm_pond_run *run, const char *address, int how_many, char *out_id,
                               size_t size)
{
    const fm_pond_run_options *options = &run->options;
    char program[PATH_MAX] = "fathom", last[16], count[16];
    fm_pond_text slurm = {0}, command = {0};
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length > 0)
        program[length] = '\0';
    snprintf(count, sizeof count, "%d", how_many);
    snprintf(last, sizeof last, "%d", how_many - 1);
    fm_status status = slurm_options(options->slurm ? options->slurm : "", &slurm);
    const struct place places[] = {{"address", address},
                                   {"key", options->key_path},
                                   {"fathom", program},
                                   {"work", options->work},
                                   {"count", count},
                                   {"last", last},
                                   {"slurm", slurm.text ? slurm.text : ""},
                                   {NULL, NULL}};
    fill_in(options->launch ? options->launch : SLURM_START, places, &command);
    if (status == FM_OK)
        status = fm_pond_text_status(&command);
    if (status == FM_OK)
        status = run_command(command.text, out_id, size);
    fm_pond_text_clear(&slurm);
    fm_pond_text_clear(&command);
    return status;
}

void fm_pond_launch_stop(const fm_pond_run *run, const char *id)
{
    const char *template = run->options.launch ? run->options.launch_stop : SLURM_STOP;
    const struct place places[] = {{"id", id}, {NULL, NULL}};
    fm_pond_text command = {0};
    char line[64];
    if (!template || strspn(id, "0123456789_") != strlen(id) || !*id)
        return;
    fill_in(template, places, &command);
    if (command.text && run_command(command.text, line, sizeof line) < 0)
        fm_log_warn("pond", "%s", fm_error_message());
    fm_pond_text_clear(&command);
}
