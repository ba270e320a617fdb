// `fathom fs chain|target|node ...`: the members of a cluster, and changes of them.
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd_fs.h"
#include "fathom/table.h"

struct member_options {
    int undo;
    double timeout_s;
};

#define FIELD(name) offsetof(struct member_options, name)
#define TIMEOUT_ROW                                                                                    \
    {                                                                                                  \
        "timeout", FM_OPTION_REAL, FIELD(timeout_s), .value = "10", .unit = "s", .min = 0, .max = 1e6, \
                                                     .help = "how long to wait for the manager"        \
    }

static const fm_option plain_schema[] = {TIMEOUT_ROW, {0}};
static const fm_option drain_schema[] = {
    {"undo", FM_OPTION_FLAG, FIELD(undo), .value = "false", .help = "let them back in"},
    TIMEOUT_ROW,
    {0},
};

static fm_status read_number(const char *what, const char *text, uint32_t *out_value)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || *text == '-' || errno || value < 1 || value > UINT32_MAX)
        return fm_base_error_set(FM_ERR_ARG, "%s is '%s'; expected a number from 1 on", what, text);
    *out_value = (uint32_t)value;
    return FM_OK;
}

/* What every verb does: connect, do, close */

struct session {
    const fm_invocation *invocation;
    const struct member_options *options;
    fm_fs_chunks *chunks;
    int64_t timeout_ms;
};

static fm_status with_cluster(const fm_invocation *invocation, const void *options,
                              fm_status (*verb)(struct session *session))
{
    struct session session = {.invocation = invocation, .options = options};
    session.timeout_ms = (int64_t)(session.options->timeout_s * 1000);
    FM_TRY(fm_fs_chunks_open(invocation->operands[0], &session.chunks));
    fm_status status = verb(&session);
    fm_fs_chunks_close(session.chunks);
    return status;
}

#define VERB(name)                                                                                   \
    static fm_status run_##name(const fm_invocation *invocation, const void *options, int *out_exit) \
    {                                                                                                \
        (void)out_exit;                                                                              \
        return with_cluster(invocation, options, name);                                              \
    }

static fm_status explain(struct session *session, const char *what,
                         fm_status (*say)(const fm_fs_cluster_state *state, uint32_t id))
{
    fm_fs_cluster_state state;
    uint32_t id;
    FM_TRY(read_number(what, session->invocation->operands[1], &id));
    FM_TRY(fm_fs_chunks_state(session->chunks, session->timeout_ms, &state));
    return say(&state, id);
}

/* Chains */

void fm_cmd_fs_chains_json(fm_json *json, const fm_fs_cluster_state *state)
{
    for (uint32_t c = 0; c < state->chain_count; c++) {
        const fm_fs_cluster_chain *chain = &state->chains[c];
        fm_base_json_begin(json, NULL, '{');
        fm_base_json_int(json, "id", chain->id);
        fm_base_json_int(json, "version", chain->version);
        fm_base_json_begin(json, "members", '[');
        for (uint32_t m = 0; m < chain->count; m++) {
            fm_base_json_begin(json, NULL, '{');
            fm_base_json_int(json, "target", chain->members[m].target);
            fm_base_json_int(json, "node", chain->members[m].node);
            fm_base_json_string(json, "state", chain->members[m].state);
            fm_base_json_end(json);
        }
        fm_base_json_end(json);
        fm_base_json_end(json);
    }
}

static fm_status chain_json(const fm_fs_cluster_state *state)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    fm_cmd_fs_chains_json(&json, state);
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status chain_list(struct session *session)
{
    fm_fs_cluster_state state;
    FM_TRY(fm_fs_chunks_state(session->chunks, session->timeout_ms, &state));
    if (session->invocation->json)
        return chain_json(&state);
    fm_table table = {0};
    fm_base_table_column(&table, "chain", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "version", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "target", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "node", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "state", NULL, FM_ALIGN_LEFT);
    for (uint32_t c = 0; c < state.chain_count; c++) {
        const fm_fs_cluster_chain *chain = &state.chains[c];
        for (uint32_t m = 0; m < chain->count; m++) {
            fm_base_table_cell(&table, "%u", chain->id);
            fm_base_table_cell(&table, "%u", chain->version);
            fm_base_table_cell(&table, "%u", chain->members[m].target);
            fm_base_table_cell(&table, "%u", chain->members[m].node);
            fm_base_table_cell(&table, "%s", chain->members[m].state);
        }
    }
    return fm_base_table_finish(&table, stdout, 0);
}
VERB(chain_list)

