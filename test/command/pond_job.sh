#!/usr/bin/env bash
# `fathom pond run` and `sql`: a job explained, run, resumed after kill -9, edited; and what is refused.
. "$(dirname "$0")/prelude.sh"
if ! "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    echo "SKIP command.pond_job: no DuckDB to run jobs with"
    exit 0
fi

mkdir in
for i in 1 2 3; do
    { echo city,price; for k in $(seq 1 300); do echo "c$((k % 7)),$((k * i))"; done; } >in/$i.csv
done
cat >job.yaml <<'J'
name: sales
work: work
executors: 2
steps:
  - {source: csv, paths: [in], name: sales}
  - {filter: price > 10}
  - {group_by: city, aggregate: "sum(price) AS price, median(price) AS m", partitions: 4}
  - {sort: price DESC, partitions: 2}
  - {sink: csv, path: out, mode: overwrite}
J
expect 0 "$fathom" pond run --explain job.yaml
says out.txt 'moves   rows to 2 partitions by range of price DESC'
expect 0 "$fathom" pond run --json job.yaml
says out.txt '"rows":7'
tail -q -n +2 out/part-0000*.csv >got.csv
expect 0 "$fathom" pond sql --format csv "SELECT city, sum(price) AS price, median(price) AS m FROM 'in/*.csv' WHERE price > 10 GROUP BY city ORDER BY price DESC"
tail -n +2 out.txt | cmp - got.csv
expect 0 "$fathom" pond run --json job.yaml
says out.txt '"tasks_run":0'

# Killed in the middle, with all of its executors; run again it ends as if nothing had been.
cat >long.yaml <<'J'
work: work
executors: 2
steps:
  - {source: query, query: "SELECT range AS id, sum(range * 7) OVER (ORDER BY hash(range)) AS s FROM range({partition} * 30000, {partition} * 30000 + 30000)", partitions: 12}
  - {repartition: hash, by: id, partitions: 3}
  - {sink: parquet, path: long}
J
"$fathom" pond run long.yaml >killed.txt 2>&1 &
run=$!
for _ in $(seq 1200); do
    [ "$(find work/tasks -mindepth 1 -maxdepth 1 -name '[0-9a-f]*' -newer long.yaml | wc -l)" -ge 2 ] && break
    sleep 0.05
done
kill -9 $run 2>/dev/null || true
wait $run 2>/dev/null || true
expect 0 "$fathom" pond run --json long.yaml
says out.txt '"moved_rows":360000'
expect 0 "$fathom" pond sql --format csv "SELECT count(*), count(DISTINCT id) FROM 'long/*.parquet'"
says out.txt '360000,360000'
[ -z "$(find work/tasks -maxdepth 1 -name '.*' -newer out.txt)" ] || { echo "drafts left" >&2; exit 1; }

# Malformed lines: named, or counted.
printf 'a,b\n1,2\nx,3\n5,6\n' >bad.csv
cat >bad.yaml <<'J'
work: work
steps:
  - {source: csv, paths: bad.csv, schema: "a BIGINT, b BIGINT"}
  - {sink: csv, path: bad, mode: overwrite}
J
expect 1 "$fathom" pond run bad.yaml
says err.txt 'bad.csv'
says err.txt 'Line: 3'
sed -i 's/"a BIGINT, b BIGINT"/"a BIGINT, b BIGINT", on_error: skip/' bad.yaml
expect 0 "$fathom" pond run --json bad.yaml
says out.txt '"skipped":1'
says out.txt '"rows":2'

# What is refused.
sed 's/sink: csv/sink: cvs/' job.yaml >wrong.yaml
expect 1 "$fathom" pond run wrong.yaml
says err.txt 'wrong.yaml:9'
sed 's/price > 10/prize > 10/' job.yaml >wrong.yaml
expect 1 "$fathom" pond run wrong.yaml
says err.txt 'prize'
expect 1 "$fathom" pond sql 'SELECT nothing'
says err.txt 'nothing'
expect 2 "$fathom" pond run
