#include "usrbio_files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "hf3fs_usrbio.h"

// A page of the table stays where it is: whoever prepares operations looks without a lock.
enum { PAGE = 1024, PAGES = 1024 };

/*
 * One word tells all that preparing needs: 0 when `fd` is not registered, else
 *   bits 0-31 the file's number with the mount's process, 32-55 the connection's serial, 56-57 O_ACCMODE, 63 set
 */
enum { SERIAL_SHIFT = 32, MODE_SHIFT = 56 };
static const uint64_t there = (uint64_t)1 << 63;
static const uint64_t serial_mask = 0xffffff;

struct registered {
    uint64_t word;
    int other; // the descriptor and its twin name each other
    int twin;  // which of the two is the table's to close
    struct fm_fs_link *link;
};

static struct registered *pages[PAGES];
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static struct registered *entry_of(int fd)
{
    if (fd < 0 || fd >= PAGE * PAGES)
        return NULL;
    struct registered *page = __atomic_load_n(&pages[fd / PAGE], __ATOMIC_ACQUIRE);
    return page ? &page[fd % PAGE] : NULL;
}

static struct registered *make_entry(int fd)
{
    if (fd >= PAGE * PAGES)
        return NULL;
    if (!pages[fd / PAGE]) {
        struct registered *page = calloc(PAGE, sizeof *page); // it stays until the program ends
        __atomic_store_n(&pages[fd / PAGE], page, __ATOMIC_RELEASE);
    }
    return entry_of(fd);
}

static int add(struct fm_fs_link *link, int fd, uint64_t *out_word)
{
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_FILE_ADD};
    uint64_t number;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return -errno;
    int error = fm_fs_link_ask(link, &ask, fd, &number, NULL);
    if (error)
        return error;
    *out_word = there | (uint64_t)(flags & O_ACCMODE) << MODE_SHIFT |
                (fm_fs_link_serial(link) & serial_mask) << SERIAL_SHIFT | (uint32_t)number;
    return 0;
}

static void forget(const struct registered *entry)
{
    struct fm_fs_ring_ask ask = {.kind = FM_FS_RING_FILE_DROP, .number = (uint32_t)entry->word};
    // Where the connection is broken there is nothing to forget.
    if (fm_fs_link_ask(entry->link, &ask, -1, NULL, NULL) != 0)
        return;
}

static void set(int fd, uint64_t word, int other, int twin, struct fm_fs_link *link)
{
    struct registered *entry = entry_of(fd);
    entry->other = other;
    entry->twin = twin;
    entry->link = link;
    __atomic_store_n(&entry->word, word, __ATOMIC_RELEASE);
}

// With the lock held. An errno value above 0, or a number that stands for the file.
static int reg(int fd)
{
    struct fm_fs_link *link;
    uint64_t word = 0;
    struct registered *entry = make_entry(fd);
    if (!entry)
        return EBADF;
    if (entry->word)
        return EINVAL;
    int twin = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (twin < 0)
        return errno;
    entry = make_entry(twin);
    int error = !entry ? ENOMEM : entry->word ? EINVAL : -fm_fs_link_take(fd, &link);
    if (!error) {
        error = -add(link, fd, &word);
        if (error)
            fm_fs_link_leave(link);
    }
    if (error) {
        close(twin);
        return error;
    }
    set(twin, word, fd, twin, link);
    set(fd, word, twin, twin, link);
    return -twin;
}

int hf3fs_reg_fd(int fd, uint64_t flags)
{
    (void)flags;
    if (fd < 0 || !hf3fs_is_hf3fs(fd))
        return EBADF;
    pthread_mutex_lock(&table_lock);
    int result = reg(fd);
    pthread_mutex_unlock(&table_lock);
    return result;
}

void hf3fs_dereg_fd(int fd)
{
    int number = fd < 0 ? -fd : fd;
    pthread_mutex_lock(&table_lock);
    const struct registered *entry = entry_of(number);
    if (entry && entry->word) {
        struct registered old = *entry;
        set(old.other, 0, 0, 0, NULL);
        set(number, 0, 0, 0, NULL);
        forget(&old);
        fm_fs_link_leave(old.link);
        close(old.twin);
    }
    pthread_mutex_unlock(&table_lock);
}

// The file is known to another connection: to a parent's, or to one that broke. This one is told of it.
static int add_again(struct fm_fs_link *link, int fd, uint64_t *out_word)
{
    int error = -EBADF;
    pthread_mutex_lock(&table_lock);
    struct registered *entry = entry_of(fd);
    if (entry && entry->word) {
        struct registered old = *entry;
        error = add(link, old.twin, out_word);
        if (!error) {
            fm_fs_link_ref(link);
            set(old.other, *out_word, fd, old.twin, link);
            set(fd, *out_word, old.other, old.twin, link);
            fm_fs_link_leave(old.link);
        }
    }
    pthread_mutex_unlock(&table_lock);
    return error;
}

int fm_fs_usrbio_file(struct fm_fs_link *link, int fd, int writes, uint32_t *out_number)
{
    int number = fd < 0 ? -fd : fd;
    const struct registered *entry = entry_of(number);
    uint64_t word = entry ? __atomic_load_n(&entry->word, __ATOMIC_ACQUIRE) : 0;
    if (!word)
        return -EBADF;
    int mode = (int)(word >> MODE_SHIFT) & O_ACCMODE;
    if (mode == (writes ? O_RDONLY : O_WRONLY))
        return -EACCES;
    if (((word >> SERIAL_SHIFT) & serial_mask) != (fm_fs_link_serial(link) & serial_mask)) {
        int error = add_again(link, number, &word);
        if (error)
            return error;
    }
    *out_number = (uint32_t)word;
    return 0;
}
