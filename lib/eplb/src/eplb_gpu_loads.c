#include "fathom/eplb.h"
#include "fathom/mem.h"

fm_status fm_eplb_gpu_loads(int experts, int gpus, const float *weight, const int32_t *phy2log,
                            const int32_t *slot_begin, double *out_load)
{
    for (int slot = slot_begin[0]; slot < slot_begin[gpus]; slot++)
        if (phy2log[slot] < -1 || phy2log[slot] >= experts)
            return fm_base_error_set(FM_ERR_ARG, "slot %d holds expert %d; expected -1 to %d", slot,
                                     (int)phy2log[slot], experts - 1);
    int32_t *count = fm_base_mem_zalloc((size_t)experts, sizeof *count);
    if (!count)
        return fm_base_error_set(FM_ERR_NOMEM, "no memory to count the replicas of %d experts", experts);
    for (int slot = slot_begin[0]; slot < slot_begin[gpus]; slot++)
        if (phy2log[slot] >= 0)
            count[phy2log[slot]]++;
    fm_status status = FM_OK;
    for (int e = 0; e < experts && status == FM_OK; e++)
        if (count[e] == 0 && weight[e] > 0)
            status = fm_base_error_set(FM_ERR_ARG, "expert %d has load %g and no slot", e, (double)weight[e]);
    for (int gpu = 0; gpu < gpus && status == FM_OK; gpu++) {
        out_load[gpu] = 0;
        for (int slot = slot_begin[gpu]; slot < slot_begin[gpu + 1]; slot++)
            if (phy2log[slot] >= 0)
                out_load[gpu] += (double)weight[phy2log[slot]] / count[phy2log[slot]];
    }
    fm_base_mem_free(count);
    return status;
}
