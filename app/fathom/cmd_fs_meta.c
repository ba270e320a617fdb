// `fathom fs serve meta`: the names of a cluster for clients elsewhere.
#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#include "cmd_fs.h"
#include "fathom/fs_meta_service.h"

struct meta_options {
    const char *listen, *store, *metrics, *log;
    int64_t threads;
};

#define FIELD(name) offsetof(struct meta_options, name)

static fm_fs_meta_service *running;

static void on_signal(int signal_number)
{
    (void)signal_number;
    fm_fs_meta_service_stop(running); // NOLINT(bugprone-signal-handler): its contract allows it
}

static fm_status run_meta(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct meta_options *options = given;
    const struct sigaction action = {.sa_handler = on_signal};
    const struct sigaction none = {.sa_handler = SIG_IGN};
    const fm_fs_meta_serve_options serve = {.size = sizeof serve,
                                            .listen = options->listen,
                                            .store = options->store,
                                            .threads = (uint32_t)options->threads};
    (void)out_exit;
    FM_TRY(fm_cmd_fs_log_begin(options->log));
    FM_TRY(fm_fs_meta_serve(invocation->operands[0], &serve, &running));
    fm_status status = FM_OK;
    const char *where;
    if (*options->metrics)
        status = fm_fs_meta_service_metrics(running, options->metrics, &where);
    if (status < 0) {
        fm_fs_meta_service_free(running);
        return status;
    }
    if (*options->metrics)
        fm_cmd_fs_say("metrics at http://%s/metrics", where);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    fm_cmd_fs_say("the names are served at %s", fm_fs_meta_service_address(running));
    status = fm_fs_meta_service_run(running);
    // It is ending already; a signal must not find what is being freed.
    sigaction(SIGINT, &none, NULL);
    sigaction(SIGTERM, &none, NULL);
    fm_fs_meta_service_free(running);
    return status;
}

static const fm_option meta_schema[] = {
    {"listen", FM_OPTION_STRING, FIELD(listen), .metavar = "ADDRESS",
     .help = "where, as host:port or unix:PATH; default: unix:DIR/names-socket"},
    {"store", FM_OPTION_STRING, FIELD(store), .metavar = "STORE",
     .help = "the names, as lmdb:DIR or postgresql:CONNINFO; default: what DIR/names.conf says, or "
             "lmdb:DIR/names"},
    {"threads", FM_OPTION_INT, FIELD(threads), .value = "32", .min = 1, .max = 256,
     .help = "transactions at once"},
    FM_CMD_FS_SERVICE_OPTIONS,
    {0},
};

const fm_command fm_cmd_fs_serve_meta = {
    .name = "meta",
    .summary = "serve a cluster's names to clients elsewhere, until a signal",
    .operands = "DIR",
    .details =
        "Any number may serve the same names, each alike: on one machine from one LMDB store, on many from\n"
        "PostgreSQL. A client's directory has the line \"meta:ADDRESS,ADDRESS\" in names.conf; it asks one\n"
        "of them, and another when that one is gone. Who asks is said by a token: see 'fathom fs user'.\n"
        "  fathom fs serve meta /data/cluster --listen 10.0.0.1:7100",
    .options = meta_schema,
    .options_size = sizeof(struct meta_options),
    .operands_min = 1,
    .operands_max = 1,
    .run = run_meta,
};
