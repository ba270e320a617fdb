#include "mem_fs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/mem.h"

struct node;

struct entry {
    char name[FM_FS_NAME_MAX + 1];
    struct node *node;
};

// The names of a directory, in ascending order.
struct names {
    struct entry *entries;
    size_t count;
};

// One change of a directory: a name goes, or comes, or (a rename) both.
struct change {
    struct entry gone; // without a node: none
    struct entry come;
};

struct bytes {
    unsigned char *data;
    size_t size;
};

// Nodes live until the file system is closed, so that what was removed can come back.
struct node {
    struct node *next;
    uint64_t id;
    fm_fs_type type;
    struct bytes now;           // a file's content
    struct bytes durable;       // and what is synced of it
    struct names names;         // a directory's
    struct names durable_names; // what is synced of them
    struct change *changes;     // and what has happened since
    size_t change_count;
};

struct mem_fs {
    fm_fs base;
    struct node *nodes;
    struct node *root;
    uint64_t last_id;
    size_t operations;
    size_t fail_at;
};

struct mem_file {
    fm_fs_file base;
    struct node *node;
};

struct mem_list {
    fm_fs_list base;
    struct names names;
    size_t next;
    fm_fs_entry entry;
};

// Memory is not what these tests put under strain.
static void *must(void *block)
{
    if (!block)
        abort();
    return block;
}

static struct bytes copy_bytes(struct bytes from, size_t size)
{
    struct bytes to = {must(calloc(size + 1, 1)), size};
    if (from.size)
        memcpy(to.data, from.data, from.size < size ? from.size : size);
    return to;
}

static struct names copy_names(struct names from)
{
    size_t bytes = from.count * sizeof *from.entries;
    struct names to = {must(malloc(bytes ? bytes : 1)), from.count};
    if (from.count)
        memcpy(to.entries, from.entries, bytes);
    return to;
}

static struct node *new_node(struct mem_fs *mem, fm_fs_type type)
{
    struct node *node = must(calloc(1, sizeof *node));
    *node = (struct node){.next = mem->nodes, .id = ++mem->last_id, .type = type};
    mem->nodes = node;
    return node;
}

static struct entry *find(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->count; i++)
        if (strcmp(names->entries[i].name, name) == 0)
            return &names->entries[i];
    return NULL;
}

static void take_out(struct names *names, const char *name)
{
    struct entry *entry = find(names, name);
    if (!entry)
        return;
    names->count--;
    memmove(entry, entry + 1, (size_t)(names->entries + names->count - entry) * sizeof *entry);
}

static void put_in(struct names *names, const struct entry *entry)
{
    take_out(names, entry->name);
    size_t at = 0;
    while (at < names->count && strcmp(names->entries[at].name, entry->name) < 0)
        at++;
    names->entries = must(reallocarray(names->entries, names->count + 1, sizeof *names->entries));
    memmove(&names->entries[at + 1], &names->entries[at], (names->count - at) * sizeof *names->entries);
    names->entries[at] = *entry;
    names->count++;
}

static void apply(struct names *names, const struct change *change)
{
    if (change->gone.node)
        take_out(names, change->gone.name);
    if (change->come.node)
        put_in(names, &change->come);
}

static struct entry make_entry(const char *name, struct node *node)
{
    struct entry entry = {.node = node};
    snprintf(entry.name, sizeof entry.name, "%s", name);
    return entry;
}

static void change_names(struct node *dir, struct change change)
{
    apply(&dir->names, &change);
    dir->changes = must(reallocarray(dir->changes, dir->change_count + 1, sizeof *dir->changes));
    dir->changes[dir->change_count++] = change;
}

// Every slot begins here.
static fm_status begin(fm_fs *fs)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    mem->operations++;
    if (mem->fail_at && mem->operations >= mem->fail_at)
        return fm_base_error_set(FM_ERR_IO, "the disk fails, as the test wants");
    return FM_OK;
}

static fm_status fails(fm_status status, const char *path)
{
    fm_base_error_set(status, "%s: %s", path, fm_base_status_text(status));
    return status;
}

static fm_status look_up(struct mem_fs *mem, const char *path, struct node **out_node)
{
    char copy[FM_FS_PATH_MAX + 1];
    char *save;
    struct node *node = mem->root;
    snprintf(copy, sizeof copy, "%s", path);
    for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
        if (node->type != FM_FS_TYPE_DIR)
            return fails(FM_ERR_FS_NOT_DIR, path);
        struct entry *entry = find(&node->names, name);
        if (!entry)
            return fails(FM_ERR_NOT_FOUND, path);
        node = entry->node;
    }
    *out_node = node;
    return FM_OK;
}

