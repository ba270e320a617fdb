/**
 * @file fm_certs.h
 * Certificates for tests, made by the openssl command when they are first asked for.
 */
#ifndef FM_CERTS_H
#define FM_CERTS_H

/**
 * The path of a file, valid until the program ends: ca.pem and other.pem (two CAs); of members of the first one a.pem, b.pem,
 * old.pem (expired), named.pem (for localhost, *.fathom.test and 127.0.0.1) and revoked.pem, of the other one foreign.pem; their
 * keys a.key, b.key and so on; locked.key (a.key with a password), open.key (a.key, for all to read); ca.crl and other.crl
 * (what the CAs have revoked), stale.crl (of the first one, expired); nonsense. Skips the test where there is no openssl command.
 */
const char *fm_test_cert(const char *name);

#endif
