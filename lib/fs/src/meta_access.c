// Who may do what.
#include "meta.h"

fm_status fm_fs_meta_name_check(const char *name)
{
    if (!name || !*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strchr(name, '/'))
        return fm_base_error_set(FM_ERR_ARG, "\"%s\" is no name of an entry", name ? name : "(NULL)");
    if (strlen(name) > FM_FS_META_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a name of %zu bytes; expected at most %d", strlen(name),
                                 FM_FS_META_NAME_MAX);
    return FM_OK;
}

int fm_fs_meta_is_super(const fm_fs_who *who)
{
    return !who || who->uid == 0;
}

int fm_fs_meta_is_owner(const fm_fs_who *who, const fm_fs_node *node)
{
    return fm_fs_meta_is_super(who) || who->uid == node->uid;
}

int fm_fs_meta_in_group(const fm_fs_who *who, uint32_t gid)
{
    if (fm_fs_meta_is_super(who) || who->gid == gid)
        return 1;
    for (uint32_t i = 0; i < who->group_count; i++)
        if (who->groups[i] == gid)
            return 1;
    return 0;
}

fm_status fm_fs_meta_access(const fm_fs_who *who, const fm_fs_node *node, unsigned want)
{
    unsigned bits = node->mode & 7;
    if (fm_fs_meta_is_super(who)) // may all but execute what nobody may
        bits = S_ISDIR(node->mode) || (node->mode & 0111) ? 7 : 6;
    else if (who->uid == node->uid)
        bits = node->mode >> 6 & 7;
    else if (fm_fs_meta_in_group(who, node->gid))
        bits = node->mode >> 3 & 7;
    if ((want & bits) == want)
        return FM_OK;
    return fm_base_error_set(
        FM_ERR_FS_ACCESS, "user %u wants access %o to inode %llu of user %u and group %u, mode %04o",
        who ? who->uid : 0, want, (unsigned long long)node->ino, node->uid, node->gid, node->mode & 07777);
}

fm_status fm_fs_meta_may_change(const fm_fs_node *node)
{
    if (node->flags & FM_FS_NODE_IMMUTABLE)
        return fm_base_error_set(FM_ERR_PERM, "inode %llu is immutable", (unsigned long long)node->ino);
    return FM_OK;
}

fm_status fm_fs_meta_load_parent(fm_fs_kv_tx *tx, const fm_fs_who *who, uint64_t dir, fm_fs_node *out_dir)
{
    FM_TRY(fm_fs_meta_load(tx, dir, FM_FS_KV_LOCK_UPDATE, out_dir));
    if (!S_ISDIR(out_dir->mode))
        return fm_base_error_set(FM_ERR_FS_NOT_DIR, "inode %llu is not a directory", (unsigned long long)dir);
    if (out_dir->nlink == 0)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "directory %llu was removed", (unsigned long long)dir);
    FM_TRY(fm_fs_meta_access(who, out_dir, 3));
    return fm_fs_meta_may_change(out_dir);
}

fm_status fm_fs_meta_may_take(const fm_fs_who *who, const fm_fs_node *dir, const fm_fs_node *node)
{
    if ((dir->mode & S_ISVTX) && !fm_fs_meta_is_owner(who, dir) && !fm_fs_meta_is_owner(who, node))
        return fm_base_error_set(FM_ERR_PERM,
                                 "user %u may not take user %u's entry out of a sticky directory", who->uid,
                                 node->uid);
    return fm_fs_meta_may_change(node);
}
