/* `fathom eplb show`. */
#ifndef FM_EPLB_SHOW_H
#define FM_EPLB_SHOW_H

#include "fathom/config.h"

extern const fm_command fm_cmd_eplb_show;

#endif
