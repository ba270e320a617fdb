/**
 * @file fm_certs.h
 * Certificates for tests, made by the openssl command when they are first asked for.
 */
#ifndef FM_CERTS_H
#define FM_CERTS_H

/**
 * The path of a file, valid until the program ends: ca.pem and other.pem (two CAs); of members of the first one a.pem, b.pem
 * and old.pem (expired), of the other one foreign.pem; their keys a.key, b.key, old.key, foreign.key; locked.key (a.key
 * with a password), open.key (a.key, for all to read), nonsense. Skips the test where there is no openssl command.
 */
const char *fm_test_cert(const char *name);

#endif
