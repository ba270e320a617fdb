#include "meta_model.h"

#include <string.h>
#include <sys/stat.h>

void model_init(struct model *model)
{
    memset(model, 0, sizeof *model);
    for (int i = 0; i < MODEL_ENTRIES; i++)
        model->entries[i].node = -1;
    model->nodes[0] = (struct model_node){.ino = FM_FS_META_ROOT, .mode = S_IFDIR | 0777, .nlink = 2};
}

int model_find(const struct model *model, int dir, const char *name)
{
    for (int i = 0; i < MODEL_ENTRIES; i++)
        if (model->entries[i].node >= 0 && model->entries[i].dir == dir &&
            strcmp(model->entries[i].name, name) == 0)
            return i;
    return -1;
}

static int choose(const struct model *model, uint64_t choice, int only_dirs)
{
    int count = 0;
    int found[MODEL_NODES];
    for (int i = 0; i < MODEL_NODES; i++)
        if (model->nodes[i].ino && (!only_dirs || S_ISDIR(model->nodes[i].mode)))
            found[count++] = i;
    return found[choice % (uint64_t)count];
}

int model_any_dir(const struct model *model, uint64_t choice)
{
    return choose(model, choice, 1);
}

int model_any_node(const struct model *model, uint64_t choice)
{
    return choose(model, choice, 0);
}

static int in_group(const fm_fs_who *who, uint32_t gid)
{
    int in = who->uid == 0 || who->gid == gid;
    for (uint32_t i = 0; i < who->group_count; i++)
        in |= who->groups[i] == gid;
    return in;
}

static int may(const fm_fs_who *who, const struct model_node *node, uint32_t want)
{
    if (who->uid == 0)
        return 1; // asked of directories alone
    uint32_t shift = who->uid == node->uid ? 6 : in_group(who, node->gid) ? 3 : 0;
    return (node->mode >> shift & want) == want;
}

static int sticky(const struct model *model, const fm_fs_who *who, int dir, int node)
{
    return who->uid != 0 && (model->nodes[dir].mode & S_ISVTX) && who->uid != model->nodes[dir].uid &&
           who->uid != model->nodes[node].uid;
}

static void add(struct model *model, int dir, const char *name, int node)
{
    int i = 0;
    while (model->entries[i].node >= 0)
        i++;
    model->entries[i].dir = dir;
    model->entries[i].node = node;
    strcpy(model->entries[i].name, name);
}

static int is_empty(const struct model *model, int dir)
{
    for (int i = 0; i < MODEL_ENTRIES; i++)
        if (model->entries[i].node >= 0 && model->entries[i].dir == dir)
            return 0;
    return 1;
}

static void drop(struct model *model, int node)
{
    struct model_node *dropped = &model->nodes[node];
    dropped->nlink = S_ISDIR(dropped->mode) ? 0 : dropped->nlink - 1;
    if (!dropped->nlink)
        dropped->ino = 0;
}

fm_status model_create(struct model *model, const fm_fs_who *who, int dir, const char *name, uint32_t mode,
                       int exclusive, int *out_node)
{
    struct model_node *parent = &model->nodes[dir];
    int entry = model_find(model, dir, name);
    int node = 0;
    if (!may(who, parent, 1))
        return FM_ERR_FS_ACCESS;
    if (entry >= 0 && !exclusive && S_ISREG(mode)) {
        *out_node = model->entries[entry].node;
        return S_ISDIR(model->nodes[*out_node].mode) ? FM_ERR_FS_IS_DIR : FM_OK;
    }
    if (entry >= 0)
        return FM_ERR_EXISTS;
    if (!may(who, parent, 3))
        return FM_ERR_FS_ACCESS;
    while (model->nodes[node].ino)
        node++;
    model->nodes[node] =
        (struct model_node){.ino = UINT64_MAX, .mode = mode, .uid = who->uid, .gid = who->gid, .nlink = 1};
    if (parent->mode & S_ISGID)
        model->nodes[node].gid = parent->gid;
    if (S_ISDIR(mode)) {
        model->nodes[node].nlink = 2;
        model->nodes[node].mode |= parent->mode & S_ISGID;
        parent->nlink++;
    }
    add(model, dir, name, node);
    *out_node = node;
    return FM_OK;
}

