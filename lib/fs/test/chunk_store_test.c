// The chunk store over a disk that loses, keeps and tears what was not flushed: after a cut of the power at every
// single operation it opens, holds what was acknowledged, and nothing that was never written.
#include "fm_gen.h"
#include "fm_test.h"
#include "chunk_store_private.h"
#include "sim_disk.h"

#include "fathom/crc.h"

enum { CHUNKS = 4, VERSIONS = 64, BYTES_MAX = 3 * FM_FS_PAGE, QUEUE_MAX = 256 };

struct contents {
    int removed;
    size_t size;
    uint8_t *bytes;
};

// What a chunk was in each version.
struct model {
    struct contents versions[VERSIONS];
    uint64_t issued;
    uint64_t acked;
    int busy;
};

struct world {
    sim_disk disk;
    fm_fs_disk_io *queue[QUEUE_MAX];
    uint64_t marks[QUEUE_MAX];
    size_t queued;
    fm_fs_store *store;
    int opened;
    fm_status open_status;
    fm_gen *gen;
    size_t land_bytes;
    struct model chunks[CHUNKS];
    fm_fs_apply applies[CHUNKS];
    uint64_t operations;
};

static void submitted(void *context, fm_fs_disk_io *io)
{
    struct world *world = context;
    assert_true(world->queued < QUEUE_MAX);
    assert_true(io->size % FM_FS_PAGE == 0 && io->offset % FM_FS_PAGE == 0);
    assert_true((uintptr_t)io->data % FM_FS_PAGE == 0);
    world->marks[world->queued] = sim_disk_mark(&world->disk);
    world->queue[world->queued++] = io;
}

// Completes one of the submitted operations, any.
static int turn(struct world *world)
{
    if (!world->queued)
        return 0;
    size_t which = world->gen ? (size_t)fm_gen_int(world->gen, 0, (int64_t)world->queued - 1) : 0;
    fm_fs_disk_io *io = world->queue[which];
    uint64_t mark = world->marks[which];
    world->queued--;
    for (size_t i = which; i < world->queued; i++) {
        world->queue[i] = world->queue[i + 1];
        world->marks[i] = world->marks[i + 1];
    }
    sim_disk_complete(&world->disk, io, mark, FM_OK);
    world->operations++;
    return 1;
}

static void opened(void *context, fm_status status)
{
    struct world *world = context;
    world->opened = 1;
    world->open_status = status;
}

static fm_status open_store(struct world *world, int format)
{
    fm_fs_store_options options = {.format = format,
                                   .journal_bytes = 6 * FM_FS_PAGE,
                                   .land_bytes = world->land_bytes,
                                   .opened = opened,
                                   .context = world};
    memcpy(options.identity, "0123456789abcdef", 16);
    world->disk.submitted = submitted;
    world->disk.context = world;
    world->opened = 0;
    FM_TRY(fm_fs_store_new(&world->disk.base, &options, &world->store));
    while (!world->opened && turn(world))
        ;
    assert_true(world->opened);
    return world->open_status;
}

static fm_fs_chunk_id id_of(int chunk)
{
    fm_fs_chunk_id id = {{0}};
    id.bytes[15] = (uint8_t)chunk;
    return id;
}

static void grow(struct contents *contents, size_t size)
{
    contents->bytes = realloc(contents->bytes, size + 1);
    if (size > contents->size)
        memset(contents->bytes + contents->size, 0, size - contents->size);
    contents->size = size;
}

static void applied(fm_fs_apply *apply)
{
    struct world *world = apply->context;
    struct model *model = &world->chunks[apply->id.bytes[15]];
    assert_ok(apply->status);
    model->acked = apply->version;
    model->busy = 0;
    fm_fs_buffer_drop(apply->data);
    const fm_fs_chunk *chunk = fm_fs_store_find(world->store, &apply->id);
    if (chunk->pending)
        assert_ok(fm_fs_store_commit(world->store, &apply->id, apply->version, 1));
}

