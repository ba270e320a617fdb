#include "bench_base.h"

static fm_status cases(fm_bench *bench)
{
    FM_TRY(fm_bench_base_add_numbers(bench));
    FM_TRY(fm_bench_base_add_bytes(bench));
    FM_TRY(fm_bench_base_add_docs(bench));
    return fm_bench_base_add_spans(bench);
}

int main(int argc, char **argv)
{
    static const fm_bench_program program = {
        "base", "Measures lib/base: number formats, checksums, random numbers, documents, spans", cases};
    return fm_bench_main(&program, argc, argv);
}
