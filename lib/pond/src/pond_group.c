/*
 * A group-by over partitions. Where every aggregate can be taken in two steps, groups are formed before rows move, and only
 * groups move: count is a sum of counts, sum of sums, min of mins, max of maxes, avg of a sum by a count. Any other aggregate
 * makes all rows move to their group's partition.
 */
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "pond_stage.h"

struct item {
    const char *text;
    size_t length;
    const char *name; // behind AS; NULL: none
    size_t name_length;
};

enum { ITEMS_MAX = 64 };

static void trim(const char **text, size_t *length)
{
    while (*length && isspace((unsigned char)**text))
        ++*text, --*length;
    while (*length && isspace((unsigned char)(*text)[*length - 1]))
        --*length;
}

static void find_name(struct item *item)
{
    const char *end = item->text + item->length;
    for (const char *at = item->text; at < end;) {
        if (at > item->text && end - at > 3 && isspace((unsigned char)at[-1]) &&
            strncasecmp(at, "as", 2) == 0 && isspace((unsigned char)at[2])) {
            item->name = at + 3;
            item->name_length = (size_t)(end - item->name);
            item->length = (size_t)(at - item->text);
        }
        at = fm_pond_text_skip(at);
    }
    trim(&item->text, &item->length);
    if (item->name)
        trim(&item->name, &item->name_length);
}

static fm_status split(const char *list, struct item items[ITEMS_MAX], int *out_count)
{
    int count = 0;
    for (const char *at = list; *at;) {
        const char *begin = at;
        while (*at && *at != ',')
            at = fm_pond_text_skip(at);
        if (count == ITEMS_MAX)
            return fm_base_error_set(FM_ERR_LIMIT, "group_by: more than %d expressions", ITEMS_MAX);
        items[count] = (struct item){.text = begin, .length = (size_t)(at - begin)};
        find_name(&items[count]);
        if (items[count].length == 0)
            return fm_base_error_set(FM_ERR_ARG, "group_by: an empty expression in '%s'", list);
        count++;
        if (*at)
            at++;
    }
    if (count == 0)
        return fm_base_error_set(FM_ERR_ARG, "group_by: no expression");
    *out_count = count;
    return FM_OK;
}

static void add_name(fm_pond_text *to, const struct item *item)
{
    if (item->name) {
        fm_pond_text_add_bytes(to, item->name, item->name_length);
        return;
    }
    if (item->text[0] == '"') { // a quoted name is a name already
        fm_pond_text_add_bytes(to, item->text, item->length);
        return;
    }
    fm_pond_text_add(to, "\"");
    for (size_t i = 0; i < item->length; i++)
        fm_pond_text_add_bytes(to, item->text[i] == '"' ? "\"\"" : item->text + i,
                               item->text[i] == '"' ? 2 : 1);
    fm_pond_text_add(to, "\"");
}

enum step { NO_STEP, STEP_COUNT, STEP_SUM, STEP_MIN, STEP_MAX, STEP_AVG };

// The function of "name(argument)" when it can be taken in two steps.
static enum step step_of(const struct item *item, const char **out_argument, size_t *out_length)
{
    static const char *const names[] = {"", "count", "sum", "min", "max", "avg"};
    for (int i = STEP_COUNT; i <= STEP_AVG; i++) {
        size_t length = strlen(names[i]);
        if (item->length < length + 3 || strncasecmp(item->text, names[i], length) != 0 ||
            item->text[length] != '(' || fm_pond_text_skip(item->text + length) != item->text + item->length)
            continue;
        *out_argument = item->text + length + 1;
        *out_length = item->length - length - 2;
        trim(out_argument, out_length);
        // DISTINCT and ORDER BY need all rows of a group in one place.
        if (*out_length > 8 && strncasecmp(*out_argument, "distinct", 8) == 0)
            return NO_STEP;
        for (const char *at = *out_argument; at < *out_argument + *out_length; at = fm_pond_text_skip(at))
            if (isspace((unsigned char)*at) && strncasecmp(at + 1, "order", 5) == 0)
                return NO_STEP;
        return (enum step)i;
    }
    return NO_STEP;
}