static enum fm_fs_apply_kind any_kind(struct world *world)
{
    if (fm_gen_chance(world->gen, 0.6))
        return FM_FS_APPLY_WRITE;
    return (enum fm_fs_apply_kind)fm_gen_int(world->gen, FM_FS_APPLY_WRITE, FM_FS_APPLY_REPLACE_REMOVED);
}

static void issue_kind(struct world *world, int which, enum fm_fs_apply_kind kind)
{
    struct model *model = &world->chunks[which];
    fm_fs_apply *apply = &world->applies[which];
    if (model->busy || model->issued + 1 >= VERSIONS)
        return;
    const struct contents *old = &model->versions[model->issued];
    struct contents *fresh = &model->versions[++model->issued];
    *apply = (fm_fs_apply){.id = id_of(which), .version = model->issued, .chain_version = 1, .done = applied};
    apply->context = world;
    apply->tag = (fm_fs_tag){1, (uint32_t)which, model->issued};
    apply->kind = kind;
    fresh->removed = apply->kind == FM_FS_APPLY_REMOVE || apply->kind == FM_FS_APPLY_REPLACE_REMOVED;
    if (!fresh->removed && apply->kind != FM_FS_APPLY_REPLACE && apply->kind != FM_FS_APPLY_WHOLE) {
        grow(fresh, old->size);
        if (old->size)
            memcpy(fresh->bytes, old->bytes, old->size);
    }
    if (apply->kind == FM_FS_APPLY_WRITE || apply->kind == FM_FS_APPLY_REPLACE ||
        apply->kind == FM_FS_APPLY_WHOLE) {
        int is_large = fm_gen_chance(world->gen, 0.1); // more than goes into the journal
        size_t size =
            is_large ? FM_FS_PATCH_BYTES + FM_FS_PAGE : (size_t)fm_gen_size(world->gen, 0, BYTES_MAX);
        apply->offset =
            apply->kind == FM_FS_APPLY_WRITE ? (uint32_t)fm_gen_size(world->gen, 0, BYTES_MAX) : 0;
        apply->data = fm_fs_buffer_new(size);
        fm_gen_fill(world->gen, apply->data->data, size);
        if (apply->offset + size > fresh->size)
            grow(fresh, apply->offset + size);
        if (size)
            memcpy(fresh->bytes + apply->offset, apply->data->data, size);
    } else if (apply->kind == FM_FS_APPLY_TRUNCATE) {
        apply->size = (uint32_t)fm_gen_size(world->gen, 0, BYTES_MAX);
        grow(fresh, apply->size);
    }
    model->busy = 1;
    fm_fs_store_apply(world->store, apply);
}

static void issue(struct world *world, int which)
{
    issue_kind(world, which, any_kind(world));
}

static void read_back(fm_fs_chunk_read *read)
{
    *(int *)read->context = 1;
}

static void assert_contents(struct world *world, fm_fs_chunk_copy *copy, const struct contents *expected)
{
    assert_int_equal(copy->removed, expected->removed);
    assert_int_equal(copy->size, expected->size);
    if (copy->removed)
        return;
    int done = 0;
    fm_fs_chunk_read read = {.copy = copy, .done = read_back, .context = &done};
    if (world->gen && expected->size) {
        read.offset = (uint32_t)fm_gen_int(world->gen, 0, (int64_t)expected->size - 1);
        read.size = (uint32_t)fm_gen_int(world->gen, 0, (int64_t)expected->size);
    } else {
        read.size = (uint32_t)expected->size;
    }
    fm_fs_store_read(world->store, &read);
    while (!done)
        assert_true(turn(world));
    assert_ok(read.status);
    if (read.size)
        assert_memory_equal(read.bytes->data, expected->bytes + read.offset, read.size);
    assert_int_equal(read.crc, fm_base_crc32c(0, read.bytes->data, read.size));
    fm_fs_buffer_drop(read.bytes);
}

