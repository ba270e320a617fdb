#include "fathom/config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config_value.h"
#include "fathom/mem.h"
#include "fathom/text.h"

enum {
    EXIT_DONE = 0,
    EXIT_FAILED = 1,
    EXIT_USAGE = 2,
    PATH_BYTES = 256,
};

// One parse of one command line; everything a leaf needs before it runs.
struct parse {
    const fm_command *command;
    char path[PATH_BYTES]; // "fathom eplb plan"
    void *options;
    char *given; // per option: set by YAML, environment or command line
    char **operands;
    int operand_count;
    int json;
    int help;
    const char *config_path;
    fm_doc *config; // strings of the options point into it
};

// A message may quote a word, a file's name or its content, in which a terminal would obey escape sequences.
static void print_message(const char *path)
{
    char message[1024];
    snprintf(message, sizeof message, "%s", fm_error_message());
    fm_base_text_clean(message);
    fprintf(stderr, "%s: %s\n", path, message);
}

static int usage_error(const char *path)
{
    print_message(path);
    fprintf(stderr, "Try '%s --help'.\n", path);
    return EXIT_USAGE;
}

static fm_status unknown_word(const char *kind, const char *word, const char *const *known)
{
    const char *nearest = fm_base_nearest(word, known);
    if (nearest)
        return fm_base_error_set(FM_ERR_ARG, "unknown %s '%s'; did you mean '%s'?", kind, word, nearest);
    return fm_base_error_set(FM_ERR_ARG, "unknown %s '%s'", kind, word);
}

enum { KNOWN_MAX = 160 };

// "--no-bandwidt" is nearest to --no-bandwidth, of which the schema has the name without "no-".
static const char *nearest_flag(const fm_command *command, const char *name)
{
    const char *flags[KNOWN_MAX + 1] = {0};
    size_t count = 0;
    for (const fm_option *option = command->options; option && option->name && count < KNOWN_MAX; option++)
        if (option->type == FM_OPTION_FLAG)
            flags[count++] = option->name;
    return fm_base_nearest(name, flags);
}

static fm_status unknown_option(const fm_command *command, const char *word, int is_root)
{
    const char *known[KNOWN_MAX + 5] = {"help"};
    size_t count = 1;
    if (is_root)
        known[count++] = "version";
    if (command->has_json)
        known[count++] = "json";
    if (command->options)
        known[count++] = "config";
    for (const fm_option *option = command->options; option && option->name && count < KNOWN_MAX; option++)
        known[count++] = option->name;
    // The list holds names without dashes and values; people type them with.
    char name[128];
    snprintf(name, sizeof name, "%s", word + strspn(word, "-"));
    name[strcspn(name, "=")] = 0;
    const char *nearest = fm_base_nearest(name, known);
    const char *no = "";
    if (!nearest && strncmp(name, "no-", 3) == 0 && (nearest = nearest_flag(command, name + 3)))
        no = "no-";
    if (nearest)
        return fm_base_error_set(FM_ERR_ARG, "unknown option '%s'; did you mean '--%s%s'?", word, no,
                                 nearest);
    return fm_base_error_set(FM_ERR_ARG, "unknown option '%s'", word);
}

static const fm_command *find_child(const fm_command *group, const char *name)
{
    for (const fm_command *const *child = group->children; child && *child; child++)
        if (strcmp((*child)->name, name) == 0)
            return *child;
    return NULL;
}

static fm_status unknown_child(const fm_command *group, const char *word)
{
    const char *known[KNOWN_MAX + 1] = {0};
    for (size_t i = 0; i < KNOWN_MAX && group->children[i]; i++)
        known[i] = group->children[i]->name;
    return unknown_word("command", word, known);
}

// Every command with options has this one besides; it fills the parse, not the command's struct.
static const fm_option config_option = {"config", FM_OPTION_STRING, offsetof(struct parse, config_path),
                                        .metavar = "FILE"};

