// Quotas of directories. Each node knows the directory whose quota it counts for, as projects do in XFS, so that charging
// is one more record in a request's transaction and no walk.
#include "meta_remote.h"

static void decode(fm_fs_kv_bytes value, fm_fs_quota *out_quota)
{
    const uint8_t *from = value.data;
    *out_quota = (fm_fs_quota){fm_get_le64(from), fm_get_le64(from + 8), fm_get_le64(from + 16),
                               fm_get_le64(from + 24)};
}

static fm_status store(fm_fs_kv_tx *tx, const struct fm_fs_meta_key *key, const fm_fs_quota *quota)
{
    uint8_t to[FM_FS_META_QUOTA_BYTES];
    fm_put_le64(to, quota->bytes_max);
    fm_put_le64(to + 8, quota->inodes_max);
    fm_put_le64(to + 16, quota->bytes);
    fm_put_le64(to + 24, quota->inodes);
    return fm_fs_meta_put(tx, key, to, sizeof to);
}

fm_status fm_fs_meta_charge(fm_fs_kv_tx *tx, uint64_t project, int64_t bytes, int64_t inodes)
{
    fm_fs_quota quota;
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('Q', project);
    if (!project || (!bytes && !inodes))
        return FM_OK;
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    if (value.size != FM_FS_META_QUOTA_BYTES)
        return FM_OK; // its directory was removed, with what is charged here
    decode(value, &quota);
    quota.bytes += (uint64_t)bytes;
    quota.inodes += (uint64_t)inodes;
    if ((bytes > 0 && quota.bytes_max && quota.bytes > quota.bytes_max) ||
        (inodes > 0 && quota.inodes_max && quota.inodes > quota.inodes_max))
        return fm_base_error_set(
            FM_ERR_FS_QUOTA, "the quota of directory %llu: %llu of %llu bytes and %llu of %llu inodes",
            (unsigned long long)project, (unsigned long long)quota.bytes, (unsigned long long)quota.bytes_max,
            (unsigned long long)quota.inodes, (unsigned long long)quota.inodes_max);
    return store(tx, &key, &quota);
}

static fm_status set(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    const fm_fs_quota *wanted = op->more;
    fm_fs_quota quota = {.inodes = 1};
    fm_fs_kv_bytes value;
    struct fm_fs_meta_key key = fm_fs_meta_key('Q', op->ino);
    fm_fs_node node;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_UPDATE, &node));
    if (!S_ISDIR(node.mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "quotas are directories'");
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_UPDATE, &value));
    if (value.size == FM_FS_META_QUOTA_BYTES) {
        decode(value, &quota);
    } else {
        FM_TRY(fm_fs_meta_check_empty(tx, &node, "a directory that gets its first quota"));
        FM_TRY(fm_fs_meta_charge(tx, node.project, 0, -1));
        node.project = node.ino;
        node.ctime_ns = op->now_ns;
        FM_TRY(fm_fs_meta_store(tx, &node));
    }
    quota.bytes_max = wanted->bytes_max;
    quota.inodes_max = wanted->inodes_max;
    return store(tx, &key, &quota);
}

fm_status fm_fs_meta_quota_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir, const fm_fs_quota *quota)
{
    fm_fs_quota copy = *quota;
    struct fm_fs_meta_op op = {.meta = meta, .who = who, .body = set, .ino = dir, .more = &copy};
    if (!fm_fs_meta_is_super(who))
        return fm_base_error_set(FM_ERR_PERM, "only the superuser sets quotas");
    if (meta->remote)
        return fm_fs_meta_remote_quota_set(meta, who, dir, quota);
    return fm_fs_meta_run(&op);
}

static fm_status get(fm_fs_kv_tx *tx, struct fm_fs_meta_op *op)
{
    fm_fs_node node;
    fm_fs_kv_bytes value;
    FM_TRY(fm_fs_meta_load(tx, op->ino, FM_FS_KV_LOCK_NONE, &node));
    struct fm_fs_meta_key key = fm_fs_meta_key('Q', node.project);
    FM_TRY(fm_fs_meta_get(tx, &key, FM_FS_KV_LOCK_NONE, &value));
    if (!node.project || value.size != FM_FS_META_QUOTA_BYTES)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "no quota counts for inode %llu",
                                 (unsigned long long)op->ino);
    decode(value, op->more);
    return FM_OK;
}

fm_status fm_fs_meta_quota_get(fm_fs_meta *meta, uint64_t ino, fm_fs_quota *out_quota)
{
    fm_fs_quota quota;
    struct fm_fs_meta_op op = {.meta = meta, .body = get, .ino = ino, .more = &quota};
    if (meta->remote)
        return fm_fs_meta_remote_quota_get(meta, ino, out_quota);
    FM_TRY(fm_fs_meta_read(&op));
    *out_quota = quota;
    return FM_OK;
}
