#!/usr/bin/env bash
# fathom eplb: plans from CSV, JSON and .npy, plans that move little, drawings, and what bad files are told.
. "$(dirname "$0")/prelude.sh"
fails() { # exit status, text in the message, command...
    local want=$1 text=$2 got=0
    shift 2
    "$@" >out.txt 2>err.txt || got=$?
    [ $got = "$want" ] || { echo "$*: exit $got, expected $want: $(cat err.txt)" >&2; exit 1; }
    grep -qF -- "$text" err.txt || { echo "$*: \"$(cat err.txt)\" lacks \"$text\"" >&2; exit 1; }
    [ ! -s out.txt ]
}
has() { grep "$@" >/dev/null; } # reads to the end, unlike grep -q: the command must not meet a closed pipe
golden=$FM_SOURCE_DIR/lib/eplb/test/golden

# The toy case, from CSV with a comment and from standard input: its optimum, proven.
printf '# tokens\n600,560,120,120,20,10,10,10\n' >toy.csv
"$fathom" eplb plan --replicas 16 --gpus 8 --json toy.csv >toy.json
grep -qE '"max_load": ?\[ ?196\.6666666666666[0-9]*' toy.json
grep -qE '"gap": ?\[ ?[0-9.e-]+ ?\]' toy.json
for key in phy2log log2phy logcnt mean_load lower_bound moves time_us; do
    grep -q "\"$key\":" toy.json
done
"$fathom" eplb plan --replicas 16 --gpus 8 - <toy.csv | has '1.0851 *1.0851'

# JSON as in the golden files; the reference's tables are the recorded ones.
"$fathom" eplb plan --replicas 16 --groups 4 --nodes 2 --gpus 8 --policy reference --json "$golden/case00.json" >ours.json
row() { tr -d ' \n' <"$1" | grep -o '"phy2log":\[\[[^]]*\],\[[^]]*\]\]'; }
[ "$(row ours.json)" = "$(row "$golden/case00.json")" ]

# .npy: a header as NumPy writes it and eight floats 1 .. 8.
header="{'descr': '<f4', 'fortran_order': False, 'shape': (1, 8), }"
{
    printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header"
    printf '\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40\x00\x00\x80\x40'
    printf '\x00\x00\xa0\x40\x00\x00\xc0\x40\x00\x00\xe0\x40\x00\x00\x00\x41'
} >loads.npy
"$fathom" eplb plan --replicas 8 --gpus 4 loads.npy | has 'mean *1.0000 *1.0000'

# Moving little: the same plan again moves nothing; a lost GPU moves the experts that it alone had, as transfers say.
"$fathom" eplb plan --replicas 16 --gpus 8 --current toy.json --json toy.csv | has -E '"moves": ?\[ ?0 ?\]'
"$fathom" eplb plan --replicas 16 --gpus 8 --current toy.json --max-moves 0 --expert-bytes 1MiB toy.csv | has '^0 transfers'
"$fathom" eplb plan --replicas 16 --gpus 8 --current toy.json --lost 0 --expert-bytes 1MiB -o after.json toy.csv >out.txt
grep -q '8 experts in 14 replicas on 8 GPUs' out.txt
grep -qE '"gpu_slots": ?\[ ?0, ?2' after.json

# GPUs of two speeds: the plan keeps them, and a drawing shows loads over speeds.
"$fathom" eplb plan --replicas 16 --gpus 8 --gpu-speeds 1,1,1,1,2,2,2,2 --json toy.csv >speeds.json
has -E '"gpu_speeds": ?\[ ?1' <speeds.json
"$fathom" eplb show speeds.json toy.csv | has 'plan 1.0759 and 1.0759'
# A lost GPU takes no part in the mean.
"$fathom" eplb show after.json toy.csv | has 'plan 1.2552 and 1.2552'

# Drawings.
"$fathom" eplb show --svg loads.svg toy.json toy.csv | has 'one copy each'
grep -q '^<svg' loads.svg
grep -q 'prefers-color-scheme' loads.svg
! command -v xmllint >/dev/null || xmllint --noout loads.svg
"$fathom" eplb show --before toy.json after.json toy.csv >/dev/null
"$fathom" eplb show "$golden/case00.json" >/dev/null
"$fathom" eplb show --json toy.json toy.csv | has '"after"'

# Bad input names file, line and value.
plan=("$fathom" eplb plan --replicas 16 --gpus 8)
printf '1,2,3\n4,5\n' >ragged.csv
fails 1 'ragged.csv:2: 2 loads; expected 3' "${plan[@]}" ragged.csv
printf '1,2\n3,x\n' >word.csv
fails 1 'word.csv:2: load 2 is "x"; expected a number' "${plan[@]}" word.csv
printf '1,2,\n' >comma.csv
fails 1 'comma.csv:1: load 3 is ""' "${plan[@]}" comma.csv
printf '1 2\n' >blank.csv
fails 1 'expected a comma' "${plan[@]}" blank.csv
printf '1,-2\n' >negative.csv
fails 1 'negative.csv:1: load 2 is -2' "${plan[@]}" negative.csv
printf '1,nan\n' >nan.csv
fails 1 'nan.csv:1: load 2 is nan' "${plan[@]}" nan.csv
printf '# nothing\n\n' >empty.csv
fails 1 'empty.csv holds no loads' "${plan[@]}" empty.csv
printf '{"weight": [[1, 2],\n [3]]}' >ragged.json
fails 1 'ragged.json:2: layer 1 has 1 loads; expected 2' "${plan[@]}" ragged.json
printf '{"loads": []}' >key.json
fails 1 'there is no "weight"' "${plan[@]}" key.json
fails 1 'missing.csv' "${plan[@]}" missing.csv
fails 1 'replicas is 4; expected at least 8' "$fathom" eplb plan --replicas 4 --gpus 8 toy.csv
fails 1 'replicas is 15; expected a multiple of gpus (8)' "$fathom" eplb plan --replicas 15 --gpus 8 --policy reference toy.csv
fails 1 'on 8 GPUs; expected 1 layers and 8 experts on 4 GPUs' "$fathom" eplb plan --replicas 16 --gpus 4 --current toy.json toy.csv
printf '600,560,120,120,20,10,10,10,9\n' >nine.csv
fails 1 'expected 1 layers and 9 experts on 8 GPUs' "${plan[@]}" --current toy.json nine.csv
sed -E 's/("gpu_speeds": ?\[ ?)1/\10/' speeds.json >still.json
fails 1 'a speed is 0; expected a finite number above 0' "$fathom" eplb show still.json toy.csv
fails 1 '--max-moves needs --current' "${plan[@]}" --max-moves 1 toy.csv
fails 1 '--lost: "9"' "${plan[@]}" --current toy.json --lost 9 toy.csv
fails 1 '--gpu-slots: entry 2' "${plan[@]}" --gpu-slots 2,a toy.csv
fails 2 "did you mean '--replicas'" "$fathom" eplb plan --replica 16 --gpus 8 toy.csv
