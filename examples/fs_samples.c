// A dataset of two files whose samples are read ahead in the order that a sampler names.
//
//     fs_samples [DIR]      DIR is made when it is missing; default fs-samples
#include <stdio.h>

#include "fathom/fs_dataset.h"

enum { SAMPLES = 1000, SAMPLE_BYTES = 64, FILE_BYTES = 1 << 16 };

struct sampler {
    int left;
    unsigned seed;
};

// What comes next: here anything, in a trainer the place in a shuffled epoch.
static size_t next_samples(void *context, fm_fs_sample *samples, size_t max)
{
    struct sampler *sampler = context;
    size_t count = 0;
    for (; count < max && sampler->left > 0; count++, sampler->left--) {
        sampler->seed = sampler->seed * 1664525u + 1013904223u;
        samples[count] = (fm_fs_sample){.file = sampler->seed >> 31,
                                        .offset = (sampler->seed >> 8) % (FILE_BYTES - SAMPLE_BYTES),
                                        .length = SAMPLE_BYTES};
    }
    return count;
}

static fm_status make(fm_fs *fs)
{
    static const char *const names[] = {"a.bin", "b.bin"};
    static unsigned char bytes[FILE_BYTES];
    for (int file = 0; file < 2; file++) {
        for (size_t i = 0; i < sizeof bytes; i++)
            bytes[i] = (unsigned char)((size_t)file + i * 7);
        FM_TRY(fm_fs_write_all(fs, names[file], bytes, sizeof bytes, 0));
    }
    return fm_fs_manifest_write(fs, "manifest", names, 2);
}

static fm_status read_all(fm_fs *fs)
{
    struct sampler sampler = {SAMPLES, 1};
    fm_fs_dataset *dataset;
    fm_fs_stream *stream;
    const fm_fs_sample *sample = NULL;
    const void *bytes;
    int wrong = 0;
    FM_TRY(fm_fs_dataset_open(fs, "manifest", 16, &dataset));
    fm_status status = fm_fs_stream_open(dataset, next_samples, &sampler, NULL, &stream);
    if (status == FM_OK) {
        while ((status = fm_fs_stream_next(stream, &sample, &bytes)) == FM_OK && sample)
            wrong += *(const unsigned char *)bytes != (unsigned char)(sample->file + sample->offset * 7);
        fm_fs_stream_counts counts;
        fm_fs_stream_count(stream, &counts);
        printf("%llu samples, %d wrong\n", (unsigned long long)counts.samples, wrong);
        fm_fs_stream_close(stream);
    }
    fm_fs_dataset_close(dataset);
    return wrong ? fm_base_error_set(FM_ERR_INTERNAL, "%d samples are wrong", wrong) : status;
}

int main(int argc, char **argv)
{
    fm_fs *fs;
    fm_status status = fm_fs_open(argc > 1 ? argv[1] : "fs-samples", FM_FS_CREATE, &fs);
    if (status == FM_OK) {
        status = make(fs);
        if (status == FM_OK)
            status = read_all(fs);
        fm_fs_close(fs);
    }
    if (status < 0)
        fprintf(stderr, "fs_samples: %s\n", fm_error_message());
    return status < 0;
}