fm_status model_link(struct model *model, const fm_fs_who *who, int node, int dir, const char *name)
{
    if (S_ISDIR(model->nodes[node].mode))
        return FM_ERR_PERM;
    if (!may(who, &model->nodes[dir], 3))
        return FM_ERR_FS_ACCESS;
    if (model_find(model, dir, name) >= 0)
        return FM_ERR_EXISTS;
    add(model, dir, name, node);
    model->nodes[node].nlink++;
    return FM_OK;
}

fm_status model_remove(struct model *model, const fm_fs_who *who, int dir, const char *name, int want_dir)
{
    int entry = model_find(model, dir, name);
    if (!may(who, &model->nodes[dir], 3))
        return FM_ERR_FS_ACCESS;
    if (entry < 0)
        return FM_ERR_NOT_FOUND;
    int node = model->entries[entry].node;
    int is_dir = S_ISDIR(model->nodes[node].mode);
    if (sticky(model, who, dir, node))
        return FM_ERR_PERM;
    if (is_dir != want_dir)
        return is_dir ? FM_ERR_FS_IS_DIR : FM_ERR_FS_NOT_DIR;
    if (is_dir && !is_empty(model, node))
        return FM_ERR_FS_NOT_EMPTY;
    model->entries[entry].node = -1;
    model->nodes[dir].nlink -= (uint32_t)is_dir;
    drop(model, node);
    return FM_OK;
}

// The first reason why `who` may not empty the directory, in no particular order; FM_OK.
static fm_status may_empty(const struct model *model, const fm_fs_who *who, int dir)
{
    if (who->uid == 0)
        return FM_OK;
    if (!may(who, &model->nodes[dir], 7))
        return FM_ERR_FS_ACCESS;
    for (int i = 0; i < MODEL_ENTRIES; i++) {
        if (model->entries[i].node < 0 || model->entries[i].dir != dir)
            continue;
        int node = model->entries[i].node;
        if (sticky(model, who, dir, node))
            return FM_ERR_PERM;
        if (S_ISDIR(model->nodes[node].mode) && may_empty(model, who, node) < 0)
            return FM_ERR_FS_ACCESS;
    }
    return FM_OK;
}

static void empty(struct model *model, int dir)
{
    for (int i = 0; i < MODEL_ENTRIES; i++) {
        int node = model->entries[i].node;
        if (node < 0 || model->entries[i].dir != dir)
            continue;
        model->entries[i].node = -1;
        if (S_ISDIR(model->nodes[node].mode))
            empty(model, node);
        drop(model, node);
    }
}

fm_status model_remove_all(struct model *model, const fm_fs_who *who, int dir, const char *name)
{
    int entry = model_find(model, dir, name);
    int node = entry < 0 ? -1 : model->entries[entry].node;
    int is_dir = node >= 0 && S_ISDIR(model->nodes[node].mode);
    if (!may(who, &model->nodes[dir], 1))
        return FM_ERR_FS_ACCESS;
    if (node < 0 && who->uid)
        return FM_ERR_NOT_FOUND;
    if (is_dir && may_empty(model, who, node) < 0)
        return FM_ERR_FS_ACCESS;
    if (!may(who, &model->nodes[dir], 3))
        return FM_ERR_FS_ACCESS;
    if (node < 0)
        return FM_ERR_NOT_FOUND;
    if (sticky(model, who, dir, node))
        return FM_ERR_PERM;
    model->entries[entry].node = -1;
    model->nodes[dir].nlink -= (uint32_t)is_dir;
    if (is_dir)
        empty(model, node);
    drop(model, node);
    return FM_OK;
}

static int parent_of(const struct model *model, int dir)
{
    for (int i = 0; i < MODEL_ENTRIES; i++)
        if (model->entries[i].node == dir)
            return model->entries[i].dir;
    return -1;
}

