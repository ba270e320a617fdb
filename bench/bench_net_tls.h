/* What bench_net needs of OpenSSL: a certificate to speak TLS with, and the records that a bare socket would carry instead. */
#ifndef BENCH_NET_TLS_H
#define BENCH_NET_TLS_H

#include <stddef.h>

#include "fathom/net.h"

/** TLS with a new certificate that is its own CA; its files are made in `folder`, and gone when this returns. FM_ERR_UNAVAILABLE:
 *  built without TLS. */
FM_MUST_USE fm_status bench_net_tls_new(const char *folder, fm_net_tls **out_tls);

/** One end of a socket whose bytes go in records of 16 KiB, as TLS has them: AES-256-GCM and its tag, nothing else. */
struct bench_net_records;

/** NULL when there is no memory, or OpenSSL lacks the cipher. */
struct bench_net_records *bench_net_records_new(void);
void bench_net_records_free(struct bench_net_records *records);
/** Sends or receives all of the bytes. -1: the socket has failed, or a tag is wrong. */
int bench_net_records_transfer(struct bench_net_records *records, int fd, unsigned char *bytes, size_t size,
                               int out);

/** The same in the clear. */
int bench_net_plain_transfer(int fd, unsigned char *bytes, size_t size, int out);

#endif
