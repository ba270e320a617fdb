// Help, manual pages and completion, all made from the schema.
#include "fathom/config.h"

#include <stdio.h>
#include <string.h>

#include "config_value.h"

static void usage_line(const fm_command *command, const char *path, FILE *file)
{
    fprintf(file, "%s", path);
    if (command->children) {
        fprintf(file, " COMMAND ...");
        return;
    }
    int optional = 0;
    for (size_t i = 0; i < fm_base_config_count(command->options); i++) {
        const fm_option *option = &command->options[i];
        if (option->required)
            fprintf(file, " --%s %s", option->name, fm_base_config_metavar(option));
        optional |= !option->required;
    }
    if (optional || command->has_json)
        fprintf(file, " [OPTIONS]");
    if (command->operands)
        fprintf(file, " %s", command->operands);
}

static int is_on_by_default(const fm_option *option)
{
    int value = 0;
    fm_option alone = *option;
    alone.offset = 0;
    return option->type == FM_OPTION_FLAG && option->value &&
           fm_base_config_set(&alone, option->value, &value) == FM_OK && value;
}

static void option_left(const fm_option *option, char *text, size_t size)
{
    char letter[8] = "    ";
    if (option->letter)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    const char *metavar = fm_base_config_metavar(option);
    // A long list of choices would push the help off the line; it is named in the text instead.
    if (option->type == FM_OPTION_CHOICE && strlen(metavar) > 20)
        metavar = "NAME";
    snprintf(text, size, "%s--%s%s%s%s", letter, is_on_by_default(option) ? "[no-]" : "", option->name,
             *metavar ? " " : "", metavar);
}

static void option_right(const fm_option *option, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "%s", option->help ? option->help : "");
    if (option->type == FM_OPTION_CHOICE && strlen(option->choices) > 20 && used < size)
        used += (size_t)snprintf(text + used, size - used, ": %s", option->choices);
    if (option->value && option->type == FM_OPTION_FLAG && used < size)
        used += (size_t)snprintf(text + used, size - used, " [%s]", is_on_by_default(option) ? "on" : "off");
    else if (option->value && *option->value && used < size) // of an empty one the text tells what it means
        used += (size_t)snprintf(text + used, size - used, " [%s%s%s]", option->value,
                                 option->unit ? " " : "", option->unit ? option->unit : "");
    if (option->required && used < size)
        snprintf(text + used, size - used, " (required)");
}

static void help_row(FILE *file, const char *left, const char *right)
{
    enum { COLUMN = 30 };
    if (strlen(left) + 2 >= COLUMN)
        fprintf(file, "  %s\n  %*s%s\n", left, COLUMN, "", right);
    else
        fprintf(file, "  %-*s%s\n", COLUMN, left, right);
}

void fm_base_command_help(const fm_command *command, const char *path, void *where)
{
    FILE *file = where;
    fprintf(file, "%s\n\nUsage: ", command->summary);
    usage_line(command, path, file);
    fprintf(file, "\n");
    if (command->details)
        fprintf(file, "\n%s\n", command->details);
    if (command->children) {
        fprintf(file, "\nCommands:\n");
        for (const fm_command *const *child = command->children; *child; child++)
            help_row(file, (*child)->name, (*child)->summary);
        fprintf(file, "\n'%s COMMAND --help' tells more.\n", path);
        return;
    }
    fprintf(file, "\nOptions:\n");
    char left[192];
    char right[512];
    for (size_t i = 0; i < fm_base_config_count(command->options); i++) {
        option_left(&command->options[i], left, sizeof left);
        option_right(&command->options[i], right, sizeof right);
        help_row(file, left, right);
    }
    if (command->options)
        help_row(file, "    --config FILE", "read options from a YAML or JSON file");
    if (command->has_json)
        help_row(file, "    --json", "print one machine-readable document");
    help_row(file, "-h, --help", "print this");
}

// A line that begins with '.' or '\'' is a request in man's source, a backslash an escape, and '-' a hyphen.
static void man_text(FILE *file, const char *text)
{
    int at_start = 1;
    for (; *text; text++) {
        if (at_start && (*text == '.' || *text == '\''))
            fputs("\\&", file);
        if (*text == '\\')
            fputs("\\e", file);
        else if (*text == '-')
            fputs("\\-", file);
        else
            fputc(*text, file);
        at_start = *text == '\n';
    }
}

