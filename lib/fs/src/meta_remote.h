/**
 * @file meta_remote.h
 * Names that are asked of services: the calls of fathom/fs_meta.h for a fm_fs_meta that has no store.
 */
#ifndef FATHOM_META_REMOTE_H
#define FATHOM_META_REMOTE_H

#include "meta_wire.h"

// meta_remote.c

// Asks until somebody answers or the time is over. The payload goes to `buffer`, of `capacity` bytes.
fm_status fm_fs_meta_ask(fm_fs_meta *meta, const fm_fs_who *who, struct fm_fs_meta_request *request,
                         struct fm_fs_meta_answer *out_answer, void *buffer, size_t capacity);

// meta_remote_calls.c: each as the function of fs_meta.h of its name, whose arguments were checked

fm_status fm_fs_meta_remote_node(fm_fs_meta *meta, uint64_t ino, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_lookup(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   fm_fs_node *out_node);
fm_status fm_fs_meta_remote_resolve(fm_fs_meta *meta, const fm_fs_who *who, uint64_t from, const char *path,
                                    int follow, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_readlink(fm_fs_meta *meta, uint64_t ino,
                                     char out_target[FM_FS_META_LINK_MAX + 1]);
fm_status fm_fs_meta_remote_list(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir, const char *after,
                                 fm_fs_meta_entry *entries, size_t max, size_t *out_count);
fm_status fm_fs_meta_remote_create(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   uint32_t mode, uint64_t rdev, int exclusive, fm_fs_node *out_node,
                                   int *out_made);
fm_status fm_fs_meta_remote_symlink(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                    const char *target, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_link(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t parent,
                                 const char *name, fm_fs_node *out_node);
// UNLINK, RMDIR or REMOVE_ALL
fm_status fm_fs_meta_remote_remove(fm_fs_meta *meta, enum fm_fs_meta_method method, const fm_fs_who *who,
                                   uint64_t parent, const char *name);
fm_status fm_fs_meta_remote_rename(fm_fs_meta *meta, const fm_fs_who *who, uint64_t parent, const char *name,
                                   uint64_t to_parent, const char *to_name, unsigned flags);
fm_status fm_fs_meta_remote_setattr(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, unsigned set,
                                    const fm_fs_node *values, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_layout_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                       const fm_fs_layout *layout);
fm_status fm_fs_meta_remote_xattr_get(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                                      void *value, size_t capacity, size_t *out_size);
fm_status fm_fs_meta_remote_xattr_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, const char *name,
                                      const void *value, size_t size, unsigned flags);
fm_status fm_fs_meta_remote_xattr_remove(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino,
                                         const char *name);
fm_status fm_fs_meta_remote_xattr_list(fm_fs_meta *meta, uint64_t ino, char *names, size_t capacity,
                                       size_t *out_size);
fm_status fm_fs_meta_remote_inline_read(fm_fs_meta *meta, uint64_t ino, uint64_t offset, void *buffer,
                                        size_t length, size_t *out_read, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_inline_write(fm_fs_meta *meta, uint64_t ino, uint64_t offset, const void *bytes,
                                         size_t length, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_spill(fm_fs_meta *meta, uint64_t ino, uint64_t version, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_extend(fm_fs_meta *meta, uint64_t ino, uint64_t data, uint64_t end, uint64_t cuts,
                                   fm_fs_node *out_node);
fm_status fm_fs_meta_remote_fence(fm_fs_meta *meta, uint64_t ino, uint64_t data, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_truncate(fm_fs_meta *meta, const fm_fs_who *who, uint64_t ino, uint64_t data,
                                     uint64_t size, uint64_t cuts, fm_fs_node *out_node);
// HOLD, RELEASE or LEASE; `number` is an ino, or when the lease ends
fm_status fm_fs_meta_remote_session(fm_fs_meta *meta, enum fm_fs_meta_method method, uint64_t client,
                                    uint64_t number, fm_fs_node *out_node);
fm_status fm_fs_meta_remote_lock(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted, int *out_granted,
                                 fm_fs_node *out_node);
fm_status fm_fs_meta_remote_lock_test(fm_fs_meta *meta, uint64_t ino, const fm_fs_lock *wanted,
                                      fm_fs_lock *out_conflict);
fm_status fm_fs_meta_remote_quota_set(fm_fs_meta *meta, const fm_fs_who *who, uint64_t dir,
                                      const fm_fs_quota *quota);
fm_status fm_fs_meta_remote_quota_get(fm_fs_meta *meta, uint64_t ino, fm_fs_quota *out_quota);
fm_status fm_fs_meta_remote_check(fm_fs_meta *meta, fm_fs_meta_finding finding, void *context,
                                  fm_fs_meta_census *out_census);
// FM_ERR_UNSUPPORTED, saying what must be done where the store is.
fm_status fm_fs_meta_remote_refuse(const char *what);

#endif
