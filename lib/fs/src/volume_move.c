#include "volume_move.h"

#include <string.h>

#include "fathom/clock.h"
#include "volume.h"

enum { STREAK = 16 }; // parts of one operation before others of its priority have a turn

struct part {
    fm_fs_client_io io;
    // Where bytes lie with the caller. Its references stay: a call that has just ended drops its own only after done().
    fm_fs_buffer place;
    fm_fs_mover *mover;
    fm_fs_move *move;
    struct part *next; // of those not in use
};

struct line {
    fm_fs_move *first, *last;
};

struct fm_fs_mover {
    fm_fs_mover_options options;
    fm_fs_chunks *chunks; // its own connection, or NULL
    struct part *parts;
    struct part *unused;
    unsigned unused_count;
    unsigned running[FM_FS_MOVE_PRIORITIES];
    struct line lines[FM_FS_MOVE_PRIORITIES];
    int local; // looking up a file waits for nobody, or may
    int pumping, again;
    fm_fs_node seen; // looked up in this turn; ino 0: nothing
};

static void line_push(struct line *line, fm_fs_move *move)
{
    move->next = NULL;
    if (line->first)
        line->last->next = move;
    else
        line->first = move;
    line->last = move;
}

static fm_fs_move *line_pop(struct line *line)
{
    fm_fs_move *move = line->first;
    line->first = move->next;
    return move;
}

fm_status fm_fs_mover_new(const fm_fs_mover_options *options, fm_fs_mover **out_mover)
{
    fm_fs_mover *mover = fm_base_mem_zalloc(1, sizeof *mover);
    if (!mover)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for transfers");
    mover->options = *options;
    const fm_fs_kv *kv = options->volume->kv; // NULL: the names are served elsewhere
    mover->local = !options->gated || (kv && strcmp(fm_fs_kv_engine(kv), "postgresql") != 0);
    mover->parts = fm_base_mem_zalloc(options->parts, sizeof *mover->parts);
    fm_status status =
        mover->parts ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "no memory for %u transfers", options->parts);
    if (status == FM_OK && !options->client)
        status = fm_fs_chunks_open(options->volume->dir, &mover->chunks);
    if (status < 0) {
        fm_base_mem_free(mover->parts);
        fm_base_mem_free(mover);
        return status;
    }
    if (mover->chunks)
        mover->options.client = mover->chunks->client;
    for (unsigned i = 0; i < options->parts; i++) {
        mover->parts[i].mover = mover;
        mover->parts[i].place.refs = 1;
        mover->parts[i].next = mover->unused;
        mover->unused = &mover->parts[i];
    }
    mover->unused_count = options->parts;
    *out_mover = mover;
    return FM_OK;
}

static void leave_gate(fm_fs_mover *mover, fm_fs_move *move)
{
    if (move->known && mover->options.gated)
        fm_fs_volume_exit(mover->options.volume, move->ino);
    move->known = 0;
}

fm_net_loop *fm_fs_mover_loop(fm_fs_mover *mover)
{
    return mover->chunks ? fm_fs_host_loop(mover->chunks->host) : NULL;
}

void fm_fs_mover_free(fm_fs_mover *mover)
{
    if (!mover)
        return;
    fm_fs_chunks_close(mover->chunks);
    for (unsigned i = 0; i < mover->options.parts; i++) {
        struct part *part = &mover->parts[i];
        if (part->move && --part->move->parts == 0)
            leave_gate(mover, part->move);
        if (part->move && part->io.data != &part->place)
            fm_fs_buffer_drop(part->io.data);
    }
    for (int priority = FM_FS_MOVE_HIGH; priority <= FM_FS_MOVE_LOW; priority++)
        for (fm_fs_move *move = mover->lines[priority].first; move; move = move->next)
            leave_gate(mover, move);
    fm_base_mem_free(mover->parts);
    fm_base_mem_free(mover);
}

/* What a part did */

// What a read brought; what it did not bring is zeros, or a hole.
static fm_status take_bytes(struct part *part)
{
    fm_fs_move *move = part->move;
    fm_fs_client_io *io = &part->io;
    uint8_t *to = part->place.data;
    size_t got = io->bytes ? io->bytes->size : 0;
    if (got && io->bytes != &part->place)
        memcpy(to, io->bytes->data, got);
    fm_fs_buffer_drop(io->bytes);
    if (got == io->size)
        return FM_OK;
    if (move->flags & FM_FS_MOVE_WHOLE)
        return fm_base_error_set(FM_ERR_STATE, "inode %llu has a hole there", (unsigned long long)move->ino);
    memset(to + got, 0, io->size - got);
    move->hole = 1;
    return FM_OK;
}