static fm_status look_up_dir(struct mem_fs *mem, const char *path, struct node **out_dir)
{
    struct node *node = NULL;
    FM_TRY(look_up(mem, path, &node));
    if (node->type != FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_NOT_DIR, path);
    *out_dir = node;
    return FM_OK;
}

static fm_status look_up_parent(struct mem_fs *mem, const char *path, struct node **out_dir)
{
    char parent[FM_FS_PATH_MAX + 1];
    fm_fs_path_parent(path, parent);
    return look_up_dir(mem, parent, out_dir);
}

static void mem_close(fm_fs *fs)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    while (mem->nodes) {
        struct node *node = mem->nodes;
        mem->nodes = node->next;
        free(node->names.entries);
        free(node->durable_names.entries);
        free(node->changes);
        free(node->now.data);
        free(node->durable.data);
        free(node);
    }
    free(mem);
}

static void info_of(const struct node *node, fm_fs_info *out_info)
{
    *out_info = (fm_fs_info){.type = node->type, .size = node->now.size, .id = node->id};
}

static fm_status mem_stat(fm_fs *fs, const char *path, fm_fs_info *out_info)
{
    struct node *node = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up((struct mem_fs *)fs, path, &node));
    info_of(node, out_info);
    return FM_OK;
}

static fm_status mem_mkdir(fm_fs *fs, const char *path)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    struct node *parent = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_parent(mem, path, &parent));
    if (find(&parent->names, fm_fs_path_leaf(path)))
        return fails(FM_ERR_EXISTS, path);
    change_names(parent,
                 (struct change){.come = make_entry(fm_fs_path_leaf(path), new_node(mem, FM_FS_TYPE_DIR))});
    return FM_OK;
}

enum removal { REMOVE_FILE, REMOVE_EMPTY_DIR, REMOVE_ALL };

static fm_status remove_name(fm_fs *fs, const char *path, enum removal removal)
{
    struct node *parent = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_parent((struct mem_fs *)fs, path, &parent));
    struct entry *entry = find(&parent->names, fm_fs_path_leaf(path));
    if (!entry)
        return fails(FM_ERR_NOT_FOUND, path);
    if (removal == REMOVE_FILE && entry->node->type == FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_IS_DIR, path);
    if (removal == REMOVE_EMPTY_DIR && entry->node->type != FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_NOT_DIR, path);
    if (removal == REMOVE_EMPTY_DIR && entry->node->names.count > 0)
        return fails(FM_ERR_FS_NOT_EMPTY, path);
    change_names(parent, (struct change){.gone = *entry});
    return FM_OK;
}

static fm_status mem_unlink(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, REMOVE_FILE);
}

static fm_status mem_rmdir(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, REMOVE_EMPTY_DIR);
}

static fm_status mem_remove_all(fm_fs *fs, const char *path)
{
    return remove_name(fs, path, REMOVE_ALL);
}

static int is_below(const char *path, const char *dir)
{
    size_t length = strlen(dir);
    return strncmp(path, dir, length) == 0 && path[length] == '/';
}

// The order of the checks is Linux's.
static fm_status mem_rename(fm_fs *fs, const char *from, const char *to, unsigned flags)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    struct node *old_parent = NULL;
    struct node *new_parent = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_parent(mem, from, &old_parent));
    FM_TRY(look_up_parent(mem, to, &new_parent));
    struct entry *old_entry = find(&old_parent->names, fm_fs_path_leaf(from));
    struct entry *target = find(&new_parent->names, fm_fs_path_leaf(to));
    if (!old_entry)
        return fails(FM_ERR_NOT_FOUND, from);
    if (target && (flags & FM_FS_EXCLUSIVE))
        return fails(FM_ERR_EXISTS, to);
    if (is_below(to, from))
        return fails(FM_ERR_ARG, to);
    if (is_below(from, to))
        return fails(FM_ERR_FS_NOT_EMPTY, to);
    struct node *node = old_entry->node;
    if (target && target->node == node)
        return FM_OK;
    if (target && node->type == FM_FS_TYPE_DIR && target->node->type != FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_NOT_DIR, to);
    if (target && node->type != FM_FS_TYPE_DIR && target->node->type == FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_IS_DIR, to);
    if (target && target->node->type == FM_FS_TYPE_DIR && target->node->names.count > 0)
        return fails(FM_ERR_FS_NOT_EMPTY, to);
    struct change gone = {.gone = *old_entry};
    struct change come = {.come = make_entry(fm_fs_path_leaf(to), node)};
    if (old_parent == new_parent) {
        change_names(old_parent, (struct change){gone.gone, come.come});
    } else {
        change_names(old_parent, gone);
        change_names(new_parent, come);
    }
    return FM_OK;
}

