/* The verbs of `fathom fs`, each group in a file of its own. */
#ifndef FM_CMD_FS_H
#define FM_CMD_FS_H

#include "commands.h"

extern const fm_command fm_cmd_fs_cluster; /* cmd_fs_cluster.c */

#endif