// Finds the option that a word such as "--max-moves=3", "--no-quick" or "-o" names; NULL when there is none.
static const fm_option *find_option(const fm_command *command, const char *word, const char **out_value,
                                    int *out_negated)
{
    *out_negated = 0;
    *out_value = NULL;
    if (!command->options)
        return NULL;
    if (word[1] != '-') {
        for (const fm_option *option = command->options; option->name; option++) {
            if (option->letter == word[1]) {
                *out_value = word[2] ? word + 2 : NULL;
                return option;
            }
        }
        return NULL;
    }
    char name[128];
    size_t length = strcspn(word + 2, "=");
    if (length >= sizeof name)
        return NULL;
    memcpy(name, word + 2, length);
    name[length] = 0;
    if (word[2 + length] == '=')
        *out_value = word + 2 + length + 1;
    int index = fm_base_config_find(command->options, name);
    if (index >= 0)
        return &command->options[index];
    if (strcmp(name, config_option.name) == 0)
        return &config_option;
    index = strncmp(name, "no-", 3) == 0 ? fm_base_config_find(command->options, name + 3) : -1;
    *out_negated = index >= 0 && command->options[index].type == FM_OPTION_FLAG;
    return *out_negated ? &command->options[index] : NULL;
}

// Takes the option at argv[*at] and its value; leaves *at on the last word used.
static fm_status take_option(struct parse *parse, int argc, char **argv, int *at, int values)
{
    const char *word = argv[*at];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        parse->help = 1;
        return FM_OK;
    }
    if (strcmp(word, "--json") == 0 && parse->command->has_json) {
        parse->json = 1;
        return FM_OK;
    }
    const char *value;
    int negated;
    const fm_option *option = find_option(parse->command, word, &value, &negated);
    if (!option)
        return unknown_option(parse->command, word, 0);
    if (negated && value)
        return fm_base_error_set(FM_ERR_ARG, "option '--no-%s' takes no value", option->name);
    if (option->type == FM_OPTION_FLAG && !value)
        value = negated ? "false" : "true";
    if (!value && ++*at < argc)
        value = argv[*at];
    if (!value)
        return fm_base_error_set(FM_ERR_ARG, "option '%s' needs a value", word);
    if (option == &config_option)
        return fm_base_config_set(option, value, parse);
    if (!values)
        return FM_OK;
    parse->given[option - parse->command->options] = 1;
    if (fm_base_config_set(option, value, parse->options) < 0)
        return fm_base_error_prefix(FM_ERR_ARG, "option --%s", option->name);
    return FM_OK;
}

// Walks the words after the command's name. The first walk (values 0) finds --help, --config and the
// operands; the second sets the options, so that the command line wins over the YAML file wherever --config
// stands.
static fm_status walk_words(struct parse *parse, int argc, char **argv, int values)
{
    parse->operand_count = 0;
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--") == 0) {
            while (++i < argc)
                parse->operands[parse->operand_count++] = argv[i];
        } else if (argv[i][0] == '-' && argv[i][1]) {
            FM_TRY(take_option(parse, argc, argv, &i, values));
        } else {
            parse->operands[parse->operand_count++] = argv[i];
        }
    }
    return FM_OK;
}

static fm_status check_counts(const struct parse *parse)
{
    const fm_command *command = parse->command;
    for (size_t i = 0; i < fm_base_config_count(command->options); i++)
        if (command->options[i].required && !parse->given[i])
            return fm_base_error_set(FM_ERR_ARG, "option --%s is required: %s", command->options[i].name,
                                     command->options[i].help);
    if (parse->operand_count < command->operands_min)
        return fm_base_error_set(FM_ERR_ARG, "missing operand: expected %s", command->operands);
    if (command->operands_max >= 0 && parse->operand_count > command->operands_max)
        return fm_base_error_set(FM_ERR_ARG, "unexpected operand '%s'",
                                 parse->operands[command->operands_max]);
    return FM_OK;
}

