/* Ranks in processes of their own that one process speaks for: what goes over the socket between it and the first rank.
 * Both ends are the same program on one machine, so structs travel as they lie in memory. */
#ifndef FM_MODEL_FRONT_H
#define FM_MODEL_FRONT_H

#include <sys/types.h>

#include "model_rank.h"

enum fm_model_front_op {
    FM_MODEL_FRONT_STEP,     // payload: ids; a sequences, b length
    FM_MODEL_FRONT_EVALUATE, // the same
    FM_MODEL_FRONT_EXPORT,   // payload: folder; a dtype
    FM_MODEL_FRONT_SAVE,     // payload: path, then notes, 0-terminated each
    FM_MODEL_FRONT_LOAD,     // payload: path
    FM_MODEL_FRONT_PACK,     // payload: notes
    FM_MODEL_FRONT_UNPACK,   // payload: name, then from byte b what PACK gave
    FM_MODEL_FRONT_PLACE,    // payload: the expert in each slot of all layers
    FM_MODEL_FRONT_PRODUCTS, // a dtype
    FM_MODEL_FRONT_RECORD,   // payload: what paths of spans begin with; nothing: no longer
    FM_MODEL_FRONT_QUIT,
};

struct fm_model_front_request {
    uint32_t op;
    int32_t a, b;
    uint64_t bytes; // of the payload, which follows
};

struct fm_model_front_reply {
    fm_status status;
    char message[500]; // of a failure
    int64_t steps;     // done by now
    fm_model_step_result result;
    double loss;
    int64_t number;
    uint64_t bytes; // of what follows: loads of all layers, or what PACK gives
};

/** What the ranks are started with, as an argument: in hexadecimal digits. */
struct fm_model_front_start {
    fm_model_config config;
    fm_model_training training;
};

struct fm_model_front {
    pid_t launcher; // 0: it has ended
    int socket;     // to the first rank
    struct fm_model_layout layout;
    int32_t *expert_in; // as in fm_model_rank
    size_t map_count;
    char folder[128];  // of the socket and of the launcher's own files; empty: there is none
    char setting[192]; // that tells the launcher so
};

/** FM_ERR_IO: the other end is gone. */
FM_MUST_USE fm_status fm_model_front_send(int socket, const void *bytes, size_t count);
FM_MUST_USE fm_status fm_model_front_receive(int socket, void *bytes, size_t count);

FM_MUST_USE fm_status fm_model_front_open(struct fm_trainer *trainer, const struct fm_model_layout *layout);
void fm_model_front_close(struct fm_trainer *trainer);
/** Asks the ranks; FM_OK or their failure. *out_data (NULL: not wanted, or loads are) is the caller's to free. */
FM_MUST_USE fm_status fm_model_front_ask(struct fm_trainer *trainer, enum fm_model_front_op op, int32_t a,
                                         int32_t b, const void *payload, size_t bytes,
                                         struct fm_model_front_reply *out_reply, void **out_data);

/* model_front_calls.c: as the functions of fathom/model_train.h. */
FM_MUST_USE fm_status fm_model_front_step(struct fm_trainer *trainer, const int32_t *ids, int sequences,
                                          int length, fm_model_step_result *out_result);
FM_MUST_USE fm_status fm_model_front_evaluate(struct fm_trainer *trainer, const int32_t *ids, int sequences,
                                              int length, double *out_loss);
int64_t fm_model_front_products(struct fm_trainer *trainer, fm_dtype dtype);
FM_MUST_USE fm_status fm_model_front_export(struct fm_trainer *trainer, fm_dtype dtype, const char *folder);
FM_MUST_USE fm_status fm_model_front_save(struct fm_trainer *trainer, const char *path,
                                          const char *const *notes);
FM_MUST_USE fm_status fm_model_front_load(struct fm_trainer *trainer, const char *path);
FM_MUST_USE fm_status fm_model_front_pack(struct fm_trainer *trainer, const char *const *notes,
                                          void **out_bytes, size_t *out_length);
FM_MUST_USE fm_status fm_model_front_unpack(struct fm_trainer *trainer, const void *bytes, size_t length,
                                            const char *name);
/** `expert_in`: a whole map. */
FM_MUST_USE fm_status fm_model_front_place(struct fm_trainer *trainer, const int32_t *expert_in,
                                           int64_t *out_moved);

#endif
