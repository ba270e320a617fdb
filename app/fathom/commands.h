/* The commands of the `fathom` program. A new one: its file cmd_<name>.c, a line here and one in main.c's
 * table. */
#ifndef FM_COMMANDS_H
#define FM_COMMANDS_H

#include "fathom/config.h"

extern const fm_command fm_cmd_clean;
extern const fm_command fm_cmd_completion;
extern const fm_command fm_cmd_info;
extern const fm_command fm_cmd_man;
extern const fm_command fm_cmd_pipe;
extern const fm_command fm_cmd_run;
extern const fm_command fm_cmd_trace;

/** The whole tree, for completion and manual pages. */
extern const fm_command fm_root_command;

#endif
