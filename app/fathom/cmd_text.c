// `fathom completion` and `fathom man`: what packagers and `make install` put in place.
#include <stdio.h>

#include "commands.h"

static fm_status run_completion(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)invocation;
    (void)options;
    (void)out_exit;
    fm_base_command_completion(&fm_root_command, stdout);
    return FM_OK;
}

const fm_command fm_cmd_completion = {
    .name = "completion",
    .summary = "print the bash completion script",
    .details = "Load it with: source <(fathom completion)",
    .run = run_completion,
};

static fm_status run_man(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)invocation;
    (void)options;
    (void)out_exit;
    fm_base_command_man(&fm_root_command, "fathom", stdout);
    return FM_OK;
}

const fm_command fm_cmd_man = {
    .name = "man",
    .summary = "print the manual page",
    .details = "Read it with: fathom man | man -l -",
    .run = run_man,
};
