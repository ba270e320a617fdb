#!/usr/bin/env bash
# The quickstart, reduced to a smaller model and fewer steps, goes to its end, and its model is worth something: on entries that
# it was not trained on its loss is at least 1.0 nat per token below the entropy of single tokens.
. "$(dirname "$0")/prelude.sh"

[ -f /usr/share/dictd/gcide.dict.dz ] || { echo 'SKIP run_learns: no dict-gcide on this machine' >&2; exit 77; }
recipe=$FM_SOURCE_DIR/recipes/quickstart.yaml
for size in 'vocab: 4096' 'steps: 300' '- stage: corpus'; do
    says "$recipe" "$size" # what this test makes smaller
done
sed -e 's/vocab: 4096/vocab: 2048/' \
    -e 's/^\( *\)steps: 300/\1steps: 130\n\1hidden: 128\n\1heads: 2\n\1expert-intermediate: 64/' \
    -e 's/^\( *\)- stage: corpus$/&\n\1  with: {bytes-max: 8MiB}/' "$recipe" >r.yaml
expect 0 "$fathom" run r.yaml

value() { # of the first figure of that name
    awk -v what="\"what\": \"$1\"" -F'[:,] *' 'index($0, what) { found = 1 } found && /"value"/ { print $2; exit }' run/summary.json
}
unigram=$(value 'unigram entropy, held out') bigram=$(value 'smoothed bigram, held out') loss=$(value 'loss, held out')
echo "held out: loss $loss, unigram $unigram, bigram $bigram nats a token"
awk -v loss="$loss" -v unigram="$unigram" -v bigram="$bigram" \
    'BEGIN { exit !(loss > 0 && bigram > 0 && bigram < unigram && loss <= unigram - 1.0) }'
# It was FP8 that it was trained in, over experts on several ranks.
awk -v count="$(value 'products in FP8')" 'BEGIN { exit !(count > 1000) }'
says run/summary.json 'bubble, measured'
[ -s run/report.html ]