static fm_status chain_explain(struct session *session)
{
    return explain(session, "chain", fm_cmd_fs_explain_chain);
}
VERB(chain_explain)

// "TARGET@NODE"
static fm_status read_place(const char *text, uint32_t *out_target, uint32_t *out_node)
{
    char target[16];
    const char *at = strchr(text, '@');
    if (!at || (size_t)(at - text) >= sizeof target)
        return fm_base_error_set(FM_ERR_ARG, "'%s': expected TARGET@NODE", text);
    memcpy(target, text, (size_t)(at - text));
    target[at - text] = 0;
    FM_TRY(read_number("the target", target, out_target));
    return read_number("the node", at + 1, out_node);
}

static fm_status chain_add(struct session *session)
{
    const fm_invocation *given = session->invocation;
    uint32_t targets[FM_FS_CLUSTER_REPLICAS_MAX];
    uint32_t nodes[FM_FS_CLUSTER_REPLICAS_MAX];
    uint32_t chain;
    uint32_t count = 0;
    FM_TRY(read_number("the chain", given->operands[1], &chain));
    for (int i = 2; i < given->operand_count; i++, count++)
        FM_TRY(read_place(given->operands[i], &targets[count], &nodes[count]));
    return fm_fs_chunks_chain_add(session->chunks, chain, targets, nodes, count, session->timeout_ms);
}
VERB(chain_add)

static fm_status chain_remove(struct session *session)
{
    uint32_t chain;
    FM_TRY(read_number("the chain", session->invocation->operands[1], &chain));
    return fm_fs_chunks_chain_remove(session->chunks, chain, session->timeout_ms);
}
VERB(chain_remove)

static fm_status chain_rotate(struct session *session)
{
    uint32_t chain;
    uint32_t version;
    FM_TRY(read_number("the chain", session->invocation->operands[1], &chain));
    FM_TRY(read_number("its version", session->invocation->operands[2], &version));
    return fm_fs_chunks_chain_rotate(session->chunks, chain, version, session->timeout_ms);
}
VERB(chain_rotate)

/* Targets */

static fm_status target_json(const fm_fs_cluster_state *state)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    for (uint32_t t = 0; t < state->target_count; t++) {
        const fm_fs_cluster_target *target = &state->targets[t];
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "id", target->id);
        fm_base_json_int(&json, "node", target->node);
        if (target->chain)
            fm_base_json_int(&json, "chain", target->chain);
        fm_base_json_string(&json, "state", target->state);
        fm_base_json_string(&json, "says", target->says);
        fm_base_json_string(&json, "health", fm_base_status_name(target->health));
        fm_base_json_int(&json, "used_bytes", (int64_t)target->used_bytes);
        fm_base_json_int(&json, "capacity_bytes", (int64_t)target->capacity_bytes);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status target_list(struct session *session)
{
    fm_fs_cluster_state state;
    FM_TRY(fm_fs_chunks_state(session->chunks, session->timeout_ms, &state));
    if (session->invocation->json)
        return target_json(&state);
    fm_table table = {0};
    fm_base_table_column(&table, "target", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "node", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "chain", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "state", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "says", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "disk", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "used", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "of", NULL, FM_ALIGN_RIGHT);
    for (uint32_t t = 0; t < state.target_count; t++) {
        const fm_fs_cluster_target *target = &state.targets[t];
        fm_base_table_cell(&table, "%u", target->id);
        fm_base_table_cell(&table, "%u", target->node);
        fm_base_table_cell(&table, "%u", target->chain);
        fm_base_table_cell(&table, "%s", target->state);
        fm_base_table_cell(&table, "%s", target->says);
        fm_base_table_cell(&table, "%s", fm_base_status_name(target->health));
        fm_base_table_cell(&table, "%s", fm_base_text_bytes((double)target->used_bytes).text);
        fm_base_table_cell(&table, "%s", fm_base_text_bytes((double)target->capacity_bytes).text);
    }
    return fm_base_table_finish(&table, stdout, 0);
}
VERB(target_list)

