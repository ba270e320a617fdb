#include <stdio.h>
#include <string.h>

#include "commands.h"

static const fm_command *const commands[] = {
    &fm_cmd_run, &fm_cmd_pipe, &fm_cmd_info, &fm_cmd_clean, &fm_cmd_completion, &fm_cmd_man, NULL,
    &fm_cmd_run, &fm_cmd_trace, &fm_cmd_info, &fm_cmd_clean, &fm_cmd_completion, &fm_cmd_man, NULL,
};

const fm_command fm_root_command = {
    .name = "fathom",
    .summary = "DeepSeek's open infrastructure stack in C: from raw text to a trained and served "
               "mixture-of-experts model",
    .details = "'fathom run RECIPE' does a whole job; the other commands use one library each.\n"
               "'fathom --version' prints the version.",
    .children = commands,
};

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--version") == 0)
        return printf("fathom %s\n", FM_VERSION) < 0;
    int result = fm_base_command_main(&fm_root_command, argc - 1, argv + 1);
    // A full disk or a closed pipe below standard output is a failure of the command.
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("fathom: standard output");
        return 1;
    }
    return result;
}
