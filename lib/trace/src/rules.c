#include "rules.h"

#include <regex.h>
#include <string.h>

#include "fathom/mem.h"

enum { RULES_MAX = 1024, STREAMS_MAX = 64 };

struct pattern {
    int is_set;
    regex_t regex;
};

struct rule {
    uint16_t group;
    struct pattern name, category;
};

struct fm_trace_rules {
    fm_arena texts;
    struct fm_trace_rule_group groups[FM_TRACE_GROUPS_MAX];
    size_t group_count;
    struct rule rules[RULES_MAX];
    size_t rule_count;
    struct pattern phase, step, directions[FM_TRACE_DIRECTIONS];
    int64_t streams[STREAMS_MAX];
    size_t stream_count;
};

extern const char fm_trace_rules_default[]; // rules/default.yaml, embedded

const char *fm_trace_rules_text(void)
{
    return fm_trace_rules_default;
}

static int matches(const struct pattern *pattern, const char *text)
{
    return pattern->is_set && regexec(&pattern->regex, text, 0, NULL, 0) == 0;
}

/* An absent node leaves the pattern unset: it then matches nothing by itself. */
static fm_status read_pattern(const fm_doc *node, const char *what, struct pattern *pattern)
{
    const char *text;
    if (!node)
        return FM_OK;
    FM_TRY(fm_base_doc_string(node, what, &text));
    int error = regcomp(&pattern->regex, text, REG_EXTENDED | REG_NOSUB);
    if (error == REG_ESPACE)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for the pattern %s", text);
    if (error) {
        char reason[128];
        regerror(error, &pattern->regex, reason, sizeof reason);
        return fm_base_doc_error(FM_ERR_FORMAT, node,
                                 "%s is '%s', which is no extended regular expression: %s", what, text,
                                 reason);
    }
    pattern->is_set = 1;
    return FM_OK;
}

static fm_status read_kind(const fm_doc *node, fm_trace_work_kind *out)
{
    static const char *const kinds[] = {"compute", "transfer", "wait"};
    const char *text;
    FM_TRY(fm_base_doc_string(node, "kind", &text));
    for (int i = 0; i < 3; i++)
        if (strcmp(text, kinds[i]) == 0) {
            *out = (fm_trace_work_kind)i;
            return FM_OK;
        }
    return fm_base_doc_error(FM_ERR_FORMAT, node, "kind is '%s'; expected compute, transfer or wait", text);
}

/* The group of this name, new or known. Its rules agree on what it is. */
static fm_status find_group(fm_trace_rules *rules, const fm_doc *node, uint16_t *out)
{
    const char *name;
    fm_trace_work_kind kind = FM_TRACE_COMPUTE;
    int is_pair = 0, is_collective = 0;
    FM_TRY(fm_base_doc_string(fm_base_doc_get(node, "group"), "group", &name));
    FM_TRY(fm_base_doc_expect(fm_base_doc_get(node, "kind"), "kind", FM_DOC_STRING));
    FM_TRY(read_kind(fm_base_doc_get(node, "kind"), &kind));
    if (fm_base_doc_get(node, "pair"))
        FM_TRY(fm_base_doc_bool(fm_base_doc_get(node, "pair"), "pair", &is_pair));
    if (fm_base_doc_get(node, "collective"))
        FM_TRY(fm_base_doc_bool(fm_base_doc_get(node, "collective"), "collective", &is_collective));
    size_t i = 0;
    while (i < rules->group_count && strcmp(rules->groups[i].name, name) != 0)
        i++;
    if (i < rules->group_count && (rules->groups[i].kind != kind || rules->groups[i].is_pair != is_pair ||
                                   rules->groups[i].is_collective != is_collective))
        return fm_base_doc_error(FM_ERR_FORMAT, node, "the group %s is of another kind above", name);
    if (i == FM_TRACE_GROUPS_MAX)
        return fm_base_doc_error(FM_ERR_LIMIT, node, "more than %d groups", FM_TRACE_GROUPS_MAX);
    if (i == rules->group_count) {
        const char *copy = fm_base_arena_strndup(&rules->texts, name, strlen(name));
        if (!copy)
            return fm_base_error_set(FM_ERR_NOMEM, "no memory for rules");
        rules->groups[rules->group_count++] =
            (struct fm_trace_rule_group){copy, kind, is_pair, is_collective};
    }
    *out = (uint16_t)i;
    return FM_OK;
}

