#include "fm_test.h"

#include "meta_fixture.h"

static uint64_t now_of(void *context)
{
    return *(const uint64_t *)context;
}

static void tell(void *context, const char *text)
{
    (void)context;
    print_error("found: %s\n", text);
}

void names_open(struct names *names, const fm_fs_meta_options *options)
{
    fm_fs_meta_options copy = options ? *options : (fm_fs_meta_options){.size = sizeof copy};
    memset(names, 0, sizeof *names);
    names->now = (uint64_t)1 << 40;
    copy.now = now_of;
    copy.now_context = &names->now;
    assert_ok(fm_fs_kv_open("memory:", NULL, &names->kv));
    assert_ok(fm_fs_meta_open(names->kv, &copy, &names->meta));
}

fm_fs_meta_census names_census(struct names *names)
{
    fm_fs_meta_census census;
    assert_ok(fm_fs_meta_check(names->meta, tell, NULL, &census));
    return census;
}

void names_close(struct names *names)
{
    assert_int_equal(names_census(names).findings, 0);
    fm_fs_meta_close(names->meta);
    fm_fs_kv_close(names->kv);
}

fm_fs_node names_make(struct names *names, uint64_t dir, const char *name, uint32_t mode)
{
    fm_fs_node node;
    assert_ok(fm_fs_meta_create(names->meta, NULL, dir, name, mode, 0, 1, &node, NULL));
    return node;
}

static fm_status remove_chunks(void *context, const fm_fs_node *node, uint64_t from)
{
    struct names *names = context;
    assert_int_equal(from, 0);
    assert_true(names->removed < 64 && node->layout.chunk_bytes > 0 && node->layout.chains > 0);
    names->removed_data[names->removed] = node->data;
    names->removed_reach[names->removed++] = node->reach;
    return FM_OK;
}

size_t names_collect(struct names *names)
{
    size_t all = 0;
    size_t done = 1;
    for (; done; all += done)
        assert_ok(fm_fs_meta_collect(names->meta, remove_chunks, names, 10, &done));
    return all;
}
