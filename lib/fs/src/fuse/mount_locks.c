// flock() and fcntl() locks, kept with the names, so that they hold between mounts. Who must wait does so on a list here, not
// in one of libfuse's threads, which are few.
#include "mount_fuse.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fathom/clock.h"

enum {
    WORD_BYTES = 4096,
    // Between two tries where the mounts of a machine share a word: a client that is gone wakes nobody.
    RETRY_SHARED_MS = 1000,
    // Where they have only the store in common.
    RETRY_MS = 100
};

struct fm_fs_mount_wait {
    struct fm_fs_mount_wait *next;
    fm_fs_mount *mount;
    fuse_req_t request;
    struct fm_fs_mount_file *file; // in use
    fm_fs_lock lock;
    int granted;     // only its pages are to be dropped
    uint64_t drop;   // try_lock()'s
    int interrupted; // atomic
};

/* The word that everybody counts up who lets a lock go */

static long futex(uint32_t *word, int what, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, what, value, timeout, NULL, 0);
}

void fm_fs_mount_locks_wake(fm_fs_mount *mount)
{
    __atomic_add_fetch(mount->word, 1, __ATOMIC_SEQ_CST);
    futex(mount->word, FUTEX_WAKE, INT_MAX, NULL);
}

// Mounts of one machine share a page beside the names; where the names are on a server, or it cannot be had, each has its own.
fm_status fm_fs_mount_locks_begin(fm_fs_mount *mount)
{
    char path[FM_FS_CLUSTER_PATH_MAX];
    int fd = -1;
    FM_TRY(fm_fs_cluster_path(mount->volume->dir, "names.conf", path));
    if (access(path, F_OK) != 0) {
        FM_TRY(fm_fs_cluster_path(mount->volume->dir, "locks", path));
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd >= 0 && ftruncate(fd, WORD_BYTES) != 0) {
            close(fd);
            fd = -1;
        }
    }
    void *page = mmap(NULL, WORD_BYTES, PROT_READ | PROT_WRITE,
                      fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    mount->word_shared = fd >= 0;
    if (fd >= 0)
        close(fd);
    if (page == MAP_FAILED)
        return fm_base_error_set_errno(FM_ERR_NOMEM, errno, "a page for locks");
    mount->word = page;
    return FM_OK;
}

/* Asking */

static fm_fs_lock lock_of(const fm_fs_mount *mount, const struct fuse_file_info *info,
                          const struct flock *from)
{
    static const fm_fs_lock_kind kinds[] = {
        [F_RDLCK] = FM_FS_LOCK_SHARED, [F_WRLCK] = FM_FS_LOCK_EXCLUSIVE, [F_UNLCK] = FM_FS_LOCK_NONE};
    return (fm_fs_lock){.client = mount->client,
                        .owner = info->lock_owner,
                        .begin = (uint64_t)from->l_start,
                        .end = from->l_len ? (uint64_t)(from->l_start + from->l_len - 1) : UINT64_MAX,
                        .kind = kinds[from->l_type],
                        .pid = (uint32_t)from->l_pid};
}

static int lock_errno(fm_status status)
{
    return status == FM_ERR_LIMIT ? ENOLCK : status == FM_ERR_NOT_FOUND ? ESTALE : fm_fs_mount_errno(status);
}

// Who has a lock sees what was written under the one before: pages that somebody else's change has made old are dropped. The
// kernel may wait for requests meanwhile, so this is the attendant's alone.
static void drop_pages(fm_fs_mount *mount, struct fm_fs_mount_file *file, uint64_t version)
{
    if (fuse_lowlevel_notify_inval_inode(mount->session, file->ino, 0, 0) < 0)
        version = FM_FS_VOLUME_UNKNOWN; // there were none, or they are not gone
    pthread_rwlock_wrlock(&file->lock);
    file->version = version;
    pthread_rwlock_unlock(&file->lock);
}

// `*out_drop`: the version, if the kernel's pages have another; else unknown.
static fm_status try_lock(fm_fs_mount *mount, struct fm_fs_mount_file *file, const fm_fs_lock *lock,
                          int *out_granted, uint64_t *out_drop)
{
    fm_fs_node node;
    *out_drop = FM_FS_VOLUME_UNKNOWN;
    if (lock->kind != FM_FS_LOCK_EXCLUSIVE)
        FM_TRY(fm_fs_mount_flush(mount, file)); // for who locks it next
    FM_TRY(fm_fs_meta_lock(mount->meta, file->ino, lock, out_granted, &node));
    if (lock->kind == FM_FS_LOCK_NONE || (lock->flock && !*out_granted))
        fm_fs_mount_locks_wake(mount);
    if (*out_granted && lock->kind != FM_FS_LOCK_NONE) {
        __atomic_store_n(lock->flock ? &file->flocked : &file->locked, 1, __ATOMIC_RELAXED);
        pthread_rwlock_rdlock(&file->lock);
        *out_drop = file->version != node.version ? node.version : FM_FS_VOLUME_UNKNOWN;
        pthread_rwlock_unlock(&file->lock);
    }
    return FM_OK;
}

