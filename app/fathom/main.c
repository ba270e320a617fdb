#include <stdio.h>
#include <string.h>

#include "commands.h"

static const fm_command *const commands[] = {
#define FM_COMMAND_ROW(name) &fm_cmd_##name,
    FM_COMMAND_LIST(FM_COMMAND_ROW)
#undef FM_COMMAND_ROW
        NULL,
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
    int result = 0;
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        printf("fathom %s\n", FM_VERSION);
    else
        result = fm_base_command_main(&fm_root_command, argc - 1, argv + 1);
    // A full disk or a closed pipe below standard output is a failure of the command.
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("fathom: standard output");
        return 1;
    }
    return result;
}