static fm_status mem_link(fm_fs *fs, const char *from, const char *to)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    struct node *node = NULL;
    struct node *parent = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up(mem, from, &node));
    if (node->type == FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_IS_DIR, from);
    FM_TRY(look_up_parent(mem, to, &parent));
    if (find(&parent->names, fm_fs_path_leaf(to)))
        return fails(FM_ERR_EXISTS, to);
    change_names(parent, (struct change){.come = make_entry(fm_fs_path_leaf(to), node)});
    return FM_OK;
}

static fm_status mem_dir_sync(fm_fs *fs, const char *path)
{
    struct node *dir = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_dir((struct mem_fs *)fs, path, &dir));
    free(dir->durable_names.entries);
    dir->durable_names = copy_names(dir->names);
    dir->change_count = 0;
    return FM_OK;
}

static fm_status mem_list_open(fm_fs *fs, const char *path, fm_fs_list **out_list)
{
    struct node *dir = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_dir((struct mem_fs *)fs, path, &dir));
    struct mem_list *list = must(calloc(1, sizeof *list));
    list->names = copy_names(dir->names);
    *out_list = &list->base;
    return FM_OK;
}

static fm_status mem_list_next(fm_fs_list *base, const fm_fs_entry **out_entry)
{
    struct mem_list *list = (struct mem_list *)base;
    FM_TRY(begin(base->fs));
    *out_entry = NULL;
    if (list->next == list->names.count)
        return FM_OK;
    const struct entry *entry = &list->names.entries[list->next++];
    list->entry = (fm_fs_entry){entry->name, entry->node->type};
    *out_entry = &list->entry;
    return FM_OK;
}

static void mem_list_close(fm_fs_list *base)
{
    struct mem_list *list = (struct mem_list *)base;
    free(list->names.entries);
    free(list);
}

static void resize(struct node *node, size_t size)
{
    struct bytes old = node->now;
    node->now = copy_bytes(old, size);
    free(old.data);
}

static fm_status mem_file_open(fm_fs *fs, const char *path, unsigned flags, fm_fs_file **out_file)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    struct node *parent = NULL;
    FM_TRY(begin(fs));
    FM_TRY(look_up_parent(mem, path, &parent));
    struct entry *entry = find(&parent->names, fm_fs_path_leaf(path));
    if (entry && (flags & FM_FS_EXCLUSIVE))
        return fails(FM_ERR_EXISTS, path);
    if (!entry && !(flags & FM_FS_CREATE))
        return fails(FM_ERR_NOT_FOUND, path);
    struct node *node = entry ? entry->node : new_node(mem, FM_FS_TYPE_FILE);
    if (node->type == FM_FS_TYPE_DIR)
        return fails(FM_ERR_FS_IS_DIR, path);
    if (!entry)
        change_names(parent, (struct change){.come = make_entry(fm_fs_path_leaf(path), node)});
    if (flags & FM_FS_TRUNCATE)
        resize(node, 0);
    struct mem_file *file = must(calloc(1, sizeof *file));
    file->node = node;
    *out_file = &file->base;
    return FM_OK;
}

static void mem_file_close(fm_fs_file *file)
{
    free(file);
}

static fm_status mem_file_stat(fm_fs_file *file, fm_fs_info *out_info)
{
    FM_TRY(begin(file->fs));
    info_of(((struct mem_file *)file)->node, out_info);
    return FM_OK;
}

static fm_status mem_file_read(fm_fs_file *file, void *buffer, size_t length, uint64_t offset,
                               size_t *out_length)
{
    const struct bytes *now = &((struct mem_file *)file)->node->now;
    FM_TRY(begin(file->fs));
    size_t left = offset < now->size ? now->size - (size_t)offset : 0;
    *out_length = length < left ? length : left;
    if (*out_length)
        memcpy(buffer, now->data + offset, *out_length);
    return FM_OK;
}

