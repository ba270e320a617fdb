// `fathom fs ls|stat|du|tree|layout`: what is in a cluster.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cmd_fs.h"
#include "cmd_fs_place.h"
#include "fathom/mem.h"
#include "fathom/table.h"

struct look_options {
    int all;
    int64_t chunk_bytes, stripe;
};

#define FIELD(name) offsetof(struct look_options, name)

// What every verb does: open the place, find what it names, say something, close.
struct look {
    const fm_invocation *invocation;
    const struct look_options *options;
    fm_cmd_place place;
    fm_fs_node node;
    fm_table table;
    fm_json json;
};

static fm_status with_place(const fm_invocation *invocation, const void *options, int follow,
                            fm_status (*verb)(struct look *look))
{
    struct look look = {.invocation = invocation, .options = options};
    FM_TRY(fm_cmd_place_open(invocation->operands[0], &look.place));
    fm_status status = fm_cmd_place_node(&look.place, follow, &look.node);
    if (status == FM_OK)
        status = verb(&look);
    fm_cmd_place_close(&look.place);
    return status;
}

static const char *type_of(uint32_t mode)
{
    return S_ISREG(mode) ? "file" : S_ISDIR(mode) ? "directory" : S_ISLNK(mode) ? "link" : "other";
}

static void node_json(fm_json *json, const char *name, const fm_fs_node *node)
{
    if (name)
        fm_base_json_string(json, "name", name);
    fm_base_json_string(json, "type", type_of(node->mode));
    fm_base_json_int(json, "inode", (int64_t)node->ino);
    fm_base_json_int(json, "mode", node->mode & 07777);
    fm_base_json_int(json, "links", node->nlink);
    fm_base_json_int(json, "user", node->uid);
    fm_base_json_int(json, "group", node->gid);
    fm_base_json_int(json, "size", (int64_t)node->size);
    fm_base_json_int(json, "accessed_ns", node->atime_ns);
    fm_base_json_int(json, "modified_ns", node->mtime_ns);
    fm_base_json_int(json, "changed_ns", node->ctime_ns);
}

/* ls */

static fm_status list_entry(void *context, const fm_fs_meta_entry *entry)
{
    struct look *look = context;
    const fm_fs_node *node = &entry->node;
    char text[40];
    if (look->invocation->json) {
        fm_base_json_begin(&look->json, NULL, '{');
        node_json(&look->json, entry->name, node);
        fm_base_json_end(&look->json);
        return FM_OK;
    }
    if (!look->options->all) {
        char name[FM_FS_META_NAME_MAX + 1];
        memcpy(name, entry->name, sizeof name);
        fm_base_text_clean(name);
        printf("%s%s\n", name, S_ISDIR(node->mode) ? "/" : "");
        return FM_OK;
    }
    fm_cmd_place_mode(node->mode, text);
    fm_base_table_cell(&look->table, "%s", text);
    fm_base_table_cell(&look->table, "%u", node->nlink);
    fm_base_table_cell(&look->table, "%u", node->uid);
    fm_base_table_cell(&look->table, "%u", node->gid);
    fm_base_table_cell(&look->table, "%" PRIu64, node->size);
    fm_cmd_place_time(node->mtime_ns, text);
    text[19] = 0; // whole seconds
    fm_base_table_cell(&look->table, "%s", text);
    fm_base_table_cell(&look->table, "%s", entry->name);
    return FM_OK;
}

static fm_status list(struct look *look)
{
    fm_status status;
    if (look->invocation->json) {
        fm_base_json_begin(&look->json, NULL, '[');
    } else if (look->options->all) {
        static const char *const titles[] = {"mode", "links", "user", "group", "size", "modified", "name"};
        for (int i = 0; i < 7; i++)
            fm_base_table_column(&look->table, titles[i], NULL,
                                 i >= 1 && i <= 4 ? FM_ALIGN_RIGHT : FM_ALIGN_LEFT);
    }
    if (S_ISDIR(look->node.mode)) {
        status = fm_cmd_place_each(&look->place, look->node.ino, list_entry, look);
    } else {
        fm_fs_meta_entry entry = {.node = look->node};
        const char *slash = strrchr(look->place.path, '/');
        snprintf(entry.name, sizeof entry.name, "%s", slash ? slash + 1 : look->place.path);
        status = list_entry(look, &entry);
    }
    fm_status shown = FM_OK;
    if (look->invocation->json) {
        fm_base_json_end(&look->json);
        shown = fm_base_json_finish(&look->json, status == FM_OK ? stdout : NULL);
    } else if (look->options->all) {
        shown = fm_base_table_finish(&look->table, status == FM_OK ? stdout : NULL, 0);
    }
    return status < 0 ? status : shown;
}

static fm_status run_ls(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    return with_place(invocation, options, 1, list);
}

static const fm_option ls_schema[] = {
    {"long", FM_OPTION_FLAG, FIELD(all), .value = "false", .letter = 'l',
     .help = "with modes, links, owners, sizes and times"},
    {0},
};

