#include "fathom/cpu.h"

#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cpu_quota.h"
#include "isa_choice.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <xmmintrin.h>
#endif

static pthread_once_t machine_once = PTHREAD_ONCE_INIT;
static fm_cpu machine;
static uint64_t machine_xcr0;
static char env_isa[64];
static struct fm_isa_choice choice_unasked; // as if the AMX permission were granted

static pthread_once_t choice_once = PTHREAD_ONCE_INIT;
static struct fm_isa_choice choice; // with the kernel's answer

#if defined(__x86_64__)

// arch_prctl codes of Linux 5.16 and the XSAVE component of tile data; older kernel headers lack them.
enum { ARCH_GET_XCOMP_PERM_ = 0x1022, ARCH_REQ_XCOMP_PERM_ = 0x1023, XFEATURE_TILEDATA = 18 };

// 0 when this process may use tiles, else an errno value. The request alone proves nothing under an emulating
// kernel, so the mask is read back.
static int ask_for_tiles(void)
{
    unsigned long permitted = 0;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_, XFEATURE_TILEDATA) != 0 ||
        syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM_, &permitted) != 0)
        return errno;
    return permitted >> XFEATURE_TILEDATA & 1 ? 0 : EPERM;
}

static void read_features(void)
{
    uint32_t registers[FM_CPUID_REGISTERS] = {0};
    uint32_t eax = 0;
    uint32_t unused = 0;
    uint32_t edx = 0;
    __get_cpuid(1, &eax, &unused, &registers[LEAF1_ECX], &edx);
    __get_cpuid_count(7, 0, &eax, &registers[LEAF7_EBX], &registers[LEAF7_ECX], &registers[LEAF7_EDX]);
    if (eax >= 1) // leaf 7 subleaf 0 returns the highest subleaf
        __get_cpuid_count(7, 1, &registers[LEAF7_1_EAX], &unused, &unused, &edx);
    machine.features = fm_base_isa_features(registers);
    const uint32_t osxsave = 1u << 27;
    if (registers[LEAF1_ECX] & osxsave) {
        // The instruction itself, because the intrinsic wants -mxsave for the whole file.
        __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
        machine_xcr0 = (uint64_t)edx << 32 | eax;
    }
}

static void read_brand(void)
{
    const uint32_t first = 0x80000002; // three leaves of 16 characters each
    uint32_t words[13] = {0};
    for (uint32_t i = 0; i < 3; i++)
        if (!__get_cpuid(first + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]))
            return;
    const char *text = (const char *)words;
    text += strspn(text, " ");
    size_t length = strlen(text);
    while (length && text[length - 1] == ' ')
        length--;
    memcpy(machine.brand, text, length);
}

// LDMXCSR stalls what follows it; in a thread that computes in our mode already, with the usual flags up, it
// never runs.
uint32_t fm_base_fp_enter(void)
{
    const uint32_t flags = 0x3F;
    const uint32_t kernel_mode = 0x1F80; // all exceptions masked, to nearest, no FTZ (bit 15), no DAZ (bit 6)
    uint32_t mode = _mm_getcsr();
    if ((mode | flags) != (kernel_mode | flags))
        _mm_setcsr(kernel_mode);
    return mode;
}

void fm_base_fp_leave(uint32_t mode)
{
    if (_mm_getcsr() != mode)
        _mm_setcsr(mode);
}

#else

static int ask_for_tiles(void)
{
    return ENOSYS;
}

static void read_features(void)
{
}

static void read_brand(void)
{
}

uint32_t fm_base_fp_enter(void)
{
    uint32_t mode = (uint32_t)fegetround();
    fesetround(FE_TONEAREST);
    return mode;
}

void fm_base_fp_leave(uint32_t mode)
{
    fesetround((int)mode);
}

#endif

static size_t cache_bytes(int name)
{
    long bytes = sysconf(name);
    return bytes > 0 ? (size_t)bytes : 0;
}

static void probe_machine(void)
{
    read_features();
    read_brand();
    struct utsname system;
    if (!machine.brand[0] && uname(&system) == 0)
        snprintf(machine.brand, sizeof machine.brand, "%s", system.machine);
    machine.l1d_bytes = cache_bytes(_SC_LEVEL1_DCACHE_SIZE);
    machine.l2_bytes = cache_bytes(_SC_LEVEL2_CACHE_SIZE);
    machine.l3_bytes = cache_bytes(_SC_LEVEL3_CACHE_SIZE);
    const char *env = getenv("FM_ISA");
    if (env)
        snprintf(env_isa, sizeof env_isa, "%s", env);
    struct fm_isa_input input = {.features = machine.features, .xcr0 = machine_xcr0, .env = env_isa};
    fm_base_isa_choose(&input, &choice_unasked);
}

static void choose_with_permission(void)
{
    pthread_once(&machine_once, probe_machine);
    choice = choice_unasked;
    if (choice.isa < FM_ISA_AMX)
        return;
    struct fm_isa_input input = {
        .features = machine.features, .xcr0 = machine_xcr0, .amx_errno = ask_for_tiles(), .env = env_isa};
    fm_base_isa_choose(&input, &choice);
}

// The choice for callers who have nothing above `limit`. Levels are nested, so the permission matters only at
// the top.
static const struct fm_isa_choice *choice_up_to(fm_isa limit)
{
    if (limit >= FM_ISA_AMX) {
        pthread_once(&choice_once, choose_with_permission);
        return &choice;
    }
    pthread_once(&machine_once, probe_machine);
    return &choice_unasked;
}

const fm_cpu *fm_base_cpu_get(void)
{
    pthread_once(&machine_once, probe_machine);
    return &machine;
}

fm_isa fm_base_cpu_isa(fm_isa limit)
{
    fm_isa isa = choice_up_to(limit)->isa;
    return isa < limit ? isa : limit;
}

fm_status fm_base_cpu_isa_check(void)
{
    if (!choice_up_to(FM_ISA_REF)->env_unknown)
        return FM_OK;
    return fm_base_error_set(FM_ERR_ARG, "FM_ISA is \"%s\"; expected ref, avx2, avx512 or amx", env_isa);
}

int fm_base_cpu_allows(uint32_t features)
{
    const uint32_t tiles = FM_CPU_AMX_TILE | FM_CPU_AMX_BF16 | FM_CPU_AMX_INT8 | FM_CPU_AMX_FP16;
    const struct fm_isa_choice *from = choice_up_to(features & tiles ? FM_ISA_AMX : FM_ISA_AVX512);
    return (from->usable & features) == features;
}

const char *fm_base_cpu_isa_reason(fm_isa level)
{
    return (unsigned)level < FM_ISA_COUNT ? choice_up_to(FM_ISA_AMX)->reason[level] : "not a level";
}

int fm_base_cpu_count(void)
{
    cpu_set_t mask[8]; // 8192 CPUs, the most that Linux can be built for; the kernel refuses a mask shorter
                       // than its own
    if (sched_getaffinity(0, sizeof mask, mask) == 0)
        return CPU_COUNT_S(sizeof mask, mask);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int)online : 1;
}

double fm_base_cpu_quota(void)
{
    return fm_base_cpu_quota_read("/proc/self/cgroup", "/sys/fs/cgroup");
}

int fm_base_cpu_threads(void)
{
    int count = fm_base_cpu_count();
    double quota = fm_base_cpu_quota();
    return quota > 0 && quota < count ? (int)ceil(quota) : count;
}
