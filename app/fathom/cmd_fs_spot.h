/* Paths as people write them: in a cluster (CLUSTER:/PATH), or in a directory of this machine. */
#ifndef FM_CMD_FS_SPOT_H
#define FM_CMD_FS_SPOT_H

#include "fathom/fs.h"

typedef struct fm_cmd_spot {
    fm_fs *fs;                     /* to be closed by who opened it */
    char path[FM_FS_PATH_MAX + 1]; /* "." for the root */
    char name[FM_FS_NAME_MAX + 1]; /* the last component; "" when there is none */
} fm_cmd_spot;

/** Opens the file system that `text` lies in; what it names need not be there. */
fm_status fm_cmd_spot_open(fm_cmd_spot *spot, const char *text);
/** FM_ERR_LIMIT. */
fm_status fm_cmd_spot_join(const char *dir, const char *name, char out_path[FM_FS_PATH_MAX + 1]);

#endif
