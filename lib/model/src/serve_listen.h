/* A listening socket of our own, so that what is wrong with the address can be said. */
#ifndef FM_SERVE_LISTEN_H
#define FM_SERVE_LISTEN_H

#include "fathom/status.h"

/** `port` 0: any that is free. FM_ERR_ARG (no address of this machine), FM_ERR_EXISTS (the port is in use), FM_ERR_PERM,
 *  FM_ERR_IO. The caller closes the socket. */
FM_MUST_USE fm_status fm_model_serve_listen(const char *host, int port, int *out_fd, int *out_port);

#endif
