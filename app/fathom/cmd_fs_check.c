// `fathom fs fsck|quota`: whether a cluster's names are sound, and how much may lie below a directory.
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#include "cmd_fs.h"
#include "cmd_fs_place.h"
#include "fathom/file.h"
#include "fathom/fs_cluster.h"
#include "fathom/mem.h"
#include "fathom/text.h"

/* fsck */

enum { RECOVER_MS = 30000 }; // for a part of a chunk

struct fsck_options {
    int chunks, repair, newer;
    const char *recover;
};

static const fm_option fsck_schema[] = {
    {"chunks", FM_OPTION_FLAG, offsetof(struct fsck_options, chunks), .value = "false",
     .help = "look for chunks that no file owns as well; the cluster has to be up"},
    {"repair", FM_OPTION_FLAG, offsetof(struct fsck_options, repair), .value = "false",
     .help = "and remove them, but none that may have been written after the backup that the names were "
             "restored from"},
    {"remove-newer", FM_OPTION_FLAG, offsetof(struct fsck_options, newer), .value = "false",
     .help = "with --repair: those as well"},
    {"recover", FM_OPTION_STRING, offsetof(struct fsck_options, recover), .metavar = "DIR",
     .help = "copy chunks that no file owns into files of this directory: NUMBER.INDEX"},
    {0},
};

struct check {
    fm_json json;
    int as_json;
    uint64_t chunks, orphans, newer, recovered;
    const char *into; // a directory, or NULL
    fm_fs_chunks *from;
    fm_status status; // of copying
};

static void tell(void *context, const char *text)
{
    struct check *check = context;
    if (check->as_json)
        fm_base_json_string(&check->json, NULL, text);
    else
        printf("%s\n", text);
}

// The chunk's bytes become a file named by the number of the file that it was of and by its place there.
static fm_status recover(struct check *check, uint32_t chain, const uint8_t *id)
{
    enum { PIECE = 1 << 20 };
    char path[4096];
    fm_file_draft draft;
    uint64_t number = 0;
    uint32_t index = 0;
    uint32_t done = 0;
    uint32_t got = PIECE;
    for (int i = 2; i < 10; i++)
        number = number << 8 | id[i];
    for (int i = 12; i < FM_FS_CHUNK_ID_BYTES; i++)
        index = index << 8 | id[i];
    int length = snprintf(path, sizeof path, "%s/%" PRIu64 ".%010" PRIu32, check->into, number, index);
    if (length < 0 || (size_t)length >= sizeof path)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: the path is too long", check->into);
    uint8_t *piece = fm_base_mem_alloc(PIECE);
    if (!piece)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a part of a chunk");
    fm_status status = fm_base_file_begin(&draft, path);
    while (status == FM_OK && got == PIECE && done < FM_FS_CHUNK_MAX) {
        status = fm_fs_chunks_read(check->from, chain, id, done, piece, PIECE, RECOVER_MS, &got, NULL);
        if (status == FM_OK)
            status = fm_base_file_write(&draft, done, piece, got);
        done += got;
    }
    if (status == FM_OK)
        status = fm_base_file_commit(&draft);
    fm_base_file_discard(&draft);
    fm_base_mem_free(piece);
    check->recovered += status == FM_OK;
    return status;
}

static void tell_orphan(void *context, uint32_t chain, const uint8_t *id, unsigned flags)
{
    struct check *check = context;
    char text[160];
    int size = snprintf(text, sizeof text, "chain %" PRIu32 ", chunk ", chain);
    for (int i = 0; i < FM_FS_CHUNK_ID_BYTES; i++)
        size += snprintf(text + size, sizeof text - (size_t)size, "%02x", id[i]);
    snprintf(text + size, sizeof text - (size_t)size, ": no file owns it%s%s",
             flags & FM_FS_ORPHAN_EARLIER ? "; perhaps written after the backup" : "",
             flags & FM_FS_ORPHAN_REMOVED ? "; removed" : "");
    tell(context, text);
    check->newer += (flags & FM_FS_ORPHAN_EARLIER) != 0;
    if (check->into && check->status == FM_OK)
        check->status = recover(check, chain, id);
}

