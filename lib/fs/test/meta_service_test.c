#include "fm_test.h"
#include "fm_gen.h"

#include <pthread.h>
#include <sys/stat.h>

#include "fathom/clock.h"
#include "fathom/net.h"
#include "fm_certs.h"
#include "meta_follow.h"
#include "meta_service_private.h"
#include "meta_wire.h"

enum { SERVICES = 2, RECHECK_MS = 50 };

static const fm_net_key cluster_key = {.cluster_id = "a cluster's id", .secret = "a secret of 32 bytes ..."};

// Services of one store in this process, each at a socket and run by a thread.
static struct {
    fm_fs_kv *kv;
    fm_fs_meta *store;
    fm_fs_meta_service *services[SERVICES];
    pthread_t threads[SERVICES];
    char addresses[SERVICES][300];
    char list[700];
} world;

static void *run(void *context)
{
    if (fm_fs_meta_service_run(context) < 0)
        print_error("%s\n", fm_error_message());
    return NULL;
}

static void start(int i)
{
    const struct fm_fs_meta_hosting hosting = {.recheck_ms = RECHECK_MS};
    assert_null(world.services[i]);
    assert_ok(fm_fs_meta_service_new(world.store, &cluster_key, world.addresses[i], 4, &hosting,
                                     &world.services[i]));
    assert_int_equal(pthread_create(&world.threads[i], NULL, run, world.services[i]), 0);
}

// As a kill is for its clients: connections end, requests get no answer.
static void stop(int i)
{
    if (!world.services[i])
        return;
    fm_fs_meta_service_stop(world.services[i]);
    pthread_join(world.threads[i], NULL);
    fm_fs_meta_service_free(world.services[i]);
    world.services[i] = NULL;
}

static void open_world(const fm_fs_kv_options *faults)
{
    fm_fs_meta_options options = {.size = sizeof options, .root_mode = 0777};
    static int number; // a test that fails leaves its sockets behind
    memset(&world, 0, sizeof world);
    number++;
    assert_ok(fm_fs_kv_open("memory:", faults, &world.kv));
    assert_ok(fm_fs_meta_open(world.kv, &options, &world.store));
    for (int i = 0; i < SERVICES; i++) {
        snprintf(world.addresses[i], sizeof world.addresses[i], "unix:%s/%d-%d", fm_test_tmpdir(), number, i);
        start(i);
    }
    snprintf(world.list, sizeof world.list, "%s,%s", world.addresses[0], world.addresses[1]);
}

static void close_world(void)
{
    for (int i = 0; i < SERVICES; i++)
        stop(i);
    fm_fs_meta_close(world.store);
    fm_fs_kv_close(world.kv);
}

static fm_status try_connect(const char *token, int64_t timeout_ms, fm_fs_meta **out_meta)
{
    fm_net_key key;
    fm_fs_meta_key_derive(&cluster_key, &key);
    const fm_fs_meta_connect_options options = {
        .size = sizeof options, .servers = world.list, .key = &key, .token = token, .timeout_ms = timeout_ms};
    return fm_fs_meta_connect(&options, out_meta);
}

// A guard against hanging, not a wait: nothing here takes so long.
enum { PATIENCE_MS = 120000 };

static fm_fs_meta *connect_as(const char *token)
{
    fm_fs_meta *meta;
    assert_ok(try_connect(token, PATIENCE_MS, &meta));
    return meta;
}

static fm_fs_meta *connect_admin(void)
{
    char token[FM_FS_TOKEN_BYTES];
    fm_fs_meta_admin_token(&cluster_key, token);
    return connect_as(token);
}

/* The same names */

static void restart_one(fm_gen *gen)
{
    if (!fm_gen_chance(gen, 0.03))
        return;
    int i = (int)fm_gen_int(gen, 0, SERVICES - 1);
    stop(i);
    start(i);
}

static void follow_through_services(fm_gen *gen)
{
    fm_fs_kv_options faults = {.size = sizeof faults,
                               .seed = fm_gen_u64(gen),
                               .conflict_rate = fm_gen_chance(gen, 0.5) ? 0.2 : 0,
                               .maybe_rate = fm_gen_chance(gen, 0.5) ? 0.2 : 0};
    open_world(&faults);
    fm_fs_meta *asked = connect_admin();
    follow_model(gen, asked, world.store, restart_one);
    fm_fs_meta_close(asked);
    close_world();
}

static void names_asked_of_services_agree_with_the_model(void **state)
{
    (void)state;
    fm_gen_property(6, follow_through_services);
}