static fm_status read_rule(fm_trace_rules *rules, const fm_doc *node)
{
    static const char *const known[] = {"group", "kind", "name", "category", "pair", "collective", NULL};
    FM_TRY(fm_base_doc_expect(node, "a rule", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_known_keys(node, "a rule", known));
    if (rules->rule_count == RULES_MAX)
        return fm_base_doc_error(FM_ERR_LIMIT, node, "more than %d rules", RULES_MAX);
    struct rule *rule = &rules->rules[rules->rule_count];
    FM_TRY(find_group(rules, node, &rule->group));
    rules->rule_count++; // from here on its patterns are freed with the rules
    FM_TRY(read_pattern(fm_base_doc_get(node, "name"), "name", &rule->name));
    return read_pattern(fm_base_doc_get(node, "category"), "category", &rule->category);
}

static fm_status read_streams(fm_trace_rules *rules, const fm_doc *node)
{
    static const char *const known[] = {"streams", NULL};
    if (!node)
        return FM_OK;
    FM_TRY(fm_base_doc_known_keys(node, "communication", known));
    const fm_doc *list = fm_base_doc_get(node, "streams");
    FM_TRY(fm_base_doc_expect(list, "streams", FM_DOC_ARRAY));
    for (size_t i = 0; i < fm_base_doc_count(list); i++) {
        if (rules->stream_count == STREAMS_MAX)
            return fm_base_doc_error(FM_ERR_LIMIT, list, "more than %d communication streams", STREAMS_MAX);
        FM_TRY(fm_base_doc_int(fm_base_doc_at(list, i), "a stream", INT32_MIN, INT32_MAX,
                               &rules->streams[rules->stream_count]));
        rules->stream_count++;
    }
    return FM_OK;
}

static fm_status read_rules(fm_trace_rules *rules, const fm_doc *root)
{
    static const char *const known[] = {"groups", "phases", "steps", "directions", "communication", NULL};
    static const char *const directions[] = {"forward", "backward", "weights", NULL};
    FM_TRY(fm_base_doc_expect(root, "a rules file", FM_DOC_OBJECT));
    FM_TRY(fm_base_doc_known_keys(root, "a rules file", known));
    const fm_doc *groups = fm_base_doc_get(root, "groups");
    FM_TRY(fm_base_doc_expect(groups, "groups", FM_DOC_ARRAY));
    for (size_t i = 0; i < fm_base_doc_count(groups); i++)
        FM_TRY(read_rule(rules, fm_base_doc_at(groups, i)));
    const struct rule *last = rules->rule_count ? &rules->rules[rules->rule_count - 1] : NULL;
    if (!last || last->name.is_set || last->category.is_set)
        return fm_base_doc_error(FM_ERR_FORMAT, groups,
                                 "the last rule has to take the rest: it has no patterns");
    FM_TRY(read_pattern(fm_base_doc_get(fm_base_doc_get(root, "phases"), "category"), "category",
                        &rules->phase));
    FM_TRY(read_pattern(fm_base_doc_get(fm_base_doc_get(root, "steps"), "name"), "name", &rules->step));
    const fm_doc *section = fm_base_doc_get(root, "directions");
    if (section)
        FM_TRY(fm_base_doc_known_keys(section, "directions", directions));
    for (int i = 0; i < FM_TRACE_DIRECTIONS; i++)
        FM_TRY(read_pattern(fm_base_doc_get(section, directions[i]), directions[i], &rules->directions[i]));
    return read_streams(rules, fm_base_doc_get(root, "communication"));
}

fm_status fm_trace_rules_load(const char *path, fm_trace_rules **out_rules)
{
    fm_doc *root = NULL;
    fm_trace_rules *rules = fm_base_mem_zalloc(1, sizeof *rules);
    if (!rules)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for rules");
    fm_status status = path ? fm_base_doc_load(path, &root)
                            : fm_base_doc_parse_yaml(fm_trace_rules_default, strlen(fm_trace_rules_default),
                                                     "built-in rules", &root);
    if (status == FM_OK)
        status = read_rules(rules, root);
    fm_base_doc_free(root);
    if (status < 0) {
        fm_trace_rules_free(rules);
        return status;
    }
    *out_rules = rules;
    return FM_OK;
}

static void free_pattern(struct pattern *pattern)
{
    if (pattern->is_set)
        regfree(&pattern->regex);
}

void fm_trace_rules_free(fm_trace_rules *rules)
{
    if (!rules)
        return;
    for (size_t i = 0; i < rules->rule_count; i++) {
        free_pattern(&rules->rules[i].name);
        free_pattern(&rules->rules[i].category);
    }
    for (int i = 0; i < FM_TRACE_DIRECTIONS; i++)
        free_pattern(&rules->directions[i]);
    free_pattern(&rules->phase);
    free_pattern(&rules->step);
    fm_base_arena_clear(&rules->texts);
    fm_base_mem_free(rules);
}

const struct fm_trace_rule_group *fm_trace_rules_groups(const fm_trace_rules *rules, size_t *out_count)
{
    *out_count = rules->group_count;
    return rules->groups;
}

uint16_t fm_trace_rules_group_of(const fm_trace_rules *rules, const char *name, const char *category)
{
    for (size_t i = 0; i < rules->rule_count; i++) {
        const struct rule *rule = &rules->rules[i];
        if ((!rule->name.is_set || matches(&rule->name, name)) &&
            (!rule->category.is_set || matches(&rule->category, category)))
            return rule->group;
    }
    return (uint16_t)(rules->group_count - 1);
}

int fm_trace_rules_is_phase(const fm_trace_rules *rules, const char *category)
{
    return matches(&rules->phase, category);
}

int fm_trace_rules_is_step(const fm_trace_rules *rules, const char *name)
{
    return matches(&rules->step, name);
}

int fm_trace_rules_direction(const fm_trace_rules *rules, const char *name)
{
    for (int i = 0; i < FM_TRACE_DIRECTIONS; i++)
        if (matches(&rules->directions[i], name))
            return i;
    return -1;
}

int fm_trace_rules_has_stream(const fm_trace_rules *rules, int64_t stream)
{
    for (size_t i = 0; i < rules->stream_count; i++)
        if (rules->streams[i] == stream)
            return 1;
    return 0;
}
