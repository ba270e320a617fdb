#include "fm_test.h"

#include <sys/stat.h>

#include "meta_follow.h"
#include "meta_model.h"

static const uint32_t groups[] = {200, 300};
static const fm_fs_who users[] = {
    {.uid = 0, .gid = 0},
    {.uid = 1001, .gid = 100, .groups = groups, .group_count = 1},
    {.uid = 1002, .gid = 200},
    {.uid = 1003, .gid = 300},
};
static const char *const names[] = {"a", "b", "c", "d", "e", "f"};

fm_status keep_nothing(void *context, const fm_fs_node *node, uint64_t from)
{
    (void)context;
    (void)node;
    (void)from;
    return FM_OK;
}

static void tell(void *context, const char *text)
{
    (void)context;
    print_error("found: %s\n", text);
}

fm_fs_meta_census assert_sound(fm_fs_meta *meta)
{
    fm_fs_meta_census census;
    assert_ok(fm_fs_meta_check(meta, tell, NULL, &census));
    assert_int_equal(census.findings, 0);
    return census;
}

void collect_all(fm_fs_meta *meta)
{
    size_t done = 1;
    while (done)
        assert_ok(fm_fs_meta_collect(meta, keep_nothing, NULL, 1000, &done));
}

struct run {
    fm_gen *gen;
    fm_fs_meta *meta, *store;
    struct model model;
    const fm_fs_who *who;
};

static uint64_t any(struct run *run)
{
    return fm_gen_u64(run->gen) >> 1;
}

static const char *any_name(struct run *run)
{
    return names[any(run) % (sizeof names / sizeof *names)];
}

static uint64_t ino_of(const struct run *run, int node)
{
    return run->model.nodes[node].ino;
}

static void make(struct run *run)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFIFO};
    int dir = model_any_dir(&run->model, any(run));
    const char *name = any_name(run);
    uint32_t mode = types[any(run) % 5] | (uint32_t)(any(run) % 4 ? 0777 : any(run) & 03777);
    int exclusive = (int)(any(run) % 2);
    int node = -1;
    int made = -1;
    fm_fs_node out;
    mode &= S_ISDIR(mode) ? ~(uint32_t)0 : ~(uint32_t)S_ISGID; // what becomes of it is another test's
    fm_status expected = model_create(&run->model, run->who, dir, name, mode, exclusive, &node);
    fm_status status =
        fm_fs_meta_create(run->meta, run->who, ino_of(run, dir), name, mode, 0, exclusive, &out, &made);
    assert_int_equal(status, expected);
    if (status < 0)
        return;
    assert_int_equal(made, ino_of(run, node) == UINT64_MAX);
    if (made)
        run->model.nodes[node].ino = out.ino;
    assert_int_equal(out.ino, ino_of(run, node));
}

static void name_again(struct run *run)
{
    int node = model_any_node(&run->model, any(run));
    int dir = model_any_dir(&run->model, any(run));
    const char *name = any_name(run);
    fm_fs_node out;
    fm_status expected = model_link(&run->model, run->who, node, dir, name);
    assert_int_equal(fm_fs_meta_link(run->meta, run->who, ino_of(run, node), ino_of(run, dir), name, &out),
                     expected);
}

static void take_away(struct run *run, int kind)
{
    int dir = model_any_dir(&run->model, any(run));
    uint64_t ino = ino_of(run, dir);
    const char *name = any_name(run);
    if (kind == 2) {
        fm_status expected = model_remove_all(&run->model, run->who, dir, name);
        fm_status status = fm_fs_meta_remove_all(run->meta, run->who, ino, name);
        // In a tree there may be several reasons; which is met first is nobody's business.
        int forbidden = expected == FM_ERR_FS_ACCESS && status == FM_ERR_PERM;
        assert_true(status == expected || forbidden);
        collect_all(run->store); // links from elsewhere count what is below until then
    } else {
        assert_int_equal(kind ? fm_fs_meta_rmdir(run->meta, run->who, ino, name)
                              : fm_fs_meta_unlink(run->meta, run->who, ino, name),
                         model_remove(&run->model, run->who, dir, name, kind));
    }
}

static void move(struct run *run)
{
    int dir = model_any_dir(&run->model, any(run));
    int to_dir = any(run) % 2 ? dir : model_any_dir(&run->model, any(run));
    const char *name = any_name(run);
    const char *to_name = any_name(run);
    unsigned flags = (unsigned)(any(run) % 3);
    uint64_t ino = ino_of(run, dir);
    uint64_t to_ino = ino_of(run, to_dir);
    fm_status expected = model_rename(&run->model, run->who, dir, name, to_dir, to_name, flags);
    assert_int_equal(fm_fs_meta_rename(run->meta, run->who, ino, name, to_ino, to_name, flags), expected);
}

