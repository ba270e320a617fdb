/* Lines on standard error: shared by the log and the progress bar, which may stand on the terminal's last line. */
#ifndef FM_BASE_LOG_LINE_H
#define FM_BASE_LOG_LINE_H

#include <stddef.h>

/* Writes all of the text to `fd`, in one write() where the kernel takes it so. What cannot be written is lost: there is no
 * place left to say so. Keeps errno. */
void fm_base_log_put(int fd, const char *text, size_t length);

/* Says whether a progress bar stands on the last line of standard error: log lines then clear it first, and the bar is drawn
 * again by its next update. */
void fm_base_log_bar(int stands);

#endif