// A file of no bytes is no JSON, but as options it says what an empty YAML file says: none.
static int is_empty_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == 0;
}

static fm_status parse_leaf(struct parse *parse, int argc, char **argv)
{
    FM_TRY(walk_words(parse, argc, argv, 0));
    if (parse->help)
        return FM_OK;
    FM_TRY(fm_base_config_defaults(parse->command->options, parse->options));
    if (parse->config_path && !is_empty_file(parse->config_path)) {
        FM_TRY(fm_base_doc_load(parse->config_path, &parse->config));
        FM_TRY(fm_base_config_read_doc(parse->command->options, parse->config, parse->options, parse->given));
    }
    const char *prefix = strchr(parse->path, ' ');
    FM_TRY(fm_base_config_read_env(parse->command->options, prefix ? prefix + 1 : "", parse->options,
                                   parse->given));
    FM_TRY(walk_words(parse, argc, argv, 1));
    return check_counts(parse);
}

static int run_leaf(struct parse *parse, int argc, char **argv)
{
    size_t count = fm_base_config_count(parse->command->options);
    parse->options = fm_base_mem_zalloc(1, parse->command->options_size);
    parse->given = fm_base_mem_zalloc(count, 1);
    parse->operands = fm_base_mem_zalloc((size_t)argc + 1, sizeof *parse->operands);
    int result = EXIT_FAILED;
    if (!parse->options || !parse->given || !parse->operands) {
        fprintf(stderr, "%s: out of memory\n", parse->path);
    } else if (parse_leaf(parse, argc, argv) < 0) {
        result = usage_error(parse->path);
    } else if (parse->help) {
        fm_base_command_help(parse->command, parse->path, stdout);
        result = EXIT_DONE;
    } else {
        fm_invocation invocation = {parse->command, parse->operand_count, parse->operands, parse->json};
        int override = -1;
        fm_status status = parse->command->run(&invocation, parse->options, &override);
        if (status < 0)
            print_message(parse->path);
        result = override >= 0 ? override : status < 0 ? EXIT_FAILED : EXIT_DONE;
    }
    fm_base_doc_free(parse->config);
    fm_base_mem_free(parse->operands);
    fm_base_mem_free(parse->given);
    fm_base_mem_free(parse->options);
    return result;
}

int fm_base_command_main(const fm_command *root, int argc, char **argv)
{
    struct parse parse = {.command = root};
    snprintf(parse.path, sizeof parse.path, "%s", root->name);
    while (!parse.command->run) {
        // `fathom help eplb plan` is `fathom eplb plan --help`.
        if (argc > 0 && parse.command == root && strcmp(argv[0], "help") == 0) {
            parse.help = 1;
            argc--, argv++;
            continue;
        }
        if (argc > 0 && strcmp(argv[0], "--") == 0) {
            argc--, argv++;
            continue;
        }
        int wants_help = argc > 0 && (strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0);
        if (wants_help || (argc == 0 && parse.help)) {
            fm_base_command_help(parse.command, parse.path, stdout);
            return EXIT_DONE;
        }
        if (argc == 0) {
            fm_base_command_help(parse.command, parse.path, stderr);
            return EXIT_USAGE;
        }
        const fm_command *child = find_child(parse.command, argv[0]);
        if (!child) {
            if (argv[0][0] == '-')
                unknown_option(parse.command, argv[0], parse.command == root && !parse.help);
            else
                unknown_child(parse.command, argv[0]);
            return usage_error(parse.path);
        }
        size_t used = strlen(parse.path);
        snprintf(parse.path + used, sizeof parse.path - used, " %s", child->name);
        parse.command = child;
        argc--, argv++;
    }
    if (parse.help) {
        fm_base_command_help(parse.command, parse.path, stdout);
        return EXIT_DONE;
    }
    return run_leaf(&parse, argc, argv);
}
