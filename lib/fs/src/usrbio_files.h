// The files that a program has registered for its rings.
#ifndef FATHOM_USRBIO_FILES_H
#define FATHOM_USRBIO_FILES_H

#include "ring_link.h"

// What a ring of `link` calls the registered file `fd` (or the number that stands for it), which must be open for what is
// asked. -EBADF, -EACCES, -ENOTCONN.
int fm_fs_usrbio_file(struct fm_fs_link *link, int fd, int writes, uint32_t *out_number);

#endif
