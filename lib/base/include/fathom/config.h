/**
 * @file config.h
 * One schema per command: the same table of options gives the flags, the YAML keys, the environment variables,
 * the `--help` text, the manual page and the shell completion.
 *
 * A command fills a struct of its own; each row of its schema says where in the struct the value goes.
 *
 *     struct plan_options {
 *         int64_t replicas;
 *         double budget_ms;
 *         const char *policy;
 *     };
 *     static const fm_option plan_schema[] = {
 *         {"replicas", FM_OPTION_INT, offsetof(struct plan_options, replicas), .required = 1,
 *          .min = 1, .max = 65536, .help = "expert copies in all"},
 *         {"budget", FM_OPTION_REAL, offsetof(struct plan_options, budget_ms), .value = "50", .unit = "ms",
 *          .help = "time for the search"},
 *         {"policy", FM_OPTION_CHOICE, offsetof(struct plan_options, policy), .value = "best",
 *          .choices = "best|reference", .help = "how to place"},
 *         {0},
 *     };
 *
 * Precedence, weakest first: the default, a YAML section (`--config FILE`), the environment
 * (FM_<COMMAND>_<OPTION>, in capitals, '-' as '_'), the command line. Unknown options and keys are errors
 * that name the nearest known one.
 *
 * Nothing here keeps state: any thread may call any function. fm_base_command_main() and the writers below it
 * are the only functions of the libraries that print, because they are the face of a program.
 */
#ifndef FATHOM_CONFIG_H
#define FATHOM_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "fathom/doc.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_option_type {
    FM_OPTION_FLAG = 1, /**< int, 0 or 1: `--name`, `--no-name`, `--name=true`, `name: true` */
    FM_OPTION_INT,      /**< int64_t within [min, max] when max > min */
    FM_OPTION_REAL,     /**< double within [min, max] when max > min */
    FM_OPTION_SIZE, /**< int64_t bytes, exact: 4096, 64K = 64KiB (1024s), 1GB (1000s); up to T; a fraction such as
                         1.5GiB where the bytes are whole */
    FM_OPTION_STRING, /**< const char *; NULL when not given and without a default */
    FM_OPTION_CHOICE  /**< const char *, one of `choices` */
} fm_option_type;

/** A row of a schema; a row with name NULL ends it. */
typedef struct fm_option {
    const char
        *name; /**< "max-moves": the flag is --max-moves, the YAML key max_moves (either spelling is read) */
    fm_option_type type;
    size_t offset;       /**< of the value in the caller's struct */
    const char *value;   /**< default, as text; NULL: 0 or NULL */
    const char *unit;    /**< "ms", "tokens"; shown in the help */
    const char *choices; /**< "best|reference" for FM_OPTION_CHOICE */
    const char *metavar; /**< how the help names the value: "FILE"; NULL: the unit or the type */
    const char *help;    /**< one sentence, no full stop */
    double min,
        max; /**< none when max <= min. Integers are compared with them exactly, but a double holds not every
                        integer beyond 2^53: use bounds that it holds there. */
    char letter;  /**< 'o' for -o; 0 for none */
    int required; /**< must come from YAML, environment or command line */
} fm_option;

typedef struct fm_command fm_command;

/** What a running command knows beside its options. */
typedef struct fm_invocation {
    const fm_command *command;
    int operand_count;
    char **operands; /**< borrowed from argv */
    int json;        /**< --json was given */
} fm_invocation;

/**
 * A command: a leaf has `run`, a group has `children` (NULL-terminated). `--help` and, when `has_json` is
 * set, `--json` come by themselves.
 */
struct fm_command {
    const char *name;
    const char *summary; /**< one line, no full stop */
    const char
        *operands; /**< usage text of what follows the options: "LOADS", "[FILE...]"; NULL: none allowed */
    const char *details;            /**< paragraphs for --help and the manual page; NULL for none */
    const fm_option *options;       /**< NULL for none */
    size_t options_size;            /**< sizeof the struct that `options` fills */
    int operands_min, operands_max; /**< operands_max -1: any number */
    int has_json;
    const fm_command *const *children;
    /** Runs with the filled struct. A failure's message is printed and the exit status is 1; *out_exit
     * overrides it. */
    fm_status (*run)(const fm_invocation *invocation, const void *options, int *out_exit);
};

/** Sets every value to its default. FM_ERR_INTERNAL when a default of the schema itself is bad: a test of the
 * command calls this once. */
FM_API FM_MUST_USE fm_status fm_base_config_defaults(const fm_option *schema, void *out_options);
/** Sets one value from text. FM_ERR_ARG: what was given, what is expected. Strings are borrowed. */
FM_API FM_MUST_USE fm_status fm_base_config_set(const fm_option *option, const char *text, void *out_options);
/** Sets values from a YAML or JSON object; unknown keys fail and name the nearest, or all known ones.
 * Null, which is what an empty YAML file or section holds, sets nothing. Strings are borrowed from `section`. */
FM_API FM_MUST_USE fm_status fm_base_config_from_doc(const fm_option *schema, const fm_doc *section,
                                                     void *out_options);
/** Sets values from the environment: FM_<prefix>_<NAME>. */
FM_API FM_MUST_USE fm_status fm_base_config_from_env(const fm_option *schema, const char *prefix,
                                                     void *out_options);

/**
 * Finds the command that argv (without the program's name) names below `root`, fills its options and runs it.
 * Prints help, messages (what would move a terminal's cursor or colours is blanked) and "did you mean". `--version` is
 * the program's own to answer before this; it is suggested and completed. An empty --config file sets nothing. Returns the exit status: 0 done, 1 failed, 2 usage.
 */
FM_API int fm_base_command_main(const fm_command *root, int argc, char **argv);

/** Writes the help of one command; `path` is its full name ("fathom eplb plan"). `file` is a FILE *. */
FM_API void fm_base_command_help(const fm_command *command, const char *path, void *file);
/** Writes a manual page (section 1, man(7) source) of the command and everything below it. */
FM_API void fm_base_command_man(const fm_command *command, const char *path, void *file);
/** Writes a bash completion script for the tree. */
FM_API void fm_base_command_completion(const fm_command *root, void *file);

#ifdef __cplusplus
}
#endif
#endif