static void change(struct run *run)
{
    int node = model_any_node(&run->model, any(run));
    fm_fs_node values = {.mode = (uint32_t)any(run) & 07777,
                         .uid = 1001 + (uint32_t)(any(run) % 3),
                         .gid = 100 * (1 + (uint32_t)(any(run) % 3))};
    fm_fs_node out;
    uint64_t ino = ino_of(run, node);
    if (any(run) % 2) {
        values.mode |= any(run) % 2 ? 0700 : 0; // or soon nobody may do anything
        assert_int_equal(fm_fs_meta_setattr(run->meta, run->who, ino, FM_FS_META_MODE, &values, &out),
                         model_chmod(&run->model, run->who, node, values.mode));
    } else {
        assert_int_equal(
            fm_fs_meta_setattr(run->meta, run->who, ino, FM_FS_META_UID | FM_FS_META_GID, &values, &out),
            model_chown(&run->model, run->who, node, values.uid, values.gid));
    }
}

static void write_some(struct run *run)
{
    int place = model_any_node(&run->model, any(run));
    struct model_node *node = &run->model.nodes[place];
    size_t offset = (size_t)(any(run) % (MODEL_CONTENT / 2));
    size_t length = 1 + (size_t)(any(run) % (MODEL_CONTENT / 2 - 1));
    uint8_t bytes[MODEL_CONTENT];
    fm_fs_node out;
    if (!S_ISREG(node->mode))
        return;
    fm_gen_fill(run->gen, bytes, sizeof bytes);
    if (any(run) % 3) {
        memcpy(node->content + offset, bytes, length);
        if (node->size < offset + length)
            node->size = offset + length;
        assert_ok(fm_fs_meta_inline_write(run->meta, node->ino, offset, bytes, length, &out));
    } else {
        memset(node->content + offset, 0, sizeof node->content - offset);
        node->size = offset;
        assert_ok(fm_fs_meta_truncate(run->meta, run->who, node->ino, 0, offset, 0, &out));
    }
    assert_int_equal(out.size, node->size);
}

static void step(struct run *run)
{
    run->who = &users[any(run) % 4];
    switch (any(run) % 12) {
    case 0:
    case 1:
    case 2:
        make(run);
        break;
    case 3:
        name_again(run);
        break;
    case 4:
    case 5:
        take_away(run, 0);
        break;
    case 6:
        take_away(run, 1);
        break;
    case 7:
        if (any(run) % 4 == 0)
            take_away(run, 2);
        break;
    case 8:
    case 9:
        move(run);
        break;
    case 10:
        change(run);
        break;
    default:
        write_some(run);
    }
}

static void assert_same_node(struct run *run, const struct model_node *expected, const fm_fs_node *node)
{
    uint8_t content[MODEL_CONTENT];
    size_t read;
    fm_fs_node again;
    assert_int_equal(node->ino, expected->ino);
    assert_int_equal(node->mode, expected->mode);
    assert_int_equal(node->nlink, expected->nlink);
    assert_int_equal(node->uid, expected->uid);
    assert_int_equal(node->gid, expected->gid);
    if (!S_ISREG(node->mode))
        return;
    assert_ok(fm_fs_meta_inline_read(run->meta, node->ino, 0, content, sizeof content, &read, &again));
    assert_int_equal(read, expected->size);
    assert_memory_equal(content, expected->content, read);
}

static void assert_same(struct run *run)
{
    for (int dir = 0; dir < MODEL_NODES; dir++) {
        fm_fs_meta_entry page[4];
        size_t entries = 0;
        size_t count = 4;
        char after[FM_FS_META_NAME_MAX + 1] = "";
        if (!run->model.nodes[dir].ino || !S_ISDIR(run->model.nodes[dir].mode))
            continue;
        while (count == 4) {
            assert_ok(
                fm_fs_meta_list(run->meta, NULL, ino_of(run, dir), entries ? after : NULL, page, 4, &count));
            for (size_t i = 0; i < count; i++) {
                int entry = model_find(&run->model, dir, page[i].name);
                assert_true(entry >= 0 && strcmp(page[i].name, after) > 0);
                assert_same_node(run, &run->model.nodes[run->model.entries[entry].node], &page[i].node);
                strcpy(after, page[i].name);
            }
            entries += count;
        }
        for (int i = 0; i < MODEL_ENTRIES; i++)
            entries -= run->model.entries[i].node >= 0 && run->model.entries[i].dir == dir;
        assert_int_equal(entries, 0);
    }
}

void follow_model(fm_gen *gen, fm_fs_meta *asked, fm_fs_meta *store, void (*disturb)(fm_gen *gen))
{
    struct run *run = calloc(1, sizeof *run);
    *run = (struct run){.gen = gen, .meta = asked, .store = store};
    model_init(&run->model);
    for (int i = 0; i < 400; i++) {
        if (disturb)
            disturb(gen);
        step(run);
        if (i % 40 == 39) {
            assert_same(run);
            assert_sound(run->meta);
        }
        if (i % 100 == 50)
            collect_all(run->store);
    }
    collect_all(run->store);
    assert_same(run);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fm_status status = fm_fs_meta_remove_all(run->meta, NULL, FM_FS_META_ROOT, names[i]);
        assert_true(status == FM_OK || status == FM_ERR_NOT_FOUND);
    }
    collect_all(run->store);
    fm_fs_meta_census census = assert_sound(run->meta);
    assert_true(census.directories == 1 && census.files + census.links + census.others == 0);
    assert_int_equal(census.collectable, 0);
    free(run);
}
