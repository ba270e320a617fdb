#!/usr/bin/env bash
# From text to a model to text, in small: a recipe on a corpus of one's own, interrupted and gone on with, then `fathom
# generate` with its checkpoint; and bad input is an error that teaches.
. "$(dirname "$0")/prelude.sh"
fail() { echo "$1" >&2; exit 1; }
refused() { # expected words in the message, then the command
    local words=$1
    shift
    if "$@" >out.txt 2>err.txt; then fail "accepted: $*"; fi
    grep -qF -- "$words" err.txt || fail "expected \"$words\" in: $(cat err.txt)"
}

mkdir corpus
for i in $(seq 1 400); do printf 'one %d two three four five, six %d seven.\n\n' "$i" $((i * 7)); done >corpus/text.txt
recipe() { # steps
    cat >r.yaml <<YAML
name: small
stages:
  - stage: corpus
    with: {corpus: corpus, held-out: 0.1}
  - stage: data
    with: {vocab: 320}
  - stage: train
    with: {steps: $1, batch: 4, length: 32, hidden: 64, layers: 2, heads: 2, expert-intermediate: 32, save-every: 5}
  - stage: generate
    with: {prompt: "one 7 two", max-tokens: 12, temperature: 0, expert-workers: 2}
YAML
}
recipe 30
"$fathom" run r.yaml --out whole >/dev/null 2>log.txt
cmp <(head -c 4 whole/train/model/config.json) <(printf '{\n  ')

# Killed in the middle of training, the run goes on from its last checkpoint and ends with the same loss curve.
"$fathom" run r.yaml --out cut >/dev/null 2>log.txt &
process=$!
for _ in $(seq 1 400); do
    ! ls cut/train/checkpoints/*/latest >/dev/null 2>&1 || break
    sleep 0.01
done
kill -9 $process 2>/dev/null || true
wait $process 2>/dev/null || true
"$fathom" run r.yaml --out cut >/dev/null 2>log.txt
cmp whole/train/checkpoints/*/step-000000030/losses.f32 cut/train/checkpoints/*/step-000000030/losses.f32
cmp whole/train/model/model.safetensors cut/train/model/model.safetensors

model=whole/train/model
"$fathom" generate --model $model --prompt 'one 7 two' --max-tokens 12 --json >json.txt
grep -q '"text":"' json.txt
# Experts with workers of their own change no token.
OMP_WAIT_POLICY=passive "$fathom" generate --model $model --prompt 'one 7 two' --max-tokens 12 --threads 2 --expert-workers 2 --json >placed.json
grep -q '"expert_workers":2' placed.json
cmp <(grep -o '"ids":\[[^]]*' json.txt) <(grep -o '"ids":\[[^]]*' placed.json)
refused 'expected 1 to 2' "$fathom" generate --model $model --ids 1 --threads 2 --expert-workers 3
"$fathom" generate --model $model --ids 1,2,3 --max-tokens 4 --logits logits.npy --dtype bf16 >/dev/null
[ "$(wc -c <logits.npy)" = $((128 + 3 * $(grep -o '"vocab_size": [0-9]*' $model/config.json | grep -o '[0-9]*') * 4)) ]
"$fathom" generate --model $model --prompt one --dtype fp8 --temperature 1 --top-k 5 --stop five --max-tokens 8 >/dev/null

refused 'there is nothing to continue' "$fathom" generate --model $model
refused 'the prompt is empty' "$fathom" generate --model $model --prompt ''
refused 'expected numbers with commas' "$fathom" generate --model $model --ids 1,x
refused 'has id 99999; expected 0 to' "$fathom" generate --model $model --ids 99999
refused "the model's context has 1024" "$fathom" generate --model $model --ids "$(seq -s, 1 1 1100 | sed 's/[0-9]\+/1/g')"
refused 'config.json: No such file' "$fathom" generate --model nowhere --ids 1
cp -r $model bad
sed -i 's/"hidden_size": 64/"hidden_size": 32/' bad/config.json
refused 'config.json asks for [' "$fathom" generate --model bad --ids 1
sed -i 's/deepseek_v3/llama/' bad/config.json
refused 'known: deepseek_v2, deepseek_v3' "$fathom" generate --model bad --ids 1
cp $model/config.json bad/
echo '{"weight_map": {"model.embed_tokens.weight": "model-00001-of-00002.safetensors"}}' >bad/model.safetensors.index.json
refused 'model-00001-of-00002.safetensors' "$fathom" generate --model bad --ids 1

mkdir empty
for corpus in empty zeros nothing sparse; do
    case $corpus in
    sparse) words='this is no text' && truncate -s 10G sparse ;;
    empty) words='the corpus is empty' ;;
    zeros) words='this is no text' && head -c 100 /dev/zero >zeros ;;
    nothing) words='nothing is not there' ;;
    esac
    printf 'name: x\nstages:\n  - stage: corpus\n    with: {corpus: %s}\n' $corpus >bad.yaml
    refused "$words" "$fathom" run bad.yaml --out x
done
