#include "fathom/numfmt.h"

#include <pthread.h>

#include "numfmt_table.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct fm_numfmt_table tables[FM_ISA_COUNT];
static const struct fm_numfmt_table *active;

static void fill_tables(void)
{
    for (int level = 0; level < FM_ISA_COUNT; level++) {
        fm_base_numfmt_install_ref(&tables[level]);
#if defined(__x86_64__)
        if (level >= FM_ISA_AVX2)
            fm_base_numfmt_install_avx2(&tables[level]);
        if (level >= FM_ISA_AVX512)
            fm_base_numfmt_install_avx512(&tables[level]);
#endif
    }
    active = &tables[fm_base_cpu_isa(FM_ISA_AVX512)];
}

const struct fm_numfmt_table *fm_base_numfmt_table(fm_isa level)
{
    pthread_once(&once, fill_tables);
    return &tables[level];
}

#define ENTRY(name, S, s_per, D, d_per)                  \
    void fm_base_##name(const S *from, size_t n, D *out) \
    {                                                    \
        pthread_once(&once, fill_tables);                \
        uint32_t mode = fm_base_fp_enter();              \
        active->name(from, n, out);                      \
        fm_base_fp_leave(mode);                          \
    }
FM_NUMFMT_LIST(ENTRY)