static fm_fs_node make_dir(fm_fs_meta *meta)
{
    fm_fs_node dir;
    assert_ok(fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, "d", S_IFDIR | 0755, 0, 1, &dir, NULL));
    return dir;
}

static void contents_go_through(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_node node;
    fm_fs_node dir;
    fm_fs_quota quota = {.bytes_max = 1000, .inodes_max = 10};
    const fm_fs_layout layout = {.chunk_bytes = 65536, .stripe = 2, .chains = 3};
    char text[8];
    static const char large[2000];
    size_t size;
    int made;
    assert_ok(fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, "d", S_IFDIR | 0755, 0, 1, &dir, &made));
    assert_true(made && S_ISDIR(dir.mode) && dir.parent == FM_FS_META_ROOT);
    assert_ok(fm_fs_meta_layout_set(meta, NULL, dir.ino, &layout));
    assert_ok(fm_fs_meta_quota_set(meta, NULL, dir.ino, &quota));
    assert_ok(fm_fs_meta_create(meta, NULL, dir.ino, "f", S_IFREG | 0644, 0, 0, &node, &made));
    assert_true(made && node.layout.chunk_bytes == 65536 && node.layout.chains == 3);
    assert_ok(fm_fs_meta_inline_write(meta, node.ino, 2, "abc", 3, &node));
    assert_ok(fm_fs_meta_inline_read(meta, node.ino, 1, text, sizeof text, &size, &node));
    assert_true(size == 4 && node.size == 5 && memcmp(text, "\0abc", 4) == 0);
    assert_ok(fm_fs_meta_quota_get(meta, node.ino, &quota));
    assert_true(quota.bytes_max == 1000 && quota.inodes_max == 10 && quota.bytes == 5 && quota.inodes == 2);
    assert_fails(fm_fs_meta_inline_write(meta, node.ino, 0, large, sizeof large, &node), FM_ERR_FS_QUOTA, "");
    assert_ok(fm_fs_meta_spill(meta, node.ino, node.version, &node));
    assert_ok(fm_fs_meta_extend(meta, node.ino, node.data, 900, 0, &node));
    assert_ok(fm_fs_meta_truncate(meta, NULL, node.ino, node.data, 700, 0, &node));
    assert_ok(fm_fs_meta_fence(meta, node.ino, node.data, &node));
    assert_true(node.size == 700 && node.cuts == 2);
    assert_ok(fm_fs_meta_extend(meta, node.ino, node.data, 800, 2, &node));
    fm_fs_meta_close(meta);
    close_world();
}

static void links_and_attributes_go_through(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_node dir = make_dir(meta);
    fm_fs_node node;
    char text[FM_FS_META_LINK_MAX + 1];
    char small[2];
    static char large[FM_FS_META_XATTR_MAX];
    size_t size;
    assert_ok(fm_fs_meta_create(meta, NULL, dir.ino, "f", S_IFREG | 0644, 0, 1, &node, NULL));
    assert_ok(fm_fs_meta_symlink(meta, NULL, dir.ino, "l", "f", &node));
    assert_ok(fm_fs_meta_readlink(meta, node.ino, text));
    assert_string_equal(text, "f");
    assert_ok(fm_fs_meta_resolve(meta, NULL, FM_FS_META_ROOT, "d/l", 1, &node));
    assert_true(S_ISREG(node.mode));
    assert_ok(fm_fs_meta_lookup(meta, NULL, dir.ino, "l", &node));
    assert_true(S_ISLNK(node.mode));
    assert_ok(fm_fs_meta_lookup(meta, NULL, dir.ino, "f", &node));
    assert_ok(fm_fs_meta_setattr(meta, NULL, node.ino, FM_FS_META_MTIME | FM_FS_META_UID,
                                 &(fm_fs_node){.mtime_ns = -5, .uid = 12}, &node));
    assert_true(node.mtime_ns == -5 && node.uid == 12);

    memset(large, 'v', sizeof large);
    assert_ok(fm_fs_meta_xattr_set(meta, NULL, node.ino, "user.large", large, sizeof large, 0));
    assert_ok(fm_fs_meta_xattr_set(meta, NULL, node.ino, "user.none", "", 0, FM_FS_META_XATTR_CREATE));
    assert_ok(fm_fs_meta_xattr_get(meta, NULL, node.ino, "user.large", NULL, 0, &size));
    assert_int_equal(size, sizeof large);
    assert_fails(fm_fs_meta_xattr_get(meta, NULL, node.ino, "user.large", small, sizeof small, &size),
                 FM_ERR_LIMIT, "room for 2");
    assert_ok(fm_fs_meta_xattr_get(meta, NULL, node.ino, "user.none", small, sizeof small, &size));
    assert_int_equal(size, 0);
    assert_ok(fm_fs_meta_xattr_remove(meta, NULL, node.ino, "user.large"));
    assert_ok(fm_fs_meta_xattr_list(meta, node.ino, text, sizeof text, &size));
    assert_int_equal(size, sizeof "user.none");
    assert_string_equal(text, "user.none");
    fm_fs_meta_close(meta);
    close_world();
}

