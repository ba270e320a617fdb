/* The commands of the `fathom` program. A new one: its file cmd_<name>.c and a line here. */
#ifndef FM_COMMANDS_H
#define FM_COMMANDS_H

#include "fathom/config.h"

/* X(name), in the order of the help. */
#define FM_COMMAND_LIST(X) \
    X(run)                 \
    X(generate)            \
    X(serve)               \
    X(bench)               \
    X(tokenizer)           \
    X(ep)                  \
    X(eplb)                \
    X(pipe)                \
    X(fs)                  \
    X(pond)                \
    X(trace)               \
    X(rank)                \
    X(info)                \
    X(clean)               \
    X(completion)          \
    X(man)

#define FM_COMMAND_EXTERN(name) extern const fm_command fm_cmd_##name;
FM_COMMAND_LIST(FM_COMMAND_EXTERN)
#undef FM_COMMAND_EXTERN

/** The whole tree, for completion and manual pages. */
extern const fm_command fm_root_command;

#endif