static int is_below(const struct model *model, int dir, int above)
{
    while (dir >= 0 && dir != above)
        dir = parent_of(model, dir);
    return dir == above;
}

static fm_status may_move(const struct model *model, const fm_fs_who *who, int node, int from, int to)
{
    if (sticky(model, who, from, node))
        return FM_ERR_PERM;
    if (from == to || !S_ISDIR(model->nodes[node].mode))
        return FM_OK;
    if (!may(who, &model->nodes[node], 2))
        return FM_ERR_FS_ACCESS;
    return is_below(model, to, node) ? FM_ERR_ARG : FM_OK;
}

fm_status model_rename(struct model *model, const fm_fs_who *who, int dir, const char *name, int to_dir,
                       const char *to_name, unsigned flags)
{
    int entry = model_find(model, dir, name);
    int to_entry = model_find(model, to_dir, to_name);
    if (!may(who, &model->nodes[dir], 3) || !may(who, &model->nodes[to_dir], 3))
        return FM_ERR_FS_ACCESS;
    if (entry < 0 || (to_entry < 0 && flags == FM_FS_META_EXCHANGE))
        return FM_ERR_NOT_FOUND;
    int node = model->entries[entry].node;
    int there = to_entry < 0 ? -1 : model->entries[to_entry].node;
    int is_dir = S_ISDIR(model->nodes[node].mode);
    int there_is_dir = there >= 0 && S_ISDIR(model->nodes[there].mode);
    if (there >= 0 && flags == FM_FS_META_NOREPLACE)
        return FM_ERR_EXISTS;
    if (there == node)
        return FM_OK;
    fm_status status = may_move(model, who, node, dir, to_dir);
    if (status < 0)
        return status;
    if (flags == FM_FS_META_EXCHANGE) {
        if ((status = may_move(model, who, there, to_dir, dir)) < 0)
            return status;
        model->entries[entry].node = there;
        model->entries[to_entry].node = node;
        model->nodes[dir].nlink += (uint32_t)(there_is_dir - is_dir);
        model->nodes[to_dir].nlink += (uint32_t)(is_dir - there_is_dir);
        return FM_OK;
    }
    if (there >= 0) {
        if (sticky(model, who, to_dir, there))
            return FM_ERR_PERM;
        if (is_below(model, dir, there))
            return FM_ERR_FS_NOT_EMPTY;
        if (is_dir != there_is_dir)
            return is_dir ? FM_ERR_FS_NOT_DIR : FM_ERR_FS_IS_DIR;
        if (there_is_dir && !is_empty(model, there))
            return FM_ERR_FS_NOT_EMPTY;
        model->entries[to_entry].node = -1;
        model->nodes[to_dir].nlink -= (uint32_t)there_is_dir;
        drop(model, there);
    }
    model->entries[entry].node = -1;
    add(model, to_dir, to_name, node);
    model->nodes[dir].nlink -= (uint32_t)is_dir;
    model->nodes[to_dir].nlink += (uint32_t)is_dir;
    return FM_OK;
}

fm_status model_chmod(struct model *model, const fm_fs_who *who, int node, uint32_t mode)
{
    struct model_node *changed = &model->nodes[node];
    if (who->uid != 0 && who->uid != changed->uid)
        return FM_ERR_PERM;
    if (!in_group(who, changed->gid))
        mode &= ~(uint32_t)S_ISGID;
    changed->mode = (changed->mode & S_IFMT) | mode;
    return FM_OK;
}

fm_status model_chown(struct model *model, const fm_fs_who *who, int node, uint32_t uid, uint32_t gid)
{
    struct model_node *changed = &model->nodes[node];
    if (who->uid != 0 &&
        (who->uid != changed->uid || uid != changed->uid || (gid != changed->gid && !in_group(who, gid))))
        return FM_ERR_PERM;
    changed->uid = uid;
    changed->gid = gid;
    if (!S_ISDIR(changed->mode))
        changed->mode &= ~(uint32_t)(S_ISUID | (changed->mode & S_IXGRP ? S_ISGID : 0));
    return FM_OK;
}