static void add_steps(fm_pond_group_sql *sql, const struct item *item, int number)
{
    const char *argument = NULL;
    size_t length = 0;
    enum step step = step_of(item, &argument, &length);
    int size = (int)length;
    fm_pond_text_add(&sql->first, ", ");
    fm_pond_text_add(&sql->last, ", ");
    switch (step) {
    case STEP_COUNT:
        fm_pond_text_add(&sql->first, "count(%.*s) AS __a%d", size, argument, number);
        fm_pond_text_add(&sql->last, "CAST(sum(__a%d) AS BIGINT) AS ", number);
        break;
    case STEP_SUM:
        fm_pond_text_add(&sql->first, "sum(%.*s) AS __a%d", size, argument, number);
        fm_pond_text_add(&sql->last, "sum(__a%d) AS ", number);
        break;
    case STEP_AVG:
        fm_pond_text_add(&sql->first, "sum(%.*s) AS __a%d, count(%.*s) AS __b%d", size, argument, number,
                         size, argument, number);
        fm_pond_text_add(&sql->last, "CAST(sum(__a%d) AS DOUBLE) / sum(__b%d) AS ", number, number);
        break;
    default: {
        const char *name = step == STEP_MIN ? "min" : "max";
        fm_pond_text_add(&sql->first, "%s(%.*s) AS __a%d", name, size, argument, number);
        fm_pond_text_add(&sql->last, "%s(__a%d) AS ", name, number);
        break;
    }
    }
    add_name(&sql->last, item);
}

static int all_in_two_steps(const struct item *items, int count)
{
    const char *argument;
    size_t length;
    for (int i = 0; i < count; i++)
        if (step_of(&items[i], &argument, &length) == NO_STEP)
            return 0;
    return 1;
}

fm_status fm_pond_group_sql_make(const char *by, const char *aggregates, fm_pond_group_sql *out)
{
    struct item keys[ITEMS_MAX], values[ITEMS_MAX];
    int key_count, value_count;
    FM_TRY(split(by, keys, &key_count));
    FM_TRY(split(aggregates, values, &value_count));
    fm_pond_group_sql sql = {0};
    int two_steps = all_in_two_steps(values, value_count);
    fm_pond_text_add(&sql.last, "SELECT ");
    if (two_steps)
        fm_pond_text_add(&sql.first, "SELECT ");
    for (int i = 0; i < key_count; i++) {
        const char *comma = i ? ", " : "";
        int size = (int)keys[i].length;
        if (two_steps) {
            fm_pond_text_add(&sql.first, "%s%.*s AS __k%d", comma, size, keys[i].text, i);
            fm_pond_text_add(&sql.hash, "%s__k%d", comma, i);
            fm_pond_text_add(&sql.last, "%s__k%d AS ", comma, i);
        } else {
            fm_pond_text_add(&sql.hash, "%s%.*s", comma, size, keys[i].text);
            fm_pond_text_add(&sql.last, "%s%.*s AS ", comma, size, keys[i].text);
        }
        add_name(&sql.last, &keys[i]);
    }
    for (int i = 0; i < value_count; i++) {
        if (two_steps) {
            add_steps(&sql, &values[i], i);
        } else {
            fm_pond_text_add(&sql.last, ", %.*s AS ", (int)values[i].length, values[i].text);
            add_name(&sql.last, &values[i]);
        }
    }
    const char *group = " FROM {0} GROUP BY ";
    fm_pond_text_add(&sql.last, "%s", group);
    if (two_steps)
        fm_pond_text_add(&sql.first, "%s", group);
    for (int i = 0; i < key_count; i++) {
        fm_pond_text_add(&sql.last, "%s%d", i ? ", " : "", i + 1);
        if (two_steps)
            fm_pond_text_add(&sql.first, "%s%d", i ? ", " : "", i + 1);
    }
    if (sql.first.failed || sql.hash.failed || sql.last.failed) {
        fm_pond_group_sql_clear(&sql);
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a query");
    }
    *out = sql;
    return FM_OK;
}

void fm_pond_group_sql_clear(fm_pond_group_sql *sql)
{
    fm_pond_text_clear(&sql->first);
    fm_pond_text_clear(&sql->hash);
    fm_pond_text_clear(&sql->last);
}