static void locks_go_through(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_meta *other = connect_admin();
    fm_fs_node node;
    fm_fs_lock conflict;
    int granted = 0;
    const fm_fs_lock lock = {
        .client = 1, .owner = 2, .begin = 3, .end = 9, .kind = FM_FS_LOCK_EXCLUSIVE, .pid = 17};
    const fm_fs_lock wanted = {
        .client = 2, .owner = 2, .begin = 5, .end = UINT64_MAX, .kind = FM_FS_LOCK_SHARED};
    assert_ok(fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, "f", S_IFREG | 0644, 0, 1, &node, NULL));
    assert_ok(fm_fs_meta_lease(meta, 1, UINT64_MAX));
    assert_ok(fm_fs_meta_lease(other, 2, UINT64_MAX));
    assert_ok(fm_fs_meta_lock(meta, node.ino, &lock, &granted, &node));
    assert_int_equal(granted, 1);
    assert_ok(fm_fs_meta_lock_test(other, node.ino, &wanted, &conflict));
    assert_true(conflict.client == 1 && conflict.owner == 2 && conflict.begin == 3 && conflict.end == 9 &&
                conflict.kind == FM_FS_LOCK_EXCLUSIVE && conflict.pid == 17 && !conflict.flock);
    assert_ok(fm_fs_meta_lock(other, node.ino, &wanted, &granted, &node));
    assert_int_equal(granted, 0);
    assert_ok(fm_fs_meta_lease(meta, 1, 0));
    assert_ok(fm_fs_meta_lock(other, node.ino, &wanted, &granted, &node));
    assert_int_equal(granted, 1);
    assert_fails(fm_fs_meta_lock(other, 999, &wanted, &granted, &node), FM_ERR_NOT_FOUND, "999");
    fm_fs_meta_close(other);
    fm_fs_meta_close(meta);
    close_world();
}

static void removals_go_through(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_node dir = make_dir(meta);
    fm_fs_node node;
    size_t done;
    uint64_t records;
    // Without chunks, attributes and holders a removed file goes at once; one that is held stays.
    assert_ok(fm_fs_meta_lease(meta, 99, UINT64_MAX));
    for (int held = 0; held < 2; held++) {
        assert_ok(fm_fs_meta_create(meta, NULL, dir.ino, "g", S_IFREG | 0644, 0, 1, &node, NULL));
        if (held)
            assert_ok(fm_fs_meta_hold(meta, 99, node.ino, &node));
        assert_ok(fm_fs_meta_unlink(meta, NULL, dir.ino, "g"));
        assert_int_equal(fm_fs_meta_node(meta, node.ino, &node), held ? FM_OK : FM_ERR_NOT_FOUND);
    }
    assert_ok(fm_fs_meta_release(meta, 99, node.ino));
    assert_ok(fm_fs_meta_lease(meta, 99, 0));
    uint64_t ino = node.ino;
    assert_ok(fm_fs_meta_collect(meta, keep_nothing, NULL, 10, &done));
    assert_int_equal(done, 0); // it is the services'
    collect_all(world.store);
    assert_fails(fm_fs_meta_node(meta, ino, &node), FM_ERR_NOT_FOUND, "inode");
    assert_fails(fm_fs_meta_backup(meta, "/nowhere", &records), FM_ERR_UNSUPPORTED, "a backup");
    assert_fails(fm_fs_meta_tokens_remove(meta, 1), FM_ERR_UNSUPPORTED, "tokens");
    assert_ok(fm_fs_meta_remove_all(meta, NULL, FM_FS_META_ROOT, "d"));
    assert_sound(meta);
    fm_fs_meta_close(meta);
    close_world();
}

