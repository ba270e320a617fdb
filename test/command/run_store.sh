#!/usr/bin/env bash
# Checkpoints of a run in a file system of their own: a folder, and a cluster, from which a run that was stopped goes on.
. "$(dirname "$0")/prelude.sh"
trap '"$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null || true; rm -rf "$scratch"' EXIT

for i in $(seq 400); do printf 'Document %s.\n%s\n\n' "$i" "$(seq -s ' ' "$i" 3 $((i + 360)))"; done >text
recipe() { # checkpoint-store
    cat >r.yaml <<Y
name: store
stages:
  - {stage: corpus, with: {corpus: text}}
  - {stage: data, with: {vocab: 300, engine: process}}
  - stage: train
    with: {steps: 12, save-every: 4, hidden: 32, layers: 2, length: 32, batch: 4, expert-intermediate: 16, checkpoint-store: "$1"}
Y
}
goes_on() { # a run whose result is gone finds its last checkpoint
    rm run/train/result.json
    expect 0 "$fathom" run r.yaml
    says out.txt 'taken up at step'
    cmp run/train/losses.f32 losses
}

recipe ""
expect 0 "$fathom" run r.yaml
cp run/train/losses.f32 losses
goes_on

recipe dir:elsewhere
expect 0 "$fathom" run r.yaml
[ -s "$(echo elsewhere/run-*/train/checkpoints/*/step-000000012/state.safetensors)" ]
[ -z "$(ls run/train/checkpoints)" ] || { echo "checkpoints of the run before are left" >&2; exit 1; }
goes_on

recipe cluster:c
expect 1 "$fathom" run r.yaml
says err.txt 'stage train'
if ! "$fathom" fs cluster init c --targets 2 --replicas 1 2>err.txt; then # built without the embedded store
    says err.txt 'not a store of this build'
    echo "SKIP command.run_store: checkpoints in a cluster, for this build has no embedded store"
    exit 0
fi
expect 0 "$fathom" fs cluster up --detach c
expect 0 "$fathom" run r.yaml
place=$("$fathom" fs ls c:/ | head -n 1)
version=$("$fathom" fs ls "c:/${place%/}/train/checkpoints" | head -n 1)
expect 0 "$fathom" fs ls "c:/${place%/}/train/checkpoints/${version%/}"
says out.txt 'step-000000012'
goes_on
