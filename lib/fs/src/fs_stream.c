// Samples in their sampler's order, read ahead: a ring of places, filled from one end and emptied from the other.
#include <stdio.h>

#include "fathom/clock.h"
#include "fathom/mem.h"
#include "fs_dataset_private.h"

enum { AHEAD = 64, AHEAD_MAX = 4096, AT_ONCE = 64 };

static const size_t bytes_ahead = (size_t)64 << 20;

struct place {
    fm_fs_sample sample;
    void *buffer; // of `capacity` bytes, kept for the next sample
    size_t capacity;
    int there;
};

struct fm_fs_stream {
    fm_fs_dataset *dataset;
    fm_fs_queue *queue;
    fm_fs_sampler sampler;
    void *context;
    size_t bytes_max;
    struct place *places;
    fm_fs_io *ios; // of the places: those of neighbours are submitted together
    size_t ahead, first, count;
    size_t bytes; // of all places in use
    int taken;    // the first place's sample is with the taker
    fm_fs_sample next;
    int has_next, ended;
    fm_status status;  // a failure that was told, and stays
    fm_status filling; // one that is told when what was read before it has been taken
    char message[512];
    uint64_t named; // samples that the sampler has named
    fm_fs_stream_counts counts;
};

static size_t place_at(const fm_fs_stream *stream, size_t i)
{
    return (stream->first + i) % stream->ahead;
}

/* Filling */

static fm_status look_ahead(fm_fs_stream *stream)
{
    if (stream->has_next || stream->ended)
        return FM_OK;
    if (stream->sampler(stream->context, &stream->next, 1) != 1) {
        stream->ended = 1;
        return FM_OK;
    }
    const fm_fs_sample *sample = &stream->next;
    FM_TRY(fm_fs_dataset_check(stream->dataset, "sample", stream->named++, sample->file, sample->offset,
                               sample->length));
    stream->has_next = 1;
    return FM_OK;
}

static int has_room(const fm_fs_stream *stream)
{
    const fm_fs_dataset *dataset = stream->dataset;
    const fm_fs_sample *sample = &stream->next;
    if (stream->count == stream->ahead)
        return 0;
    if (stream->count &&
        (stream->bytes > stream->bytes_max || sample->length > stream->bytes_max - stream->bytes))
        return 0;
    // Its file takes the place of one that nobody reads.
    return dataset->slots[sample->file].handle || !fm_fs_dataset_is_full(dataset) ||
           !fm_fs_dataset_oldest(dataset)->in_flight;
}

static fm_status prepare(fm_fs_stream *stream)
{
    size_t at = place_at(stream, stream->count);
    struct place *place = &stream->places[at];
    const fm_fs_sample *sample = &stream->next;
    struct fm_fs_dataset_slot *slot = &stream->dataset->slots[sample->file];
    if (!place->buffer || place->capacity < sample->length) {
        fm_base_mem_free(place->buffer);
        place->capacity = 0;
        place->buffer = fm_base_mem_alloc(sample->length ? sample->length : 1);
        if (!place->buffer)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for a sample of %zu bytes", sample->length);
        place->capacity = sample->length;
    }
    if (!slot->handle)
        FM_TRY(fm_fs_dataset_take(stream->dataset, sample->file));
    slot->in_flight++;
    place->sample = *sample;
    place->there = 0;
    stream->ios[at] = (fm_fs_io){.kind = FM_FS_IO_READ,
                                 .file = slot->handle,
                                 .buffer = place->buffer,
                                 .length = sample->length,
                                 .offset = sample->offset};
    stream->bytes += sample->length;
    stream->count++;
    stream->has_next = 0;
    return FM_OK;
}

// Names what was prepared from the place `begin` on to the queue, in the runs that the ring makes of it.
static fm_status submit(fm_fs_stream *stream, size_t begin, size_t count)
{
    size_t at = place_at(stream, begin);
    size_t straight = count < stream->ahead - at ? count : stream->ahead - at;
    if (straight)
        FM_TRY(fm_fs_queue_submit(stream->queue, &stream->ios[at], straight));
    return count > straight ? fm_fs_queue_submit(stream->queue, stream->ios, count - straight) : FM_OK;
}

static fm_status fill_places(fm_fs_stream *stream)
{
    size_t begin = stream->count;
    fm_status status = look_ahead(stream);
    while (status == FM_OK && stream->has_next && has_room(stream)) {
        status = prepare(stream);
        if (status == FM_OK)
            status = look_ahead(stream);
    }
    fm_status submitted = submit(stream, begin, stream->count - begin);
    return status < 0 ? status : submitted;
}

// Not for every place that became free: reads that are named together cost less.
static void fill(fm_fs_stream *stream)
{
    if (stream->filling < 0 || stream->count > stream->ahead - stream->ahead / 4)
        return;
    stream->filling = fill_places(stream);
    if (stream->filling < 0)
        snprintf(stream->message, sizeof stream->message, "%s", fm_error_message());
}

/* Taking */

