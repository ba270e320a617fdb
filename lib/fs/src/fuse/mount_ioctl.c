// What ioctl() does on a mount: layouts, and the flag that chattr sets.
#include "mount_fuse.h"

#include <errno.h>
#include <linux/fs.h>
#include <string.h>

static void reply(fuse_req_t request, fm_status status, const void *out, size_t size)
{
    if (status < 0)
        fm_fs_mount_reply_error(request, status == FM_ERR_NOT_FOUND ? ESTALE : fm_fs_mount_errno(status));
    else
        fuse_reply_ioctl(request, 0, out, size);
}

static fm_status set_layout(fm_fs_mount *mount, const fm_fs_who *who, uint64_t ino,
                            const fm_fs_layout *wanted)
{
    fm_fs_layout layout = *wanted;
    fm_fs_node node;
    FM_TRY(fm_fs_meta_node(mount->meta, ino, &node));
    if (!layout.chunk_bytes)
        layout.chunk_bytes = node.layout.chunk_bytes;
    if (!layout.stripe)
        layout.stripe = node.layout.stripe;
    layout.chains = node.layout.chains;
    layout.base = node.layout.base;
    return fm_fs_meta_layout_set(mount->meta, who, ino, &layout);
}

// The kernel checks who may; the names check it again.
static fm_status set_flags(fm_fs_mount *mount, const fm_fs_who *who, uint64_t ino, uint32_t flags)
{
    const fm_fs_node values = {.flags = flags & FS_IMMUTABLE_FL ? FM_FS_NODE_IMMUTABLE : 0};
    fm_fs_node node;
    if (flags & ~(uint32_t)FS_IMMUTABLE_FL)
        return fm_base_error_set(FM_ERR_UNSUPPORTED, "flags %#x; only the immutable one is kept", flags);
    return fm_fs_meta_setattr(mount->meta, who, ino, FM_FS_META_FLAGS, &values, &node);
}

static void on_ioctl(fuse_req_t request, fuse_ino_t ino, unsigned command, void *argument,
                     struct fuse_file_info *info, unsigned how, const void *in, size_t in_size,
                     size_t out_size)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    struct fm_fs_mount_who asker;
    fm_fs_layout layout;
    fm_fs_node node;
    struct fsxattr more = {0}; // the kernel asks for it before it sets flags
    uint32_t flags = 0;
    (void)argument;
    (void)info;
    (void)how;
    if (fm_fs_mount_ring_ioctl(request, command, out_size))
        return;
    fm_fs_mount_who(request, &asker);
    if (command == FM_FS_MOUNT_LAYOUT_GET && out_size >= sizeof layout) {
        fm_status status = fm_fs_meta_node(mount->meta, ino, &node);
        reply(request, status, &node.layout, sizeof node.layout);
    } else if (command == FM_FS_MOUNT_LAYOUT_SET && in_size >= sizeof layout) {
        memcpy(&layout, in, sizeof layout);
        reply(request, set_layout(mount, &asker.who, ino, &layout), NULL, 0);
    } else if (command == FS_IOC_GETFLAGS && out_size >= sizeof flags) {
        fm_status status = fm_fs_meta_node(mount->meta, ino, &node);
        if (status == FM_OK && node.flags & FM_FS_NODE_IMMUTABLE)
            flags = FS_IMMUTABLE_FL;
        reply(request, status, &flags, sizeof flags);
    } else if (command == FS_IOC_FSGETXATTR && out_size >= sizeof more) {
        fm_status status = fm_fs_meta_node(mount->meta, ino, &node);
        if (status == FM_OK && node.flags & FM_FS_NODE_IMMUTABLE)
            more.fsx_xflags = FS_XFLAG_IMMUTABLE;
        reply(request, status, &more, sizeof more);
    } else if (command == FS_IOC_SETFLAGS && in_size >= sizeof flags) {
        memcpy(&flags, in, sizeof flags);
        reply(request, set_flags(mount, &asker.who, ino, flags), NULL, 0);
    } else {
        fm_fs_mount_reply_error(request, ENOTTY);
    }
}

void fm_fs_mount_ioctl(struct fuse_lowlevel_ops *ops)
{
    ops->ioctl = on_ioctl;
}
