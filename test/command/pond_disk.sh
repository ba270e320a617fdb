#!/usr/bin/env bash
# A disk that is full: jobs and sorts say so, leave what was there as it was, and go on once there is room.
if [ -z "${FM_OWN_MOUNTS:-}" ]; then
    if ! unshare --user --map-root-user --mount true 2>/dev/null; then
        echo "SKIP command.pond_disk: no mounts of one's own"
        exit 0
    fi
    FM_OWN_MOUNTS=1 exec unshare --user --map-root-user --mount "$0" "$@"
fi
. "$(dirname "$0")/prelude.sh"
trap 'umount small 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkdir small
if ! mount -t tmpfs -o size=4m none small 2>err.txt; then
    echo "SKIP command.pond_disk: $(cat err.txt)"
    exit 0
fi

"$fathom" pond gensort --records 60000 -o in >/dev/null 2>&1
expect 1 "$fathom" pond sort in -o small/sorted.dat
says err.txt 'small'
expect 1 "$fathom" pond sort --memory 8M --scratch small in -o sorted.dat
says err.txt 'small has'
[ -z "$(ls small)" ] || { echo "left on the disk: $(ls small)" >&2; exit 1; }

if ! "$fathom" info --json --no-bandwidth | grep -A1 '"name": "DuckDB"' | grep -q '"found": true'; then
    echo "SKIP command.pond_disk: no DuckDB to run jobs with"
    exit 0
fi
job() { # rows of each of eight partitions
    cat <<J
work: small/work
executors: 1
steps:
  - {source: query, partitions: 8, query: "SELECT hash(range + {partition} * 1000000) AS h FROM range($1)"}
  - {sink: parquet, path: small/out, mode: overwrite}
J
}
job 10 >few.yaml
job 120000 >many.yaml
expect 0 "$fathom" pond run few.yaml
expect 1 "$fathom" pond run many.yaml
says err.txt 'No space left on device'
expect 0 "$fathom" pond sql --format csv "SELECT count(*) FROM 'small/out/*.parquet'"
says out.txt '80'
mount -o remount,size=64m small
expect 0 "$fathom" pond run --json many.yaml
says out.txt '"rows":960000'
if grep -q '"tasks_kept":0,' out.txt; then
    echo "nothing was kept of what had been done: $(cat out.txt)" >&2
    exit 1
fi
