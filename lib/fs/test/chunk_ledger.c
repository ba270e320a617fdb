#include "chunk_ledger.h"

#include "fathom/clock.h"
#include "fathom/crc.h"
#include "fm_gen.h"
#include "fm_test.h"

void ledger_id(uint8_t *id, int chunk)
{
    memset(id, 0, FM_FS_CHUNK_ID_BYTES);
    id[15] = (uint8_t)chunk;
}

void ledger_fill(uint8_t *bytes, uint64_t value)
{
    fm_gen gen = fm_gen_seeded(value + 1);
    fm_gen_fill(&gen, bytes, LEDGER_BYTES);
}

fm_status ledger_write(chunk_ledger *ledger, fm_fs_chunks *chunks, int chunk, int64_t timeout_ms)
{
    static uint8_t bytes[LEDGER_BYTES];
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    ledger_id(id, chunk);
    ledger_fill(bytes, ledger->asked[chunk] = ++ledger->value);
    fm_status status = fm_fs_chunks_write(chunks, ledger->chain, id, 0, bytes, LEDGER_BYTES, timeout_ms);
    if (status == FM_OK)
        ledger->acked[chunk] = ledger->asked[chunk];
    return status;
}

static void check_chunk(const chunk_ledger *ledger, fm_fs_chunks *chunks, int chunk)
{
    static uint8_t expected[LEDGER_BYTES];
    static uint8_t bytes[LEDGER_BYTES + 1];
    uint8_t id[FM_FS_CHUNK_ID_BYTES];
    uint32_t size = 0;
    uint32_t crc = 0;
    ledger_id(id, chunk);
    fm_status status =
        fm_fs_chunks_read(chunks, ledger->chain, id, 0, bytes, sizeof bytes, LEDGER_PATIENCE_MS, &size, &crc);
    if (status == FM_ERR_NOT_FOUND && ledger->acked[chunk] == 0)
        return;
    assert_ok(status);
    assert_int_equal(size, LEDGER_BYTES);
    assert_int_equal(crc, fm_base_crc32c(0, bytes, size));
    for (uint64_t value = ledger->acked[chunk]; value <= ledger->asked[chunk]; value++) {
        ledger_fill(expected, value);
        if (value && memcmp(bytes, expected, LEDGER_BYTES) == 0)
            return;
    }
    fail_msg("chunk %d holds none of its versions %llu to %llu", chunk,
             (unsigned long long)ledger->acked[chunk], (unsigned long long)ledger->asked[chunk]);
}

void ledger_check(chunk_ledger *ledger, fm_fs_chunks *chunks)
{
    for (int chunk = 0; chunk < LEDGER_CHUNKS; chunk++) {
        check_chunk(ledger, chunks, chunk);
        if (ledger->asked[chunk] == ledger->acked[chunk])
            continue;
        assert_ok(ledger_write(ledger, chunks, chunk, LEDGER_PATIENCE_MS));
        check_chunk(ledger, chunks, chunk);
    }
}

void ledger_wait_whole(fm_fs_chunks *chunks, uint64_t version)
{
    fm_fs_cluster_state now;
    for (int i = 0; i < LEDGER_PATIENCE_MS / 100; i++) {
        uint32_t missing = 0;
        assert_ok(fm_fs_chunks_state(chunks, LEDGER_PATIENCE_MS, &now));
        for (uint32_t c = 0; c < now.chain_count; c++)
            for (uint32_t m = 0; m < now.chains[c].count; m++)
                missing += strcmp(now.chains[c].members[m].state, "serving") != 0;
        if (!missing && now.chain_count > 0 && now.version > version)
            return;
        fm_base_clock_sleep_ns(100000000);
    }
    fail_msg("the chains are not whole after %d s", LEDGER_PATIENCE_MS / 1000);
}
