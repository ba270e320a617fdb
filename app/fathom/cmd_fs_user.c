// `fathom fs user ...`: who may ask for the names of a cluster, and the tokens that prove it.
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd_fs.h"
#include "fathom/file.h"
#include "fathom/fs_meta_service.h"
#include "fathom/fs_volume.h"
#include "fathom/net.h"

struct user_options {
    int64_t uid, gid;
    double days;
    const char *groups, *out, *servers;
};

#define FIELD(name) offsetof(struct user_options, name)

/* add */

// "4,5,6"
static fm_status read_groups(const char *text, fm_fs_user *user)
{
    for (const char *at = text; *at;) {
        char *end;
        errno = 0;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || *at == '-' || errno || value > UINT32_MAX || (*end != ',' && *end) ||
            user->group_count == FM_FS_USER_GROUPS_MAX)
            return fm_base_error_set(FM_ERR_ARG, "groups is '%s'; expected at most %d numbers, as 100,200",
                                     text, FM_FS_USER_GROUPS_MAX);
        user->groups[user->group_count++] = (uint32_t)value;
        at = *end ? end + 1 : end;
    }
    return FM_OK;
}

static fm_status run_add(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct user_options *options = given;
    fm_fs_user user = {.uid = (uint32_t)options->uid,
                       .gid = options->gid < 0 ? (uint32_t)options->uid : (uint32_t)options->gid};
    fm_fs_volume *volume;
    (void)out_exit;
    if (strlen(invocation->operands[1]) > FM_FS_USER_NAME_MAX)
        return fm_base_error_set(FM_ERR_LIMIT, "a name of %zu bytes; expected at most %d",
                                 strlen(invocation->operands[1]), FM_FS_USER_NAME_MAX);
    snprintf(user.name, sizeof user.name, "%s", invocation->operands[1]);
    FM_TRY(read_groups(options->groups ? options->groups : "", &user));
    FM_TRY(fm_fs_volume_open(invocation->operands[0], NULL, &volume));
    fm_status status = fm_fs_meta_user_set(fm_fs_volume_meta(volume), &user);
    fm_fs_volume_close(volume);
    return status;
}

static const fm_option add_schema[] = {
    {"uid", FM_OPTION_INT, FIELD(uid), .required = 1, .min = 0, .max = UINT32_MAX,
     .help = "the user's number; 0 may act for everybody, as a mount must"},
    {"gid", FM_OPTION_INT, FIELD(gid), .value = "-1", .min = -1, .max = UINT32_MAX,
     .help = "the group of what the user makes; -1: the uid"},
    {"groups", FM_OPTION_STRING, FIELD(groups), .metavar = "LIST", .help = "further groups, as 100,200"},
    {0},
};

