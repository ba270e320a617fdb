// Reads by the thread of a cluster that runs in the mount's process: from the disk to where they go, and through no socket.
#include "mount_fuse.h"

#include <semaphore.h>

#include "volume_move.h"

enum { PARTS = 128 }; // chunks' parts at once: enough for the disks of a machine

struct batch {
    fm_fs_mover *mover;
    fm_net_task task;
    fm_fs_move moves[FM_FS_CACHE_PIECES];
    size_t count, left;
    sem_t over;
};

static void moved(fm_fs_move *move)
{
    struct batch *batch = move->context;
    if (--batch->left == 0)
        sem_post(&batch->over);
}

static void begin(void *context)
{
    struct batch *batch = context;
    fm_fs_mover *mover = batch->mover; // the batch may be over before the last line
    for (size_t i = 0; i < batch->count; i++)
        fm_fs_mover_add(mover, &batch->moves[i]);
    fm_fs_mover_pump(mover);
}

// Each move comes with its node, and is a read: the file was cut meanwhile.
static void slow(void *context, fm_fs_move *move)
{
    (void)context;
    move->status = FM_ERR_STATE;
    move->done(move);
}

fm_status fm_fs_mount_mover_start(fm_fs_mount *mount, struct fm_fs_client *client, fm_net_loop *loop)
{
    // The caller is in the gate of the inode.
    const fm_fs_mover_options options = {
        .volume = mount->volume, .client = client, .parts = PARTS, .slow = slow};
    mount->loop = loop;
    return fm_fs_mover_new(&options, &mount->mover);
}

void fm_fs_mount_mover_stop(fm_fs_mount *mount)
{
    fm_fs_mover_free(mount->mover);
    mount->mover = NULL;
}

fm_status fm_fs_mount_fetch(fm_fs_mount *mount, const fm_fs_node *node,
                            const struct fm_fs_volume_piece *pieces, size_t count)
{
    struct batch batch;
    fm_status status = FM_OK;
    // Many pieces are many small holes between pages that are here, which is rare.
    if (!mount->mover || count > FM_FS_CACHE_PIECES)
        return fm_fs_volume_read_pieces(mount->volume, node, pieces, count);
    batch.mover = mount->mover;
    batch.count = batch.left = count;
    batch.task = (fm_net_task){.run = begin, .context = &batch};
    for (size_t i = 0; i < count; i++)
        batch.moves[i] = (fm_fs_move){.ino = node->ino,
                                      .priority = FM_FS_MOVE_NORMAL,
                                      .buffer = pieces[i].into,
                                      .length = pieces[i].size,
                                      .offset = pieces[i].offset,
                                      .done = moved,
                                      .context = &batch,
                                      .looked = 1,
                                      .node = *node};
    sem_init(&batch.over, 0, 0);
    fm_net_loop_post(mount->loop, &batch.task);
    while (sem_wait(&batch.over) != 0)
        ; // a signal came
    sem_destroy(&batch.over);
    for (size_t i = 0; i < count && status == FM_OK; i++)
        status = batch.moves[i].status;
    return status;
}
