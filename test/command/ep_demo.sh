#!/usr/bin/env bash
# fathom ep: a round whose tokens all come back, figures of this machine, and what bad options are told.
. "$(dirname "$0")/prelude.sh"

"$fathom" ep demo --tokens 16 --hidden 256 >demo.txt
grep -q 'bit for bit' demo.txt
"$fathom" ep demo --tokens 16 --hidden 256 --fp8 --json >demo.json
grep -q '"wrong": *0' demo.json
if "$fathom" ep demo --experts 63 >out.txt 2>err.txt; then exit 1; fi
grep -q 'expected a multiple of the 4 ranks' err.txt

"$fathom" ep bench --tokens 16 --hidden 256 --rounds 3 >bench.txt
grep -q '^dispatch' bench.txt
"$fathom" ep bench --tokens 16 --hidden 256 --rounds 3 --expanded --bf16 --ranks 3 --experts 12 --json >bench.json
grep -q '"operation": *"combine"' bench.json
if "$fathom" ep bench --topk 9 --experts 8 >out.txt 2>err.txt; then exit 1; fi
grep -q 'topk is 9; expected at most the 8 experts' err.txt
