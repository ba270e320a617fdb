// The names: durable creates by many clients at once, against those of one, where the store is and through a service.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "bench_fs.h"
#include "fathom/fs_meta_service.h"
#include "fathom/mem.h"
#include "fathom/net.h"
#include "meta_service_private.h"

enum { CLIENTS = 32, CREATES = 3 }; // of each client in a run

struct bench_names {
    char folder[FM_BENCH_FS_PATH];
    fm_fs_kv *kv;
    fm_fs_meta *store, *asked; // asked: what the clients have
    fm_fs_meta_service *service;
    pthread_t thread;
    uint64_t dirs[CLIENTS];
    uint64_t runs;
    fm_status status[CLIENTS];
};

struct client {
    struct bench_names *bench;
    int index;
};

static fm_status create_files(const struct bench_names *bench, int client, int round)
{
    char name[64];
    fm_fs_node node;
    for (int i = 0; i < CREATES; i++) {
        snprintf(name, sizeof name, "%llu-%d-%d", (unsigned long long)bench->runs, round, i);
        FM_TRY(fm_fs_meta_create(bench->asked, NULL, bench->dirs[client], name, S_IFREG | 0644, 0, 1, &node,
                                 NULL));
    }
    return FM_OK;
}

static void *run_client(void *context)
{
    const struct client *client = context;
    client->bench->status[client->index] = create_files(client->bench, client->index, 0);
    return NULL;
}

static fm_status run_together(void *state, int threads)
{
    struct bench_names *bench = state;
    pthread_t started[CLIENTS];
    struct client clients[CLIENTS];
    fm_status status = FM_OK;
    int count = 0;
    (void)threads;
    bench->runs++;
    for (; count < CLIENTS; count++) {
        clients[count] = (struct client){bench, count};
        if (pthread_create(&started[count], NULL, run_client, &clients[count]) != 0)
            break;
    }
    for (int i = 0; i < count; i++) {
        pthread_join(started[i], NULL);
        status = status ? status : bench->status[i];
    }
    return count == CLIENTS ? status : fm_base_error_set(FM_ERR_LIMIT, "no thread for client %d", count);
}

// The same files, by one client after the other's fashion: each create is durable before the next begins.
static fm_status run_alone(void *state, int threads)
{
    struct bench_names *bench = state;
    fm_status status = FM_OK;
    (void)threads;
    bench->runs++;
    for (int round = 0; round < CLIENTS && status == FM_OK; round++)
        status = create_files(bench, round, round);
    return status;
}

static void *serve(void *context)
{
    struct bench_names *bench = context;
    if (fm_fs_meta_service_run(bench->service) < 0)
        fprintf(stderr, "%s\n", fm_error_message());
    return NULL;
}

static void teardown(void *state)
{
    struct bench_names *bench = state;
    if (!bench)
        return;
    if (bench->asked != bench->store)
        fm_fs_meta_close(bench->asked);
    if (bench->service) {
        fm_fs_meta_service_stop(bench->service);
        pthread_join(bench->thread, NULL);
        fm_fs_meta_service_free(bench->service);
    }
    fm_fs_meta_close(bench->store);
    fm_fs_kv_close(bench->kv);
    fm_bench_fs_folder_remove(bench->folder);
    fm_base_mem_free(bench);
}

static fm_status start_service(struct bench_names *bench)
{
    static const fm_net_key cluster = {.secret = "a benchmark's secret, 32 bytes."};
    char address[600];
    char token[FM_FS_TOKEN_BYTES];
    fm_net_key key;
    snprintf(address, sizeof address, "unix:%s/socket", bench->folder);
    fm_fs_meta_key_derive(&cluster, &key);
    fm_fs_meta_admin_token(&cluster, token);
    FM_TRY(fm_fs_meta_service_new(bench->store, &cluster, address, 0, NULL, &bench->service));
    if (pthread_create(&bench->thread, NULL, serve, bench) != 0) {
        fm_fs_meta_service_free(bench->service);
        bench->service = NULL;
        return fm_base_error_set(FM_ERR_LIMIT, "no thread for the service");
    }
    const fm_fs_meta_connect_options options = {
        .size = sizeof options, .servers = address, .key = &key, .token = token};
    return fm_fs_meta_connect(&options, &bench->asked);
}

static fm_status prepare(struct bench_names *bench, int service)
{
    char spec[600];
    FM_TRY(fm_bench_fs_folder(bench->folder));
    snprintf(spec, sizeof spec, "lmdb:%s/names", bench->folder);
    FM_TRY(fm_fs_kv_open(spec, NULL, &bench->kv));
    FM_TRY(fm_fs_meta_open(bench->kv, NULL, &bench->store));
    bench->asked = bench->store;
    for (int i = 0; i < CLIENTS; i++) {
        char name[16];
        fm_fs_node node;
        snprintf(name, sizeof name, "d%d", i);
        FM_TRY(
            fm_fs_meta_create(bench->store, NULL, FM_FS_META_ROOT, name, S_IFDIR | 0755, 0, 1, &node, NULL));
        bench->dirs[i] = node.ino;
    }
    return service ? start_service(bench) : FM_OK;
}

static fm_status setup(const fm_bench_setup *given, void **out_state)
{
    struct bench_names *bench = fm_base_mem_zalloc(1, sizeof *bench);
    if (!bench)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the case");
    fm_status status = prepare(bench, given->argument != NULL);
    if (status < 0) {
        teardown(bench);
        return status == FM_ERR_UNSUPPORTED ? FM_ERR_UNAVAILABLE : status;
    }
    *out_state = bench;
    return FM_OK;
}

fm_status fm_bench_fs_names_cases(fm_bench *bench)
{
    static const char *const names[] = {"names.create.32", "names.service.create.32"};
    for (int i = 0; i < 2; i++)
        FM_TRY(fm_bench_add(
            bench, &(fm_bench_case){
                       .name = names[i],
                       .argument = i ? names[i] : NULL,
                       .items = (double)CLIENTS * CREATES,
                       .clock = FM_BENCH_WALL,
                       .threads = 1, // as the harness counts; the clients are the case's own
                       .setup = setup,
                       .before = fm_bench_fs_nothing_before, // each run makes files anew, so runs stay few
                       .run = run_together,
                       .teardown = teardown,
                       .peers = {{.name = "one_client", .run = run_alone}},
                       .goals = {{FM_BENCH_RATIO, .peer = "one_client", .must = 4}},
                   }));
    return FM_OK;
}
