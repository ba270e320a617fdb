/* Places in clusters as people write them: CLUSTER:/PATH, where CLUSTER is a cluster's directory. */
#ifndef FM_CMD_FS_PLACE_H
#define FM_CMD_FS_PLACE_H

#include "fathom/fs_volume.h"

typedef struct fm_cmd_place {
    fm_fs_volume *volume;
    fm_fs_meta *meta;
    fm_fs_who who; /* in whose name this process asks */
    fm_fs_user user;
    char *path;      /* below the root, without leading '/' */
    uint64_t parent; /* of what the path names, when it is not the root */
    char name[256];  /* its last component; "" for the root */
} fm_cmd_place;

/** Opens what `text` names; CLUSTER alone is its root. FM_ERR_NOT_FOUND: no cluster there. */
fm_status fm_cmd_place_open(const char *text, fm_cmd_place *out_place);
void fm_cmd_place_close(fm_cmd_place *place);
/** Whether `text` has the form of a place in a cluster. */
int fm_cmd_place_is(const char *text);
/** What it names; `follow` a link. */
fm_status fm_cmd_place_node(const fm_cmd_place *place, int follow, fm_fs_node *out_node);
/** Fills parent and name. FM_ERR_ARG: it is the root. */
fm_status fm_cmd_place_split(fm_cmd_place *place);

/** Calls `visit` for each entry of a directory, in the order of names. */
fm_status fm_cmd_place_each(const fm_cmd_place *place, uint64_t dir,
                            fm_status (*visit)(void *context, const fm_fs_meta_entry *entry), void *context);

/** "drwxr-xr-x" */
void fm_cmd_place_mode(uint32_t mode, char out_text[11]);
/** "2026-11-22 10:00:00.123456789", local time. */
void fm_cmd_place_time(int64_t ns, char out_text[40]);

#endif
