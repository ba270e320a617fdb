#!/usr/bin/env bash
# A run that is killed at any moment goes on to the same loss curve and the same model: at 20 seeded instants, and at both sides of
# every stage's boundary.
. "$(dirname "$0")/prelude.sh"
run=
clean_up() {
    [ -z "$run" ] || kill -9 "$run" 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean_up EXIT
fail() { echo "run_killed: $1" >&2; exit 1; }

for i in $(seq 400); do printf 'Document %s.\n%s\n\n' "$i" "$(seq -s ' ' "$i" 3 $((i + 360)))"; done >text
cat >r.yaml <<'Y'
name: killed
stages:
  - {stage: corpus, with: {corpus: text}}
  - {stage: data, with: {vocab: 300}}
  - {stage: train, with: {steps: 30, save-every: 4, hidden: 32, layers: 4, length: 32, batch: 4, expert-intermediate: 16,
      expert-ranks: 2, rebalance-every: 6}}
  - {stage: balance}
  - {stage: generate, with: {max-tokens: 5, prompt: Document}}
  - {stage: report}
Y
start() { # starts a run whose words go to log.txt
    : >log.txt
    "$fathom" run r.yaml --out killed >/dev/null 2>log.txt &
    run=$!
}
stop() {
    kill -9 "$run" 2>/dev/null || true
    wait "$run" 2>/dev/null || true
    run=
}
same() { # what it came to is what it should
    local losses
    losses=$(echo "$1"/train/checkpoints/*/step-000000030/losses.f32)
    cmp "$losses" whole.f32 || fail "another loss curve, $2"
    cat "$1"/train/model/*.safetensors | cmp - whole.safetensors || fail "another model, $2"
}

begin=$(date +%s%N)
"$fathom" run r.yaml --out whole >/dev/null 2>log.txt
span_ms=$((($(date +%s%N) - begin) / 1000000))
cp whole/train/checkpoints/*/step-000000030/losses.f32 whole.f32
cat whole/train/model/*.safetensors >whole.safetensors
[ "$(stat -c %s whole.f32)" = 120 ] || fail "the loss curve has not 30 steps"

# At instants within the time that the whole took. One that ended before its instant begins anew.
RANDOM=20
killed=0
finished=0
while [ $killed -lt 20 ] && [ $finished -lt 200 ]; do
    start
    sleep "$(awk -v ms=$((RANDOM * span_ms / 32768)) 'BEGIN { printf "%.3f", ms / 1000 }')"
    if kill -0 "$run" 2>/dev/null; then
        stop
        killed=$((killed + 1))
    else
        wait "$run" || fail "a run failed after $killed kills: $(cat log.txt)"
        run=
        finished=$((finished + 1))
        same killed "after $killed kills"
        rm -rf killed
    fi
done
[ $killed = 20 ] || fail "$killed of 20 runs could be killed"
"$fathom" run r.yaml --out killed >/dev/null 2>log.txt || fail "the last run failed: $(cat log.txt)"
same killed "after 20 kills"
rm -rf killed

# At boundaries: right after a stage was announced, and right after it was done.
for stage in corpus data train balance generate report; do
    for moment in "$stage: [^d]" "$stage: done in"; do
        start
        until grep -q "\] $moment" log.txt; do
            kill -0 "$run" 2>/dev/null || { wait "$run" || fail "failed at '$moment': $(cat log.txt)"; break; }
            sleep 0.01
        done
        stop
    done
done
"$fathom" run r.yaml --out killed >/dev/null 2>log.txt || fail "the last run failed: $(cat log.txt)"
same killed "after kills at boundaries"

# A newest checkpoint that was damaged goes, and the one before it is taken.
state=$(echo killed/train/checkpoints/*/step-000000030/state.safetensors)
truncate -s 1000 "$state"
rm killed/train/result.json
"$fathom" run r.yaml --out killed >/dev/null 2>log.txt || fail "the run failed: $(cat log.txt)"
says log.txt 'the checkpoint of step 30 is dropped'
same killed "after a checkpoint was damaged"
[ "$(stat -c %s "$state")" -gt 1000 ] || fail "the damaged checkpoint is still there"