static fm_status target_explain(struct session *session)
{
    return explain(session, "target", fm_cmd_fs_explain_target);
}
VERB(target_explain)

static fm_status target_add(struct session *session)
{
    uint32_t chain;
    uint32_t target;
    uint32_t node;
    FM_TRY(read_number("the chain", session->invocation->operands[1], &chain));
    FM_TRY(read_place(session->invocation->operands[2], &target, &node));
    return fm_fs_chunks_target_add(session->chunks, chain, target, node, session->timeout_ms);
}
VERB(target_add)

static fm_status target_remove(struct session *session)
{
    uint32_t chain;
    uint32_t target;
    FM_TRY(read_number("the chain", session->invocation->operands[1], &chain));
    FM_TRY(read_number("the target", session->invocation->operands[2], &target));
    return fm_fs_chunks_target_remove(session->chunks, chain, target, session->timeout_ms);
}
VERB(target_remove)

/* Nodes */

static fm_status node_json(const fm_fs_cluster_state *state)
{
    fm_json json = {0};
    fm_base_json_begin(&json, NULL, '[');
    for (uint32_t n = 0; n < state->node_count; n++) {
        fm_base_json_begin(&json, NULL, '{');
        fm_base_json_int(&json, "id", state->nodes[n].id);
        fm_base_json_string(&json, "address", state->nodes[n].address);
        fm_base_json_bool(&json, "draining", state->nodes[n].draining);
        if (state->nodes[n].silent_ms < 0)
            fm_base_json_null(&json, "silent_ms");
        else
            fm_base_json_int(&json, "silent_ms", state->nodes[n].silent_ms);
        fm_base_json_end(&json);
    }
    fm_base_json_end(&json);
    return fm_base_json_finish(&json, stdout);
}

static fm_status node_list(struct session *session)
{
    fm_fs_cluster_state state;
    FM_TRY(fm_fs_chunks_state(session->chunks, session->timeout_ms, &state));
    if (session->invocation->json)
        return node_json(&state);
    fm_table table = {0};
    fm_base_table_column(&table, "node", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "heard", NULL, FM_ALIGN_RIGHT);
    fm_base_table_column(&table, "drained", NULL, FM_ALIGN_LEFT);
    fm_base_table_column(&table, "address", NULL, FM_ALIGN_LEFT);
    for (uint32_t n = 0; n < state.node_count; n++) {
        const fm_fs_cluster_node *node = &state.nodes[n];
        fm_base_table_cell(&table, "%u", node->id);
        if (node->silent_ms < 0)
            fm_base_table_cell(&table, "never");
        else
            fm_base_table_cell(&table, "%s ago", fm_base_text_duration((double)node->silent_ms * 1e6).text);
        fm_base_table_cell(&table, "%s", node->draining ? "yes" : "no");
        fm_base_table_cell(&table, "%s", node->address);
    }
    return fm_base_table_finish(&table, stdout, 0);
}
VERB(node_list)

static fm_status node_explain(struct session *session)
{
    return explain(session, "node", fm_cmd_fs_explain_node);
}
VERB(node_explain)

static fm_status node_drain(struct session *session)
{
    uint32_t node;
    FM_TRY(read_number("the node", session->invocation->operands[1], &node));
    return fm_fs_chunks_drain(session->chunks, node, !session->options->undo, session->timeout_ms);
}
VERB(node_drain)

static fm_status node_remove(struct session *session)
{
    uint32_t node;
    FM_TRY(read_number("the node", session->invocation->operands[1], &node));
    return fm_fs_chunks_node_remove(session->chunks, node, session->timeout_ms);
}
VERB(node_remove)

/* The tables of commands */