static fm_status check_chunks(fm_fs_volume *volume, const struct fsck_options *options, struct check *check)
{
    fm_fs_orphans what = !options->repair ? FM_FS_ORPHANS_KEEP
                         : options->newer ? FM_FS_ORPHANS_REMOVE_ALL
                                          : FM_FS_ORPHANS_REMOVE;
    if (!options->chunks && !options->repair && !check->into)
        return FM_OK;
    FM_TRY(fm_fs_volume_orphans(volume, what, tell_orphan, check, &check->chunks, &check->orphans));
    return check->status;
}

static fm_status check_options(const struct fsck_options *options)
{
    if (options->recover && options->repair)
        return fm_base_error_set(FM_ERR_ARG, "--recover and --repair; expected one after the other");
    if (options->newer && !options->repair)
        return fm_base_error_set(FM_ERR_ARG, "--remove-newer without --repair");
    return FM_OK;
}

static fm_status end_json(struct check *check, const fm_fs_meta_census *census, fm_status status)
{
    fm_json *json = &check->json;
    fm_base_json_end(json);
    fm_base_json_int(json, "findings", (int64_t)census->findings);
    fm_base_json_int(json, "files", (int64_t)census->files);
    fm_base_json_int(json, "directories", (int64_t)census->directories);
    fm_base_json_int(json, "links", (int64_t)census->links);
    fm_base_json_int(json, "others", (int64_t)census->others);
    fm_base_json_int(json, "bytes", (int64_t)census->bytes);
    fm_base_json_int(json, "collectable", (int64_t)census->collectable);
    fm_base_json_int(json, "chunks", (int64_t)check->chunks);
    fm_base_json_int(json, "orphans", (int64_t)check->orphans);
    fm_base_json_int(json, "newer", (int64_t)check->newer);
    fm_base_json_int(json, "recovered", (int64_t)check->recovered);
    fm_base_json_end(json);
    fm_status shown = fm_base_json_finish(json, status == FM_OK ? stdout : NULL);
    return status < 0 ? status : shown;
}

static void sum_up(const struct check *check, const fm_fs_meta_census *census)
{
    printf("%" PRIu64 " files (%s), %" PRIu64 " directories, %" PRIu64 " links, %" PRIu64 " others; %" PRIu64
           " to be collected\n",
           census->files, fm_base_text_bytes((double)census->bytes).text, census->directories, census->links,
           census->others, census->collectable);
    if (check->newer)
        printf("%" PRIu64
               " chunks are from before the names were restored: --recover saves what they hold, --repair "
               "leaves them, --repair --remove-newer removes them\n",
               check->newer);
    if (check->into)
        printf("%" PRIu64 " chunks are in %s\n", check->recovered, check->into);
    uint64_t findings = census->findings + check->orphans;
    printf(findings ? "%" PRIu64 " findings\n" : "sound\n", findings);
}

static fm_status run_fsck(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct fsck_options *options = given;
    struct check check = {.as_json = invocation->json, .into = options->recover};
    fm_fs_volume *volume;
    fm_fs_meta_census census = {0};
    FM_TRY(check_options(options));
    if (check.into)
        FM_TRY(fm_fs_chunks_open(invocation->operands[0], &check.from));
    fm_status opened = fm_fs_volume_open(invocation->operands[0], NULL, &volume);
    if (opened < 0) {
        fm_fs_chunks_close(check.from);
        return opened;
    }
    if (check.as_json) {
        fm_base_json_begin(&check.json, NULL, '{');
        fm_base_json_begin(&check.json, "told", '[');
    }
    fm_status status = fm_fs_meta_check(fm_fs_volume_meta(volume), tell, &check, &census);
    if (status == FM_OK)
        status = check_chunks(volume, options, &check);
    fm_fs_volume_close(volume);
    fm_fs_chunks_close(check.from);
    if (check.as_json)
        status = end_json(&check, &census, status);
    else if (status == FM_OK)
        sum_up(&check, &census);
    if (census.findings + check.orphans)
        *out_exit = 1;
    return status;
}