static void findings_come_back(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_meta_census census;
    fm_fs_node node;
    assert_ok(fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, "f", S_IFREG | 0644, 0, 1, &node, NULL));
    assert_ok(fm_fs_meta_inline_write(meta, node.ino, 0, "abc", 3, &node));
    assert_ok(fm_fs_meta_check(meta, NULL, NULL, &census));
    assert_true(census.files == 1 && census.directories == 1 && census.bytes == 3 && census.entries == 1);
    assert_int_equal(census.findings, 0);
    fm_fs_meta_close(meta);
    close_world();
}

// A request that is asked for again gets the answer of the first time, whatever has changed since: also whether it got a lock.
static void repeated_requests_get_the_first_answer(void **state)
{
    (void)state;
    const fm_fs_lock held = {.client = 1, .owner = 1, .end = 9, .kind = FM_FS_LOCK_EXCLUSIVE};
    const fm_fs_lock none = {.client = 1, .owner = 1, .end = 9, .kind = FM_FS_LOCK_NONE};
    const fm_fs_lock wanted = {.client = 2, .owner = 2, .end = 9, .kind = FM_FS_LOCK_EXCLUSIVE};
    fm_fs_who slot = {.client = 77, .slot = 1, .sequence = 1};
    fm_fs_node node;
    int granted;
    open_world(NULL);
    assert_ok(fm_fs_meta_lease(world.store, 1, UINT64_MAX));
    assert_ok(fm_fs_meta_lease(world.store, 2, UINT64_MAX));
    assert_ok(fm_fs_meta_create(world.store, NULL, FM_FS_META_ROOT, "f", S_IFREG | 0644, 0, 1, &node, NULL));
    assert_ok(fm_fs_meta_lock(world.store, node.ino, &held, &granted, &node));
    assert_true(granted);
    fm_fs_meta_serve_for(&slot);
    assert_ok(fm_fs_meta_lock(world.store, node.ino, &wanted, &granted, &node));
    assert_false(granted);
    fm_fs_meta_serve_for(NULL);
    assert_ok(fm_fs_meta_lock(world.store, node.ino, &none, &granted, &node));
    fm_fs_meta_serve_for(&slot);
    assert_ok(fm_fs_meta_lock(world.store, node.ino, &wanted, &granted, &node));
    assert_false(granted);
    slot.sequence = 2;
    assert_ok(fm_fs_meta_lock(world.store, node.ino, &wanted, &granted, &node));
    assert_true(granted);
    // What has no record of its own elsewhere has one here: a late write changes nothing.
    slot.sequence = 3;
    assert_ok(fm_fs_meta_inline_write(world.store, node.ino, 0, "new", 3, &node));
    slot.sequence = 2;
    assert_fails(fm_fs_meta_inline_write(world.store, node.ino, 0, "old", 3, &node), FM_ERR_STATE,
                 "request 3");
    fm_fs_meta_serve_for(NULL);
    close_world();
}

/* Services that come and go */

static void others_go_on_when_one_is_gone(void **state)
{
    (void)state;
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    fm_fs_node node;
    char name[16];
    for (int i = 0; i < 20; i++) {
        if (i == 5)
            stop(0);
        if (i == 10) {
            start(0);
            stop(1);
        }
        snprintf(name, sizeof name, "f%d", i);
        assert_ok(fm_fs_meta_create(meta, NULL, FM_FS_META_ROOT, name, S_IFREG | 0644, 0, 1, &node, NULL));
    }
    assert_int_equal(assert_sound(meta).files, 20);
    fm_fs_meta_close(meta);
    close_world();
}

static void nobody_there_is_told_in_time(void **state)
{
    (void)state;
    fm_fs_meta *meta;
    char token[FM_FS_TOKEN_BYTES];
    fm_fs_meta_admin_token(&cluster_key, token);
    open_world(NULL);
    stop(0);
    stop(1);
    assert_fails(try_connect(token, 200, &meta), FM_ERR_UNAVAILABLE, "no service of the names answers");
    close_world();
}

struct worker {
    fm_fs_meta *meta;
    pthread_t thread;
    int number, failed;
};

static void *make_files(void *context)
{
    struct worker *worker = context;
    fm_fs_node node;
    char name[32];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "%d-%d", worker->number, i);
        // Made here and nowhere else: that it is there already would be a request that happened twice.
        worker->failed |= fm_fs_meta_create(worker->meta, NULL, FM_FS_META_ROOT, name, S_IFREG | 0644, 0, 1,
                                            &node, NULL) < 0;
        worker->failed |=
            fm_fs_meta_rename(worker->meta, NULL, FM_FS_META_ROOT, name, FM_FS_META_ROOT, "same", 0) < 0;
    }
    return NULL;
}

