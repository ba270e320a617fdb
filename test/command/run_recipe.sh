#!/usr/bin/env bash
# `fathom run`: a recipe runs, goes on where it was, runs again what changed, and bad recipes are errors that teach.
. "$(dirname "$0")/prelude.sh"
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

# One run at a time in a folder, and the next as soon as it is gone.
printf 'name: long\nstages:\n  - {stage: machine, with: {probe: 60000}}\n' >long.yaml
: >long.txt
"$fathom" run long.yaml >/dev/null 2>long.txt &
long=$!
for _ in $(seq 600); do ! grep -q '^\[1/1\]' long.txt || break; sleep 0.1; done
refused 'run: another run uses this folder'
kill -9 $long
wait $long 2>/dev/null || true
"$fathom" run r.yaml >/dev/null 2>&1

{ printf 'name: all\nstages:\n' && "$fathom" run --stages; } >r.yaml # what it lists is a recipe
FM_CORPUS_BYTES_MAX=1MiB FM_DATA_VOCAB=400 FM_TRAIN_STEPS=2 FM_TRAIN_HIDDEN=64 FM_TRAIN_LAYERS=2 FM_TRAIN_LENGTH=32 \
    "$fathom" run r.yaml --out all >/dev/null 2>log.txt

# Corpora that are none, each named for what it is.
printf 'name: c\nstages:\n  - stage: corpus\n' >r.yaml
corpus_refused() { # corpus, expected words
    local got=0
    FM_CORPUS_CORPUS=$1 "$fathom" run r.yaml --out none >/dev/null 2>err.txt || got=$?
    [ $got = 1 ] || fail "corpus $1: exit $got"
    grep -qF -- "$2" err.txt || fail "corpus $1: expected \"$2\" in: $(cat err.txt)"
}
mkdir empty_folder docs
: >empty.txt
printf ' \n\n \n' >blank.txt
head -c 3000 /dev/urandom >binary
tr -d '\000' <binary >no_zero
truncate -s 10G sparse.txt
printf 'one\n' >short.txt
mkfifo pipe
corpus_refused nowhere 'nowhere is not there'
corpus_refused empty_folder 'the corpus is empty; expected text files, plain or gzip (those of subfolders are not read)'
corpus_refused empty.txt 'empty.txt: the corpus is empty'
corpus_refused blank.txt 'blank.txt: the corpus is empty'
corpus_refused binary 'is 0, so this is no text; expected text files in UTF-8'
corpus_refused no_zero 'are neither UTF-8 nor text in it'
corpus_refused sparse.txt 'sparse.txt: byte 0 is 0, so this is no text'
corpus_refused pipe 'pipe is neither a file nor a folder'
corpus_refused short.txt 'the corpus is too small for this share'
rm sparse.txt
for i in $(seq 300); do printf 'Document %s says caf\351.\n%s\n\n' "$i" "$(seq -s ' ' "$i" $((i + 120)))"; done >docs/latin1.txt
gzip -k docs/latin1.txt
FM_CORPUS_CORPUS=docs "$fathom" run r.yaml --out docs_run >table.txt 2>/dev/null
grep -q 'documents  *600' table.txt
[ "$(grep -c 'café' docs_run/corpus/train/00000.txt)" -gt 500 ]
FM_CORPUS_CORPUS=docs FM_CORPUS_BYTES_MAX=20KiB FM_CORPUS_HELD_OUT=0.3 "$fathom" run r.yaml --out docs_run >table.txt 2>/dev/null
grep -q 'its beginning: bytes-max' table.txt

# The data stage makes the same tokens with pond and without.
printf 'name: d\nstages:\n  - {stage: corpus, with: {corpus: docs}}\n  - {stage: data, with: {vocab: 300}}\n' >r.yaml
FM_DATA_ENGINE=process "$fathom" run r.yaml --out here >table.txt 2>/dev/null
grep -q 'this process' table.txt
# latin1.txt and its gzip have the same documents: twice are those alone that were held out once.
awk '/documents, each text once/ { n = $NF } END { exit !(n >= 300 && n < 400) }' table.txt
if "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    FM_DATA_ENGINE=pond "$fathom" run r.yaml --out there >/dev/null 2>&1
    for split in train held_out; do
        cmp "here/data/$split/part-00000.bin" "there/data/$split/part-00000.bin"
    done
    [ ! -e there/data/tasks ]
    # Executors that Slurm starts: here, an sbatch that runs what it is given.
    mkdir batch
    cat >batch/sbatch <<'S'
#!/usr/bin/env bash
echo 7
bash -c "${!#}" >/dev/null 2>&1 &
S
    printf '#!/bin/sh\n' >batch/scancel
    chmod +x batch/*
    PATH=$PWD/batch:$PATH FM_DATA_ENGINE=pond FM_DATA_SLURM=partition=batch "$fathom" run r.yaml --out far >/dev/null 2>&1
    cmp here/data/train/part-00000.bin far/data/train/part-00000.bin
else
    echo "SKIP command.run_recipe: pond's tokens, for there is no DuckDB"
fi

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