static const fm_command add_command = {
    .name = "add",
    .summary = "add a user, or change the one with that uid",
    .operands = "CLUSTER NAME",
    .details = "  fathom fs user add /data/cluster ada --uid 1000 --groups 100",
    .options = add_schema,
    .options_size = sizeof(struct user_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = run_add,
};

/* list */

static void show_user(const fm_fs_user *user, fm_json *json)
{
    if (!json) {
        printf("%-20s uid %u, gid %u", user->name, user->uid, user->gid);
        for (uint32_t i = 0; i < user->group_count; i++)
            printf("%s%u", i ? "," : ", groups ", user->groups[i]);
        printf("\n");
        return;
    }
    fm_base_json_begin(json, NULL, '{');
    fm_base_json_string(json, "name", user->name);
    fm_base_json_int(json, "uid", user->uid);
    fm_base_json_int(json, "gid", user->gid);
    fm_base_json_begin(json, "groups", '[');
    for (uint32_t i = 0; i < user->group_count; i++)
        fm_base_json_int(json, NULL, user->groups[i]);
    fm_base_json_end(json);
    fm_base_json_end(json);
}

static fm_status run_list(const fm_invocation *invocation, const void *options, int *out_exit)
{
    enum { PAGE = 16 };
    fm_fs_user users[PAGE];
    fm_fs_volume *volume;
    fm_json json = {0};
    size_t count = PAGE;
    uint64_t from = 0;
    (void)options;
    (void)out_exit;
    FM_TRY(fm_fs_volume_open(invocation->operands[0], NULL, &volume));
    fm_status status = FM_OK;
    fm_base_json_begin(&json, NULL, '[');
    while (status == FM_OK && count == PAGE) {
        status = fm_fs_meta_user_list(fm_fs_volume_meta(volume), from, users, PAGE, &count);
        for (size_t i = 0; status == FM_OK && i < count; i++) {
            show_user(&users[i], invocation->json ? &json : NULL);
            from = (uint64_t)users[i].uid + 1;
        }
    }
    fm_base_json_end(&json);
    fm_fs_volume_close(volume);
    fm_status shown = fm_base_json_finish(&json, status == FM_OK && invocation->json ? stdout : NULL);
    return status < 0 ? status : shown;
}

static const fm_command list_command = {
    .name = "list",
    .summary = "show the users of a cluster",
    .operands = "CLUSTER",
    .operands_min = 1,
    .operands_max = 1,
    .has_json = 1,
    .run = run_list,
};

/* remove, revoke */

static fm_status take_away(const fm_invocation *invocation, fm_status (*take)(fm_fs_meta *meta, uint32_t uid))
{
    fm_fs_volume *volume;
    fm_fs_user user;
    FM_TRY(fm_fs_volume_open(invocation->operands[0], NULL, &volume));
    fm_fs_meta *meta = fm_fs_volume_meta(volume);
    fm_status status = fm_fs_meta_user_find(meta, invocation->operands[1], &user);
    if (status == FM_OK)
        status = take(meta, user.uid);
    fm_fs_volume_close(volume);
    return status;
}

static fm_status run_remove(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    return take_away(invocation, fm_fs_meta_user_remove);
}

static fm_status run_revoke(const fm_invocation *invocation, const void *options, int *out_exit)
{
    (void)options;
    (void)out_exit;
    return take_away(invocation, fm_fs_meta_tokens_remove);
}

static const fm_command remove_command = {
    .name = "remove",
    .summary = "remove a user with all tokens; files stay",
    .operands = "CLUSTER NAME",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_remove,
};

static const fm_command revoke_command = {
    .name = "revoke",
    .summary = "withdraw all tokens of a user",
    .operands = "CLUSTER NAME",
    .details = "Services refuse them within five seconds.",
    .operands_min = 2,
    .operands_max = 2,
    .run = run_revoke,
};

/* token */

static fm_status save(const char *dir, const char *name, const char *text)
{
    char path[4096];
    char line[4200];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: its path is too long", dir);
    int length = snprintf(line, sizeof line, "%s\n", text);
    if (length >= (int)sizeof line)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: a line that is too long", path);
    return fm_base_file_save(path, line, (size_t)length);
}

// What a user's programs need to ask services of the names: not the cluster's key.
static fm_status write_client(const char *cluster, const struct user_options *options, const char *token)
{
    char path[4096];
    char servers[4096];
    fm_net_key key;
    fm_net_key names;
    if (!options->servers)
        return fm_base_error_set(FM_ERR_ARG,
                                 "--out needs --servers, the addresses of 'fathom fs serve meta'");
    if (snprintf(path, sizeof path, "%s/key", cluster) >= (int)sizeof path ||
        snprintf(servers, sizeof servers, "meta:%s", options->servers) >= (int)sizeof servers)
        return fm_base_error_set(FM_ERR_LIMIT, "%s: its path, or the list of services, is too long", cluster);
    FM_TRY(fm_net_key_read(path, &key));
    fm_fs_meta_key_derive(&key, &names);
    fm_net_key_clear(&key);
    if (mkdir(options->out, 0700) != 0)
        return fm_base_file_error(errno, "%s", options->out);
    mode_t before = umask(077); // a token is a password
    fm_status status = save(options->out, "token", token);
    umask(before);
    FM_TRY(status);
    FM_TRY(save(options->out, "names.conf", servers));
    snprintf(path, sizeof path, "%s/names.key", options->out);
    status = fm_net_key_write(path, &names);
    fm_net_key_clear(&names);
    return status;
}

static fm_status run_token(const fm_invocation *invocation, const void *given, int *out_exit)
{
    const struct user_options *options = given;
    const char *cluster = invocation->operands[0];
    char token[FM_FS_TOKEN_BYTES];
    fm_fs_volume *volume;
    fm_fs_user user;
    (void)out_exit;
    FM_TRY(fm_fs_volume_open(cluster, NULL, &volume));
    fm_fs_meta *meta = fm_fs_volume_meta(volume);
    fm_status status = fm_fs_meta_user_find(meta, invocation->operands[1], &user);
    if (status == FM_OK)
        status = fm_fs_meta_token_new(meta, user.uid, (uint64_t)(options->days * 86400e9), token);
    fm_fs_volume_close(volume);
    FM_TRY(status);
    if (options->out)
        return write_client(cluster, options, token);
    printf("%s\n", token);
    return FM_OK;
}

static const fm_option token_schema[] = {
    {"days", FM_OPTION_REAL, FIELD(days), .value = "30", .min = 0, .max = 100000,
     .help = "how long it is valid; 0: until it is withdrawn"},
    {"out", FM_OPTION_STRING, FIELD(out), .metavar = "DIR",
     .help =
         "instead of showing it, make a directory that stands for the cluster: for a machine that shall not "
         "have the cluster's key"},
    {"servers", FM_OPTION_STRING, FIELD(servers), .metavar = "LIST",
     .help = "for --out: addresses of 'fathom fs serve meta', with commas"},
    {0},
};

static const fm_command token_command = {
    .name = "token",
    .summary = "make a token of a user",
    .operands = "CLUSTER NAME",
    .details =
        "It is shown once; the cluster keeps a hash. Whoever has it acts as the user.\n"
        "  fathom fs user token /data/cluster ada --out ada-cluster --servers 10.0.0.1:7100,10.0.0.2:7100",
    .options = token_schema,
    .options_size = sizeof(struct user_options),
    .operands_min = 2,
    .operands_max = 2,
    .run = run_token,
};

static const fm_command *const children[] = {&add_command,    &list_command,   &token_command,
                                             &revoke_command, &remove_command, NULL};

const fm_command fm_cmd_fs_user = {
    .name = "user",
    .summary = "who may ask for a cluster's names, and their tokens",
    .children = children,
};
