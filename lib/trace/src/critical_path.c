/*
 * From the last work of each unit back to its first, over what each waited for. Work that waited for a message was held up by
 * its sender, most often on another rank: the path goes on there, at the moment of sending.
 */
#include "depend.h"
#include "messages.h"
#include "report_build.h"

// The paths of several ranks run together at the end; more often than this no message is of use.
enum { HOPS_A_MESSAGE = 8 };

struct walker {
    struct fm_trace_builder *builder;
    const struct fm_trace_dependency *dependencies;
    const struct fm_trace_message *messages;
    const size_t *first; // by work: its messages
    size_t hops_left;    // hostile traces must not make every unit's path go through all others
};

/* The last message that the work waited for at this time, or NULL. */
static const struct fm_trace_message *awaited(const struct walker *walker, uint32_t work, int64_t until)
{
    const struct fm_trace_message *found = NULL;
    for (size_t i = walker->first[work]; i < walker->first[work + 1]; i++) {
        const struct fm_trace_message *message = &walker->messages[i];
        if (message->taken_ns <= until && fm_trace_message_held_up(message, &walker->builder->works[work]))
            found = message;
    }
    return found;
}

static void add_work(struct fm_trace_path *path, const fm_trace_work *work, int64_t duration)
{
    path->steps++;
    path->work_ns += duration;
    path->kind_ns[work->kind] += duration;
    path->group_ns[work->group] += duration;
}

/* What the work that began then waited for in its own unit; the time between the two is added. */
static uint32_t step_back(const struct walker *walker, uint32_t at)
{
    fm_trace_path *path = &walker->builder->report.path;
    const fm_trace_work *work = &walker->builder->works[at];
    const struct fm_trace_dependency *dependency = &walker->dependencies[at];
    uint32_t next = dependency->cause == FM_TRACE_CAUSE_STREAM  ? dependency->previous
                    : dependency->cause == FM_TRACE_CAUSE_OTHER ? dependency->other
                                                                : dependency->latest;
    if (next != FM_TRACE_NONE) {
        int64_t gap = work->begin_ns - walker->builder->works[next].end_ns;
        *(dependency->cause == FM_TRACE_CAUSE_LAUNCH ? &path->launch_ns : &path->gap_ns) += gap;
    } else {
        path->gap_ns += work->begin_ns - walker->builder->units[work->unit].first_ns;
    }
    return next;
}

static void walk_unit(struct walker *walker, size_t unit)
{
    struct fm_trace_builder *builder = walker->builder;
    fm_trace_path *path = &builder->report.path;
    struct fm_trace_range range = builder->works_of_unit[unit];
    uint32_t at = FM_TRACE_NONE, last = FM_TRACE_NONE;
    for (size_t i = range.begin; i < range.end; i++)
        if (at == FM_TRACE_NONE || builder->works[i].end_ns > builder->works[at].end_ns)
            at = (uint32_t)i;
    int64_t until = at == FM_TRACE_NONE ? 0 : builder->works[at].end_ns;
    // Within a unit every cause comes before its effect in the order of works, and messages are counted: the walk ends.
    while (at != FM_TRACE_NONE) {
        const fm_trace_work *work = &builder->works[at];
        const struct fm_trace_message *message = walker->hops_left ? awaited(walker, at, until) : NULL;
        last = at;
        if (message) {
            walker->hops_left--;
            path->messages++;
            path->message_ns += message->taken_ns - message->sent_ns;
            add_work(path, work, until - message->taken_ns);
            at = message->sender;
            until = message->sent_ns;
            continue;
        }
        add_work(path, work, until - work->begin_ns);
        at = step_back(walker, at);
        until = at == FM_TRACE_NONE ? 0 : builder->works[at].end_ns;
    }
    if (last != FM_TRACE_NONE)
        path->length_ns += builder->units[unit].last_ns - builder->units[builder->works[last].unit].first_ns;
}

fm_status fm_trace_build_path(struct fm_trace_builder *builder)
{
    struct fm_trace_dependency *dependencies;
    struct fm_trace_message *messages;
    size_t *first;
    FM_TRY(fm_trace_dependencies(&builder->report, &builder->scratch, &dependencies));
    FM_TRY(fm_trace_messages(&builder->report, &builder->scratch, &messages, &first));
    struct walker walker = {.builder = builder,
                            .dependencies = dependencies,
                            .messages = messages,
                            .first = first,
                            .hops_left = HOPS_A_MESSAGE * first[builder->report.work_count]};
    for (size_t unit = 0; unit < builder->report.unit_count; unit++)
        walk_unit(&walker, unit);
    return FM_OK;
}