static void many_threads_share_it_while_services_restart(void **state)
{
    (void)state;
    struct worker workers[6];
    open_world(NULL);
    fm_fs_meta *meta = connect_admin();
    for (int i = 0; i < 6; i++) {
        workers[i] = (struct worker){.meta = meta, .number = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, make_files, &workers[i]), 0);
    }
    for (int i = 0; i < 6; i++) {
        stop(i % SERVICES);
        start(i % SERVICES);
    }
    for (int i = 0; i < 6; i++) {
        pthread_join(workers[i].thread, NULL);
        assert_false(workers[i].failed);
    }
    collect_all(world.store);
    assert_sound(meta);
    fm_fs_meta_close(meta);
    close_world();
}

/* Who asks */

static void add_user(const char *name, uint32_t uid, uint32_t gid, uint32_t group,
                     char out_token[FM_FS_TOKEN_BYTES])
{
    fm_fs_user user = {.uid = uid, .gid = gid, .group_count = group ? 1 : 0, .groups = {group}};
    snprintf(user.name, sizeof user.name, "%s", name);
    assert_ok(fm_fs_meta_user_set(world.store, &user));
    assert_ok(fm_fs_meta_token_new(world.store, uid, 0, out_token));
}

static void users_are_kept(void **state)
{
    (void)state;
    char token[FM_FS_TOKEN_BYTES];
    char other[FM_FS_TOKEN_BYTES];
    fm_fs_user users[2];
    fm_fs_user user;
    size_t count;
    open_world(NULL);
    add_user("ada", 1000, 100, 7, token);
    add_user("bob", 1001, 100, 0, other);
    assert_ok(fm_fs_meta_user_list(world.store, 0, users, 2, &count));
    assert_true(count == 2 && users[0].uid == 1000 && users[0].groups[0] == 7 && users[1].uid == 1001);
    assert_ok(fm_fs_meta_user_list(world.store, 1001, users, 2, &count));
    assert_int_equal(count, 1);
    assert_ok(fm_fs_meta_user_find(world.store, "bob", &user));
    assert_int_equal(user.uid, 1001);
    user.uid = 1002;
    assert_fails(fm_fs_meta_user_set(world.store, &user), FM_ERR_EXISTS, "bob is user 1001");
    snprintf(user.name, sizeof user.name, "b/b");
    assert_fails(fm_fs_meta_user_set(world.store, &user), FM_ERR_ARG, "b/b");
    assert_ok(fm_fs_meta_token_user(world.store, token, &user));
    assert_string_equal(user.name, "ada");
    token[12] ^= 1;
    assert_fails(fm_fs_meta_token_user(world.store, token, &user), FM_ERR_NET_AUTH, "nobody has");
    assert_fails(fm_fs_meta_token_user(world.store, "fm1-", &user), FM_ERR_NET_AUTH, "no token");
    assert_fails(fm_fs_meta_token_user(world.store, "fm1-99999999999-x", &user), FM_ERR_NET_AUTH, "no token");
    assert_fails(fm_fs_meta_token_new(world.store, 5, 0, token), FM_ERR_NOT_FOUND, "user 5");
    assert_ok(fm_fs_meta_token_new(world.store, 1000, 1, token)); // ends in a nanosecond
    assert_fails(fm_fs_meta_token_user(world.store, token, &user), FM_ERR_NET_AUTH, "ended");
    assert_ok(fm_fs_meta_user_remove(world.store, 1001));
    assert_fails(fm_fs_meta_user_remove(world.store, 1001), FM_ERR_NOT_FOUND, "1001");
    assert_fails(fm_fs_meta_token_user(world.store, other, &user), FM_ERR_NET_AUTH, "nobody has");
    assert_sound(world.store);
    close_world();
}

// The store is in the hands of whoever reads it; tokens are not.
static fm_status look_for_token(fm_fs_kv_tx *tx, void *context)
{
    const char *token = context;
    fm_fs_kv_item items[100];
    size_t count;
    FM_TRY(fm_fs_kv_range(tx, (fm_fs_kv_bytes){0}, (fm_fs_kv_bytes){0}, 100, 0, items, &count));
    for (size_t i = 0; i < count; i++) {
        assert_null(memmem(items[i].key.data, items[i].key.size, token + 8, 20));
        if (items[i].value.size)
            assert_null(memmem(items[i].value.data, items[i].value.size, token + 8, 20));
    }
    return FM_OK;
}

