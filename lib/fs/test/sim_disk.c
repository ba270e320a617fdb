#include "sim_disk.h"

#include <stdlib.h>

// The simulator's own memory is not the library's: it takes it from malloc(), so that leaks of either show.
static void *take(size_t count, size_t size)
{
    void *block = calloc(count, size);
    if (!block)
        abort();
    return block;
}

static void submit(fm_fs_disk *base, fm_fs_disk_io *io)
{
    sim_disk *disk = (sim_disk *)base;
    disk->submitted(disk->context, io);
}

static uint64_t file_size(fm_fs_disk *base, unsigned file)
{
    return ((sim_disk *)base)->files[file].end * FM_FS_PAGE;
}

static const struct fm_fs_disk_ops ops = {submit, file_size};

void sim_disk_init(sim_disk *disk, uint64_t capacity_bytes)
{
    memset(disk, 0, sizeof *disk);
    disk->base.ops = &ops;
    disk->base.capacity_bytes = capacity_bytes;
    for (int i = 0; i < FM_FS_STORE_FILES; i++)
        disk->files[i].last = &disk->files[i].first;
}

static void clear_file(sim_file *file)
{
    for (size_t i = 0; i < file->pages; i++) {
        free(file->now[i]);
        free(file->durable[i]);
    }
    free((void *)file->now);
    free((void *)file->durable);
    while (file->first) {
        sim_write *next = file->first->next;
        free(file->first);
        file->first = next;
    }
    *file = (sim_file){.last = &file->first};
}

void sim_disk_clear(sim_disk *disk)
{
    for (int i = 0; i < FM_FS_STORE_FILES; i++)
        clear_file(&disk->files[i]);
}

void sim_disk_free(sim_disk *disk)
{
    sim_disk_clear(disk);
}

static sim_page *copy_page(const sim_page *page)
{
    if (!page)
        return NULL;
    sim_page *copy = take(1, sizeof *copy);
    *copy = *page;
    return copy;
}

static void reach(sim_file *file, size_t pages)
{
    if (pages > file->end)
        file->end = pages;
    if (pages <= file->pages)
        return;
    size_t room = file->pages ? file->pages : 64;
    while (room < pages)
        room *= 2;
    sim_page **now = take(room, sizeof(void *));
    sim_page **durable = take(room, sizeof(void *));
    if (file->pages) {
        memcpy((void *)now, (void *)file->now, file->pages * sizeof(void *));
        memcpy((void *)durable, (void *)file->durable, file->pages * sizeof(void *));
    }
    free((void *)file->now);
    free((void *)file->durable);
    file->now = now;
    file->durable = durable;
    file->pages = room;
}

void sim_disk_copy(sim_disk *to, const sim_disk *from)
{
    sim_disk_init(to, from->base.capacity_bytes);
    to->serial = from->serial;
    for (int i = 0; i < FM_FS_STORE_FILES; i++) {
        const sim_file *source = &from->files[i];
        sim_file *file = &to->files[i];
        reach(file, source->end);
        for (size_t p = 0; p < source->end; p++) {
            file->now[p] = copy_page(source->now[p]);
            file->durable[p] = copy_page(source->durable[p]);
        }
        for (const sim_write *write = source->first; write; write = write->next) {
            sim_write *copy = take(1, sizeof *copy);
            *copy = *write;
            copy->next = NULL;
            *file->last = copy;
            file->last = &copy->next;
        }
    }
}

uint64_t sim_disk_mark(const sim_disk *disk)
{
    return disk->serial;
}

static void put(sim_page **at, const uint8_t *bytes)
{
    if (!*at)
        *at = take(1, sizeof **at);
    memcpy((*at)->bytes, bytes, FM_FS_PAGE);
}

static void write_page(sim_disk *disk, unsigned number, uint64_t page, const uint8_t *bytes)
{
    sim_file *file = &disk->files[number];
    reach(file, page + 1);
    put(&file->now[page], bytes);
    sim_write *write = take(1, sizeof *write);
    write->serial = disk->serial;
    write->page = page;
    memcpy(write->data.bytes, bytes, FM_FS_PAGE);
    *file->last = write;
    file->last = &write->next;
}

