/* What config.c and command.c share: one option's text form. */
#ifndef FM_CONFIG_VALUE_H
#define FM_CONFIG_VALUE_H

#include "fathom/config.h"

/** Rows before the terminating one. NULL counts 0. */
size_t fm_base_config_count(const fm_option *schema);
/** Index of the row whose name is `name`, reading '_' as '-'; -1 when there is none. */
int fm_base_config_find(const fm_option *schema, const char *name);
/** "an integer from 1 to 64", "one of best, reference": what the option takes, into `out_text`. */
void fm_base_config_expected(const fm_option *option, char *out_text, size_t size);
/** "FM_EPLB_PLAN_MAX_MOVES" from prefix "eplb plan" and name "max-moves". */
void fm_base_config_env_name(const char *prefix, const char *name, char *out_text, size_t size);
/** As fm_base_config_from_doc()/_from_env(); sets given[i] for each option that was there when `given` is not
 * NULL. */
fm_status fm_base_config_read_doc(const fm_option *schema, const fm_doc *section, void *out_options,
                                  char *given);
fm_status fm_base_config_read_env(const fm_option *schema, const char *prefix, void *out_options,
                                  char *given);
/** How the help names an option's value: "FILE", "ms", "N"; "" for a flag. */
const char *fm_base_config_metavar(const fm_option *option);

#endif