static void assert_chunk(struct world *world, int which, const struct model *model)
{
    fm_fs_chunk_id id = id_of(which);
    const fm_fs_chunk *chunk = fm_fs_store_find(world->store, &id);
    uint64_t newest = 0;
    if (chunk && chunk->committed) {
        newest = chunk->committed->version;
        assert_true(newest <= model->issued && newest + 1 >= model->acked);
        assert_contents(world, chunk->committed, &model->versions[newest]);
    }
    if (chunk && chunk->pending) {
        assert_true(chunk->pending->version == newest + 1);
        newest = chunk->pending->version;
        assert_contents(world, chunk->pending, &model->versions[newest]);
    }
    assert_in_range(newest, model->acked, model->issued);
    const fm_fs_session *session = fm_fs_store_session(world->store, 1, (uint32_t)which);
    assert_int_equal(session ? session->tag.sequence : 0, newest);
}

// Blocks in use are those of the chunks, and a block has one owner.
static void assert_blocks(struct world *world)
{
    uint64_t bytes = 0;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(world->store, NULL); chunk;
         chunk = fm_fs_store_after(world->store, &chunk->id)) {
        if (chunk->committed && chunk->committed->size)
            bytes += (uint64_t)FM_FS_CHUNK_CLASS_MIN << chunk->committed->size_class;
        if (chunk->pending && chunk->pending->size &&
            !(chunk->committed && chunk->committed->share &&
              chunk->committed->share == chunk->pending->share))
            bytes += (uint64_t)FM_FS_CHUNK_CLASS_MIN << chunk->pending->size_class;
    }
    assert_int_equal(fm_fs_store_used_bytes(world->store), bytes);
}

static void flush_done(fm_fs_flush *flush)
{
    *(int *)flush->context = 1;
}

static void settle(struct world *world)
{
    int done = 0;
    fm_fs_flush flush = {.done = flush_done, .context = &done};
    while (turn(world))
        ;
    fm_fs_store_flush(world->store, &flush);
    while (!done)
        assert_true(turn(world));
    assert_ok(flush.status);
    while (turn(world))
        ;
}

// Opens a copy of the disk as the power cut leaves it, compares it with the model, and goes on with it a little.
static void cut_here(const struct world *from, enum sim_loss loss, fm_gen *gen)
{
    struct world world = {.gen = gen, .land_bytes = from->land_bytes};
    sim_disk_copy(&world.disk, &from->disk);
    for (size_t i = 0; i < from->queued && loss == SIM_LOSE_SOME; i++)
        if (from->queue[i]->kind == FM_FS_DISK_WRITE)
            sim_disk_tear(&world.disk, from->queue[i], gen);
    sim_disk_power_cut(&world.disk, loss, gen);
    assert_ok(open_store(&world, 0));
    assert_memory_equal(fm_fs_store_identity(world.store), "0123456789abcdef", 16);
    assert_blocks(&world);
    for (int i = 0; i < CHUNKS; i++)
        assert_chunk(&world, i, &from->chunks[i]);
    settle(&world);
    for (int i = 0; i < CHUNKS; i++)
        assert_chunk(&world, i, &from->chunks[i]);
    fm_fs_store_free(world.store);
    sim_disk_free(&world.disk);
}

static void free_world(struct world *world)
{
    fm_fs_store_free(world->store);
    sim_disk_free(&world->disk);
    for (int i = 0; i < CHUNKS; i++)
        for (int v = 0; v < VERSIONS; v++)
            free(world->chunks[i].versions[v].bytes);
    for (int i = 0; i < CHUNKS; i++)
        if (world->chunks[i].busy)
            fm_fs_buffer_drop(world->applies[i].data);
}

