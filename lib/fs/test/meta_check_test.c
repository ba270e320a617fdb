#include "fm_test.h"

#include <sys/stat.h>

#include "meta.h"
#include "meta_fixture.h"

static char found[1000];

static void keep(void *context, const char *text)
{
    (void)context;
    strncat(found, text, sizeof found - strlen(found) - 1);
}

// What is done to the store behind the names' back.
struct harm {
    char kind; // of the key
    uint64_t number, other;
    const char *name;
    fm_fs_node node;
    const char *value;
    size_t size;
    int remove;
};

static fm_status do_harm(fm_fs_kv_tx *tx, void *context)
{
    const struct harm *harm = context;
    struct fm_fs_meta_key key = harm->name    ? fm_fs_meta_key_name(harm->kind, harm->number, harm->name)
                                : harm->other ? fm_fs_meta_key_two(harm->kind, harm->number, harm->other)
                                              : fm_fs_meta_key(harm->kind, harm->number);
    if (harm->node.ino && harm->kind == 'D')
        return fm_fs_meta_entry_put(tx, harm->number, harm->name, &harm->node);
    if (harm->node.ino)
        return fm_fs_meta_store(tx, &harm->node);
    if (harm->remove)
        return fm_fs_meta_delete(tx, &key);
    return fm_fs_meta_put(tx, &key, harm->value, harm->size);
}

// Does harm to fresh names (a/b/f, a linked file, a quota), and looks whether the check says so.
static void assert_told(int which, const char *text)
{
    struct names names;
    fm_fs_node f;
    fm_fs_meta_census census;
    names_open(&names, NULL);
    fm_fs_node a = names_make(&names, ROOT, "a", S_IFDIR | 0755);
    fm_fs_node b = names_make(&names, a.ino, "b", S_IFDIR | 0755);
    f = names_make(&names, b.ino, "f", S_IFREG | 0644);
    fm_fs_node q = names_make(&names, ROOT, "q", S_IFDIR | 0755);
    fm_fs_node links = f;
    fm_fs_node parent = b;
    fm_fs_node subdirectories = a;
    fm_fs_node gone = f;
    fm_fs_node loop = a;
    assert_ok(fm_fs_meta_quota_set(names.meta, NULL, q.ino, &(fm_fs_quota){.bytes_max = 5}));
    names_make(&names, q.ino, "in", S_IFREG | 0644);
    assert_int_equal(names_census(&names).findings, 0);
    links.nlink = 2;
    parent.parent = ROOT;
    subdirectories.nlink = 2;
    gone.nlink = 0;
    loop.parent = b.ino;
    const struct harm harms[] = {
        {.kind = 'I', .number = f.ino, .remove = 1},
        {.kind = 'I', .node = links},
        {.kind = 'I', .node = parent},
        {.kind = 'I', .node = subdirectories},
        {.kind = 'D', .number = b.ino, .name = "f", .remove = 1},
        {.kind = 'D', .number = b.ino, .name = "loop", .node = a},
        {.kind = 'D', .number = f.ino, .name = "x", .node = f},
        {.kind = 'I', .node = gone},
        {.kind = 'B', .number = 999, .value = "x", .size = 1},
        {.kind = 'B', .number = f.ino, .value = "x", .size = 1},
        {.kind = 'X', .number = f.ino, .name = "user.x", .value = "x", .size = 1},
        {.kind = 'S', .number = 999, .other = 1, .value = "\1\0\0\0", .size = 4},
        {.kind = 'G', .number = 1, .other = 999, .value = "\1\0\0\0", .size = 4},
        {.kind = 'G', .number = 1, .other = f.ino, .value = "\1\0\0\0", .size = 4},
        {.kind = 'G', .number = 1, .other = f.ino, .value = "\7\0\0\0", .size = 4},
        {.kind = 'I', .number = f.ino, .value = "short", .size = 5},
        {.kind = 'Q',
         .number = q.ino,
         .value = "\5\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
         .size = 32},
        {.kind = 'I', .node = loop},
        {.kind = 'I', .number = ROOT, .remove = 1},
    };
    struct harm harm = harms[which];
    assert_ok(fm_fs_kv_run(names.kv, 0, do_harm, &harm));
    *found = 0;
    assert_ok(fm_fs_meta_check(names.meta, keep, NULL, &census));
    if (!strstr(found, text))
        fail_msg("harm %d: \"%s\" does not say \"%s\"", which, found, text);
    assert_true(census.findings > 0);
    fm_fs_meta_close(names.meta);
    fm_fs_kv_close(names.kv);
}

static void every_kind_of_harm_is_told(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "which does not exist",
        "1 names and a link count of 2",
        "its parent in inode",
        "1 subdirectories and a link count of 2",
        "0 names and a link count of 1",
        "2 names",
        "which is no directory",
        "was removed and has 1 names",
        "1 inline bytes of inode 999",
        "shorter than its 1 inline bytes",
        "an attribute of inode",
        "inode 999 is held open",
        "inode 999 waits",
        "waits for the collector and has 1 names",
        "work for the collector is malformed",
        "its record is malformed",
        "0 bytes and 0 inodes, but there are 0 and 2",
        "is not reached from the root",
        "the root does not exist",
    };
    for (int i = 0; i < (int)(sizeof texts / sizeof *texts); i++)
        assert_told(i, texts[i]);
}

static fm_status other_format(fm_fs_kv_tx *tx, void *context)
{
    struct fm_fs_meta_key key = {.bytes = "F", .size = 1};
    (void)context;
    return fm_fs_meta_put(tx, &key, "\2\0\0\0\0\0\0", 8);
}

static void what_is_no_names_is_refused(void **state)
{
    (void)state;
    fm_fs_kv *kv;
    fm_fs_meta *meta;
    fm_fs_meta_options options = {.size = sizeof options, .inline_max = 20000};
    assert_ok(fm_fs_kv_open("memory:", NULL, &kv));
    assert_fails(fm_fs_meta_open(NULL, NULL, &meta), FM_ERR_ARG, "NULL");
    assert_fails(fm_fs_meta_open(kv, &options, &meta), FM_ERR_ARG, "inline_max is 20000");
    options.size = 3;
    assert_fails(fm_fs_meta_open(kv, &options, &meta), FM_ERR_ARG, "size 3");
    assert_ok(fm_fs_kv_run(kv, 0, other_format, NULL));
    assert_fails(fm_fs_meta_open(kv, NULL, &meta), FM_ERR_VERSION, "format 2");
    fm_fs_kv_close(kv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_harm_is_told),
        cmocka_unit_test(what_is_no_names_is_refused),
    };
    return fm_test_run("meta_check", tests);
}
