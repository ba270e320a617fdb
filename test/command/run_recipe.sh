#!/usr/bin/env bash
# `fathom run`: a recipe runs, goes on where it was, runs again what changed, and bad recipes are errors that teach.
set -euo pipefail
fathom=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
recipe() { printf 'name: test\nstages:\n  - {stage: machine, name: first, with: {probe: %s}}\n  - {stage: machine, name: second, with: {probe: %s}}\n' "$1" "$2" >r.yaml; }
refused() { # expected words in the message
    if "$fathom" run r.yaml 2>err.txt; then
        echo "accepted: $(cat r.yaml)" >&2
        exit 1
    fi
    grep -qF "$1" err.txt || { echo "expected \"$1\" in: $(cat err.txt)" >&2; exit 1; }
}

recipe 5 5
"$fathom" run r.yaml >table.txt 2>log.txt
grep -q 'ISA level' table.txt
grep -q 'ISA level' run/summary.json
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
[ "$(grep -c '^first' log.txt)" = 0 ]

{ printf 'name: all\nstages:\n' && "$fathom" run --stages; } >r.yaml # what it lists is a recipe
"$fathom" run r.yaml --out all >/dev/null 2>log.txt

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
: >r.yaml
refused 'r.yaml'
rm r.yaml
refused 'r.yaml'
