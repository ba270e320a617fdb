// Which requests a chunk store remembers: those of the clients with the greatest numbers, all of them, also after it was opened
// again; and it knows up to which client it has forgotten any.
#include "fm_gen.h"
#include "fm_test.h"
#include "store_rig.h"

enum { SESSIONS = 8, CLIENTS = 30, CHANNELS = 3 };

static void put(store_rig *rig, uint64_t client, uint32_t channel, uint64_t sequence)
{
    const fm_fs_session session = {.tag = {client, channel, sequence}, .id = rig_id(1), .version = 1};
    assert_ok(fm_fs_store_session_put(rig->store, &session));
}

static uint64_t known(const store_rig *rig, uint64_t client, uint32_t channel)
{
    const fm_fs_session *session = fm_fs_store_session(rig->store, client, channel);
    return session ? session->tag.sequence : 0;
}

static void the_oldest_client_is_forgotten_whole(void **state)
{
    (void)state;
    store_rig rig;
    rig_init(&rig);
    rig.options.sessions = SESSIONS;
    assert_ok(rig_open(&rig));
    for (uint64_t client = 11; client <= 14; client++)
        for (uint32_t channel = 1; channel <= 2; channel++)
            put(&rig, client, channel, 7);
    assert_int_equal(fm_fs_store_forgotten_client(rig.store), 0);
    put(&rig, 12, 1, 8); // known, so nobody has to go
    assert_int_equal(known(&rig, 11, 2), 7);
    put(&rig, 15, 1, 1);
    assert_int_equal(fm_fs_store_forgotten_client(rig.store), 11);
    assert_int_equal(fm_fs_store_newest_client(rig.store), 15);
    assert_true(known(&rig, 11, 1) == 0 && known(&rig, 11, 2) == 0);
    assert_true(known(&rig, 12, 1) == 8 && known(&rig, 12, 2) == 7 && known(&rig, 15, 1) == 1);
    put(&rig, 11, 2, 9); // of what was forgotten nothing is known any more
    assert_int_equal(known(&rig, 11, 2), 0);
    assert_ok(fm_fs_store_clients_forget(rig.store, 13));
    assert_true(known(&rig, 13, 1) == 0 && known(&rig, 14, 1) == 7);
    assert_ok(fm_fs_store_clients_forget(rig.store, 12)); // less than is forgotten already
    assert_int_equal(fm_fs_store_forgotten_client(rig.store), 13);
    assert_ok(fm_fs_store_clients_forget(rig.store, 20));
    assert_int_equal(fm_fs_store_newest_client(rig.store), 20);
    rig_free(&rig);
}

static void agree(fm_gen *gen)
{
    store_rig rig;
    uint64_t last[CLIENTS + 1][CHANNELS] = {0};
    uint64_t version = 0;
    rig_init(&rig);
    rig.options.sessions = SESSIONS;
    rig.options.journal_bytes = 4096;
    assert_ok(rig_open(&rig));
    for (int i = 0; i < 120; i++) {
        uint64_t client = (uint64_t)fm_gen_int(gen, 1, CLIENTS);
        uint32_t channel = (uint32_t)fm_gen_int(gen, 0, CHANNELS - 1);
        if (client <= fm_fs_store_forgotten_client(rig.store)) // a storage node refuses it
            continue;
        put(&rig, client, channel, ++last[client][channel]);
        if (fm_gen_chance(gen, 0.2)) {
            // A change makes all that was before it durable.
            assert_ok(rig_change(&rig, FM_FS_APPLY_WRITE, 2, ++version, 0, 100, 3));
            rig_commit(&rig, 2, version);
            rig_settle(&rig);
            uint64_t forgotten = fm_fs_store_forgotten_client(rig.store);
            rig_crash(&rig, SIM_LOSE_ALL, gen);
            assert_ok(rig_open(&rig));
            assert_int_equal(fm_fs_store_forgotten_client(rig.store), forgotten);
        }
        for (client = 1; client <= CLIENTS; client++)
            for (channel = 0; channel < CHANNELS; channel++)
                if (client != 9) // the changes'
                    assert_int_equal(known(&rig, client, channel),
                                     client > fm_fs_store_forgotten_client(rig.store) ? last[client][channel]
                                                                                      : 0);
    }
    rig_free(&rig);
}

static void none_above_the_forgotten_ones_is_missing(void **state)
{
    (void)state;
    fm_gen_property(60, agree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_client_is_forgotten_whole),
        cmocka_unit_test(none_above_the_forgotten_ones_is_missing),
    };
    return fm_test_run("chunk_session", tests);
}