static void survive_every_cut(fm_gen *gen)
{
    struct world *world = calloc(1, sizeof *world);
    fm_gen cuts = fm_gen_seeded(fm_gen_u64(gen));
    world->land_bytes = (size_t)fm_gen_int(gen, 1, 8 * FM_FS_PAGE);
    sim_disk_init(&world->disk, 64 << 20);
    world->gen = gen;
    for (int i = 0; i < CHUNKS; i++)
        world->chunks[i].versions[0].removed = 1;
    assert_ok(open_store(world, 1));
    for (int i = 0; i < 150; i++) {
        issue(world, (int)fm_gen_int(gen, 0, CHUNKS - 1));
        turn(world);
        cut_here(world, SIM_LOSE_ALL, &cuts);
        cut_here(world, SIM_LOSE_SOME, &cuts);
        if (i % 8 == 0)
            cut_here(world, SIM_KEEP_ALL, &cuts);
    }
    settle(world);
    assert_blocks(world);
    free_world(world);
    free(world);
}

static void it_survives_a_power_cut_anywhere(void **state)
{
    (void)state;
    fm_gen_property(4, survive_every_cut);
}

// The disk goes from one life to the next.
static void live_and_die(fm_gen *gen)
{
    struct world *world = calloc(1, sizeof *world);
    sim_disk_init(&world->disk, 64 << 20);
    world->gen = gen;
    world->land_bytes = (size_t)fm_gen_int(gen, 1, 8 * FM_FS_PAGE);
    for (int i = 0; i < CHUNKS; i++)
        world->chunks[i].versions[0].removed = 1;
    assert_ok(open_store(world, 1));
    for (int life = 0; life < 12; life++) {
        int64_t turns = fm_gen_int(gen, 1, 60);
        for (int64_t i = 0; i < turns; i++) {
            issue(world, (int)fm_gen_int(gen, 0, CHUNKS - 1));
            turn(world);
        }
        for (size_t i = 0; i < world->queued; i++)
            if (world->queue[i]->kind == FM_FS_DISK_WRITE && fm_gen_chance(gen, 0.5))
                sim_disk_tear(&world->disk, world->queue[i], gen);
        world->queued = 0;
        fm_fs_store_free(world->store);
        if (fm_gen_chance(gen, 0.7)) // or the program alone ended
            sim_disk_power_cut(&world->disk, SIM_LOSE_SOME, gen);
        assert_ok(open_store(world, 0));
        assert_blocks(world);
        for (int i = 0; i < CHUNKS; i++) {
            struct model *model = &world->chunks[i];
            fm_fs_chunk_id id = id_of(i);
            const fm_fs_chunk *chunk = fm_fs_store_find(world->store, &id);
            assert_chunk(world, i, model);
            if (model->busy)
                fm_fs_buffer_drop(world->applies[i].data);
            model->busy = 0;
            // Who restarts commits what is pending; what never arrived is as if never asked for.
            if (chunk && chunk->pending)
                assert_ok(fm_fs_store_commit(world->store, &id, chunk->pending->version, 1));
            uint64_t newest = chunk && chunk->committed ? chunk->committed->version : 0;
            for (uint64_t v = newest + 1; v <= model->issued; v++) {
                free(model->versions[v].bytes);
                model->versions[v] = (struct contents){0};
            }
            model->issued = model->acked = newest;
        }
    }
    free_world(world);
    free(world);
}

static void it_lives_many_lives(void **state)
{
    (void)state;
    fm_gen_property(60, live_and_die);
}

static void open_empty(struct world *world, fm_gen *gen)
{
    sim_disk_init(&world->disk, 64 << 20);
    world->gen = gen;
    for (int i = 0; i < CHUNKS; i++)
        world->chunks[i].versions[0].removed = 1;
    assert_ok(open_store(world, 1));
}

