#include "net_crypto.h"

#include <string.h>

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/modes.h>
#include <openssl/params.h>
#include <openssl/rand.h>

#include "fathom/mem.h"

fm_status fm_net_crypto_random(void *out_bytes, size_t size)
{
    if (RAND_bytes(out_bytes, (int)size) != 1)
        return fm_base_error_set(FM_ERR_IO, "the system gives no random bytes");
    return FM_OK;
}

// OpenSSL asks for mutable pointers in parameters that it only reads.
static void *readable(const void *bytes)
{
    void *same;
    memcpy(&same, &bytes, sizeof same);
    return same;
}

static OSSL_PARAM text_param(const char *name, const char *text)
{
    return OSSL_PARAM_construct_utf8_string(name, readable(text), 0);
}

static OSSL_PARAM bytes_param(const char *name, const void *bytes, size_t size)
{
    return OSSL_PARAM_construct_octet_string(name, readable(bytes), size);
}

fm_status fm_net_crypto_hmac(const uint8_t key[NET_HASH_BYTES], const struct net_bytes *pieces, size_t count,
                             uint8_t out_mac[NET_HASH_BYTES])
{
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *context = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    OSSL_PARAM params[] = {text_param(OSSL_MAC_PARAM_DIGEST, "SHA256"), OSSL_PARAM_construct_end()};
    size_t size;
    int ok = context && EVP_MAC_init(context, key, NET_HASH_BYTES, params) == 1;
    for (size_t i = 0; ok && i < count; i++)
        ok = EVP_MAC_update(context, pieces[i].at, pieces[i].size) == 1;
    ok = ok && EVP_MAC_final(context, out_mac, &size, NET_HASH_BYTES) == 1;
    EVP_MAC_CTX_free(context);
    EVP_MAC_free(hmac);
    return ok ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "HMAC-SHA256 failed");
}

fm_status fm_net_crypto_hkdf(const uint8_t secret[NET_HASH_BYTES], const void *salt, size_t salt_bytes,
                             const char *info, void *out_bytes, size_t size)
{
    EVP_KDF *hkdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *context = hkdf ? EVP_KDF_CTX_new(hkdf) : NULL;
    OSSL_PARAM params[] = {
        text_param(OSSL_KDF_PARAM_DIGEST, "SHA256"),
        bytes_param(OSSL_KDF_PARAM_KEY, secret, NET_HASH_BYTES),
        bytes_param(OSSL_KDF_PARAM_SALT, salt, salt_bytes),
        bytes_param(OSSL_KDF_PARAM_INFO, info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    int ok = context && EVP_KDF_derive(context, out_bytes, size, params) == 1;
    EVP_KDF_CTX_free(context);
    EVP_KDF_free(hkdf);
    return ok ? FM_OK : fm_base_error_set(FM_ERR_NOMEM, "HKDF-SHA256 failed");
}

int fm_net_crypto_equal(const void *a, const void *b, size_t size)
{
    return CRYPTO_memcmp(a, b, size) == 0;
}

void fm_net_crypto_clear(void *bytes, size_t size)
{
    OPENSSL_cleanse(bytes, size);
}

// AES by EVP, which chooses the processor's instructions; the rest of GCM by the functions below EVP, whose way through
// names of parameters would cost three times as much as the tag of a small message.
struct fm_net_seal {
    EVP_CIPHER_CTX *aes; // AES-256 of single blocks
    GCM128_CONTEXT *gcm;
    uint64_t frame; // 2^63 frames are more than a connection lives to see
    uint8_t salt[NET_SEAL_SALT_BYTES];
    int *failed; // not in here, because GCM hands this out as const
};

static void encrypt_block(const unsigned char in[16], unsigned char out[16], const void *context)
{
    const fm_net_seal *seal = context;
    int written = 0;
    if (EVP_EncryptUpdate(seal->aes, out, &written, in, 16) != 1 || written != 16)
        *seal->failed = 1;
}

fm_status fm_net_seal_new(const uint8_t key[NET_SEAL_KEY_BYTES], const uint8_t salt[NET_SEAL_SALT_BYTES],
                          fm_net_seal **out_seal)
{
    fm_net_seal *seal = fm_base_mem_zalloc(1, sizeof *seal + sizeof *seal->failed);
    if (!seal)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a connection's MAC");
    seal->failed = (int *)(void *)(seal + 1);
    memcpy(seal->salt, salt, NET_SEAL_SALT_BYTES);
    seal->aes = EVP_CIPHER_CTX_new();
    if (seal->aes && EVP_EncryptInit_ex(seal->aes, EVP_aes_256_ecb(), NULL, key, NULL) == 1 &&
        EVP_CIPHER_CTX_set_padding(seal->aes, 0) == 1)
        seal->gcm = CRYPTO_gcm128_new(seal, encrypt_block);
    if (!seal->gcm || *seal->failed) {
        fm_net_seal_free(seal);
        return fm_base_error_set(FM_ERR_NOMEM, "cannot set up AES-256-GMAC");
    }
    *out_seal = seal;
    return FM_OK;
}

void fm_net_seal_free(fm_net_seal *seal)
{
    if (!seal)
        return;
    CRYPTO_gcm128_release(seal->gcm); // both clear the key
    EVP_CIPHER_CTX_free(seal->aes);
    fm_base_mem_free(seal);
}

void fm_net_seal_begin(fm_net_seal *seal, enum net_part part)
{
    uint8_t nonce[NET_SEAL_SALT_BYTES + 8];
    memcpy(nonce, seal->salt, NET_SEAL_SALT_BYTES);
    fm_put_le64(nonce + NET_SEAL_SALT_BYTES, seal->frame * 2 + part);
    CRYPTO_gcm128_setiv(seal->gcm, nonce, sizeof nonce);
}

void fm_net_seal_update(fm_net_seal *seal, const void *bytes, size_t size)
{
    // GCM with nothing but data that is authenticated and not encrypted is GMAC.
    if (CRYPTO_gcm128_aad(seal->gcm, bytes, size) != 0)
        *seal->failed = 1;
}

fm_status fm_net_seal_end(fm_net_seal *seal, uint8_t out_tag[NET_TAG_BYTES])
{
    CRYPTO_gcm128_tag(seal->gcm, out_tag, NET_TAG_BYTES);
    // A tag that was made without AES would give the key of its hash away. What failed once stays failed.
    if (*seal->failed) {
        fm_net_crypto_clear(out_tag, NET_TAG_BYTES);
        return fm_base_error_set(FM_ERR_INTERNAL, "AES-256-GMAC failed");
    }
    return FM_OK;
}

void fm_net_seal_advance(fm_net_seal *seal)
{
    seal->frame++;
}
