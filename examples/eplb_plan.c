// Plans the placement of the experts of two layers on eight GPUs, and says how much better it could be.
#include <stdio.h>

#include "fathom/eplb.h"

int main(void)
{
    // Tokens that each of 12 experts received, two layers.
    const float loads[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86},
                                {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
    // 16 copies on 8 GPUs; the gate's 4 groups are kept whole on 2 machines.
    fm_eplb_shape shape = {.layers = 2, .experts = 12, .replicas = 16, .groups = 4, .nodes = 2, .gpus = 8};
    fm_eplb_plan *plan;
    if (fm_eplb_rebalance(&shape, &loads[0][0], NULL, &plan) < 0) {
        fprintf(stderr, "eplb_plan: %s\n", fm_error_message());
        return 1;
    }
    for (int layer = 0; layer < shape.layers; layer++) {
        const fm_eplb_certificate *certificate = &plan->certificate[layer];
        printf("layer %d: busiest GPU %.1f, mean %.1f, no placement is below %.1f; experts", layer,
               certificate->max_load, certificate->mean_load, certificate->lower_bound);
        for (int gpu = 0; gpu < shape.gpus; gpu++)
            for (int slot = plan->slot_begin[gpu]; slot < plan->slot_begin[gpu + 1]; slot++)
                printf("%s%d", slot == plan->slot_begin[gpu] ? " | " : " ",
                       (int)plan->phy2log[layer * plan->slots + slot]);
        printf("\n");
    }
    fm_eplb_plan_free(plan);
    return 0;
}
