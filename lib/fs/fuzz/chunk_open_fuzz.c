// A disk that holds anything: opening a chunk store ends, with a store that can be walked or with a failure. Once with the
// bytes as a journal, once as a checkpoint, and once as records with checksums that hold.
#include <stdlib.h>

#include "chunk_store_private.h"
#include "fathom/crc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILES = 4, FILE_BYTES = 1 << 16 };

struct disk {
    fm_fs_disk base;
    uint8_t files[FILES][FILE_BYTES];
    size_t sizes[FILES];
    fm_fs_disk_io *first; // submitted
    int opened;
    fm_status status;
};

static void submit(fm_fs_disk *base, fm_fs_disk_io *io)
{
    struct disk *disk = (struct disk *)base;
    io->next = disk->first;
    disk->first = io;
}

static uint64_t size_of(fm_fs_disk *base, unsigned file)
{
    return file < FILES ? ((struct disk *)base)->sizes[file] : 0;
}

static const struct fm_fs_disk_ops ops = {submit, size_of};

static void opened(void *context, fm_status status)
{
    struct disk *disk = context;
    disk->opened = 1;
    disk->status = status;
}

static void turn(struct disk *disk)
{
    fm_fs_disk_io *io = disk->first;
    disk->first = io->next;
    io->status = FM_OK;
    if (io->kind == FM_FS_DISK_READ && io->size) {
        memset(io->data, 0, io->size);
        if (io->file < FILES && io->offset < FILE_BYTES)
            memcpy(io->data, disk->files[io->file] + io->offset,
                   io->size < FILE_BYTES - io->offset ? io->size : FILE_BYTES - io->offset);
    }
    io->done(io);
}

static void open_store(struct disk *disk)
{
    fm_fs_store *store;
    fm_fs_store_options options = {.opened = opened, .context = disk};
    disk->base = (fm_fs_disk){&ops, (uint64_t)1 << 40};
    if (fm_fs_store_new(&disk->base, &options, &store) < 0)
        return;
    while (!disk->opened && disk->first)
        turn(disk);
    if (!disk->opened)
        abort();
    size_t pending = 0;
    for (const fm_fs_chunk *chunk = fm_fs_store_after(store, NULL); chunk && disk->status == FM_OK;
         chunk = fm_fs_store_after(store, &chunk->id))
        pending += chunk->pending != NULL;
    if (disk->status == FM_OK && pending != fm_fs_store_pending_count(store))
        abort();
    fm_fs_store_free(store);
}

static void put(struct disk *disk, int file, size_t at, const uint8_t *data, size_t size)
{
    if (size > FILE_BYTES - at)
        size = FILE_BYTES - at;
    memcpy(disk->files[file] + at, data, size);
    disk->sizes[file] = fm_round_up(at + size, FM_FS_PAGE);
}

static void seal_checkpoint(struct disk *disk, int version, const uint8_t *body, size_t size)
{
    const char magic[8] = {'F', 'M', 'C', 'H', 'K', 'P', '0', (char)('0' + version)};
    uint8_t *header = disk->files[3]; // generation 1
    memcpy(header, magic, sizeof magic);
    fm_put_le64(header + 8, 1);
    fm_put_le64(header + 24, size);
    fm_put_le32(header + 56, fm_base_crc32c(0, body, size));
    fm_put_le32(header + 60, fm_base_crc32c(0, header, 60));
    put(disk, 3, FM_FS_PAGE, body, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > FILE_BYTES - FM_FS_PAGE)
        return 0;
    for (int how = 0; how < 4; how++) {
        struct disk *disk = calloc(1, sizeof *disk);
        if (!disk)
            return 0;
        if (how == 0) {
            seal_checkpoint(disk, 1, data, 0);
            put(disk, 1, 0, data, size);
        } else if (how == 1) {
            put(disk, 2, 0, data, size);
        } else if (how == 2) {
            seal_checkpoint(disk, FM_FS_STORE_VERSION, data, size);
        } else {
            const struct fm_fs_batch batch = {1, 1, 0, 1, (uint32_t)size};
            seal_checkpoint(disk, FM_FS_STORE_VERSION, data, 0);
            put(disk, 1, FM_FS_BATCH_HEADER, data, size);
            fm_fs_batch_seal(disk->files[1], &batch);
        }
        open_store(disk);
        free(disk);
    }
    return 0;
}