static void it_notices_rot(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(7);
    struct world *world = calloc(1, sizeof *world);
    open_empty(world, &gen);
    fm_fs_buffer *data = fm_fs_buffer_new(17 * FM_FS_PAGE);
    fm_gen_fill(&gen, data->data, data->size);
    fm_fs_apply apply = {.kind = FM_FS_APPLY_WRITE, .id = id_of(0), .version = 1, .chain_version = 1};
    apply.data = data;
    apply.done = applied;
    apply.context = world;
    fm_fs_store_apply(world->store, &apply);
    settle(world);
    assert_true(sim_disk_rot(&world->disk, 5, 40000)); // the first block of the class of 128 KiB
    fm_fs_chunk_id id = id_of(0);
    const fm_fs_chunk *chunk = fm_fs_store_find(world->store, &id);
    int done = 0;
    int rotten = 0;
    for (uint32_t at = 0; at < 17 * FM_FS_PAGE; at += FM_FS_PAGE) {
        fm_fs_chunk_read read = {
            .copy = chunk->committed, .offset = at, .size = FM_FS_PAGE, .done = read_back, .context = &done};
        done = 0;
        fm_fs_store_read(world->store, &read);
        while (!done)
            assert_true(turn(world));
        rotten += read.status == FM_ERR_FS_ROT;
        fm_fs_buffer_drop(read.bytes);
    }
    assert_int_equal(rotten, 1);
    free_world(world);
    free(world);
}

struct target {
    fm_fs_buffer buffer;
    uint8_t *bytes; // a page more on either side
};

static void target_make(struct target *target, size_t shift, size_t room)
{
    target->bytes = fm_base_mem_aligned(room + (size_t)3 * FM_FS_PAGE, FM_FS_PAGE);
    memset(target->bytes, 0xa5, room + (size_t)3 * FM_FS_PAGE);
    target->buffer =
        (fm_fs_buffer){.refs = 1, .data = target->bytes + FM_FS_PAGE + shift, .size = room, .room = room};
}

// Reads into the target, which the disk reaches itself when `expects`, and gives it back.
static void assert_reads_into(struct world *world, const uint8_t *contents, uint32_t offset, uint32_t size,
                              size_t shift, int expects)
{
    fm_fs_chunk_id id = id_of(0);
    struct target target;
    int done = 0;
    target_make(&target, shift, size);
    fm_fs_chunk_read read = {.copy = fm_fs_store_find(world->store, &id)->committed,
                             .offset = offset,
                             .size = size,
                             .into = &target.buffer,
                             .done = read_back,
                             .context = &done};
    fm_fs_store_read(world->store, &read);
    while (!done)
        assert_true(turn(world));
    assert_ok(read.status);
    assert_int_equal(read.bytes == &target.buffer, expects);
    assert_memory_equal(read.bytes->data, contents + offset, read.size);
    assert_int_equal(read.crc, fm_base_crc32c(0, contents + offset, read.size));
    uint8_t *begin = target.bytes;
    uint8_t *at = expects ? target.buffer.data : begin;
    for (; begin < at; begin++)
        assert_int_equal(*begin, 0xa5);
    for (at += expects ? read.size : 0; at < target.bytes + size + (size_t)3 * FM_FS_PAGE; at++)
        assert_int_equal(*at, 0xa5);
    fm_fs_buffer_drop(read.bytes);
    assert_int_equal(target.buffer.refs, 1);
    fm_base_mem_free(target.bytes);
}