static void a_token_says_who_asks(void **state)
{
    (void)state;
    char ada_token[FM_FS_TOKEN_BYTES];
    char bob_token[FM_FS_TOKEN_BYTES];
    const fm_fs_who root = {.uid = 0};
    const fm_fs_who bob = {.uid = 1001, .gid = 0}; // a group that is not his
    const fm_fs_who ada = {.uid = 1000};
    char bytes[8];
    size_t read;
    fm_fs_node node;
    fm_fs_node secret;
    open_world(NULL);
    add_user("ada", 1000, 100, 7, ada_token);
    add_user("bob", 1001, 101, 0, bob_token);
    assert_ok(fm_fs_kv_run(world.kv, FM_FS_KV_READ_ONLY, look_for_token, ada_token));
    fm_fs_meta *as_ada = connect_as(ada_token);
    fm_fs_meta *as_bob = connect_as(bob_token);
    assert_ok(fm_fs_meta_create(as_ada, &ada, FM_FS_META_ROOT, "s", S_IFREG | 0600, 0, 1, &secret, NULL));
    assert_true(secret.uid == 1000 && secret.gid == 100);
    assert_ok(fm_fs_meta_inline_write(as_ada, secret.ino, 0, "secret", 6, &node));

    // Claims change nothing: not of another user, nor of the superuser, nor of groups.
    assert_fails(fm_fs_meta_unlink(as_bob, &root, FM_FS_META_ROOT, "s"), FM_ERR_PERM, "the token is bob's");
    assert_fails(fm_fs_meta_unlink(as_bob, &ada, FM_FS_META_ROOT, "s"), FM_ERR_PERM, "the token is bob's");
    assert_ok(fm_fs_meta_create(as_bob, NULL, FM_FS_META_ROOT, "b", S_IFREG | 0600, 0, 1, &node, NULL));
    assert_true(node.uid == 1001 && node.gid == 101);
    assert_ok(fm_fs_meta_create(as_bob, &bob, FM_FS_META_ROOT, "c", S_IFREG | 0600, 0, 1, &node, NULL));
    assert_true(node.uid == 1001 && node.gid == 101);
    assert_fails(
        fm_fs_meta_setattr(as_bob, NULL, secret.ino, FM_FS_META_MODE, &(fm_fs_node){.mode = 0666}, &node),
        FM_ERR_PERM, "belongs to user 1000");
    assert_fails(fm_fs_meta_quota_set(as_bob, NULL, FM_FS_META_ROOT, &(fm_fs_quota){.bytes_max = 1}),
                 FM_ERR_PERM, "superuser");

    // Contents are asked for by number, so who asks is looked at each time.
    assert_fails(fm_fs_meta_inline_read(as_bob, secret.ino, 0, bytes, sizeof bytes, &read, &node),
                 FM_ERR_FS_ACCESS, "user 1001");
    assert_fails(fm_fs_meta_inline_write(as_bob, secret.ino, 0, "x", 1, &node), FM_ERR_FS_ACCESS, "1001");
    assert_fails(fm_fs_meta_spill(as_bob, secret.ino, secret.version, &node), FM_ERR_FS_ACCESS, "1001");
    assert_fails(fm_fs_meta_truncate(as_bob, NULL, secret.ino, 0, 0, 0, &node), FM_ERR_FS_ACCESS, "1001");
    assert_fails(fm_fs_meta_check(as_bob, NULL, NULL, &(fm_fs_meta_census){0}), FM_ERR_PERM, "administrator");
    assert_ok(fm_fs_meta_inline_read(as_ada, secret.ino, 0, bytes, sizeof bytes, &read, &node));
    assert_true(read == 6 && memcmp(bytes, "secret", 6) == 0);

    // The administrator speaks for everybody.
    fm_fs_meta *admin = connect_admin();
    assert_fails(fm_fs_meta_unlink(admin, &bob, FM_FS_META_ROOT, "nothing"), FM_ERR_NOT_FOUND, "nothing");
    assert_ok(fm_fs_meta_create(admin, &bob, FM_FS_META_ROOT, "e", S_IFREG | 0600, 0, 1, &node, NULL));
    assert_int_equal(node.uid, 1001);
    assert_ok(fm_fs_meta_unlink(admin, NULL, FM_FS_META_ROOT, "s"));
    fm_fs_meta_close(admin);
    fm_fs_meta_close(as_bob);
    fm_fs_meta_close(as_ada);
    close_world();
}

