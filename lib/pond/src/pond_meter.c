#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fathom/clock.h"
#include "pond_trace.h"

const char *const fm_pond_phase_names[FM_POND_PHASES] = {"open", "prepare", "prove", "write"};

static uint64_t nanoseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000u;
}

static uint64_t cpu_ns(const struct rusage *usage)
{
    return nanoseconds(usage->ru_utime) + nanoseconds(usage->ru_stime);
}

// What this process has moved from and to disks: "read_bytes: 1234" and "write_bytes: 1234" in /proc.
static void read_moved(uint64_t *out_read, uint64_t *out_written)
{
    char text[512];
    *out_read = *out_written = 0;
    int fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (length <= 0)
        return;
    text[length] = '\0';
    const char *moved = strstr(text, "\nread_bytes: "), *written = strstr(text, "\nwrite_bytes: ");
    *out_read = moved ? strtoull(moved + 13, NULL, 10) : 0;
    *out_written = written ? strtoull(written + 14, NULL, 10) : 0;
}

void fm_pond_meter_begin(fm_pond_meter *meter)
{
    struct rusage usage;
    // The most memory of the task, not of those that this process had before: the kernel begins anew where it is told to.
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    ssize_t wrote = fd >= 0 ? write(fd, "5", 1) : 0;
    (void)wrote;
    if (fd >= 0)
        close(fd);
    getrusage(RUSAGE_SELF, &usage);
    *meter = (fm_pond_meter){
        .begin_unix_ns = fm_base_clock_unix_ns(), .begin_ns = fm_base_clock_ns(), .cpu_ns = cpu_ns(&usage)};
    meter->phase_ns = meter->begin_ns;
    read_moved(&meter->read_bytes, &meter->written_bytes);
}

void fm_pond_meter_next(fm_pond_meter *meter)
{
    uint64_t now = fm_base_clock_ns();
    if (meter->phase < FM_POND_PHASES)
        meter->phases[meter->phase++] = now - meter->phase_ns;
    meter->phase_ns = now;
}

void fm_pond_meter_read(const fm_pond_meter *meter, fm_pond_usage *out_usage)
{
    struct rusage usage;
    uint64_t moved, written;
    getrusage(RUSAGE_SELF, &usage);
    read_moved(&moved, &written);
    *out_usage = (fm_pond_usage){.begin_unix_ns = meter->begin_unix_ns,
                                 .wall_ns = fm_base_clock_ns() - meter->begin_ns,
                                 .cpu_ns = cpu_ns(&usage) - meter->cpu_ns,
                                 .rss_bytes = (uint64_t)usage.ru_maxrss * 1024,
                                 .read_bytes = moved - meter->read_bytes,
                                 .written_bytes = written - meter->written_bytes};
    memcpy(out_usage->phase_ns, meter->phases, sizeof meter->phases);
}
