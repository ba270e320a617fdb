/* The verbs of `fathom ep` that have files of their own. */
#ifndef FM_CMD_EP_H
#define FM_CMD_EP_H

#include "commands.h"
#include "fathom/ep.h"

extern const fm_command fm_cmd_ep_bench;

#endif
