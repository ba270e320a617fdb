#!/usr/bin/env bash
# A recipe that trains on several ranks comes to the losses of one rank, and to a model that generates.
. "$(dirname "$0")/prelude.sh"

for i in $(seq 400); do printf 'Document %s.\n%s\n\n' "$i" "$(seq -s ' ' "$i" 3 $((i + 360)))"; done >text
recipe() { # pipeline ranks, expert ranks
    cat >r.yaml <<Y
name: ranks
stages:
  - {stage: corpus, with: {corpus: text}}
  - {stage: data, with: {vocab: 300}}
  - stage: train
    with: {steps: 8, save-every: 3, hidden: 32, layers: 4, length: 32, batch: 8, expert-intermediate: 16,
      pipe-ranks: $1, expert-ranks: $2}
  - {stage: generate, with: {max-tokens: 3, prompt: Document}}
Y
}
for ranks in '1 1' '2 1' '1 2' '2 2'; do
    # shellcheck disable=SC2086 # two numbers
    recipe $ranks
    expect 0 "$fathom" run r.yaml
    od -An -v -w4 -tf4 run/train/losses.f32 >"losses ${ranks}"
    [ "$(wc -l <"losses $ranks")" = 8 ] || { echo "$ranks: not 8 losses" >&2; exit 1; }
    paste "losses 1 1" "losses $ranks" | awk '{ d = $1 - $2; if (d > 1e-4 || d < -1e-4) exit 1 }' ||
        { echo "$ranks: $(paste "losses 1 1" "losses $ranks")" >&2; exit 1; }
done
says run/train/model/model.safetensors.index.json model-00004-of-00004.safetensors

# Experts that change ranks while it is trained change nothing about the losses.
sed -i 's/expert-ranks: 2/expert-ranks: 2, rebalance-every: 2/' r.yaml
expect 0 "$fathom" run r.yaml
od -An -v -w4 -tf4 run/train/losses.f32 >losses
paste "losses 1 1" losses | awk '{ d = $1 - $2; if (d > 1e-4 || d < -1e-4) exit 1 }' ||
    { echo "rebalanced: $(paste "losses 1 1" losses)" >&2; exit 1; }
grep -A1 '"experts moved while training"' run/summary.json | awk -F': ' '/value/ { exit !($2 + 0 > 0) }'
for label in 'experts in order' rebalanced; do
    grep -A1 "\"busiest rank over the mean, $label\"" run/summary.json | awk -F': ' '/value/ { exit !($2 + 0 >= 1) }'
done

# What the pipeline left idle, as it was and as a simulation with the measured times has it.
[ -s run/train/schedule.svg ]
for bubble in simulated measured; do
    grep -A1 "\"bubble, $bubble\"" run/summary.json | awk -F': ' '/value/ { exit !($2 + 0 >= 0 && $2 + 0 < 100) }'
    says run/summary.json "bubble, $bubble"
done
# 8 sequences of 32 tokens with 32 channels of 4 bytes cross from rank to rank twice in a V of four stages, and their gradients do.
grep -A1 '"pipeline, bytes sent a step"' run/summary.json | grep -q '"value": 131072,'
says run/summary.json 'pipeline, bytes moved while computing'

# A text is taken up again from the two blocks of 64 tokens that the file system keeps of it.
grep -A1 '"cache blocks found in fs"' run/summary.json | grep -q '"value": 2,'

# The same with processes, which a recipe's launcher starts; exports and checkpoints are as good.
if [ "${2:-OFF}" = ON ] && [ -n "$(command -v mpirun)" ]; then
    recipe 2 2
    sed -i 's/expert-ranks: 2/expert-ranks: 2, transport: processes/' r.yaml
    expect 0 "$fathom" run r.yaml
    od -An -v -w4 -tf4 run/train/losses.f32 >losses
    # All ranks' spans are in one timeline, and the bubble is measured in it.
    [ "$(ls run/train/trace.*)" = run/train/trace.json ]
    for rank in 0 1 2 3; do says run/train/trace.json "trace.rank$rank rank $rank"; done
    says run/summary.json 'bubble, measured'
    paste "losses 2 2" losses | awk '$1 != $2 { exit 1 }' || { echo "processes: $(paste "losses 2 2" losses)" >&2; exit 1; }
else
    echo 'SKIP processes: no mpirun, or a build without MPI' >&2
fi

recipe 2 1
sed -i 's/expert-ranks: 1/expert-ranks: 1, transport: processes, launcher: no-such-launcher/' r.yaml
expect 1 "$fathom" run r.yaml
says err.txt 'no-such-launcher'

recipe 3 1
expect 1 "$fathom" run r.yaml
says err.txt 'has 6 stages'
sed -i 's/pipe-ranks: 3/pipe-ranks: 2, schedule: dualpip/' r.yaml
expect 1 "$fathom" run r.yaml
says err.txt 'dualpip'
