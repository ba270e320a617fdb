#include "bench_net_tls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "fathom/mem.h"

/* A certificate */

static FILE *create(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    return fd < 0 ? NULL : fdopen(fd, "w");
}

static int sign(X509 *certificate, EVP_PKEY *key)
{
    enum { DAY = 24 * 3600 };
    X509_NAME *name = X509_get_subject_name(certificate);
    return X509_set_version(certificate, 2) == 1 &&
           ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1) == 1 &&
           X509_gmtime_adj(X509_getm_notBefore(certificate), -DAY) &&
           X509_gmtime_adj(X509_getm_notAfter(certificate), DAY) &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"bench", -1, -1, 0) ==
               1 &&
           X509_set_issuer_name(certificate, name) == 1 && X509_set_pubkey(certificate, key) == 1 &&
           X509_sign(certificate, key, EVP_sha256()) > 0;
}

static int write_files(const char *cert_path, const char *key_path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    FILE *cert_file = create(cert_path), *key_file = create(key_path);
    int good = key && certificate && cert_file && key_file && sign(certificate, key) &&
               PEM_write_X509(cert_file, certificate) == 1 &&
               PEM_write_PrivateKey(key_file, key, NULL, NULL, 0, NULL, NULL) == 1;
    if (cert_file)
        good &= fclose(cert_file) == 0;
    if (key_file)
        good &= fclose(key_file) == 0;
    X509_free(certificate);
    EVP_PKEY_free(key);
    return good;
}

fm_status bench_net_tls_new(const char *folder, fm_net_tls **out_tls)
{
    char cert[100], key[100];
    snprintf(cert, sizeof cert, "%s/cert.pem", folder);
    snprintf(key, sizeof key, "%s/key.pem", folder);
    const fm_net_tls_options options = {.size = sizeof options, .cert = cert, .key = key, .ca = cert};
    fm_status status = write_files(cert, key)
                           ? fm_net_tls_new(&options, out_tls)
                           : fm_base_error_set(FM_ERR_IO, "cannot make a certificate in %s", folder);
    (void)unlink(cert);
    (void)unlink(key);
    return status == FM_ERR_UNSUPPORTED ? fm_base_error_set(FM_ERR_UNAVAILABLE, "built without TLS") : status;
}

/* Records */

enum { RECORD_BYTES = 16 << 10, TAG_BYTES = 16 };

struct bench_net_records {
    EVP_CIPHER_CTX *seal, *open;
    uint64_t sealed, opened; // the nonces
    unsigned char bytes[RECORD_BYTES + TAG_BYTES];
};

void bench_net_records_free(struct bench_net_records *records)
{
    if (!records)
        return;
    EVP_CIPHER_CTX_free(records->seal);
    EVP_CIPHER_CTX_free(records->open);
    fm_base_mem_free(records);
}

struct bench_net_records *bench_net_records_new(void)
{
    static const unsigned char key[32] = {1, 2, 3};
    struct bench_net_records *records = fm_base_mem_zalloc(1, sizeof *records);
    if (!records)
        return NULL;
    records->seal = EVP_CIPHER_CTX_new();
    records->open = EVP_CIPHER_CTX_new();
    if (records->seal && records->open &&
        EVP_EncryptInit_ex(records->seal, EVP_aes_256_gcm(), NULL, key, NULL) == 1 &&
        EVP_DecryptInit_ex(records->open, EVP_aes_256_gcm(), NULL, key, NULL) == 1)
        return records;
    bench_net_records_free(records);
    return NULL;
}

static int seal(struct bench_net_records *records, const unsigned char *bytes, int size)
{
    unsigned char nonce[12] = {0};
    int done;
    memcpy(nonce, &records->sealed, sizeof records->sealed);
    records->sealed++;
    return EVP_EncryptInit_ex(records->seal, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(records->seal, records->bytes, &done, bytes, size) == 1 &&
           EVP_EncryptFinal_ex(records->seal, records->bytes + done, &done) == 1 &&
           EVP_CIPHER_CTX_ctrl(records->seal, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, records->bytes + size) == 1;
}

static int unseal(struct bench_net_records *records, unsigned char *bytes, int size)
{
    unsigned char nonce[12] = {0};
    int done;
    memcpy(nonce, &records->opened, sizeof records->opened);
    records->opened++;
    return EVP_DecryptInit_ex(records->open, NULL, NULL, NULL, nonce) == 1 &&
           EVP_DecryptUpdate(records->open, bytes, &done, records->bytes, size) == 1 &&
           EVP_CIPHER_CTX_ctrl(records->open, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, records->bytes + size) == 1 &&
           EVP_DecryptFinal_ex(records->open, bytes + done, &done) == 1;
}

int bench_net_plain_transfer(int fd, unsigned char *bytes, size_t size, int out)
{
    while (size > 0) {
        ssize_t part = out ? send(fd, bytes, size, MSG_NOSIGNAL) : recv(fd, bytes, size, 0);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return -1;
        bytes += part;
        size -= (size_t)part;
    }
    return 0;
}

int bench_net_records_transfer(struct bench_net_records *records, int fd, unsigned char *bytes, size_t size,
                               int out)
{
    for (size_t part; size > 0; bytes += part, size -= part) {
        part = size < RECORD_BYTES ? size : RECORD_BYTES;
        if ((out && !seal(records, bytes, (int)part)) ||
            bench_net_plain_transfer(fd, records->bytes, part + TAG_BYTES, out) != 0 ||
            (!out && !unseal(records, bytes, (int)part)))
            return -1;
    }
    return 0;
}