static void it_reads_into_the_callers_memory(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(11);
    struct world *world = calloc(1, sizeof *world);
    open_empty(world, &gen);
    fm_fs_buffer *data = fm_fs_buffer_new(17 * FM_FS_PAGE + 100); // grains of a page
    fm_gen_fill(&gen, data->data, data->size);
    fm_fs_apply apply = {.kind = FM_FS_APPLY_WRITE, .id = id_of(0), .version = 1, .chain_version = 1};
    apply.data = fm_fs_buffer_ref(data); // which applied() drops
    apply.done = applied;
    apply.context = world;
    fm_fs_store_apply(world->store, &apply);
    settle(world);
    const uint8_t *bytes = data->data;
    assert_reads_into(world, bytes, 0, FM_FS_PAGE, 0, 1);
    assert_reads_into(world, bytes, 3 * FM_FS_PAGE, 9 * FM_FS_PAGE, 0, 1);
    assert_reads_into(world, bytes, 3 * FM_FS_PAGE, FM_FS_PAGE, 512, 0);    // memory that is not aligned
    assert_reads_into(world, bytes, 3 * FM_FS_PAGE + 1, FM_FS_PAGE, 0, 0);  // not a grain's beginning
    assert_reads_into(world, bytes, 3 * FM_FS_PAGE, FM_FS_PAGE - 1, 0, 0);  // nor its end
    assert_reads_into(world, bytes, 16 * FM_FS_PAGE, 2 * FM_FS_PAGE, 0, 0); // the chunk ends in the page
    assert_reads_into(world, bytes, 18 * FM_FS_PAGE, FM_FS_PAGE, 0, 0);     // nothing there

    // Bytes that change in the caller's memory are not taken for rot: they are read once more, elsewhere.
    for (int heals = 0; heals < 2; heals++) {
        fm_fs_chunk_id id = id_of(0);
        struct target target;
        int done = 0;
        target_make(&target, 0, FM_FS_PAGE);
        fm_fs_chunk_read read = {.copy = fm_fs_store_find(world->store, &id)->committed,
                                 .size = FM_FS_PAGE,
                                 .into = &target.buffer,
                                 .done = read_back,
                                 .context = &done};
        assert_true(sim_disk_rot(&world->disk, 5, 100));
        fm_fs_store_read(world->store, &read);
        assert_true(turn(world) && !done);
        if (heals)
            assert_true(sim_disk_rot(&world->disk, 5, 100));
        while (!done)
            assert_true(turn(world));
        assert_int_equal(read.status, heals ? FM_OK : FM_ERR_FS_ROT);
        assert_true(read.bytes != &target.buffer);
        if (heals)
            assert_memory_equal(read.bytes->data, bytes, FM_FS_PAGE);
        else
            assert_true(sim_disk_rot(&world->disk, 5, 100));
        fm_fs_buffer_drop(read.bytes);
        assert_int_equal(target.buffer.refs, 1);
        fm_base_mem_free(target.bytes);
    }
    fm_fs_buffer_drop(data);
    free_world(world);
    free(world);
}

static void it_refuses_what_it_did_not_write(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(3);
    struct world *world = calloc(1, sizeof *world);
    sim_disk_init(&world->disk, 1 << 20);
    assert_fails(open_store(world, 0), FM_ERR_NOT_FOUND, "no chunk store");
    fm_fs_store_free(world->store);
    uint8_t *page = fm_base_mem_aligned(FM_FS_PAGE, FM_FS_PAGE);
    fm_gen_fill(&gen, page, FM_FS_PAGE);
    fm_fs_disk_io io = {.kind = FM_FS_DISK_WRITE, .file = 2, .size = FM_FS_PAGE, .data = page};
    io.done = (void (*)(fm_fs_disk_io *))abort;
    sim_disk_tear(&world->disk, &io, &gen);
    sim_disk_power_cut(&world->disk, SIM_KEEP_ALL, &gen);
    fm_base_mem_free(page);
    assert_fails(open_store(world, 1), FM_ERR_FORMAT, "no checkpoint");
    free_world(world);
    free(world);
}

static void a_hole_in_the_journal_is_noticed(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(11);
    struct world *world = calloc(1, sizeof *world);
    open_empty(world, &gen);
    for (int i = 0; i < 4; i++) {
        issue_kind(world, 0, FM_FS_APPLY_TRUNCATE);
        while (world->chunks[0].busy)
            assert_true(turn(world));
    }
    settle(world);
    fm_fs_store_free(world->store);
    world->store = NULL;
    world->disk.files[1].now[0]->bytes[60] ^= 4;
    assert_fails(open_store(world, 0), FM_ERR_IO, "hole");
    free_world(world);
    free(world);
}

static void note_apply(fm_fs_apply *apply)
{
    *(int *)apply->context = 1;
}

