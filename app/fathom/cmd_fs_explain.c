// Why a chain, a node or a target stands as it does, in words.
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cmd_fs.h"
#include "fathom/text.h"

static const fm_fs_cluster_node *find_node(const fm_fs_cluster_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < state->node_count; i++)
        if (state->nodes[i].id == id)
            return &state->nodes[i];
    return NULL;
}

static const fm_fs_cluster_target *find_target(const fm_fs_cluster_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < state->target_count; i++)
        if (state->targets[i].id == id)
            return &state->targets[i];
    return NULL;
}

static const fm_fs_cluster_chain *find_chain(const fm_fs_cluster_state *state, uint32_t id)
{
    for (uint32_t i = 0; i < state->chain_count; i++)
        if (state->chains[i].id == id)
            return &state->chains[i];
    return NULL;
}

// The first member in a state; NULL: none.
static const fm_fs_cluster_member *find_member(const fm_fs_cluster_chain *chain, const char *state)
{
    for (uint32_t m = 0; m < chain->count; m++)
        if (strcmp(chain->members[m].state, state) == 0)
            return &chain->members[m];
    return NULL;
}

static uint32_t count_members(const fm_fs_cluster_chain *chain, const char *state)
{
    uint32_t count = 0;
    for (uint32_t m = 0; m < chain->count; m++)
        count += strcmp(chain->members[m].state, state) == 0;
    return count;
}

// What keeps a target from being there; 0: nothing that is known.
static int say_trouble(const fm_fs_cluster_state *state, const fm_fs_cluster_target *target)
{
    const fm_fs_cluster_node *node = find_node(state, target->node);
    if (!node || node->silent_ms < 0) {
        printf("the manager has heard nothing of node %u since it leads", target->node);
    } else if (strcmp(target->says, "nothing") == 0) {
        printf("node %u is there, and does not have this target", target->node);
    } else if (node->silent_ms > 3000) {
        printf("node %u was heard %s ago last", target->node,
               fm_base_text_duration((double)node->silent_ms * 1e6).text);
    } else if (target->health == FM_ERR_BUSY) {
        printf("its disk is being opened");
    } else if (target->health < 0) {
        printf("its disk cannot be used: %s", fm_base_status_name(target->health));
    } else if (target->other_disk) {
        printf("its disk is another one than the one that was complete");
    } else if (node->draining) {
        printf("node %u is drained", target->node);
    } else {
        return 0;
    }
    return 1;
}

static void say_serving(const fm_fs_cluster_state *state, const fm_fs_cluster_chain *chain, uint32_t place,
                        const fm_fs_cluster_target *target)
{
    if (count_members(chain, "serving") == 1)
        printf("it alone takes changes and answers reads");
    else if (place == 0)
        printf("the head: takes changes, passes them on, answers reads");
    else
        printf("takes changes from target %u, answers reads", chain->members[place - 1].target);
    if (strcmp(target->says, "down") == 0 || target->other_disk || strcmp(target->says, "nothing") == 0) {
        printf("; leaves soon, for ");
        if (!say_trouble(state, target))
            printf("it says that it is down");
    }
}

static void say_last_serving(const fm_fs_cluster_state *state, const fm_fs_cluster_target *target)
{
    printf("has every acknowledged change, as all that are last-serving; the first of them to return "
           "restarts the "
           "chain; ");
    if (!say_trouble(state, target))
        printf("it is back, and about to");
}

static void say_syncing(const fm_fs_cluster_state *state, const fm_fs_cluster_chain *chain,
                        const fm_fs_cluster_target *target)
{
    const fm_fs_cluster_target *from = NULL;
    for (uint32_t m = 0; m < chain->count && strcmp(chain->members[m].state, "serving") == 0; m++)
        from = find_target(state, chain->members[m].target);
    printf("takes changes, and is being filled by target %u", from ? from->id : 0);
    if (from)
        printf(": %s of %s are here", fm_base_text_bytes((double)target->used_bytes).text,
               fm_base_text_bytes((double)from->used_bytes).text);
}

static void say_waiting(const fm_fs_cluster_chain *chain)
{
    const fm_fs_cluster_member *syncing = find_member(chain, "syncing");
    if (syncing)
        printf("alive; is filled when target %u is complete: one at a time", syncing->target);
    else if (!find_member(chain, "serving"))
        printf("alive, but not known to be complete; waits for a last-serving target to return");
    else
        printf("alive; about to be filled");
}