static void tokens_end(void **state)
{
    (void)state;
    char token[FM_FS_TOKEN_BYTES];
    fm_fs_meta *refused;
    fm_fs_node node;
    fm_status status = FM_OK;
    open_world(NULL);
    add_user("ada", 1000, 100, 0, token);
    fm_fs_meta *meta = connect_as(token);
    assert_ok(fm_fs_meta_tokens_remove(world.store, 1000));
    assert_fails(try_connect(token, PATIENCE_MS, &refused), FM_ERR_NET_AUTH, "nobody has this token");
    // Whoever is connected goes on until the service looks again.
    for (uint64_t begin = fm_base_clock_ns(); status == FM_OK; fm_base_clock_sleep_ns(5000000)) {
        status = fm_fs_meta_node(meta, FM_FS_META_ROOT, &node);
        assert_true(fm_base_clock_ns() - begin < (uint64_t)PATIENCE_MS * 1000000);
    }
    assert_int_equal(status, FM_ERR_NET_AUTH);
    fm_fs_meta_service_counts counts[SERVICES];
    for (int i = 0; i < SERVICES; i++)
        fm_fs_meta_service_count(world.services[i], &counts[i]);
    assert_true(counts[0].refused + counts[1].refused >= 2);
    fm_fs_meta_close(meta);
    close_world();
}

static void strangers_get_nothing(void **state)
{
    (void)state;
    fm_fs_meta *meta;
    char token[FM_FS_TOKEN_BYTES];
    open_world(NULL);
    fm_fs_meta_admin_token(&cluster_key, token);
    // The cluster's own key is not the names', nor does theirs open anything else.
    fm_fs_meta_connect_options options = {
        .size = sizeof options, .servers = world.list, .key = &cluster_key, .token = token};
    assert_fails(fm_fs_meta_connect(&options, &meta), FM_ERR_NET_AUTH, "another cluster");
    assert_fails(try_connect("", PATIENCE_MS, &meta), FM_ERR_NET_AUTH, "no token");
    assert_fails(try_connect("admin-0000000000000000000000000000000000000000", PATIENCE_MS, &meta),
                 FM_ERR_NET_AUTH, "no token");
    options.servers = "";
    assert_fails(fm_fs_meta_connect(&options, &meta), FM_ERR_ARG, "addresses");
    options.servers = "nonsense";
    assert_fails(fm_fs_meta_connect(&options, &meta), FM_ERR_ARG, "nonsense");
    close_world();
}

// On the network, where tokens would otherwise be read by whoever listens.
static void names_are_asked_in_tls(void **state)
{
    (void)state;
    fm_fs_meta *meta;
    fm_net_key key;
    fm_net_tls *tls;
    char token[FM_FS_TOKEN_BYTES];
    const fm_net_tls_options files = {.size = sizeof files,
                                      .cert = fm_test_cert("a.pem"),
                                      .key = fm_test_cert("a.key"),
                                      .ca = fm_test_cert("ca.pem")};
    if (fm_net_tls_new(&files, &tls) == FM_ERR_UNSUPPORTED)
        fm_test_skip("built without TLS");
    open_world(NULL);
    stop(0);
    const struct fm_fs_meta_hosting hosting = {.tls = tls};
    assert_ok(
        fm_fs_meta_service_new(world.store, &cluster_key, "127.0.0.1:0", 2, &hosting, &world.services[0]));
    assert_int_equal(pthread_create(&world.threads[0], NULL, run, world.services[0]), 0);
    fm_fs_meta_key_derive(&cluster_key, &key);
    fm_fs_meta_admin_token(&cluster_key, token);
    fm_fs_meta_connect_options options = {.size = sizeof options,
                                          .servers = fm_fs_meta_service_address(world.services[0]),
                                          .key = &key,
                                          .token = token,
                                          .timeout_ms = PATIENCE_MS};
    assert_fails(fm_fs_meta_connect(&options, &meta), FM_ERR_NET_AUTH, "expects TLS");
    options.tls = tls;
    assert_ok(fm_fs_meta_connect(&options, &meta));
    fm_net_tls_free(tls);
    fm_fs_node root;
    assert_ok(fm_fs_meta_node(meta, FM_FS_META_ROOT, &root));
    fm_fs_meta_close(meta);
    close_world();
}

/* Peers that do not keep to the format */

struct raw {
    fm_net_loop *loop;
    fm_net_conn *conn;
    fm_status status;
    int done;
    char message[200];
};

static void raw_done(void *context, const fm_net_reply *reply)
{
    struct raw *raw = context;
    raw->status = reply->status;
    snprintf(raw->message, sizeof raw->message, "%s", fm_error_message());
    raw->done = 1;
}

