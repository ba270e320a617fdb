// What programs put into a ring's memory: any words and entries, changed between looks. Nothing outside the shared memory is
// touched, results are never more than entries, and what is nonsense is refused.
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fathom/fs_kv.h"
#include "ring_hub_private.h"
#include "volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SLOTS = 8, MEMORY = 4096 };

static void expect(int condition)
{
    if (!condition)
        abort();
}

static uint8_t *pages(size_t bytes)
{
    uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(memory != MAP_FAILED);
    return memory;
}

struct world {
    fm_fs_volume volume;
    fm_fs_hub *hub;
    struct fm_fs_hub_session session;
    struct fm_fs_hub_file files[2];
    struct fm_fs_hub_iov *iov;
};

// Names in memory, with one small file, whose bytes lie beside its name: no cluster is asked for them.
static void open_names(struct world *world)
{
    const fm_fs_who who = {0};
    fm_fs_node node;
    expect(fm_fs_kv_open("memory:", NULL, &world->volume.kv) == FM_OK);
    expect(fm_fs_meta_open(world->volume.kv, NULL, &world->volume.meta) == FM_OK);
    expect(fm_fs_meta_create(world->volume.meta, &who, FM_FS_META_ROOT, "f", 0100644, 0, 1, &node, NULL) ==
           FM_OK);
    expect(fm_fs_meta_inline_write(world->volume.meta, node.ino, 0, "0123456789", 10, &node) == FM_OK);
    world->files[0] = (struct fm_fs_hub_file){.ino = node.ino, .used = 1, .reads = 1};
    world->files[1] = (struct fm_fs_hub_file){.ino = node.ino + 1000, .used = 1, .reads = 1, .writes = 1};
    for (int i = 0; i < FM_FS_VOLUME_LOCKS; i++) {
        pthread_mutex_init(&world->volume.inodes[i].lock, NULL);
        pthread_cond_init(&world->volume.inodes[i].changed, NULL);
    }
}

static void open_hub(struct world *world)
{
    static int nobody; // stands for a client that is never asked
    const fm_net_loop_options loop = {.size = sizeof loop};
    fm_fs_hub *hub = fm_base_mem_zalloc(1, sizeof *hub);
    expect(hub != NULL);
    world->hub = hub;
    hub->options.volume = &world->volume;
    pthread_mutex_init(&hub->work.lock, NULL);
    pthread_cond_init(&hub->work.changed, NULL);
    expect(fm_net_loop_new(&loop, &hub->loop) == FM_OK);
    const fm_fs_mover_options mover = {.volume = &world->volume,
                                       .client = (struct fm_fs_client *)(void *)&nobody,
                                       .parts = 4,
                                       .gated = 1,
                                       .slow = fm_fs_hub_slow,
                                       .context = hub};
    expect(fm_fs_mover_new(&mover, &hub->mover) == FM_OK);
    world->session = (struct fm_fs_hub_session){.hub = hub, .files = world->files, .file_room = 2};
    world->iov = fm_base_mem_zalloc(1, sizeof *world->iov);
    expect(world->iov != NULL);
    *world->iov = (struct fm_fs_hub_iov){.of = &world->session,
                                         .fd = eventfd(0, EFD_CLOEXEC),
                                         .memory = pages(MEMORY),
                                         .size = MEMORY,
                                         .block_bytes = 1024,
                                         .refs = 1};
    world->session.iov_count = 1;
    fm_fs_hub_iov_add(hub, world->iov);
}

static struct world *the_world(void)
{
    static struct world world;
    if (!world.hub) {
        open_names(&world);
        open_hub(&world);
    }
    return &world;
}

// What workers would do, without doing it.
static void refuse_what_waits(fm_fs_hub *hub)
{
    while (hub->work.first) {
        struct fm_fs_hub_op *op = hub->work.first;
        hub->work.first = op->next;
        op->move.status = FM_ERR_TIMEOUT;
        fm_fs_hub_op_done(op);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *world = the_world();
    fm_fs_hub *hub = world->hub;
    if (size < 2)
        return 0;
    struct fm_fs_hub_ring *ring = fm_base_mem_zalloc(1, sizeof *ring);
    expect(ring != NULL);
    *ring = (struct fm_fs_hub_ring){.hub = hub,
                                    .session = &world->session,
                                    .bytes = fm_fs_ring_bytes(SLOTS),
                                    .slots = SLOTS,
                                    .writes = data[0] & 1,
                                    .io_depth = (data[0] >> 1) % 11 - 5,
                                    .priority = FM_FS_MOVE_NORMAL,
                                    .flags = data[0] & 64 ? FM_FS_MOVE_WHOLE : 0,
                                    .timeout_ns = data[0] & 128 ? 1000000 : 0,
                                    .wakes = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                                    .woken = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    ring->memory = pages(ring->bytes);
    expect(fm_fs_hub_ring_start(ring) == FM_OK);
    data++;
    size--;
    // Pieces of three bytes of head and up to 64 of the memory's, each followed by a look.
    int sound = 1;
    while (sound && size > 3) {
        size_t place = (size_t)(data[0] | data[1] << 8) % ring->bytes;
        size_t length = data[2] % (FM_FS_RING_ENTRY_BYTES + 1);
        data += 3;
        size -= 3;
        length = length < size ? length : size;
        length = length < ring->bytes - place ? length : ring->bytes - place;
        memcpy(ring->memory + place, data, length);
        data += length;
        size -= length;
        sound = fm_fs_hub_ring_take(ring);
        fm_fs_mover_pump(hub->mover);
        refuse_what_waits(hub);
        expect(ring->accepted - ring->answered == ring->under_way && ring->under_way == 0);
        expect(!sound || ring->answered - *fm_fs_ring_word(ring->memory, FM_FS_RING_TAKEN) <= SLOTS);
    }
    fm_fs_hub_ring_end(ring);
    expect(world->iov->refs == 1 && hub->census.under_way == 0);
    return 0;
}
