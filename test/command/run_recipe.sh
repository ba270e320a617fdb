#!/usr/bin/env bash
# `fathom run`: a recipe runs, goes on where it was, runs again what changed, and bad recipes are errors that teach.
set -euo pipefail
fathom=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
recipe() { printf 'name: test\nstages:\n  - {stage: machine, name: first, with: {probe: %s}}\n  - {stage: machine, name: second, with: {probe: %s}}\n' "$1" "$2" >r.yaml; }
fail() { echo "$1" >&2; exit 1; }
refused() { # expected words in the message, exit status (1), options...
    local got=0
    "$fathom" run r.yaml "${@:3}" >/dev/null 2>err.txt || got=$?
    [ $got = "${2:-1}" ] || fail "exit $got: $(cat r.yaml)"
    grep -qF -- "$1" err.txt || { echo "expected \"$1\" in: $(cat err.txt)" >&2; exit 1; }
}

recipe 5 5
"$fathom" run r.yaml >table.txt 2>log.txt
grep -q 'ISA level' table.txt
grep -q 'GB/s' table.txt
grep -q 'ISA level' run/summary.json
grep -A1 '"what": "memory available"' run/summary.json | grep -E '"value": [0-9]+,' >/dev/null # numbers are numbers
grep -A2 '"what": "memory read, one thread"' run/summary.json | grep '"unit": "GB/s"' >/dev/null
grep -q '^\[1/2\] first: ' log.txt
grep -q '^\[2/2\] second: done in ' log.txt
"$fathom" run r.yaml 2>log.txt >table.txt
[ "$(grep -c 'done before' log.txt)" = 2 ]
recipe 5 6
"$fathom" run r.yaml 2>log.txt >table.txt
[ "$(grep -c 'done before' log.txt)" = 1 ]
recipe 7 6 # a changed stage runs what comes after it again
"$fathom" run r.yaml 2>log.txt >table.txt
[ "$(grep -c 'done before' log.txt)" = 0 ]
recipe 7.0 6
"$fathom" run r.yaml --json 2>log.txt | grep '"recipe": "test"' >/dev/null
[ "$(grep -c 'done before' log.txt)" = 2 ] # 7.0 is 7
"$fathom" run r.yaml --fresh >/dev/null 2>log.txt
[ "$(grep -c 'done before' log.txt)" = 0 ]
echo '{"key": 1' >run/second/result.json # torn
"$fathom" run r.yaml >/dev/null 2>log.txt
[ "$(grep -c 'done before' log.txt)" = 1 ]
"$fathom" run r.yaml --only second >/dev/null 2>log.txt
! grep -q ' first: ' log.txt || fail "--only second ran first"

# A stage is done only for the result before it that it was run after.
for spoil in '"$fathom" run r.yaml --only first' 'rm run/first/result.json' 'echo "{" >run/first/result.json'; do
    "$fathom" run r.yaml >/dev/null 2>&1
    eval "$spoil" >/dev/null 2>&1
    "$fathom" run r.yaml >/dev/null 2>log.txt
    ! grep -q 'second: done before' log.txt || fail "$spoil: the stage after it is stale"
done
"$fathom" run r.yaml >/dev/null 2>log.txt
[ "$(grep -c 'done before' log.txt)" = 2 ]

refused 'no stage named "secnod"; did you mean "second"?' 2 --only=secnod
refused '--out is empty' 2 --out=
if "$fathom" run "" 2>err.txt; then fail 'accepted ""'; fi
grep -q 'RECIPE is empty' err.txt

# One run at a time in a folder.
exec 9>run/.lock
flock 9
refused 'run: another run uses this folder'
exec 9>&-

{ printf 'name: all\nstages:\n' && "$fathom" run --stages; } >r.yaml # what it lists is a recipe
FM_CORPUS_BYTES_MAX=1MiB FM_DATA_VOCAB=400 FM_TRAIN_STEPS=2 FM_TRAIN_HIDDEN=64 FM_TRAIN_LAYERS=2 FM_TRAIN_LENGTH=32 \
    "$fathom" run r.yaml --out all >/dev/null 2>log.txt

printf 'name: x\nstages:\n  - stage: machine\n    with:\n' >r.yaml # an empty section sets nothing
FM_MACHINE_PROBE=1 "$fathom" run r.yaml --out empty >/dev/null 2>&1

recipe 7 many
refused 'r.yaml:4: probe is "many"; expected a number from 1 to 60000'
printf 'name: x\nstage:\n  - {stage: machine}\n' >r.yaml
refused 'r.yaml:2:'
printf 'name: x\nstages:\n  - {stage: machin}\n' >r.yaml
refused 'did you mean "machine"?'
printf 'name: x\nstages:\n  - {stage: machine}\n  - {stage: machine}\n' >r.yaml
refused 'a second stage is named "machine"'
printf 'name: x\nstages:\n  - {stage: machine, name: ../up}\n' >r.yaml
refused 'stage name "../up"'
printf 'name: x\nneeds: {memory: 900TiB}\nstages:\n  - {stage: machine}\n' >r.yaml
refused 'of available memory'
printf 'name: x\nstages:\n  - {name: machine}\n' >r.yaml
refused 'r.yaml:3: a stage has no `stage`'
printf 'name: x\n' >r.yaml
refused 'r.yaml:1: the recipe has no `stages`'
printf 'name: x\nstages:\n  - {stage: machine, with: {zzz: 1}}\n' >r.yaml
refused 'known keys: probe'
printf 'name: x\nstages:\n  - {stage: "\\e[31mx"}\n' >r.yaml
refused 'unknown stage " [31mx"'
! grep -q $'\e' err.txt || fail "an escape sequence reached the terminal"
: >r.yaml
refused 'r.yaml'
rm r.yaml
refused 'r.yaml'
