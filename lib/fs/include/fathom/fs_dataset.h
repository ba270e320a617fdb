/**
 * @file fs_dataset.h
 * Datasets: a fixed list of files, opened once, then read at random, many ranges at a time.
 *
 *     fm_fs_dataset *data;
 *     FM_TRY(fm_fs_manifest_write(fs, "corpus/train.manifest", names, count));   // once
 *     FM_TRY(fm_fs_dataset_open(fs, "corpus/train.manifest", 64, &data));        // in every reader
 *     fm_fs_range ranges[32] = {{.file = 3, .offset = 8192, .length = 4096, .buffer = sample}, ...};
 *     FM_TRY(fm_fs_dataset_read(data, ranges, 32));
 *     fm_fs_dataset_close(data);
 *
 * The manifest names files in the directory that it lies in, or below, and gives their sizes. The number of
 * a file is its place in the manifest, so a sample is (file, offset, length) for everyone who reads the
 * same manifest. A dataset must not change after its manifest was written; a file whose size has changed is
 * an error. The whole directory can be moved or copied.
 *
 * Files are opened at their first read and stay open; at most 256, or the depth if that is more, are open
 * at once, and the one opened first makes room: datasets of many more files pay an open for most reads. A
 * dataset belongs to one thread at a time, like its queue: readers open one each. Errors are those of fs.h
 * and what is said here.
 */
#ifndef FATHOM_FS_DATASET_H
#define FATHOM_FS_DATASET_H

#include "fathom/fs.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_fs_dataset fm_fs_dataset;

/**
 * Writes a manifest of `count` files (at least 1), atomically and durably. `names` are relative to the
 * directory of `manifest`, in the order of their numbers. FM_ERR_NOT_FOUND, FM_ERR_FS_IS_DIR: one is not a
 * file.
 */
FM_API FM_MUST_USE fm_status fm_fs_manifest_write(fm_fs *fs, const char *manifest, const char *const *names,
                                                  size_t count);

/** Opens the dataset of a manifest; up to `depth` (1 to 4096) reads are in flight at once. FM_ERR_FORMAT:
 *  not a manifest, cut short or damaged; FM_ERR_VERSION: written by a newer library; FM_ERR_LIMIT: larger
 *  than 1 GiB. */
FM_API FM_MUST_USE fm_status fm_fs_dataset_open(fm_fs *fs, const char *manifest, unsigned depth,
                                                fm_fs_dataset **out_dataset);
/** Closes it with its files; NULL is allowed. */
FM_API void fm_fs_dataset_close(fm_fs_dataset *dataset);

/** Number of files. */
FM_API size_t fm_fs_dataset_count(const fm_fs_dataset *dataset);
/** Bytes of file `file`; 0 outside the list. */
FM_API uint64_t fm_fs_dataset_size(const fm_fs_dataset *dataset, size_t file);
/** Name of file `file` relative to the manifest's directory, owned by the dataset; NULL outside the list. */
FM_API const char *fm_fs_dataset_name(const fm_fs_dataset *dataset, size_t file);

/** A part of a file, and where it goes. */
typedef struct fm_fs_range {
    size_t file;
    uint64_t offset;
    size_t length;
    void *buffer; /**< `length` bytes */
} fm_fs_range;

/**
 * Reads all ranges, in no particular order, and returns when all are there. FM_ERR_ARG: a range goes beyond
 * its file (the message gives its index; nothing is read). FM_ERR_STATE: a file is not as long as the
 * manifest says. After a failure the buffers hold anything.
 */
FM_API FM_MUST_USE fm_status fm_fs_dataset_read(fm_fs_dataset *dataset, const fm_fs_range *ranges,
                                                size_t count);

/*
 * Streams: samples in the order of a sampler, read ahead of who takes them
 *
 *     fm_fs_stream *stream;
 *     FM_TRY(fm_fs_stream_open(data, next_samples, &my_sampler, NULL, &stream));
 *     while (fm_fs_stream_next(stream, &sample, &bytes) == FM_OK && sample)
 *         train_on(bytes, sample->length);
 *
 * The order is the sampler's, so nothing is guessed: what it says next is what is read next, as far ahead as memory is given.
 */

/** A part of a file, in the order in which it is wanted. */
typedef struct fm_fs_sample {
    size_t file;
    uint64_t offset;
    size_t length;
    uint64_t tag; /**< the sampler's; comes back with the sample */
} fm_fs_sample;

/** Writes up to `max` samples, those that come next, and returns how many; 0: there are no more. Called by
 *  fm_fs_stream_open() and fm_fs_stream_next(). */
typedef size_t (*fm_fs_sampler)(void *context, fm_fs_sample *samples, size_t max);

/** Zero it and set `size`; what is 0 has its default. */
typedef struct fm_fs_stream_options {
    size_t size;
    uint32_t samples_ahead; /**< at most 4096. 64 */
    size_t bytes_ahead; /**< of samples that were asked for and not taken. One sample may be more. 64 MiB */
} fm_fs_stream_options;

typedef struct fm_fs_stream fm_fs_stream;

/** Begins to read. While it is open the dataset reads nothing else (FM_ERR_STATE). `options` may be NULL. */
FM_API FM_MUST_USE fm_status fm_fs_stream_open(fm_fs_dataset *dataset, fm_fs_sampler sampler, void *context,
                                               const fm_fs_stream_options *options,
                                               fm_fs_stream **out_stream);
/** The next sample; `*out_sample` is NULL when there are no more. Both are valid until the next call. FM_ERR_ARG: the sampler
 *  named a part that is in no file. A failure is final. */
FM_API FM_MUST_USE fm_status fm_fs_stream_next(fm_fs_stream *stream, const fm_fs_sample **out_sample,
                                               const void **out_bytes);
/** Closes it; NULL is allowed. Before the dataset. */
FM_API void fm_fs_stream_close(fm_fs_stream *stream);

/** What a stream has given, and how often it let its taker wait. */
typedef struct fm_fs_stream_counts {
    uint64_t samples, bytes;
    uint64_t waits; /**< samples that were not there yet when they were asked for */
    uint64_t wait_ns;
} fm_fs_stream_counts;
FM_API void fm_fs_stream_count(const fm_fs_stream *stream, fm_fs_stream_counts *out_counts);

#ifdef __cplusplus
}
#endif
#endif
