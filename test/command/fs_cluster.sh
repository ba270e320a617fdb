#!/usr/bin/env bash
# `fathom fs cluster`: a cluster made, brought up in front and behind, asked, and ended.
. "$(dirname "$0")/prelude.sh"
trap '"$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null || true; rm -rf "$scratch"' EXIT

expect 1 "$fathom" fs cluster status c
says err.txt 'there is no cluster'
expect 1 "$fathom" fs cluster init c --targets 4 --replicas 3
says err.txt 'multiple'
if ! "$fathom" fs cluster init lmdb 2>err.txt; then # built without the embedded store
    says err.txt 'not a store of this build'
    exit 77
fi
expect 0 "$fathom" fs cluster init c --targets 6 --replicas 3 --target-bytes 1G
[ "$(stat -c %a c/key)" = 600 ]
expect 1 "$fathom" fs cluster init c
says err.txt 'already'
expect 1 "$fathom" fs cluster status c
says out.txt 'down'
expect 0 "$fathom" fs cluster stop c

expect 0 "$fathom" fs cluster up --detach c
expect 1 "$fathom" fs cluster up --detach c
says err.txt 'up already'
expect 1 "$fathom" fs cluster up c
expect 0 "$fathom" fs cluster status --timeout 60 c
says out.txt 'of 2 chains serve'
# All replicas come to serve. The first answers may tell of the time before this start.
for ((i = 0; i < 600; i++)); do
    expect 0 "$fathom" fs cluster status --timeout 60 c --json
    version=$(sed 's/.*"version":\([0-9]*\),"chains".*/\1/' out.txt)
    [ "$(grep -o '"state":"serving"' out.txt | wc -l)" = 6 ] && [ "$version" -gt 5 ] && break
    sleep 0.1
done
[ $i -lt 600 ] || { echo "not whole after a minute: $(cat out.txt)" >&2; exit 1; }
expect 0 "$fathom" fs cluster stop --timeout 60 c
expect 1 "$fathom" fs cluster status c --json
says out.txt '"up":false'

# In front, from another directory's view, until a signal.
"$fathom" fs cluster up c 2>up.txt &
up=$!
for ((i = 0; i < 600; i++)); do
    "$fathom" fs cluster status --timeout 60 c >out.txt 2>&1 && break
    sleep 0.1
done
says out.txt "process $up"
kill -TERM $up
wait $up
expect 1 "$fathom" fs cluster status c