static fm_status collect(fm_fs_stream *stream, size_t min)
{
    fm_fs_io *done[AT_ONCE];
    size_t count;
    FM_TRY(fm_fs_queue_wait(stream->queue, min, min ? -1 : 0, done, AT_ONCE, &count));
    for (size_t i = 0; i < count; i++) {
        struct place *place = &stream->places[done[i] - stream->ios];
        stream->dataset->slots[place->sample.file].in_flight--;
        place->there = 1;
    }
    return FM_OK;
}

static void give_back(fm_fs_stream *stream)
{
    if (!stream->taken)
        return;
    stream->bytes -= stream->places[stream->first].sample.length;
    stream->first = place_at(stream, 1);
    stream->count--;
    stream->taken = 0;
}

static fm_status wait_for_first(fm_fs_stream *stream)
{
    const struct place *place = &stream->places[stream->first];
    if (!place->there)
        FM_TRY(collect(stream, 0));
    if (place->there)
        return FM_OK;
    uint64_t begin = fm_base_clock_ns();
    fm_status status = FM_OK;
    while (status == FM_OK && !place->there)
        status = collect(stream, 1);
    stream->counts.waits++;
    stream->counts.wait_ns += fm_base_clock_ns() - begin;
    return status;
}

static fm_status next(fm_fs_stream *stream, const fm_fs_sample **out_sample, const void **out_bytes)
{
    give_back(stream);
    fill(stream);
    if (!stream->count && stream->filling < 0)
        return fm_base_error_set(stream->filling, "%s", stream->message);
    if (!stream->count) {
        *out_sample = NULL;
        return FM_OK;
    }
    const struct place *place = &stream->places[stream->first];
    const fm_fs_io *io = &stream->ios[stream->first];
    FM_TRY(wait_for_first(stream));
    FM_TRY(io->status);
    if (io->done < place->sample.length) // cut short since it was opened
        return fm_fs_dataset_changed(stream->dataset, place->sample.file, place->sample.offset + io->done);
    stream->taken = 1;
    stream->counts.samples++;
    stream->counts.bytes += place->sample.length;
    *out_sample = &place->sample;
    *out_bytes = place->buffer;
    return FM_OK;
}

fm_status fm_fs_stream_next(fm_fs_stream *stream, const fm_fs_sample **out_sample, const void **out_bytes)
{
    if (stream->status < 0)
        return fm_base_error_set(stream->status, "the stream has failed before");
    stream->status = next(stream, out_sample, out_bytes);
    return stream->status;
}

/* Life */

static fm_status start(fm_fs_stream *stream)
{
    stream->places = fm_base_mem_zalloc(stream->ahead, sizeof *stream->places);
    stream->ios = fm_base_mem_zalloc(stream->ahead, sizeof *stream->ios);
    if (!stream->places || !stream->ios)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for %zu samples ahead", stream->ahead);
    FM_TRY(fm_fs_queue_open(stream->dataset->fs, (unsigned)stream->ahead, &stream->queue));
    fill(stream);
    return FM_OK;
}

fm_status fm_fs_stream_open(fm_fs_dataset *dataset, fm_fs_sampler sampler, void *context,
                            const fm_fs_stream_options *options, fm_fs_stream **out_stream)
{
    if (!sampler || (options && (options->size != sizeof *options || options->samples_ahead > AHEAD_MAX)))
        return fm_base_error_set(
            FM_ERR_ARG, "sampler is %s, options->size %zu, samples_ahead %u; expected one, %zu, at most %d",
            sampler ? "given" : "NULL", options ? options->size : 0, options ? options->samples_ahead : 0,
            sizeof *options, AHEAD_MAX);
    if (dataset->streaming)
        return fm_base_error_set(FM_ERR_STATE, "another stream of the dataset is open");
    fm_fs_stream *stream = fm_base_mem_zalloc(1, sizeof *stream);
    if (!stream)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a stream");
    stream->dataset = dataset;
    stream->sampler = sampler;
    stream->context = context;
    stream->ahead = options && options->samples_ahead ? options->samples_ahead : AHEAD;
    stream->bytes_max = options && options->bytes_ahead ? options->bytes_ahead : bytes_ahead;
    dataset->streaming = 1;
    fm_status status = start(stream);
    if (status < 0) {
        fm_fs_stream_close(stream);
        return status;
    }
    *out_stream = stream;
    return FM_OK;
}

void fm_fs_stream_close(fm_fs_stream *stream)
{
    if (!stream)
        return;
    fm_fs_queue_close(stream->queue); // nothing is read into the buffers any more
    for (size_t i = 0; i < stream->count; i++)
        stream->dataset->slots[stream->places[place_at(stream, i)].sample.file].in_flight = 0;
    for (size_t i = 0; stream->places && i < stream->ahead; i++)
        fm_base_mem_free(stream->places[i].buffer);
    stream->dataset->streaming = 0;
    fm_base_mem_free(stream->ios);
    fm_base_mem_free(stream->places);
    fm_base_mem_free(stream);
}

void fm_fs_stream_count(const fm_fs_stream *stream, fm_fs_stream_counts *out_counts)
{
    *out_counts = stream->counts;
}