static void a_full_target_says_so(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(5);
    struct world *world = calloc(1, sizeof *world);
    open_empty(world, &gen);
    world->disk.base.capacity_bytes = 100000;
    fm_fs_buffer *data = fm_fs_buffer_new(10);
    memset(data->data, 1, 10);
    fm_fs_apply apply = {.kind = FM_FS_APPLY_WRITE, .id = id_of(0), .version = 1, .chain_version = 1};
    apply.data = fm_fs_buffer_ref(data);
    apply.done = applied;
    apply.context = world;
    fm_fs_store_apply(world->store, &apply);
    settle(world);
    apply.id = id_of(1);
    apply.data = data;
    int told = 0;
    apply.context = &told;
    apply.done = note_apply;
    fm_fs_store_apply(world->store, &apply);
    assert_int_equal(told, 0);
    while (turn(world))
        ;
    assert_int_equal(told, 1);
    assert_int_equal(apply.status, FM_ERR_SPACE);
    fm_fs_buffer_drop(data);
    free_world(world);
    free(world);
}

// What changed in memory since its sum was taken is not stored as if it were right.
static void a_change_with_another_sum_is_refused(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(6);
    struct world *world = calloc(1, sizeof *world);
    open_empty(world, &gen);
    fm_fs_buffer *data = fm_fs_buffer_new(3 * FM_FS_PAGE + 5);
    fm_gen_fill(&gen, data->data, data->size);
    uint32_t crc = fm_fs_buffer_crc(data);
    for (int right = 0; right < 2; right++) {
        int told = 0;
        fm_fs_apply apply = {.kind = FM_FS_APPLY_WHOLE,
                             .id = id_of(0),
                             .version = 1,
                             .chain_version = 1,
                             .data = data,
                             .done = note_apply,
                             .context = &told};
        fm_fs_buffer_summed(data, right ? crc : crc ^ 1);
        fm_fs_store_apply(world->store, &apply);
        while (turn(world))
            ;
        assert_int_equal(told, 1);
        assert_int_equal(apply.status, right ? FM_OK : FM_ERR_FORMAT);
        assert_int_equal(fm_fs_store_used_bytes(world->store) > 0, right);
    }
    fm_fs_buffer_drop(data);
    free_world(world);
    free(world);
}

// The sum of a range, folded from those of its grains, is the one that a pass over its bytes gives.
static void it_sums_ranges_by_their_grains(void **state)
{
    (void)state;
    fm_gen gen = fm_gen_seeded(8);
    struct world *world = calloc(1, sizeof *world);
    static uint8_t bytes[3 << 20];
    open_empty(world, &gen);
    fm_gen_fill(&gen, bytes, sizeof bytes);
    for (int i = 0; i < 200; i++) {
        uint32_t size = (uint32_t)fm_gen_int(&gen, 1, i % 4 ? 100000 : (int64_t)sizeof bytes);
        fm_fs_chunk_copy *copy = fm_fs_chunk_copy_new(size, fm_fs_chunk_class(size));
        fm_fs_chunk_copy_sum(copy, bytes);
        uint32_t grain = fm_fs_chunk_grain(copy->size_class);
        uint32_t offset = (uint32_t)fm_gen_int(&gen, 0, size - 1) / grain * grain;
        uint32_t length =
            fm_gen_chance(&gen, 0.5) ? size - offset : (uint32_t)fm_gen_int(&gen, 0, size - offset);
        if (fm_gen_chance(&gen, 0.5) && offset + length < size)
            length = length / grain * grain;
        assert_int_equal(fm_fs_store_crc(world->store, copy, bytes + offset, offset, length),
                         fm_base_crc32c(0, bytes + offset, length));
        fm_base_mem_free(copy);
    }
    free_world(world);
    free(world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_survives_a_power_cut_anywhere),
        cmocka_unit_test(it_lives_many_lives),
        cmocka_unit_test(it_notices_rot),
        cmocka_unit_test(it_reads_into_the_callers_memory),
        cmocka_unit_test(it_refuses_what_it_did_not_write),
        cmocka_unit_test(a_hole_in_the_journal_is_noticed),
        cmocka_unit_test(a_full_target_says_so),
        cmocka_unit_test(a_change_with_another_sum_is_refused),
        cmocka_unit_test(it_sums_ranges_by_their_grains),
    };
    return fm_test_run("chunk_store", tests);
}