// Whether nobody cut the file so that it matters to what was moved; as far as that can be known without waiting.
static int is_settled(const fm_fs_mover *mover, const fm_fs_move *move)
{
    fm_fs_node now;
    if (move->status < 0 || !move->span || (!move->writes && !move->hole))
        return 1;
    if (!mover->local || fm_fs_meta_node(mover->options.volume->meta, move->ino, &now) < 0)
        return 0;
    return move->writes ? fm_fs_cut_is_settled(&move->node, &now, move->offset + move->span)
                        : !fm_fs_cut_between(&move->node, &now);
}

void fm_fs_move_carry_out(fm_fs_volume *volume, fm_fs_move *move)
{
    move->moved = 0;
    if (!move->writes)
        move->status =
            fm_fs_volume_read(volume, move->ino, move->buffer, move->length, move->offset, &move->moved);
    else if (move->unsettled)
        move->status = fm_fs_volume_written(volume, &move->node, move->offset + move->length);
    else
        move->status = fm_fs_volume_write(volume, move->ino, move->buffer, move->length, move->offset);
    if (move->writes && move->status == FM_OK)
        move->moved = move->length;
}

static void end(fm_fs_mover *mover, fm_fs_move *move)
{
    leave_gate(mover, move);
    if (!is_settled(mover, move)) {
        move->unsettled = 1;
        mover->options.slow(mover->options.context, move);
        return;
    }
    move->moved = move->status == FM_OK ? move->span : 0;
    move->done(move);
}

static void part_done(fm_fs_client_io *io)
{
    struct part *part = io->context;
    fm_fs_mover *mover = part->mover;
    fm_fs_move *move = part->move;
    fm_status status = io->status;
    if (status < 0)
        status = fm_base_error_set(status, "inode %llu on chain %u: %s", (unsigned long long)move->ino,
                                   io->chain, fm_base_status_text(status));
    else if (!move->writes)
        status = take_bytes(part);
    if (move->status == FM_OK)
        move->status = status;
    if (move->writes && io->data != &part->place)
        fm_fs_buffer_drop(io->data);
    part->move = NULL;
    part->next = mover->unused;
    mover->unused = part;
    mover->unused_count++;
    mover->running[move->priority]--;
    // One that failed begins no further parts: it is not in line any more, or leaves it at its turn.
    if (--move->parts == 0 && move->begun == move->span)
        end(mover, move);
    fm_fs_mover_pump(mover);
}

/* Beginning */

static fm_status lay_out(struct part *part, size_t size)
{
    const fm_fs_move *move = part->move;
    fm_fs_client_io *io = &part->io;
    uint8_t *at = move->buffer + move->begun;
    part->place.data = at;
    part->place.size = part->place.room = size;
    part->place.summed = 0;
    if (!move->writes) {
        if (!(move->flags & FM_FS_MOVE_COPY))
            io->into = &part->place;
        return FM_OK;
    }
    io->data = &part->place;
    if (move->flags & FM_FS_MOVE_COPY) {
        io->data = fm_fs_buffer_new(size);
        if (!io->data)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu bytes of a chunk", size);
        memcpy(io->data->data, at, size);
    }
    return FM_OK;
}

static void begin_part(fm_fs_mover *mover, fm_fs_move *move)
{
    struct part *part = mover->unused;
    const uint64_t chunk = move->node.layout.chunk_bytes;
    uint64_t at = move->offset + move->begun;
    size_t size = chunk - at % chunk < move->span - move->begun ? (size_t)(chunk - at % chunk)
                                                                : move->span - move->begun;
    part->move = move;
    part->io = (fm_fs_client_io){.kind = move->writes ? FM_FS_CLIENT_WRITE : FM_FS_CLIENT_READ,
                                 .offset = (uint32_t)(at % chunk),
                                 .size = (uint32_t)size,
                                 .timeout_ns = mover->options.volume->options.timeout_ms * 1000000,
                                 .done = part_done,
                                 .context = part};
    fm_fs_meta_chunk(&move->node, (uint32_t)(at / chunk), &part->io.chain, part->io.id.bytes);
    fm_status status = lay_out(part, size);
    if (status < 0) {
        part->move = NULL;
        move->status = status;
        move->begun = move->span;
        return;
    }
    mover->unused = part->next;
    mover->unused_count--;
    mover->running[move->priority]++;
    move->parts++;
    move->begun += size;
    fm_fs_client_start(mover->options.client, &part->io);
}