static fm_status raw_call(struct raw *raw, uint32_t method, const void *args, size_t bytes)
{
    const fm_net_call call = {
        .method = method, .body = {.args = args, .args_bytes = bytes}, .done = raw_done, .context = raw};
    raw->done = 0;
    assert_ok(fm_net_conn_call(raw->conn, &call));
    while (!raw->done)
        assert_ok(fm_net_loop_progress(raw->loop, 1000000000));
    return raw->status;
}

static void harmful_requests_are_refused(void **state)
{
    (void)state;
    struct raw raw = {0};
    fm_net_key key;
    uint8_t args[FM_FS_META_WIRE_ARGS];
    size_t bytes;
    char token[FM_FS_TOKEN_BYTES];
    fm_gen gen = fm_gen_seeded(5);
    open_world(NULL);
    fm_fs_meta_key_derive(&cluster_key, &key);
    const fm_net_connect_options options = {.size = sizeof options,
                                            .security = {.mode = FM_NET_KEYED, .key = &key}};
    assert_ok(fm_net_loop_new(NULL, &raw.loop));
    assert_ok(fm_net_loop_connect(raw.loop, world.addresses[0], &options, &raw.conn));
    const struct fm_fs_meta_request look = {.super = 1, .numbers = {FM_FS_META_ROOT}};
    assert_ok(fm_fs_meta_request_encode(&look, args, &bytes));
    assert_int_equal(raw_call(&raw, FM_FS_META_NODE, args, bytes), FM_ERR_NET_AUTH);
    assert_non_null(strstr(raw.message, "no token was sent"));
    assert_int_equal(raw_call(&raw, FM_FS_META_NODE, args, 10), FM_ERR_FORMAT);
    args[0]++;
    assert_int_equal(raw_call(&raw, FM_FS_META_NODE, args, bytes), FM_ERR_VERSION);
    assert_non_null(strstr(raw.message, "this service knows version 1"));
    fm_fs_meta_admin_token(&cluster_key, token);
    const struct fm_fs_meta_request hello = {.name = token};
    assert_ok(fm_fs_meta_request_encode(&hello, args, &bytes));
    assert_int_equal(raw_call(&raw, FM_FS_META_HELLO, args, bytes), FM_OK);
    assert_int_equal(raw_call(&raw, FM_FS_META_METHODS, args, bytes), FM_ERR_UNSUPPORTED);
    assert_int_equal(raw_call(&raw, 0, args, bytes), FM_ERR_UNSUPPORTED);
    // Whatever the fields hold, no method harms the service or the names.
    for (int i = 0; i < 600; i++) {
        const struct fm_fs_meta_request any = {
            .client = 9,
            .slot = (uint32_t)i,
            .sequence = 1,
            .numbers = {(uint64_t)fm_gen_int(&gen, 0, 3), fm_gen_u64(&gen), fm_gen_u64(&gen),
                        fm_gen_u64(&gen)},
            .flags = {(uint32_t)fm_gen_u64(&gen), (uint32_t)fm_gen_u64(&gen)},
            .name = i % 3 ? "a" : "b/c",
            .other = i % 2 ? "" : "d"};
        assert_ok(fm_fs_meta_request_encode(&any, args, &bytes));
        raw_call(&raw, FM_FS_META_NODE + (uint32_t)i % (FM_FS_META_METHODS - FM_FS_META_NODE), args, bytes);
    }
    fm_net_loop_free(raw.loop);
    assert_sound(world.store);
    close_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contents_go_through),
        cmocka_unit_test(links_and_attributes_go_through),
        cmocka_unit_test(locks_go_through),
        cmocka_unit_test(removals_go_through),
        cmocka_unit_test(findings_come_back),
        cmocka_unit_test(repeated_requests_get_the_first_answer),
        cmocka_unit_test(names_asked_of_services_agree_with_the_model),
        cmocka_unit_test(others_go_on_when_one_is_gone),
        cmocka_unit_test(nobody_there_is_told_in_time),
        cmocka_unit_test(many_threads_share_it_while_services_restart),
        cmocka_unit_test(users_are_kept),
        cmocka_unit_test(a_token_says_who_asks),
        cmocka_unit_test(tokens_end),
        cmocka_unit_test(strangers_get_nothing),
        cmocka_unit_test(names_are_asked_in_tls),
        cmocka_unit_test(harmful_requests_are_refused),
    };
    return fm_test_run("meta_service", tests);
}