const fm_command fm_cmd_fs_fsck = {
    .name = "fsck",
    .summary = "check a cluster's names while it is in use",
    .operands = "CLUSTER",
    .details =
        "Reads one moment of the names and tells each violation: entries without a file, wrong link counts,\n"
        "directories that are not reached from the root, quotas that do not sum up. Nothing is changed.\n"
        "With --chunks, chunks that no file owns are looked for as well, and with --repair removed. After\n"
        "'fathom fs restore' these may be what was written since the backup: such are told apart, and stay\n"
        "until --remove-newer is given; --recover copies them out first. What chunks hold is checked by the\n"
        "cluster itself: see 'fathom fs cluster status'. The exit status is 1 when anything is found.",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .options = fsck_schema,
    .options_size = sizeof(struct fsck_options),
    .run = run_fsck,
};

/* quota */

struct quota_options {
    int64_t bytes, inodes;
    int lift;
};

static const fm_option quota_schema[] = {
    {"bytes", FM_OPTION_SIZE, offsetof(struct quota_options, bytes), .value = "0", .min = 0, .max = 0x1p62,
     .help = "set the most bytes; 0: leave it"},
    {"inodes", FM_OPTION_INT, offsetof(struct quota_options, inodes), .value = "0", .min = 0, .max = 0x1p62,
     .help = "set the most files, directories and links, the directory itself included; 0: leave it"},
    {"lift", FM_OPTION_FLAG, offsetof(struct quota_options, lift), .value = "false",
     .help = "take the limits away that are not set"},
    {0},
};

static fm_status change(const fm_cmd_place *place, uint64_t dir, const struct quota_options *options)
{
    fm_fs_quota quota = {0};
    fm_status status = fm_fs_meta_quota_get(place->meta, dir, &quota);
    if (status < 0 && status != FM_ERR_NOT_FOUND)
        return status;
    if (options->bytes || options->lift)
        quota.bytes_max = (uint64_t)options->bytes;
    if (options->inodes || options->lift)
        quota.inodes_max = (uint64_t)options->inodes;
    return fm_fs_meta_quota_set(place->meta, &place->who, dir, &quota);
}

static void show_limit(const char *what, uint64_t used, uint64_t most)
{
    if (most)
        printf("%-7s %" PRIu64 " of %" PRIu64 " (%.1f %%)\n", what, used, most,
               100.0 * (double)used / (double)most);
    else
        printf("%-7s %" PRIu64 ", no limit\n", what, used);
}

static fm_status show(const fm_cmd_place *place, uint64_t ino, int as_json)
{
    fm_fs_quota quota;
    FM_TRY(fm_fs_meta_quota_get(place->meta, ino, &quota));
    if (!as_json) {
        show_limit("bytes", quota.bytes, quota.bytes_max);
        show_limit("inodes", quota.inodes, quota.inodes_max);
        return FM_OK;
    }
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '{');
    fm_base_json_int(&json, "bytes", (int64_t)quota.bytes);
    fm_base_json_int(&json, "bytes_max", (int64_t)quota.bytes_max);
    fm_base_json_int(&json, "inodes", (int64_t)quota.inodes);
    fm_base_json_int(&json, "inodes_max", (int64_t)quota.inodes_max);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status run_quota(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct quota_options *options = given;
    fm_cmd_place place;
    fm_fs_node node;
    (void)out_exit;
    FM_TRY(fm_cmd_place_open(invocation->operands[0], &place));
    fm_status status = fm_cmd_place_node(&place, 1, &node);
    if (status == FM_OK && (options->bytes || options->inodes || options->lift))
        status = change(&place, node.ino, options);
    if (status == FM_OK)
        status = show(&place, node.ino, invocation->json);
    fm_cmd_place_close(&place);
    return status;
}

const fm_command fm_cmd_fs_quota = {
    .name = "quota",
    .summary = "show or set how much may lie below a directory of a cluster",
    .operands = "CLUSTER:/PATH",
    .details =
        "A directory gets its first quota while it is empty. A quota below another counts for itself alone.\n"
        "  fathom fs quota --bytes 100G /data/cluster:/users/ada",
    .options = quota_schema,
    .options_size = sizeof(struct quota_options),
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_quota,
};