static void sync_file(sim_file *file, uint64_t mark)
{
    sim_write **at = &file->first;
    while (*at) {
        sim_write *write = *at;
        if (write->serial > mark) {
            at = &write->next;
            continue;
        }
        put(&file->durable[write->page], write->data.bytes);
        *at = write->next;
        free(write);
    }
    file->last = &file->first;
    while (*file->last)
        file->last = &(*file->last)->next;
}

// What the page holds now is durable.
static void keep_page(sim_file *file, uint64_t page)
{
    sim_write **at = &file->first;
    while (*at) {
        sim_write *write = *at;
        if (write->page != page) {
            at = &write->next;
            continue;
        }
        *at = write->next;
        free(write);
    }
    file->last = at;
    put(&file->durable[page], file->now[page]->bytes);
}

void sim_disk_complete(sim_disk *disk, fm_fs_disk_io *io, uint64_t mark, fm_status status)
{
    sim_file *file = &disk->files[io->file];
    io->status = status;
    if (status == FM_OK && io->kind == FM_FS_DISK_WRITE && io->size)
        disk->serial++;
    for (size_t at = 0; status == FM_OK && at < io->size; at += FM_FS_PAGE) {
        uint64_t page = (io->offset + at) / FM_FS_PAGE;
        if (io->kind == FM_FS_DISK_WRITE)
            write_page(disk, io->file, page, (uint8_t *)io->data + at);
        else if (page < file->end && file->now[page])
            memcpy((uint8_t *)io->data + at, file->now[page]->bytes, FM_FS_PAGE);
        else
            memset((uint8_t *)io->data + at, 0, FM_FS_PAGE);
    }
    for (size_t at = 0; status == FM_OK && io->durable && at < io->size; at += FM_FS_PAGE)
        keep_page(file, (io->offset + at) / FM_FS_PAGE);
    if (status == FM_OK && io->kind == FM_FS_DISK_SYNC)
        sync_file(file, mark);
    io->done(io);
}

// `bytes` over `old`, sector by sector with probability 1/2.
static void mix(uint8_t *old, const uint8_t *bytes, fm_gen *gen)
{
    for (int at = 0; at < FM_FS_PAGE; at += SIM_SECTOR)
        if (fm_gen_chance(gen, 0.5))
            memcpy(old + at, bytes + at, SIM_SECTOR);
}

void sim_disk_tear(sim_disk *disk, const fm_fs_disk_io *io, fm_gen *gen)
{
    disk->serial++;
    for (size_t at = 0; at < io->size; at += FM_FS_PAGE) {
        uint64_t page = (io->offset + at) / FM_FS_PAGE;
        sim_page torn = {{0}};
        sim_file *file = &disk->files[io->file];
        if (page < file->end && file->now[page])
            torn = *file->now[page];
        mix(torn.bytes, (uint8_t *)io->data + at, gen);
        write_page(disk, io->file, page, torn.bytes);
    }
}

static void cut_file(sim_file *file, enum sim_loss loss, fm_gen *gen)
{
    while (file->first) {
        sim_write *write = file->first;
        file->first = write->next;
        int64_t fate = loss == SIM_LOSE_SOME ? fm_gen_int(gen, 0, 2) : loss;
        if (fate == SIM_KEEP_ALL) {
            put(&file->durable[write->page], write->data.bytes);
        } else if (fate == SIM_LOSE_SOME) {
            sim_page torn = {{0}};
            if (file->durable[write->page])
                torn = *file->durable[write->page];
            mix(torn.bytes, write->data.bytes, gen);
            put(&file->durable[write->page], torn.bytes);
        }
        free(write);
    }
    file->last = &file->first;
    for (size_t page = 0; page < file->end; page++) {
        free(file->now[page]);
        file->now[page] = copy_page(file->durable[page]);
    }
}

void sim_disk_power_cut(sim_disk *disk, enum sim_loss loss, fm_gen *gen)
{
    for (int i = 0; i < FM_FS_STORE_FILES; i++)
        cut_file(&disk->files[i], loss, gen);
}

int sim_disk_rot(sim_disk *disk, unsigned number, uint64_t at)
{
    sim_file *file = &disk->files[number];
    uint64_t page = at / FM_FS_PAGE;
    if (page >= file->end || !file->durable[page] || !file->now[page])
        return 0;
    file->durable[page]->bytes[at % FM_FS_PAGE] ^= 1;
    file->now[page]->bytes[at % FM_FS_PAGE] ^= 1;
    return 1;
}