static fm_status mem_file_write(fm_fs_file *file, const void *data, size_t length, uint64_t offset)
{
    struct mem_fs *mem = (struct mem_fs *)file->fs;
    struct node *node = ((struct mem_file *)file)->node;
    fm_status status = begin(file->fs);
    if (status < 0 && mem->operations > mem->fail_at)
        return status;
    if (status < 0)
        length /= 2;
    if (offset + length > node->now.size)
        resize(node, (size_t)offset + length);
    memcpy(node->now.data + offset, data, length);
    return status;
}

static fm_status mem_file_truncate(fm_fs_file *file, uint64_t size)
{
    FM_TRY(begin(file->fs));
    resize(((struct mem_file *)file)->node, (size_t)size);
    return FM_OK;
}

static fm_status mem_file_sync(fm_fs_file *file)
{
    struct node *node = ((struct mem_file *)file)->node;
    FM_TRY(begin(file->fs));
    free(node->durable.data);
    node->durable = copy_bytes(node->now, node->now.size);
    return FM_OK;
}

static const struct fm_fs_ops mem_ops = {
    .scheme = "mem",
    .close = mem_close,
    .stat = mem_stat,
    .mkdir = mem_mkdir,
    .unlink = mem_unlink,
    .rmdir = mem_rmdir,
    .remove_all = mem_remove_all,
    .rename = mem_rename,
    .link = mem_link,
    .dir_sync = mem_dir_sync,
    .list_open = mem_list_open,
    .list_next = mem_list_next,
    .list_close = mem_list_close,
    .file_open = mem_file_open,
    .file_close = mem_file_close,
    .file_stat = mem_file_stat,
    .file_read = mem_file_read,
    .file_write = mem_file_write,
    .file_truncate = mem_file_truncate,
    .file_sync = mem_file_sync,
};

fm_fs *fm_fs_mem_new(void)
{
    struct mem_fs *mem = must(calloc(1, sizeof *mem));
    mem->base.ops = &mem_ops;
    mem->root = new_node(mem, FM_FS_TYPE_DIR);
    return &mem->base;
}

size_t fm_fs_mem_operations(const fm_fs *fs)
{
    return ((const struct mem_fs *)fs)->operations;
}

void fm_fs_mem_fail_at(fm_fs *fs, size_t n)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    mem->fail_at = n ? mem->operations + n : 0;
}

// Keeps some changes and undoes others; one that builds on an undone one is undone too.
static void cut_dir(struct node *dir, fm_gen *gen)
{
    static const double chances[] = {0, 0.5, 0.9, 1};
    double chance = chances[fm_gen_int(gen, 0, 3)];
    for (size_t i = 0; i < dir->change_count; i++) {
        const struct change *change = &dir->changes[i];
        const struct entry *before = find(&dir->durable_names, change->gone.name);
        if (fm_gen_chance(gen, chance) &&
            (!change->gone.node || (before && before->node == change->gone.node)))
            apply(&dir->durable_names, change);
    }
    free(dir->names.entries);
    dir->names = copy_names(dir->durable_names);
    dir->change_count = 0;
}

static void cut_file(struct node *file, fm_gen *gen)
{
    switch (fm_gen_int(gen, 0, 2)) {
    case 0: {
        struct bytes old = file->now;
        file->now = copy_bytes(file->durable, file->durable.size);
        free(old.data);
        break;
    }
    case 1: { // what was appended to synced content can be lost without harm to that
        size_t kept = file->durable.size;
        if (kept > file->now.size || (kept && memcmp(file->durable.data, file->now.data, kept) != 0))
            kept = 0;
        resize(file, (size_t)fm_gen_int(gen, (int64_t)kept, (int64_t)file->now.size));
        break;
    }
    default:
        break;
    }
    free(file->durable.data);
    file->durable = copy_bytes(file->now, file->now.size);
}

void fm_fs_mem_power_cut(fm_fs *fs, fm_gen *gen)
{
    struct mem_fs *mem = (struct mem_fs *)fs;
    for (struct node *node = mem->nodes; node; node = node->next) {
        if (node->type == FM_FS_TYPE_DIR)
            cut_dir(node, gen);
        else
            cut_file(node, gen);
    }
    mem->fail_at = 0;
}
