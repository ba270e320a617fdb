/* The cases of bench_model that are in other files. */
#ifndef FM_BENCH_MODEL_H
#define FM_BENCH_MODEL_H

#include "fm_bench.h"

/** Decoding, prefill and prefix hits of a random FP8 model in the shape of DeepSeek-V2-Lite. */
FM_MUST_USE fm_status bench_model_serve_cases(fm_bench *bench);

/** Encoding, by a vocabulary of our own and by DeepSeek-V3's, the latter against Hugging Face's JavaScript library. */
FM_MUST_USE fm_status bench_model_tokenizer_cases(fm_bench *bench);

#endif
