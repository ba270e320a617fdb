#include "fm_test.h"
#include "fm_gen.h"

#include <sys/stat.h>

#include "meta_wire.h"

static const uint32_t groups[] = {7, 8, 9};

static struct fm_fs_meta_request sample(void)
{
    return (struct fm_fs_meta_request){.slot = 3,
                                       .client = 0x1122334455667788,
                                       .sequence = 42,
                                       .uid = 1000,
                                       .gid = 100,
                                       .groups = groups,
                                       .group_count = 3,
                                       .numbers = {1, UINT64_MAX, 3, 4},
                                       .flags = {5, 6},
                                       .name = "from",
                                       .other = "to"};
}

static void requests_come_back(void **state)
{
    (void)state;
    uint8_t args[FM_FS_META_WIRE_ARGS];
    uint32_t space[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request request = sample();
    struct fm_fs_meta_request back;
    size_t bytes;
    assert_ok(fm_fs_meta_request_encode(&request, args, &bytes));
    assert_ok(fm_fs_meta_request_decode(args, bytes, space, &back));
    assert_true(back.slot == 3 && back.client == request.client && back.sequence == 42 && !back.super);
    assert_true(back.uid == 1000 && back.gid == 100 && back.group_count == 3);
    assert_memory_equal(back.groups, groups, sizeof groups);
    assert_memory_equal(back.numbers, request.numbers, sizeof back.numbers);
    assert_true(back.flags[0] == 5 && back.flags[1] == 6);
    assert_string_equal(back.name, "from");
    assert_string_equal(back.other, "to");
    // Each byte counts: nothing shorter or longer is taken.
    for (size_t i = 0; i < bytes; i++)
        assert_fails(fm_fs_meta_request_decode(args, i, space, &back), FM_ERR_FORMAT, "bytes");
    args[bytes] = 0;
    assert_fails(fm_fs_meta_request_decode(args, bytes + 1, space, &back), FM_ERR_FORMAT, "bytes");
}

static void the_longest_fit(void **state)
{
    (void)state;
    static char longest[FM_FS_META_WIRE_NAME];
    static uint32_t many[FM_FS_META_WIRE_GROUPS];
    uint8_t args[FM_FS_META_WIRE_ARGS];
    uint32_t space[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request back;
    size_t bytes;
    memset(longest, 'x', sizeof longest - 1);
    struct fm_fs_meta_request request = {
        .groups = many, .group_count = FM_FS_META_WIRE_GROUPS, .name = longest, .other = longest};
    assert_ok(fm_fs_meta_request_encode(&request, args, &bytes));
    assert_true(bytes <= sizeof args);
    assert_ok(fm_fs_meta_request_decode(args, bytes, space, &back));
    assert_string_equal(back.other, longest);
    request.group_count++;
    assert_fails(fm_fs_meta_request_encode(&request, args, &bytes), FM_ERR_LIMIT, "257 groups");
    char longer[FM_FS_META_WIRE_NAME + 1];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    request = (struct fm_fs_meta_request){.name = longer};
    assert_fails(fm_fs_meta_request_encode(&request, args, &bytes), FM_ERR_LIMIT, "4096 bytes");
}

static void other_versions_are_refused(void **state)
{
    (void)state;
    uint8_t args[FM_FS_META_WIRE_ARGS];
    uint32_t space[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request request = sample();
    struct fm_fs_meta_answer answer = {.node = {.ino = 1}};
    size_t bytes;
    assert_ok(fm_fs_meta_request_encode(&request, args, &bytes));
    for (uint32_t version = 0; version < 4; version++) {
        fm_put_le32(args, version);
        if (version == FM_FS_META_WIRE_VERSION)
            assert_ok(fm_fs_meta_request_decode(args, bytes, space, &request));
        else
            assert_fails(fm_fs_meta_request_decode(args, bytes, space, &request), FM_ERR_VERSION,
                         "knows version 1");
    }
    fm_fs_meta_answer_encode(&answer, args);
    assert_ok(fm_fs_meta_answer_decode(args, FM_FS_META_WIRE_REPLY, &answer));
    fm_put_le32(args, 2);
    assert_fails(fm_fs_meta_answer_decode(args, FM_FS_META_WIRE_REPLY, &answer), FM_ERR_VERSION, "version 2");
    // A later version's may have another size, and is told by its version all the same.
    assert_fails(fm_fs_meta_answer_decode(args, 8, &answer), FM_ERR_VERSION, "version 2");
}

static void harmed_requests_are_refused_or_sound(fm_gen *gen)
{
    uint8_t args[FM_FS_META_WIRE_ARGS];
    uint32_t space[FM_FS_META_WIRE_GROUPS];
    struct fm_fs_meta_request request = sample();
    size_t bytes;
    assert_ok(fm_fs_meta_request_encode(&request, args, &bytes));
    for (int i = 0; i < 3; i++)
        args[fm_gen_int(gen, 0, (int64_t)bytes - 1)] = (uint8_t)fm_gen_u64(gen);
    if (fm_fs_meta_request_decode(args, bytes, space, &request) < 0)
        return;
    assert_true(request.group_count <= FM_FS_META_WIRE_GROUPS);
    assert_true(request.other + strlen(request.other) + 1 == (const char *)args + bytes);
    assert_true(request.name + strlen(request.name) + 1 == request.other);
}

static void harm(void **state)
{
    (void)state;
    fm_gen_property(2000, harmed_requests_are_refused_or_sound);
}

static void pages_come_back(void **state)
{
    (void)state;
    static fm_fs_meta_entry entries[FM_FS_META_PAGE_MAX];
    static fm_fs_meta_entry back[FM_FS_META_PAGE_MAX];
    static uint8_t bytes[FM_FS_META_WIRE_PAYLOAD];
    size_t count;
    for (int i = 0; i < FM_FS_META_PAGE_MAX; i++) {
        memset(entries[i].name, 'a' + i % 26, sizeof entries[i].name - 1);
        entries[i].node = (fm_fs_node){.ino = 100 + (uint64_t)i, .mode = S_IFREG | 0644, .mtime_ns = -1};
    }
    size_t used = fm_fs_meta_page_encode(entries, FM_FS_META_PAGE_MAX, bytes);
    assert_ok(fm_fs_meta_page_decode(bytes, used, back, FM_FS_META_PAGE_MAX, &count));
    assert_int_equal(count, FM_FS_META_PAGE_MAX);
    for (int i = 0; i < FM_FS_META_PAGE_MAX; i++) {
        assert_string_equal(back[i].name, entries[i].name);
        assert_true(back[i].node.ino == entries[i].node.ino && back[i].node.mtime_ns == -1);
    }
    assert_fails(fm_fs_meta_page_decode(bytes, used, back, FM_FS_META_PAGE_MAX - 1, &count), FM_ERR_FORMAT,
                 "page");
    assert_fails(fm_fs_meta_page_decode(bytes, used - 1, back, FM_FS_META_PAGE_MAX, &count), FM_ERR_FORMAT,
                 "page");
    fm_put_le32(bytes, 256);
    assert_fails(fm_fs_meta_page_decode(bytes, used, back, FM_FS_META_PAGE_MAX, &count), FM_ERR_FORMAT,
                 "byte 0");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_come_back),
        cmocka_unit_test(the_longest_fit),
        cmocka_unit_test(other_versions_are_refused),
        cmocka_unit_test(harm),
        cmocka_unit_test(pages_come_back),
    };
    return fm_test_run("meta_wire", tests);
}