static void man_command(const fm_command *command, const char *path, FILE *file)
{
    fprintf(file, ".SS ");
    man_text(file, path);
    fprintf(file, "\n");
    man_text(file, command->summary);
    fprintf(file, ".\n.PP\n.B ");
    usage_line(command, path, file);
    fprintf(file, "\n");
    if (command->details) {
        fprintf(file, ".PP\n");
        man_text(file, command->details);
        fprintf(file, "\n");
    }
    char left[192];
    char right[512];
    for (size_t i = 0; i < fm_base_config_count(command->options); i++) {
        option_left(&command->options[i], left, sizeof left);
        option_right(&command->options[i], right, sizeof right);
        fprintf(file, ".TP\n.B ");
        man_text(file, left + strspn(left, " "));
        fprintf(file, "\n");
        man_text(file, right);
        fprintf(file, "\n");
    }
    for (const fm_command *const *child = command->children; child && *child; child++) {
        char below[256];
        snprintf(below, sizeof below, "%s %s", path, (*child)->name);
        man_command(*child, below, file);
    }
}

void fm_base_command_man(const fm_command *command, const char *path, void *where)
{
    FILE *file = where;
    fprintf(file, ".TH %s 1\n.SH NAME\n%s \\- ", command->name, command->name);
    man_text(file, command->summary);
    fprintf(file, "\n.SH SYNOPSIS\n.B ");
    usage_line(command, path, file);
    fprintf(file, "\n");
    if (command->details) {
        fprintf(file, ".SH DESCRIPTION\n");
        man_text(file, command->details);
        fprintf(file, "\n");
    }
    fprintf(file, ".SH COMMANDS\n");
    for (const fm_command *const *child = command->children; child && *child; child++) {
        char below[256];
        snprintf(below, sizeof below, "%s %s", path, (*child)->name);
        man_command(*child, below, file);
    }
    fprintf(
        file,
        ".SH \"OPTIONS OF EVERY COMMAND\"\n.TP\n.B \\-\\-help\nPrint the command's help.\n"
        ".TP\n.B \\-\\-config FILE\nRead the options of a command from a YAML or JSON file; keys are the "
        "options' names.\n.TP\n.B \\-\\-json\nPrint one machine\\-readable document on standard output, "
        "where the command has one.\n"
        ".SH ENVIRONMENT\nEvery option can be set by FM_<COMMAND>_<OPTION>, in capitals, with underscores. "
        "The command line wins over the environment, the environment over the file.\n"
        ".SH \"EXIT STATUS\"\n0 done, 1 failed, 2 usage.\n");
}

static void completion_case(const fm_command *command, const char *path, FILE *file, int is_root)
{
    fprintf(file, "    \"%s\") words=\"", path);
    for (const fm_command *const *child = command->children; child && *child; child++)
        fprintf(file, "%s ", (*child)->name);
    for (size_t i = 0; i < fm_base_config_count(command->options); i++) {
        fprintf(file, "--%s ", command->options[i].name);
        if (is_on_by_default(&command->options[i]))
            fprintf(file, "--no-%s ", command->options[i].name);
    }
    if (is_root)
        fprintf(file, "help --version ");
    fprintf(file, "%s%s--help\" ;;\n", command->options ? "--config " : "",
            command->has_json ? "--json " : "");
    for (const fm_command *const *child = command->children; child && *child; child++) {
        char below[256];
        snprintf(below, sizeof below, "%s %s", path, (*child)->name);
        completion_case(*child, below, file, 0);
    }
}

static void completion_values(const fm_command *command, FILE *file)
{
    for (size_t i = 0; i < fm_base_config_count(command->options); i++) {
        const fm_option *option = &command->options[i];
        if (option->type != FM_OPTION_CHOICE)
            continue;
        fprintf(file, "    --%s) words=\"", option->name);
        for (const char *c = option->choices; *c; c++)
            fputc(*c == '|' ? ' ' : *c, file);
        fprintf(file, "\" ;;\n");
    }
    for (const fm_command *const *child = command->children; child && *child; child++)
        completion_values(*child, file);
}

void fm_base_command_completion(const fm_command *root, void *where)
{
    FILE *file = where;
    fprintf(
        file,
        "# bash completion for %s; made by '%s completion'\n"
        "_%s()\n{\n"
        "    local word path=\"%s\" words=\"\" current=\"${COMP_WORDS[COMP_CWORD]}\"\n"
        "    for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
        "        [[ $word == -* ]] || path=\"$path $word\"\n"
        "    done\n"
        // Operands make the path longer than any command's: fall back to the longest command that begins it.
        "    while [[ $path == *' '* ]] && ! _%s_words; do path=\"${path%% *}\"; done\n"
        "    _%s_words\n"
        "    case \"${COMP_WORDS[COMP_CWORD-1]}\" in\n",
        root->name, root->name, root->name, root->name, root->name, root->name);
    completion_values(root, file);
    fprintf(file,
            "    esac\n"
            "    if [[ $current == -* || $words != --* ]]; then\n"
            "        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n"
            "    else\n"
            "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
            "    fi\n}\n"
            "_%s_words()\n{\n    case \"$path\" in\n",
            root->name);
    completion_case(root, root->name, file, root->children != NULL);
    fprintf(file, "    *) return 1 ;;\n    esac\n}\ncomplete -o filenames -F _%s %s\n", root->name,
            root->name);
}
