#!/usr/bin/env bash
# A job of pond whose input and output lie in a live cluster of fs.
. "$(dirname "$0")/prelude.sh"
trap '"$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null || true; rm -rf "$scratch"' EXIT
if ! "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    echo "SKIP command.pond_fs: no DuckDB to run jobs with"
    exit 77
fi
if ! "$fathom" fs cluster init --targets 2 --replicas 1 --target-bytes 256M c >out.txt 2>err.txt; then
    says err.txt 'not a store of this build'
    echo "SKIP command.pond_fs: no LMDB to keep a cluster's names in"
    exit 77
fi
expect 0 "$fathom" fs cluster up --detach c
mkdir in
for i in 1 2 3; do
    { echo city,price; for k in $(seq 1 30000); do echo "c$((k % 7)),$((k * i))"; done; } >in/$i.csv
done
expect 0 "$fathom" fs cp -r in c:/in
cat >job.yaml <<'J'
work: work
steps:
  - {source: csv, paths: ["fs:cluster:c//in"]}
  - {group_by: city, aggregate: "sum(price) AS price", partitions: 2}
  - {sort: price DESC}
  - {sink: csv, path: "fs:cluster:c//out"}
J
expect 0 "$fathom" pond run --json job.yaml
says out.txt '"rows":7'
expect 0 "$fathom" fs cp -r c:/out out
[ "$(cat out/part-*.csv | grep -vc city)" = 7 ]
[ "$(cat out/part-*.csv | awk -F, '/^c[0-6],/ { sum += $2 } END { printf "%.0f", sum }')" = $((3 * 30000 * 30001)) ]
expect 0 "$fathom" fs cluster stop c