/* Waiting */

static void on_interrupt(fuse_req_t request, void *context)
{
    struct fm_fs_mount_wait *wait = context;
    (void)request;
    __atomic_store_n(&wait->interrupted, 1, __ATOMIC_SEQ_CST);
    fm_fs_mount_locks_wake(wait->mount);
}

static fm_status wait_for(fm_fs_mount *mount, fuse_req_t request, struct fm_fs_mount_file *file,
                          const fm_fs_lock *lock, int granted, uint64_t drop)
{
    struct fm_fs_mount_wait *wait = fm_base_mem_zalloc(1, sizeof *wait);
    if (!wait)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory for who waits for a lock");
    *wait = (struct fm_fs_mount_wait){
        .mount = mount, .request = request, .file = file, .lock = *lock, .granted = granted, .drop = drop};
    fuse_req_interrupt_func(request, on_interrupt,
                            wait); // before it is on the list: then it may be answered at any time
    pthread_mutex_lock(&mount->lock);
    file->uses++;
    mount->wait_count++;
    struct fm_fs_mount_wait **at = &mount->waits;
    while (*at) // whoever came first is first
        at = &(*at)->next;
    *at = wait;
    pthread_cond_broadcast(&mount->waiting);
    pthread_mutex_unlock(&mount->lock);
    return FM_OK;
}

static void unlock_again(fm_fs_mount *mount, struct fm_fs_mount_wait *wait)
{
    uint64_t drop;
    int granted;
    wait->lock.kind = FM_FS_LOCK_NONE;
    if (try_lock(mount, wait->file, &wait->lock, &granted, &drop) < 0)
        return; // the close takes it away
}

// Tries once more; 1: it has been answered.
static int try_again(fm_fs_mount *mount, struct fm_fs_mount_wait *wait)
{
    int err = 0;
    if (!wait->granted && __atomic_load_n(&wait->interrupted, __ATOMIC_SEQ_CST)) {
        err = EINTR;
    } else if (!wait->granted) {
        fm_status status = try_lock(mount, wait->file, &wait->lock, &wait->granted, &wait->drop);
        if (status == FM_OK && !wait->granted)
            return 0;
        err = lock_errno(status);
    }
    if (wait->granted && wait->drop != FM_FS_VOLUME_UNKNOWN)
        drop_pages(mount, wait->file, wait->drop);
    fuse_req_interrupt_func(wait->request, NULL, NULL); // nobody looks at `wait` from here on
    if (fm_fs_mount_reply_error(wait->request, err) != 0 && wait->granted) // who asked is gone
        unlock_again(mount, wait);
    return 1;
}

static void sleep_until_changed(fm_fs_mount *mount, uint32_t seen)
{
    int64_t ms = mount->word_shared ? RETRY_SHARED_MS : RETRY_MS;
    const struct timespec timeout = {ms / 1000, ms % 1000 * 1000000};
    futex(mount->word, FUTEX_WAIT, seen, &timeout);
}

// Goes through the list once.
static void try_all(fm_fs_mount *mount)
{
    pthread_mutex_lock(&mount->lock);
    struct fm_fs_mount_wait *wait = mount->waits;
    pthread_mutex_unlock(&mount->lock);
    while (wait) { // only this thread takes any off, and others add at the end alone
        int done = try_again(mount, wait);
        pthread_mutex_lock(&mount->lock);
        struct fm_fs_mount_wait *next = wait->next;
        if (done) {
            struct fm_fs_mount_wait **at = &mount->waits;
            while (*at != wait)
                at = &(*at)->next;
            *at = next;
            mount->wait_count--;
        }
        pthread_mutex_unlock(&mount->lock);
        if (done) {
            fm_fs_mount_leave(mount, wait->file);
            fm_base_mem_free(wait);
        }
        wait = next;
    }
}

static void *attend(void *context)
{
    fm_fs_mount *mount = context;
    pthread_mutex_lock(&mount->lock);
    while (!mount->ending) {
        if (!mount->waits) {
            pthread_cond_wait(&mount->waiting, &mount->lock);
            continue;
        }
        pthread_mutex_unlock(&mount->lock);
        uint32_t seen = __atomic_load_n(mount->word, __ATOMIC_SEQ_CST);
        try_all(mount);
        pthread_mutex_lock(&mount->lock);
        int more = mount->waits && !mount->ending;
        pthread_mutex_unlock(&mount->lock);
        if (more)
            sleep_until_changed(mount, seen);
        pthread_mutex_lock(&mount->lock);
    }
    pthread_mutex_unlock(&mount->lock);
    return NULL;
}

fm_status fm_fs_mount_locks_run(fm_fs_mount *mount)
{
    if (pthread_create(&mount->attendant, NULL, attend, mount) != 0)
        return fm_base_error_set(FM_ERR_NOMEM, "no thread for the locks of a mount");
    mount->attending = 1;
    return FM_OK;
}

