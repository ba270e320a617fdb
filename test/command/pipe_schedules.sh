#!/usr/bin/env bash
# `fathom pipe` as people and programs use it: plan, check, compare, draw, and what is refused.
. "$(dirname "$0")/prelude.sh"
golden=${FM_SOURCE_DIR:?}/lib/pipe/test/golden/pipe_schedules.json

# What plan writes, check takes, and it is the original's program.
expect 0 "$fathom" pipe plan --schedule dualpipe --ranks 2 --micro-batches 4 --json
cp out.txt plan.json
says plan.json '{"schedule":"dualpipe","ranks":2,"micro_batches":4,"ops":[[["F",0,0],["F",1,0],["F",0,1],["B",1,0],["FB",1,1,0,0]'
expect 0 "$fathom" pipe check plan.json
says out.txt 'dualpipe, 2 ranks, 4 micro-batches: right (16 ops)'
expect 0 "$fathom" pipe check - <plan.json
expect 0 "$fathom" pipe check "$golden"
[ "$(wc -l <out.txt)" = 6 ]
for schedule in gpipe 1f1b interleaved zb-h1 ZB1P zb-h2 zb-v chimera dualpipe dualpipev; do
    expect 0 "$fathom" pipe plan --schedule $schedule --ranks 4 --micro-batches 5 --json
    cp out.txt program.json
    expect 0 "$fathom" pipe check program.json
    expect 0 "$fathom" pipe plan --schedule $schedule --ranks 4 --micro-batches 5
    says out.txt 'rank 3:'
done
expect 0 "$fathom" pipe plan --schedule search --placement v --memory-max 3 --ranks 2 --micro-batches 4 --json
says out.txt '"placement":"v"'
cp out.txt program.json
expect 0 "$fathom" pipe check program.json

# Wrong programs: exit 1, file and line, the first fault.
cat >circle.json <<'END'
{"schedule": "1f1b", "ranks": 2, "micro_batches": 2, "ops": [
  [["F", 0, 0],
   ["B", 0, 0],
   ["F", 0, 1], ["B", 0, 1]],
  [["F", 0, 0], ["F", 0, 1], ["B", 0, 0], ["B", 0, 1]]]}
END
expect 1 "$fathom" pipe check circle.json
says err.txt 'circle.json:3: rank 0, op 1 (B lane 0 chunk 0): deadlock: it waits for op 2 of rank 1'
expect 1 "$fathom" pipe check --json circle.json
says out.txt '"right":false,"rank":0,"op":1,"line":3'
head -c 60 plan.json >truncated.json
expect 1 "$fathom" pipe check truncated.json
says err.txt 'truncated.json:1:'
sed 's/"FB"/"BF"/' plan.json >unknown.json
expect 1 "$fathom" pipe check unknown.json
says err.txt 'kind is "BF"; expected F, B, I, W or FB'
sed 's/"ranks":2/"ranks":3/' plan.json >counts.json
expect 1 "$fathom" pipe check counts.json
says err.txt 'ops has 2 programs; expected 3'
expect 1 "$fathom" pipe check no-such.json
says err.txt 'no-such.json'

# The table, and sizes that a schedule does not allow as rows of it.
expect 0 "$fathom" pipe compare --ranks 8 --micro-batches 20 --f 1 --b 1 --w 1 --fb 2.2
grep -qE '^dualpipe +54.8 +5.5 +9 +2x' out.txt
grep -qE '^zb-h1 +67 ' out.txt
expect 0 "$fathom" pipe compare --ranks 5 --micro-batches 7
says out.txt 'nearest are 4 and 6'
expect 0 "$fathom" pipe compare --ranks 4 --micro-batches 8 --json
says out.txt '{"schedule":"1f1b","makespan":33.0,"bubble_ratio":'

# Drawings.
size=(--schedule dualpipe --ranks 8 --micro-batches 20 --fb 2.5)
expect 0 "$fathom" pipe draw "${size[@]}" -o out.svg
grep -q '^<svg xmlns' out.svg
says out.svg 'prefers-color-scheme:dark'
expect 0 "$fathom" pipe draw "${size[@]}" -o out.json
says out.json '"traceEvents":['
expect 0 "$fathom" pipe draw "${size[@]}"
[ "$(wc -l <out.txt)" = 9 ]
expect 2 "$fathom" pipe draw "${size[@]}" -o out.pdf
says err.txt 'expected a name that ends in .svg, .json or .txt'

# Refused.
expect 2 "$fathom" pipe plan --schedule foo --ranks 4 --micro-batches 8
says err.txt 'expected one of gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-v, chimera, dualpipe, dualpipev, search'
expect 1 "$fathom" pipe plan --schedule dualpipe --ranks 5 --micro-batches 8
says err.txt 'nearest are 4 and 6'
expect 2 "$fathom" pipe plan --schedule 1f1b --ranks 0 --micro-batches 8
expect 2 "$fathom" pipe plan --schedule 1f1b --ranks 4 --micro-batches 99999999999999999999
expect 1 "$fathom" pipe plan --schedule interleaved --virtual-stages 64 --ranks 1024 --micro-batches 65536
says err.txt 'ranks * lanes * chunks'
