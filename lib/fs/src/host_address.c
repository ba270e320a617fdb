#include "host_address.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MACHINE_DIGITS = 16 };

// "" where the kernel does not tell.
static void this_machine(char out_digits[MACHINE_DIGITS + 1])
{
    char text[40];
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t size = fd >= 0 ? read(fd, text, sizeof text) : 0;
    size_t digits = 0;
    if (fd >= 0)
        close(fd);
    for (ssize_t i = 0; i < size && digits < MACHINE_DIGITS; i++)
        if (text[i] != '-')
            out_digits[digits++] = text[i];
    out_digits[digits < MACHINE_DIGITS ? 0 : digits] = 0;
}

void fm_fs_host_announce(const char *anywhere, const char *local, char *out_text)
{
    char machine[MACHINE_DIGITS + 1];
    char text[2 * FM_FS_ADDRESS_MAX];
    this_machine(machine);
    int length = local && machine[0] ? snprintf(text, sizeof text, "%s %s@%s", anywhere, local, machine) : 0;
    if (length > 0 && length <= FM_FS_ADDRESS_MAX)
        memcpy(out_text, text, (size_t)length + 1);
    else
        snprintf(out_text, FM_FS_ADDRESS_MAX + 1, "%s", anywhere);
}

void fm_fs_host_announced(const char *text, struct fm_fs_host_address *out_address)
{
    char machine[MACHINE_DIGITS + 1];
    const char *blank = strchr(text, ' ');
    const char *at = blank ? strrchr(blank, '@') : NULL;
    *out_address = (struct fm_fs_host_address){0};
    snprintf(out_address->anywhere, sizeof out_address->anywhere, "%.*s",
             (int)(blank ? (size_t)(blank - text) : strlen(text)), text);
    this_machine(machine);
    if (at && machine[0] && strcmp(at + 1, machine) == 0)
        snprintf(out_address->local, sizeof out_address->local, "%.*s", (int)(at - blank - 1), blank + 1);
}
