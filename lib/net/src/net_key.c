#include "fathom/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net_crypto.h"
#include "net_tls.h"

enum {
    ID_BYTES = sizeof(((fm_net_key *)0)->cluster_id),
    SECRET_BYTES = sizeof(((fm_net_key *)0)->secret),
    // "fathom-key-1 <id> <secret>\n"
    FILE_BYTES = 12 + 1 + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES + 1,
};

static const char file_magic[] = "fathom-key-1 ";

fm_status fm_net_key_generate(fm_net_key *out_key)
{
    fm_net_key key;
    FM_TRY(fm_net_crypto_random(&key, sizeof key));
    *out_key = key;
    fm_net_crypto_clear(&key, sizeof key);
    return FM_OK;
}

void fm_net_key_clear(fm_net_key *key)
{
    fm_net_crypto_clear(key, sizeof *key);
}

static char *write_hex(char *to, const uint8_t *bytes, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *to++ = digits[bytes[i] >> 4];
        *to++ = digits[bytes[i] & 15];
    }
    return to;
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_hex(const char *from, uint8_t *out_bytes, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        int high = digit_value(from[2 * i]);
        int low = digit_value(from[2 * i + 1]);
        if (high < 0 || low < 0)
            return 0;
        out_bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 1;
}

fm_status fm_net_key_write(const char *path, const fm_net_key *key)
{
    char text[FILE_BYTES];
    char *end = text + sizeof file_magic - 1;
    memcpy(text, file_magic, sizeof file_magic - 1);
    end = write_hex(end, key->cluster_id, ID_BYTES);
    *end++ = ' ';
    end = write_hex(end, key->secret, SECRET_BYTES);
    *end = '\n';

    fm_status status = FM_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        fm_net_crypto_clear(text, sizeof text);
        return fm_base_error_set_errno(errno == EEXIST ? FM_ERR_EXISTS : FM_ERR_IO, errno,
                                       "cannot make the key file %s", path);
    }
    if (write(fd, text, sizeof text) != (ssize_t)sizeof text || fsync(fd) != 0)
        status = fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write the key file %s", path);
    if (close(fd) != 0 && status == FM_OK)
        status = fm_base_error_set_errno(FM_ERR_IO, errno, "cannot write the key file %s", path);
    if (status != FM_OK)
        unlink(path); // half a key must not look like one
    fm_net_crypto_clear(text, sizeof text);
    return status;
}

fm_status fm_net_key_check_owner(const char *path, int fd)
{
    struct stat info;
    if (fstat(fd, &info) != 0)
        return fm_base_error_set_errno(FM_ERR_IO, errno, "%s", path);
    if (!S_ISREG(info.st_mode))
        return fm_base_error_set(FM_ERR_FORMAT, "%s is not a file", path);
    if (info.st_uid != geteuid() && info.st_uid != 0)
        return fm_base_error_set(FM_ERR_PERM,
                                 "the key file %s belongs to user %u; expected this user (%u) or root", path,
                                 (unsigned)info.st_uid, (unsigned)geteuid());
    if (info.st_mode & 077)
        return fm_base_error_set(FM_ERR_PERM,
                                 "the key file %s has mode %03o, so others may use the key; chmod it to 600",
                                 path, (unsigned)(info.st_mode & 0777));
    return FM_OK;
}

static fm_status parse_key(const char *path, const char *text, size_t size, fm_net_key *out_key)
{
    const char *id = text + sizeof file_magic - 1;
    const char *secret = id + 2 * ID_BYTES + 1;
    fm_net_key key;
    if (size != FILE_BYTES || memcmp(text, file_magic, sizeof file_magic - 1) != 0 ||
        text[FILE_BYTES - 1] != '\n' || secret[-1] != ' ' || !read_hex(id, key.cluster_id, ID_BYTES) ||
        !read_hex(secret, key.secret, SECRET_BYTES))
        return fm_base_error_set(
            FM_ERR_FORMAT,
            "%s is no key file; expected one line of \"fathom-key-1\", %d and %d hexadecimal digits", path,
            2 * ID_BYTES, 2 * SECRET_BYTES);
    *out_key = key;
    fm_net_crypto_clear(&key, sizeof key);
    return FM_OK;
}

fm_status fm_net_key_read(const char *path, fm_net_key *out_key)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return fm_base_error_set_errno(errno == ENOENT ? FM_ERR_NOT_FOUND : FM_ERR_IO, errno,
                                       "cannot open the key file %s", path);
    char text[FILE_BYTES + 1]; // one more, to see that the file ends
    fm_status status = fm_net_key_check_owner(path, fd);
    if (status == FM_OK) {
        ssize_t size = read(fd, text, sizeof text);
        status = size < 0 ? fm_base_error_set_errno(FM_ERR_IO, errno, "cannot read %s", path)
                          : parse_key(path, text, (size_t)size, out_key);
    }
    close(fd);
    fm_net_crypto_clear(text, sizeof text);
    return status;
}
