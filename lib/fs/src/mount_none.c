// Mounts in a build without FUSE.
#include "fathom/fs_mount.h"

fm_status fm_fs_mount_open(const char *cluster, const char *dir, const fm_fs_mount_options *options,
                           fm_fs_mount **out_mount)
{
    (void)cluster;
    (void)options;
    (void)out_mount;
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "cannot mount on %s: built without libfuse3", dir);
}

fm_status fm_fs_mount_run(fm_fs_mount *mount)
{
    (void)mount;
    return fm_base_error_set(FM_ERR_UNSUPPORTED, "built without libfuse3");
}

const char *fm_fs_mount_metrics(const fm_fs_mount *mount)
{
    (void)mount;
    return NULL;
}

void fm_fs_mount_close(fm_fs_mount *mount)
{
    (void)mount;
}