void fm_fs_mount_locks_end(fm_fs_mount *mount)
{
    if (mount->attending) {
        pthread_mutex_lock(&mount->lock);
        pthread_cond_broadcast(&mount->waiting);
        pthread_mutex_unlock(&mount->lock);
        fm_fs_mount_locks_wake(mount);
        pthread_join(mount->attendant, NULL);
    }
    while (mount->waits) { // the kernel has ended them with the mount
        struct fm_fs_mount_wait *wait = mount->waits;
        mount->waits = wait->next;
        fuse_req_interrupt_func(wait->request, NULL, NULL);
        fm_fs_mount_reply_error(wait->request, ENODEV);
        fm_fs_mount_leave(mount, wait->file);
        fm_base_mem_free(wait);
    }
}

void fm_fs_mount_locks_free(fm_fs_mount *mount)
{
    if (!mount->word)
        return;
    fm_fs_mount_locks_wake(mount); // what this mount had locked is free
    munmap(mount->word, WORD_BYTES);
}

void fm_fs_mount_lose_locks(fm_fs_mount *mount)
{
    pthread_mutex_lock(&mount->lock);
    for (size_t i = 0; i < FM_FS_MOUNT_BUCKETS; i++)
        for (struct fm_fs_mount_file *file = mount->files[i]; file; file = file->next)
            if (__atomic_load_n(&file->locked, __ATOMIC_RELAXED) ||
                __atomic_load_n(&file->flocked, __ATOMIC_RELAXED))
                __atomic_store_n(&file->lost, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&mount->lock);
}

/* Requests */

void fm_fs_mount_unlock(fm_fs_mount *mount, struct fm_fs_mount_handle *handle,
                        const struct fuse_file_info *info, int flock)
{
    const fm_fs_lock lock = {
        .client = mount->client, .owner = info->lock_owner, .end = UINT64_MAX, .flock = flock};
    struct fm_fs_mount_file *file = handle->file;
    uint64_t drop;
    int granted;
    if (!__atomic_load_n(flock ? &file->flocked : &file->locked, __ATOMIC_RELAXED))
        return;
    if (try_lock(mount, file, &lock, &granted, &drop) < 0) // an error of the names: the lease ends it at last
        granted = 0;
}

static void on_getlk(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info, struct flock *from)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    fm_fs_lock lock = lock_of(mount, info, from);
    fm_fs_lock conflict;
    fm_status status = fm_fs_meta_lock_test(mount->meta, ino, &lock, &conflict);
    if (status < 0) {
        fm_fs_mount_reply_error(request, lock_errno(status));
        return;
    }
    struct flock reply = *from;
    reply.l_type = F_UNLCK;
    if (conflict.kind != FM_FS_LOCK_NONE) {
        reply.l_type = conflict.kind == FM_FS_LOCK_SHARED ? F_RDLCK : F_WRLCK;
        reply.l_start = (off_t)conflict.begin;
        reply.l_len = conflict.end == UINT64_MAX ? 0 : (off_t)(conflict.end - conflict.begin + 1);
        // A process of another mount may be one of another machine: fcntl() tells such ones as -1.
        reply.l_pid = conflict.client == mount->client ? (pid_t)conflict.pid : -1;
    }
    fuse_reply_lock(request, &reply);
}

static void set(fuse_req_t request, struct fm_fs_mount_handle *handle, const fm_fs_lock *lock, int sleeps)
{
    fm_fs_mount *mount = fm_fs_mount_of(request);
    uint64_t drop;
    int granted = 0;
    fm_fs_mount_handle_used(handle);
    fm_status status = try_lock(mount, handle->file, lock, &granted, &drop);
    if (status == FM_OK && (drop != FM_FS_VOLUME_UNKNOWN || (!granted && sleeps))) {
        status = wait_for(mount, request, handle->file, lock, granted, drop);
        if (status == FM_OK) {
            fm_fs_mount_locks_wake(mount);
            return;
        }
    }
    fm_fs_mount_reply_error(request, status < 0 ? lock_errno(status) : granted ? 0 : EAGAIN);
}

static void on_setlk(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info, struct flock *from,
                     int sleeps)
{
    fm_fs_lock lock = lock_of(fm_fs_mount_of(request), info, from);
    (void)ino;
    set(request, fm_fs_mount_handle_of(info), &lock, sleeps);
}

static void on_flock(fuse_req_t request, fuse_ino_t ino, struct fuse_file_info *info, int what)
{
    fm_fs_lock lock = {.client = fm_fs_mount_of(request)->client,
                       .owner = info->lock_owner,
                       .end = UINT64_MAX,
                       .kind = what & LOCK_EX   ? FM_FS_LOCK_EXCLUSIVE
                               : what & LOCK_SH ? FM_FS_LOCK_SHARED
                                                : FM_FS_LOCK_NONE,
                       .flock = 1};
    (void)ino;
    set(request, fm_fs_mount_handle_of(info), &lock, !(what & LOCK_NB));
}

void fm_fs_mount_locks(struct fuse_lowlevel_ops *ops)
{
    ops->getlk = on_getlk;
    ops->setlk = on_setlk;
    ops->flock = on_flock;
}
