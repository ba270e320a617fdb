#!/usr/bin/env bash
# Every recipe of recipes/ is read, with keys that are known; that of FP8 inference runs on a small checkpoint.
. "$(dirname "$0")/prelude.sh"
recipes=0
for recipe in "${FM_SOURCE_DIR:?}"/recipes/*.yaml; do
    expect 0 "$fathom" run --check "$recipe"
    says out.txt ' stages'
    recipes=$((recipes + 1))
done
[ $recipes -ge 2 ]
[ ! -e run ] # a check runs nothing
sed 's/max-tokens/max-token/' "$FM_SOURCE_DIR/recipes/fp8_inference.yaml" >wrong.yaml
expect 1 "$fathom" run --check wrong.yaml
says err.txt 'did you mean'

golden=${FM_SHARED_DIR:-$FM_SOURCE_DIR/../shared}/golden/model/v2
if [ ! -f "$golden/model.safetensors" ]; then
    echo "SKIP command.recipes: the inference, for the golden models are not here"
    exit 0
fi
mkdir model
ln -s "$golden/config.json" "$golden/model.safetensors" model/
printf 'any text' >text
expect 0 "$fathom" tokenizer train --vocab 257 --out model/tokenizer.json text
FM_GENERATE_MODEL=model FM_GENERATE_MAX_TOKENS=4 FM_MACHINE_PROBE=1 \
    expect 0 "$fathom" run "$FM_SOURCE_DIR/recipes/fp8_inference.yaml" --out inference
says out.txt 'decoding speed'
[ -s inference/report.html ]