// Whether the write can go to chunks as the file is.
static int has_place(const fm_fs_move *move)
{
    int64_t now = (int64_t)fm_base_clock_unix_ns();
    return !(move->node.flags & FM_FS_NODE_INLINE) && move->offset + move->length <= move->node.size &&
           now <= move->node.mtime_ns + FM_FS_VOLUME_TOUCH_NS && now >= move->node.mtime_ns;
}

static fm_status look_up(fm_fs_mover *mover, fm_fs_move *move)
{
    fm_fs_meta *meta = mover->options.volume->meta;
    size_t read = 0;
    if (move->looked)
        move->looked = 0;
    else if (mover->seen.ino == move->ino)
        move->node = mover->seen;
    else if (move->writes)
        FM_TRY(fm_fs_meta_node(meta, move->ino, &move->node));
    else
        FM_TRY(fm_fs_meta_inline_read(meta, move->ino, move->offset, move->buffer, move->length, &read,
                                      &move->node));
    const fm_fs_node *node = &move->node;
    uint64_t left = move->offset < node->size ? node->size - move->offset : 0;
    move->span = !move->writes && left < move->length ? (size_t)left : move->length;
    if (node->flags & FM_FS_NODE_INLINE) {
        move->begun = move->span = read;
        return FM_OK;
    }
    mover->seen = *node;
    if (move->span && (move->offset + move->span - 1) / node->layout.chunk_bytes > UINT32_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "byte %llu of a file with chunks of %u bytes",
                                 (unsigned long long)(move->offset + move->span - 1),
                                 node->layout.chunk_bytes);
    return FM_OK;
}

// What can be known of the operation before its parts begin. 0: it is not this mover's any more.
static int open_move(fm_fs_mover *mover, fm_fs_move *move)
{
    fm_fs_volume *volume = mover->options.volume;
    move->status = FM_OK;
    move->begun = move->span = 0;
    move->parts = 0;
    move->hole = 0;
    if (move->cancelled) {
        move->status = FM_ERR_CANCELLED;
        return 1;
    }
    move->known =
        (mover->local || move->looked) && (!mover->options.gated || fm_fs_volume_try(volume, move->ino));
    if (move->known)
        move->status = look_up(mover, move);
    if (!move->known || (move->status == FM_OK && move->writes && !has_place(move))) {
        leave_gate(mover, move);
        move->slowed++;
        mover->options.slow(mover->options.context, move);
        return 0;
    }
    if (move->status < 0)
        move->begun = move->span;
    return 1;
}

// Parts of this priority leave those alone that are kept for others.
static int has_room(const fm_fs_mover *mover, enum fm_fs_move_priority priority)
{
    unsigned kept = 0;
    for (int other = FM_FS_MOVE_HIGH; other <= FM_FS_MOVE_LOW; other += FM_FS_MOVE_LOW)
        if (other != (int)priority && mover->running[other] < mover->options.reserved)
            kept += mover->options.reserved - mover->running[other];
    if (priority != FM_FS_MOVE_NORMAL && mover->running[priority] < mover->options.reserved)
        return mover->unused_count > 0;
    return mover->unused_count > kept;
}

// The first in line begins some of its parts. 0: there is no room.
static int turn(fm_fs_mover *mover, enum fm_fs_move_priority priority)
{
    struct line *line = &mover->lines[priority];
    if (!has_room(mover, priority))
        return 0;
    fm_fs_move *move = line_pop(line);
    if (!move->known && !open_move(mover, move))
        return 1;
    for (int i = 0;
         i < STREAK && move->begun < move->span && move->status == FM_OK && has_room(mover, priority); i++)
        begin_part(mover, move);
    if (move->status < 0)
        move->begun = move->span;
    if (move->begun < move->span)
        line_push(line, move);
    else if (!move->parts)
        end(mover, move);
    return 1;
}

void fm_fs_mover_add(fm_fs_mover *mover, fm_fs_move *move)
{
    move->known = 0;
    mover->seen.ino = 0; // what is looked up for it is what was there after this
    line_push(&mover->lines[move->priority], move);
}

void fm_fs_mover_pump(fm_fs_mover *mover)
{
    if (mover->pumping) { // an operation that ended has added another
        mover->again = 1;
        return;
    }
    mover->pumping = 1;
    do {
        mover->again = 0;
        mover->seen.ino = 0;
        for (int priority = FM_FS_MOVE_HIGH; priority <= FM_FS_MOVE_LOW; priority++)
            while (mover->lines[priority].first && turn(mover, (enum fm_fs_move_priority)priority))
                ;
    } while (mover->again);
    mover->pumping = 0;
}