const fm_command fm_cmd_fs_ls = {
    .name = "ls",
    .summary = "list a directory of a cluster",
    .operands = "CLUSTER:/PATH",
    .details =
        "CLUSTER is the cluster's directory. The cluster need not be up: names are a store of their own.\n"
        "  fathom fs ls -l /data/cluster:/datasets",
    .options = ls_schema,
    .options_size = sizeof(struct look_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_ls,
};

/* stat */

static fm_status say_node(struct look *look)
{
    const fm_fs_node *node = &look->node;
    char mode[11];
    char time[40];
    char target[FM_FS_META_LINK_MAX + 1] = "";
    if (S_ISLNK(node->mode))
        FM_TRY(fm_fs_meta_readlink(look->place.meta, node->ino, target));
    if (look->invocation->json) {
        fm_base_json_begin(&look->json, NULL, '{');
        node_json(&look->json, NULL, node);
        if (*target)
            fm_base_json_string(&look->json, "target", target);
        fm_base_json_bool(&look->json, "inline", (node->flags & FM_FS_NODE_INLINE) != 0);
        fm_base_json_bool(&look->json, "immutable", (node->flags & FM_FS_NODE_IMMUTABLE) != 0);
        fm_base_json_int(&look->json, "quota_of", (int64_t)node->project);
        fm_base_json_end(&look->json);
        return fm_base_json_finish(&look->json, stdout);
    }
    fm_cmd_place_mode(node->mode, mode);
    printf("inode     %" PRIu64 "\n", node->ino);
    printf("mode      %s (%04o)\n", mode, node->mode & 07777);
    printf("links     %u\n", node->nlink);
    printf("owner     user %u, group %u\n", node->uid, node->gid);
    printf("size      %" PRIu64 "%s\n", node->size,
           S_ISREG(node->mode) && (node->flags & FM_FS_NODE_INLINE) ? ", in the store of the names" : "");
    if (*target) {
        fm_base_text_clean(target);
        printf("target    %s\n", target);
    }
    fm_cmd_place_time(node->atime_ns, time);
    printf("accessed  %s\n", time);
    fm_cmd_place_time(node->mtime_ns, time);
    printf("modified  %s\n", time);
    fm_cmd_place_time(node->ctime_ns, time);
    printf("changed   %s\n", time);
    if (node->flags & FM_FS_NODE_IMMUTABLE)
        printf("immutable\n");
    return FM_OK;
}

static fm_status run_stat(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    return with_place(invocation, options, 0, say_node);
}

const fm_command fm_cmd_fs_stat = {
    .name = "stat",
    .summary = "everything about one file, directory or link of a cluster",
    .operands = "CLUSTER:/PATH",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_stat,
};

/* du, tree: walks without recursion, so that depth costs memory and not the call stack */

struct walk {
    struct look *look;
    struct step {
        uint64_t ino;
        int depth;
        char *name;
    } * steps;
    size_t count, capacity;
    int depth; // of what is being visited
    uint64_t bytes, files, directories;
};

static fm_status push(struct walk *walk, uint64_t ino, int depth, const char *name)
{
    if (walk->count == walk->capacity) {
        size_t capacity = walk->capacity ? 2 * walk->capacity : 64;
        struct step *moved = fm_base_mem_realloc(walk->steps, capacity, sizeof *moved);
        if (!moved)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory to walk a tree");
        walk->steps = moved;
        walk->capacity = capacity;
    }
    char *copy = fm_base_mem_strdup(name);
    if (!copy)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to walk a tree");
    walk->steps[walk->count++] = (struct step){ino, depth, copy};
    return FM_OK;
}

static fm_status visit(void *context, const fm_fs_meta_entry *entry)
{
    struct walk *walk = context;
    int is_dir = S_ISDIR(entry->node.mode);
    walk->bytes += S_ISREG(entry->node.mode) ? entry->node.size : 0;
    walk->files += is_dir ? 0 : 1;
    walk->directories += is_dir ? 1 : 0;
    // Files keep their place among directories: both are drawn when they come off the stack.
    if (is_dir || walk->look->options->all)
        return push(walk, is_dir ? entry->node.ino : 0, walk->depth + 1, entry->name);
    return FM_OK;
}

static void draw(const struct step *step)
{
    char *name = step->name;
    fm_base_text_clean(name);
    printf("%*s%s%s\n", 2 * step->depth, "", name, step->ino ? "/" : "");
}

static fm_status walk_all(struct walk *walk)
{
    fm_status status = FM_OK;
    while (status == FM_OK && walk->count) {
        struct step step = walk->steps[--walk->count];
        size_t first = walk->count;
        if (walk->look->options->all && !walk->look->invocation->json && step.depth)
            draw(&step);
        walk->depth = step.depth;
        if (step.ino)
            status = fm_cmd_place_each(&walk->look->place, step.ino, visit, walk);
        for (size_t low = first, high = walk->count; low + 1 < high; low++, high--) { // the first name on top
            struct step swapped = walk->steps[low];
            walk->steps[low] = walk->steps[high - 1];
            walk->steps[high - 1] = swapped;
        }
        fm_base_mem_free(step.name);
    }
    while (walk->count)
        fm_base_mem_free(walk->steps[--walk->count].name);
    fm_base_mem_free(walk->steps);
    return status;
}

static fm_status sum_up(struct look *look)
{
    struct walk walk = {.look = look};
    if (S_ISDIR(look->node.mode)) {
        FM_TRY(push(&walk, look->node.ino, 0, ""));
        FM_TRY(walk_all(&walk));
    } else {
        walk.bytes = look->node.size;
        walk.files = 1;
    }
    if (look->invocation->json) {
        fm_base_json_begin(&look->json, NULL, '{');
        fm_base_json_int(&look->json, "bytes", (int64_t)walk.bytes);
        fm_base_json_int(&look->json, "files", (int64_t)walk.files);
        fm_base_json_int(&look->json, "directories", (int64_t)walk.directories);
        fm_base_json_end(&look->json);
        return fm_base_json_finish(&look->json, stdout);
    }
    if (!look->options->all)
        printf("%s in ", fm_base_text_bytes((double)walk.bytes).text);
    printf("%" PRIu64 " file%s, %" PRIu64 " director%s\n", walk.files, walk.files == 1 ? "" : "s",
           walk.directories, walk.directories == 1 ? "y" : "ies");
    return FM_OK;
}

static fm_status run_du(const fm_invocation *invocation, const void *options, int *out_exit)
{
    static const struct look_options quiet;
    (void)out_exit;
    (void)options;
    return with_place(invocation, &quiet, 1, sum_up);
}

static fm_status run_tree(const fm_invocation *invocation, const void *options, int *out_exit)
{
    static const struct look_options drawn = {.all = 1};
    (void)out_exit;
    (void)options;
    return with_place(invocation, &drawn, 1, sum_up);
}

const fm_command fm_cmd_fs_du = {
    .name = "du",
    .summary = "bytes, files and directories below a place of a cluster",
    .operands = "CLUSTER:/PATH",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_du,
};

const fm_command fm_cmd_fs_tree = {
    .name = "tree",
    .summary = "draw what is below a place of a cluster",
    .operands = "CLUSTER:/PATH",
    .operands_min = 1,
    .operands_max = 1,
    .run = run_tree,
};

/* layout */

static fm_status lay_out(struct look *look)
{
    const struct look_options *options = look->options;
    if (options->chunk_bytes || options->stripe) {
        fm_fs_layout layout = look->node.layout;
        if (options->chunk_bytes)
            layout.chunk_bytes = (uint32_t)options->chunk_bytes;
        if (options->stripe)
            layout.stripe = (uint32_t)options->stripe;
        FM_TRY(fm_fs_meta_layout_set(look->place.meta, &look->place.who, look->node.ino, &layout));
        look->node.layout = layout;
    }
    const fm_fs_layout *layout = &look->node.layout;
    if (look->invocation->json) {
        fm_base_json_begin(&look->json, NULL, '{');
        fm_base_json_int(&look->json, "chunk_bytes", layout->chunk_bytes);
        fm_base_json_int(&look->json, "stripe", layout->stripe);
        fm_base_json_int(&look->json, "chains", layout->chains);
        fm_base_json_int(&look->json, "first_chain", 1 + layout->base % layout->chains);
        fm_base_json_end(&look->json);
        return fm_base_json_finish(&look->json, stdout);
    }
    printf("chunks of %s over %u of %u chain%s", fm_base_text_bytes(layout->chunk_bytes).text, layout->stripe,
           layout->chains, layout->chains == 1 ? "" : "s");
    if (S_ISREG(look->node.mode))
        printf(", from chain %u on", 1 + layout->base % layout->chains);
    putchar('\n');
    return FM_OK;
}

static fm_status run_layout(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)out_exit;
    return with_place(invocation, options, 1, lay_out);
}

static const fm_option layout_schema[] = {
    {"chunk-bytes", FM_OPTION_SIZE, FIELD(chunk_bytes), .value = "0", .min = 0, .max = FM_FS_CHUNK_MAX,
     .help = "set the size of chunks, a power of two from 64K to 64M; 0: leave it"},
    {"stripe", FM_OPTION_INT, FIELD(stripe), .value = "0", .min = 0, .max = 1e6,
     .help = "set over how many chains a file is spread; 0: leave it"},
    {0},
};

const fm_command fm_cmd_fs_layout = {
    .name = "layout",
    .summary = "show a file's layout, or set that of what is made in a directory",
    .operands = "CLUSTER:/PATH",
    .details = "A file's layout is fixed when it is made; directories hand theirs on.\n"
               "  fathom fs layout --chunk-bytes 4M --stripe 8 /data/cluster:/checkpoints",
    .options = layout_schema,
    .options_size = sizeof(struct look_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_layout,
};
