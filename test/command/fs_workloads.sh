#!/usr/bin/env bash
# `fathom fs dataset`, `checkpoint` and `kv`, in a cluster and in a directory of this machine.
. "$(dirname "$0")/prelude.sh"
up=
finish() {
    [ -z "$up" ] || kill -KILL $up 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
mkdir -p corpus/sub
head -c 300000 /dev/urandom >corpus/b.bin
head -c 5000 /dev/urandom >corpus/sub/a.bin
echo other >corpus/notes.txt
workloads() { # where: a directory, of this machine or of a cluster
    local at=$1
    expect 1 "$fathom" fs dataset build "$at" --suffix .none
    says err.txt 'no file for a dataset'
    expect 0 "$fathom" fs dataset build "$at" --suffix .bin
    says err.txt 'lists 2 files'
    expect 0 "$fathom" fs dataset ls "$at/dataset.manifest" --json
    says out.txt '[{"file":0,"bytes":300000,"name":"b.bin"},{"file":1,"bytes":5000,"name":"sub/a.bin"}]'
    "$fathom" fs dataset read "$at/dataset.manifest" 1 1000 3000 | cmp - <(tail -c +1001 corpus/sub/a.bin | head -c 3000)
    expect 1 "$fathom" fs dataset read "$at/dataset.manifest" 1 4000 3000
    says err.txt 'sub/a.bin has 5000 bytes'
    expect 1 "$fathom" fs dataset read "$at/dataset.manifest" 7 0 0
    says err.txt '2 files'
    expect 0 "$fathom" fs dataset bench "$at/dataset.manifest" --count 100 --ahead 16 --json
    says out.txt '"way":"stream, 16 ahead"'
    expect 1 "$fathom" fs dataset ls "$at/b.bin"
    says err.txt 'not a manifest'

    # Two ranks write, one publishes; nothing is seen before.
    expect 0 "$fathom" fs checkpoint begin "$at/ckpt" 10
    local staging
    staging=$(cat out.txt)
    expect 0 "$fathom" fs cp corpus/b.bin "$staging/shard-0"
    expect 0 "$fathom" fs cp corpus/sub/a.bin "$staging/shard-1"
    expect 1 "$fathom" fs checkpoint list "$at/ckpt"
    says err.txt 'no complete checkpoint'
    expect 0 "$fathom" fs checkpoint publish "$at/ckpt" 10
    expect 0 "$fathom" fs checkpoint publish "$at/ckpt" 10 # again: no harm
    expect 0 "$fathom" fs checkpoint publish "$at/ckpt" 20 corpus/sub corpus/notes.txt
    expect 1 "$fathom" fs checkpoint publish "$at/ckpt" 20 corpus/sub
    says err.txt 'published already'
    expect 1 "$fathom" fs checkpoint publish "$at/ckpt" ten
    says err.txt "'ten' is no step"
    expect 0 "$fathom" fs checkpoint list "$at/ckpt" --json
    says out.txt '[{"step":20,"files":2,"bytes":5006},{"step":10,"files":2,"bytes":305000}]'
    expect 0 "$fathom" fs checkpoint restore "$at/ckpt" back
    diff -r back/sub corpus/sub
    expect 1 "$fathom" fs checkpoint restore "$at/ckpt" back
    says err.txt 'expected a name that is not'
    expect 0 "$fathom" fs checkpoint restore "$at/ckpt" older --step 10
    cmp older/shard-0 corpus/b.bin
    expect 1 "$fathom" fs checkpoint restore "$at/ckpt" none --step 15
    says err.txt 'no complete version 15'
    expect 0 "$fathom" fs checkpoint prune "$at/ckpt" --keep 1
    expect 0 "$fathom" fs checkpoint list "$at/ckpt" --json
    says out.txt '[{"step":20,'
    rm -r back older

    echo 'the first tokens' >block0
    echo 'and the next' >block1
    expect 1 "$fathom" fs kv stats "$at/kv"
    expect 0 "$fathom" fs kv put "$at/kv" block0 corpus/b.bin
    local first second
    first=$(cat out.txt)
    expect 0 "$fathom" fs kv put "$at/kv" block1 corpus/sub/a.bin --parent "$first"
    second=$(cat out.txt)
    "$fathom" fs kv get "$at/kv" "$second" | cmp - corpus/sub/a.bin
    expect 0 "$fathom" fs kv match "$at/kv" "$first" "$second" "${second//[0-9]/0}"
    [ "$(cat out.txt)" = 2 ]
    expect 1 "$fathom" fs kv get "$at/kv" "${second//[0-9]/0}"
    expect 1 "$fathom" fs kv get "$at/kv" abc
    says err.txt '64 hexadecimal digits'
    expect 0 "$fathom" fs kv stats "$at/kv" --json
    says out.txt '"values":2'
    expect 0 "$fathom" fs kv evict "$at/kv" --age 1000000
    expect 0 "$fathom" fs kv match "$at/kv" "$first"
    [ "$(cat out.txt)" = 1 ]
    expect 0 "$fathom" fs kv evict "$at/kv" --age 0.000001
    expect 0 "$fathom" fs kv stats "$at/kv" --json
    says out.txt '"values":0'

    # A small trace from a file, the same again from what is there, and one that is drawn.
    expect 0 "$fathom" fs kv replay "$at/kv2" --trace trace.jsonl --block-bytes 10000 --bytes-max 4M --clients 1 --json
    says out.txt '"requests":3,"blocks":6,"block_bytes":10000,"values_before":0,"hits":2,"puts":4,"wrong":0'
    says out.txt '"hit_ratio_lru":0.3333333333333333,"hit_ratio_best":0.3333333333333333'
    expect 0 "$fathom" fs kv replay "$at/kv2" --trace trace.jsonl --block-bytes 10000 --bytes-max 4M --clients 1
    says out.txt '3 requests, 6 blocks'
    says out.txt 'found                  100.0 % of blocks'
    says out.txt 'the cache held 4 values before'
    expect 1 "$fathom" fs kv replay "$at/kv2" --trace torn.jsonl
    says err.txt 'torn.jsonl:2'
    expect 0 "$fathom" fs kv replay "$at/kv3" --requests 40 --block-bytes 4K --bytes-max 8M --clients 3 --json
    says out.txt '"requests":40,'
    says out.txt '"wrong":0'
}
cat >trace.jsonl <<'EOF'
{"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [7, 8]}
{"timestamp": 10, "input_length": 1500, "output_length": 5, "hash_ids": [7, 8, 9]}
{"timestamp": 20, "input_length": 100, "output_length": 5, "hash_ids": [10]}
EOF
{ head -n 1 trace.jsonl; echo '{"timestamp": 10, "inp'; } >torn.jsonl
cp -r corpus local
workloads local
expect 0 "$fathom" fs bench local --disk . --bytes 4M --files 32 --json
says out.txt '"what":"random read, 4 KiB"'
expect 0 "$fathom" fs bench local --disk . --bytes 4M --files 32
says out.txt 'create, 32 clients'
if ! "$fathom" fs cluster init c --targets 2 --replicas 1 --target-bytes 1G 2>err.txt; then
    says err.txt 'not a store of this build'
    exit 0
fi
"$fathom" fs cluster up c 2>up.txt &
up=$!
expect 0 "$fathom" fs cp -r corpus c:/corpus
workloads c:/corpus
kill -TERM $up
wait $up
up=
expect 0 "$fathom" fs bench --disk . --bytes 8M --files 32 # makes a cluster, and leaves nothing
says out.txt 'sequential write, 1 MiB'
if compgen -G 'fathom-bench*' || compgen -G 'local/fathom-bench*'; then exit 1; fi
expect 1 "$fathom" fs bench --disk none
says err.txt 'none'
