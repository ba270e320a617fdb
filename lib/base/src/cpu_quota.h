/*
 * The CPU limit of the control group that this process runs in.
 */
#ifndef FM_BASE_CPU_QUOTA_H
#define FM_BASE_CPU_QUOTA_H

/**
 * The tightest limit, in CPUs, of the groups that `list` (the format of /proc/self/cgroup) names and of their
 * ancestors, looked up below `mount` (where the cgroup file systems are: /sys/fs/cgroup). 0 when none is set
 * or none can be read: inside a container the path that `list` gives need not exist below the mount, only its
 * root does.
 */
double fm_base_cpu_quota_read(const char *list, const char *mount);

#endif
