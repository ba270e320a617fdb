// Rings of a mount: where programs find them, which files are the mount's, and a cluster in the mount's own process.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fathom/log.h"
#include "fs_cluster_private.h"
#include "hf3fs_usrbio.h"
#include "mount_fuse.h"
#include "ring.h"
#include "ring_hub.h"

// What the kernel knows of the descriptor's node without asking the file system: this process might be asked.
static int look(int fd, struct statx *out_info)
{
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO | STATX_TYPE, out_info) == 0 ? 0
                                                                                                    : -errno;
}

static int file_of(void *context, int fd, uint64_t *out_ino)
{
    const fm_fs_mount *mount = context;
    struct statx info;
    int error = look(fd, &info);
    if (error)
        return error;
    if (info.stx_dev_major != mount->device[0] || info.stx_dev_minor != mount->device[1] ||
        !S_ISREG(info.stx_mode))
        return -EBADF;
    *out_ino = info.stx_ino;
    return 0;
}

// Whether write() has left bytes here that a ring would not see.
static int waits(void *context, uint64_t ino)
{
    fm_fs_mount *mount = context;
    if (!__atomic_load_n(&mount->dirty, __ATOMIC_RELAXED))
        return 0;
    struct fm_fs_mount_file *file = fm_fs_mount_use(mount, ino);
    if (!file)
        return 0;
    fm_fs_mount_leave(mount, file);
    return 1;
}

// A failure is told to who wrote.
static void flush(void *context, uint64_t ino)
{
    if (fm_fs_mount_flush_ino(context, ino) < 0)
        return;
}

// The kernel's pages of the range are what was there before; and the change is told once more at closing.
static void wrote(void *context, uint64_t ino, uint64_t offset, uint64_t length)
{
    fm_fs_mount *mount = context;
    struct fm_fs_mount_file *file = fm_fs_mount_use(mount, ino);
    if (file) {
        pthread_rwlock_wrlock(&file->lock);
        file->version = FM_FS_VOLUME_UNKNOWN;
        file->unsettled = 1;
        fm_fs_cache_drop(mount->cache, ino, offset, length);
        pthread_rwlock_unlock(&file->lock);
        fm_fs_mount_leave(mount, file);
    }
    // Nothing is kept of a file that the kernel does not know.
    if (fuse_lowlevel_notify_inval_inode(mount->session, ino, (off_t)offset, (off_t)length) != 0)
        return;
}

static fm_status learn_device(fm_fs_mount *mount, const char *dir)
{
    struct statx info;
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int error = fd < 0 ? -errno : look(fd, &info);
    if (fd >= 0)
        close(fd);
    if (error)
        return fm_base_error_set_errno(FM_ERR_IO, -error, "looking at %s", dir);
    mount->device[0] = info.stx_dev_major;
    mount->device[1] = info.stx_dev_minor;
    return FM_OK;
}

static void *run_cluster(void *context)
{
    fm_fs_mount *mount = context;
    if (fm_fs_cluster_run(mount->cluster) == FM_OK)
        return NULL;
    fm_log_error("fs", "the cluster in the mount's process has ended: %s", fm_error_message());
    return mount; // whose requests fail from now on
}

static fm_status start_thread(fm_fs_mount *mount)
{
    mount->cluster_runs = pthread_create(&mount->cluster_thread, NULL, run_cluster, mount) == 0;
    return mount->cluster_runs ? FM_OK : fm_base_error_set(FM_ERR_LIMIT, "no thread for the cluster");
}

static void stop_thread(fm_fs_mount *mount)
{
    if (!mount->cluster_runs)
        return;
    fm_fs_cluster_stop(mount->cluster);
    pthread_join(mount->cluster_thread, NULL);
    mount->cluster_runs = 0;
}

fm_status fm_fs_mount_cluster_start(fm_fs_mount *mount, const char *cluster)
{
    FM_TRY(fm_fs_cluster_up(cluster, &mount->cluster));
    return start_thread(mount);
}

void fm_fs_mount_cluster_stop(fm_fs_mount *mount)
{
    stop_thread(mount);
    fm_fs_cluster_down(mount->cluster);
    mount->cluster = NULL;
}

fm_status fm_fs_mount_rings_start(fm_fs_mount *mount, const char *dir)
{
    fm_fs_hub_options options = {.volume = mount->volume,
                                 .any_user = mount->options.allow_other,
                                 .read_only = mount->options.read_only,
                                 .file = file_of,
                                 .waits = waits,
                                 .flush = flush,
                                 .wrote = wrote,
                                 .context = mount};
    FM_TRY(learn_device(mount, dir));
    if (!mount->cluster) {
        FM_TRY(fm_fs_hub_new(&options, &mount->hub));
        return fm_fs_mount_metrics_start(mount, NULL);
    }
    stop_thread(mount); // for the moment in which the hub joins its loop
    FM_TRY(fm_fs_cluster_client(mount->cluster, &options.client, &options.loop));
    fm_status status = fm_fs_hub_new(&options, &mount->hub);
    if (status == FM_OK)
        status = fm_fs_mount_mover_start(mount, options.client, options.loop);
    if (status == FM_OK)
        status = fm_fs_mount_metrics_start(mount, options.loop);
    fm_status started = start_thread(mount);
    return status < 0 ? status : started;
}

void fm_fs_mount_rings_stop(fm_fs_mount *mount)
{
    if (mount->cluster && mount->hub) {
        stop_thread(mount);
        fm_fs_mount_metrics_stop(mount);
        fm_fs_mount_mover_stop(mount);
        fm_fs_hub_free(mount->hub);
        mount->hub = NULL;
        // The volume still has requests to the cluster.
        if (start_thread(mount) < 0)
            return;
    }
    fm_fs_hub_free(mount->hub);
    mount->hub = NULL;
}

int fm_fs_mount_ring_ioctl(fuse_req_t request, unsigned command, size_t room)
{
    const fm_fs_mount *mount = fm_fs_mount_of(request);
    const uint32_t magic = HF3FS_SUPER_MAGIC;
    struct fm_fs_ring_address address = {{0}};
    if (command == FM_FS_RING_IOC_MAGIC && room >= sizeof magic) {
        fuse_reply_ioctl(request, 0, &magic, sizeof magic);
        return 1;
    }
    if (command == FM_FS_RING_IOC_ADDRESS && room >= sizeof address && mount->hub) {
        const char *name = fm_fs_hub_address(mount->hub);
        memcpy(address.name, name, strlen(name) + 1);
        fuse_reply_ioctl(request, 0, &address, sizeof address);
        return 1;
    }
    return 0;
}
