#include "net_area.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fathom/crc.h"
#include "fathom/mem.h"

// Neither end can change the size any more, nor what is sealed.
static const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

enum {
    // What is copied and summed at once: the sum then reads from the first-level cache what the copy left there.
    STEP_BYTES = 16 << 10,
};

static fm_status map(int fd, uint32_t granules, struct net_area **out_area)
{
    struct net_area *area = fm_base_mem_zalloc(1, sizeof *area);
    if (!area)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for a shared area");
    size_t bytes = (size_t)granules * NET_AREA_GRANULE;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        fm_base_mem_free(area);
        return fm_base_error_set_errno(FM_ERR_NOMEM, errno, "cannot map a shared area of %zu bytes", bytes);
    }
    // A child of fork() has no use for it, and shall not keep it.
    (void)madvise(at, bytes, MADV_DONTFORK);
    area->bytes = at;
    area->granules = granules;
    *out_area = area;
    return FM_OK;
}

fm_status fm_net_area_new(uint32_t granules, struct net_area **out_area, int *out_fd)
{
    int fd = memfd_create("fathom-net", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return fm_base_error_set_errno(FM_ERR_UNAVAILABLE, errno, "no shared memory");
    fm_status status = FM_OK;
    if (ftruncate(fd, (off_t)granules * NET_AREA_GRANULE) != 0 || fcntl(fd, F_ADD_SEALS, seals) != 0)
        status = fm_base_error_set_errno(FM_ERR_UNAVAILABLE, errno, "no shared memory");
    if (status == FM_OK)
        status = map(fd, granules, out_area);
    if (status < 0) {
        close(fd);
        return status;
    }
    *out_fd = fd;
    return FM_OK;
}

fm_status fm_net_area_map(int fd, uint32_t granules, struct net_area **out_area)
{
    struct stat info;
    struct statfs system;
    int has = fcntl(fd, F_GET_SEALS);
    if (granules == 0 || granules > NET_AREA_GRANULES_MAX)
        return fm_base_error_set(FM_ERR_FORMAT, "a shared area of %u granules; expected 1 to %d", granules,
                                 NET_AREA_GRANULES_MAX);
    if (has < 0 || (has & seals) != seals)
        return fm_base_error_set(FM_ERR_FORMAT, "a shared area that is not sealed");
    // Sealed or not, huge pages can run out at any access, and who touches them then dies.
    if (fstatfs(fd, &system) != 0 || system.f_type != TMPFS_MAGIC)
        return fm_base_error_set(FM_ERR_FORMAT, "a shared area that is not of ordinary memory");
    if (fstat(fd, &info) != 0 || info.st_size != (off_t)granules * NET_AREA_GRANULE)
        return fm_base_error_set(FM_ERR_FORMAT, "a shared area that does not have its %u granules", granules);
    return map(fd, granules, out_area);
}

void fm_net_area_free(struct net_area *area)
{
    if (!area)
        return;
    munmap(area->bytes, (size_t)area->granules * NET_AREA_GRANULE);
    fm_base_mem_free(area);
}

static int is_used(const struct net_area *area, uint32_t granule)
{
    return (int)(area->used[granule / 64] >> (granule % 64)) & 1;
}

static void mark(struct net_area *area, struct net_place place)
{
    for (uint32_t i = place.first; i < (uint32_t)place.first + place.count; i++)
        area->used[i / 64] ^= (uint64_t)1 << (i % 64);
}

struct net_place fm_net_area_take(struct net_area *area, size_t bytes)
{
    const struct net_place none = {0, 0};
    if (bytes == 0 || bytes > (size_t)area->granules * NET_AREA_GRANULE)
        return none;
    uint32_t wanted = (uint32_t)((bytes + NET_AREA_GRANULE - 1) / NET_AREA_GRANULE);
    uint32_t run = 0;
    for (uint32_t i = 0; i < area->granules; i++) {
        run = is_used(area, i) ? 0 : run + 1;
        if (run < wanted)
            continue;
        struct net_place place = {(uint16_t)(i + 1 - wanted), (uint16_t)wanted};
        mark(area, place);
        return place;
    }
    return none;
}

void fm_net_area_give_back(struct net_area *area, struct net_place place)
{
    mark(area, place);
}

// Copies in steps and sums what was copied, where it was copied from or to: `summed` is one of the two.
static uint32_t copy(uint8_t *to, const uint8_t *from, const uint8_t *summed, size_t bytes, uint32_t crc)
{
    for (size_t at = 0; at < bytes; at += STEP_BYTES) {
        size_t step = bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES;
        memcpy(to + at, from + at, step);
        crc = fm_base_crc32c(crc, summed + at, step);
    }
    return crc;
}

void fm_net_area_put(const struct net_area *area, struct net_place place, const struct iovec *pieces,
                     size_t count, uint32_t *crc)
{
    uint8_t *to = area->bytes + (size_t)place.first * NET_AREA_GRANULE;
    for (size_t i = 0; i < count; i++) {
        size_t bytes = pieces[i].iov_len;
        if (crc)
            *crc = copy(to, pieces[i].iov_base, pieces[i].iov_base, bytes, *crc);
        else if (bytes)
            memcpy(to, pieces[i].iov_base, bytes);
        to += bytes;
    }
}

uint32_t fm_net_area_get(const struct net_area *area, struct net_place place, void *landing, size_t bytes)
{
    const uint8_t *from = area->bytes + (size_t)place.first * NET_AREA_GRANULE;
    return copy(landing, from, landing, bytes, 0); // of the copy: nobody can change that one any more
}