#define COMMAND(variable, verb, text, usage, count_min, count_max, schema, json, why, function) \
    static const fm_command variable = {.name = verb,                                           \
                                        .summary = text,                                        \
                                        .operands = usage,                                      \
                                        .details = why,                                         \
                                        .options = schema,                                      \
                                        .options_size = sizeof(struct member_options),          \
                                        .operands_min = count_min,                              \
                                        .operands_max = count_max,                              \
                                        .has_json = json,                                       \
                                        .run = function}

COMMAND(chain_list_command, "list", "all chains and their members", "DIR", 1, 1, plain_schema, 1, NULL,
        run_chain_list);
COMMAND(chain_explain_command, "explain", "why a chain stands as it does", "DIR CHAIN", 2, 2, plain_schema, 0,
        NULL, run_chain_explain);
COMMAND(chain_add_command, "add", "make a new chain of targets that are in none", "DIR CHAIN TARGET@NODE...",
        3, 2 + FM_FS_CLUSTER_REPLICAS_MAX, plain_schema, 0,
        "The targets must be empty. The first one is the head.\n"
        "  fathom fs chain add /data/cluster 3 7@107 8@108 9@109",
        run_chain_add);
COMMAND(chain_remove_command, "remove", "take away a chain that holds nothing", "DIR CHAIN", 2, 2,
        plain_schema, 0, NULL, run_chain_remove);
COMMAND(chain_rotate_command, "rotate", "give up the last complete targets of a chain", "DIR CHAIN VERSION",
        3, 3, plain_schema, 0,
        "For a chain that waits for targets whose disks are lost: the next target, whatever it lacks, may "
        "restart it.\n"
        "Acknowledged changes that only the lost ones had are lost. VERSION is what 'explain' shows.",
        run_chain_rotate);
COMMAND(target_list_command, "list", "all targets, what they say of themselves, and how full they are", "DIR",
        1, 1, plain_schema, 1, NULL, run_target_list);
COMMAND(target_explain_command, "explain", "why a target stands as it does", "DIR TARGET", 2, 2, plain_schema,
        0, NULL, run_target_explain);
COMMAND(target_add_command, "add", "put a target into a chain, to be filled", "DIR CHAIN TARGET@NODE", 3, 3,
        plain_schema, 0, NULL, run_target_add);
COMMAND(target_remove_command, "remove", "take a target that does not serve out of its chain",
        "DIR CHAIN TARGET", 3, 3, plain_schema, 0, "Drain its node first, or end it.", run_target_remove);
COMMAND(node_list_command, "list", "all storage nodes, where they are, when they were heard last", "DIR", 1,
        1, plain_schema, 1, "A node appears here by itself when its process has reached a manager.",
        run_node_list);
COMMAND(node_explain_command, "explain", "what a node's chains do with and without it", "DIR NODE", 2, 2,
        plain_schema, 0, NULL, run_node_explain);
COMMAND(node_drain_command, "drain", "take a node's targets out of the chains that can spare them",
        "DIR NODE", 2, 2, drain_schema, 0, NULL, run_node_drain);
COMMAND(node_remove_command, "remove", "forget a node that is silent and has no target in a chain",
        "DIR NODE", 2, 2, plain_schema, 0, NULL, run_node_remove);

static const fm_command *const chain_children[] = {
    &chain_list_command,   &chain_explain_command, &chain_add_command,
    &chain_remove_command, &chain_rotate_command,  NULL,
};
static const fm_command *const target_children[] = {
    &target_list_command, &target_explain_command, &target_add_command, &target_remove_command, NULL,
};
static const fm_command *const node_children[] = {
    &node_list_command, &node_explain_command, &node_drain_command, &node_remove_command, NULL,
};

const fm_command fm_cmd_fs_chain = {
    .name = "chain", .summary = "the chains of a cluster", .children = chain_children};
const fm_command fm_cmd_fs_target = {.name = "target",
                                     .summary = "the targets of a cluster, each a replica of one chain",
                                     .children = target_children};
const fm_command fm_cmd_fs_node = {
    .name = "node", .summary = "the storage nodes of a cluster", .children = node_children};
