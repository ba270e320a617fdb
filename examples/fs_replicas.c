// A cluster of three replicas in one directory, served by a thread, and a batch of chunks written and read through it. In
// life the cluster is another process: fathom fs cluster up DIR.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/file.h"
#include "fathom/fs_cluster.h"

enum { CHUNKS = 4, BYTES = 1 << 16, TIMEOUT_MS = 30000 };

static void *serve(void *context)
{
    fm_status status = fm_fs_cluster_run(context);
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    return NULL;
}

static fm_status use(const char *dir)
{
    static char written[CHUNKS][BYTES];
    static char read[CHUNKS][BYTES];
    fm_fs_chunk_op ops[CHUNKS];
    fm_fs_chunks *chunks;
    FM_TRY(fm_fs_chunks_open(dir, &chunks));
    for (int i = 0; i < CHUNKS; i++) {
        memset(written[i], 'a' + i, BYTES);
        ops[i] = (fm_fs_chunk_op){
            .kind = FM_FS_CHUNK_WRITE, .chain = 1, .id = {(uint8_t)i}, .size = BYTES, .bytes = written[i]};
    }
    fm_status status = fm_fs_chunks_batch(chunks, ops, CHUNKS, TIMEOUT_MS); // durable on all three
    for (int i = 0; i < CHUNKS; i++) {
        ops[i].kind = FM_FS_CHUNK_READ;
        ops[i].into = read[i];
    }
    if (status == FM_OK)
        status = fm_fs_chunks_batch(chunks, ops, CHUNKS, TIMEOUT_MS); // from any of them
    fm_fs_chunks_close(chunks);
    FM_TRY(status);
    if (memcmp(read, written, sizeof read) != 0)
        return fm_base_error_set(FM_ERR_INTERNAL, "what was read is not what was written");
    printf("%d chunks of %d bytes came back, the first with CRC32C %08x\n", CHUNKS, BYTES, ops[0].crc);
    return FM_OK;
}

static fm_status run(const char *dir)
{
    fm_fs_cluster *cluster;
    pthread_t thread;
    FM_TRY(fm_fs_cluster_init(dir, NULL));
    FM_TRY(fm_fs_cluster_up(dir, &cluster));
    fm_status status = FM_OK;
    if (pthread_create(&thread, NULL, serve, cluster) != 0)
        status = fm_base_error_set(FM_ERR_LIMIT, "no thread for the cluster");
    if (status == FM_OK) {
        status = use(dir);
        fm_fs_cluster_stop(cluster);
        pthread_join(thread, NULL);
    }
    fm_fs_cluster_down(cluster);
    return status;
}

int main(void)
{
    char dir[] = "/tmp/fathom-cluster-XXXXXX";
    if (!mkdtemp(dir)) {
        perror(dir);
        return 1;
    }
    fm_status status = run(dir);
    if (status < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    if (fm_base_dir_remove(dir) < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    return status < 0 && status != FM_ERR_UNSUPPORTED; // this build may have no embedded store
}