static void say_offline(const fm_fs_cluster_state *state, const fm_fs_cluster_chain *chain,
                        const fm_fs_cluster_target *target)
{
    if (say_trouble(state, target))
        return;
    if (!find_member(chain, "serving"))
        printf("it missed changes, or may have; waits for a last-serving target to return");
    else
        printf("it is back; about to be filled");
}

static void say_member(const fm_fs_cluster_state *state, const fm_fs_cluster_chain *chain, uint32_t place)
{
    const fm_fs_cluster_member *member = &chain->members[place];
    const fm_fs_cluster_target *target = find_target(state, member->target);
    printf("  target %u on node %u is %s: ", member->target, member->node, member->state);
    if (strcmp(member->state, "serving") == 0)
        say_serving(state, chain, place, target);
    else if (strcmp(member->state, "last-serving") == 0)
        say_last_serving(state, target);
    else if (strcmp(member->state, "syncing") == 0)
        say_syncing(state, chain, target);
    else if (strcmp(member->state, "waiting") == 0)
        say_waiting(chain);
    else
        say_offline(state, chain, target);
    printf("\n");
}

fm_status fm_cmd_fs_explain_chain(const fm_fs_cluster_state *state, uint32_t id)
{
    const fm_fs_cluster_chain *chain = find_chain(state, id);
    if (!chain)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no chain %u", id);
    uint32_t serving = count_members(chain, "serving");
    printf("chain %u, version %u: ", id, chain->version);
    if (serving == chain->count)
        printf("whole, all %u replicas serve\n", chain->count);
    else if (serving)
        printf("reads and writes go on with %u of %u replicas\n", serving, chain->count);
    else
        printf("nothing can be read or written: no replica serves\n");
    for (uint32_t m = 0; m < chain->count; m++)
        say_member(state, chain, m);
    const fm_fs_cluster_member *last = find_member(chain, "last-serving");
    if (!serving && last)
        printf("Bring back one of the last-serving targets. If all their disks are lost, 'fathom fs chain "
               "rotate' "
               "gives up what they alone have.\n");
    return FM_OK;
}

fm_status fm_cmd_fs_explain_target(const fm_fs_cluster_state *state, uint32_t id)
{
    const fm_fs_cluster_target *target = find_target(state, id);
    if (!target)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "target %u is in no chain, and no node has it", id);
    const fm_fs_cluster_chain *chain = find_chain(state, target->chain);
    printf("target %u on node %u: ", id, target->node);
    if (!chain) {
        printf("in no chain; 'fathom fs target add' puts it into one\n");
        return FM_OK;
    }
    printf("%s of %s used, says it is %s, %s in chain %u\n",
           fm_base_text_bytes((double)target->used_bytes).text,
           fm_base_text_bytes((double)target->capacity_bytes).text, target->says, target->state, chain->id);
    for (uint32_t m = 0; m < chain->count; m++)
        if (chain->members[m].target == id)
            say_member(state, chain, m);
    return FM_OK;
}

fm_status fm_cmd_fs_explain_node(const fm_fs_cluster_state *state, uint32_t id)
{
    const fm_fs_cluster_node *node = find_node(state, id);
    uint32_t alone = 0, count = 0;
    if (!node)
        return fm_base_error_set(FM_ERR_NOT_FOUND, "there is no node %u", id);
    printf("node %u at %s: ", id, node->address);
    if (node->silent_ms < 0)
        printf("not heard since this manager leads");
    else
        printf("heard %s ago", fm_base_text_duration((double)node->silent_ms * 1e6).text);
    printf("%s\n", node->draining ? ", drained: its targets leave the chains that can spare them" : "");
    for (uint32_t c = 0; c < state->chain_count; c++) {
        const fm_fs_cluster_chain *chain = &state->chains[c];
        for (uint32_t m = 0; m < chain->count; m++) {
            if (chain->members[m].node != id)
                continue;
            count++;
            alone += strcmp(chain->members[m].state, "serving") == 0 && count_members(chain, "serving") == 1;
            printf("chain %u:\n", chain->id);
            say_member(state, chain, m);
        }
    }
    if (alone)
        printf("%u of its %u targets serve alone: ending it stops their chains\n", alone, count);
    else
        printf("its chains serve without it\n");
    return FM_OK;
}
