#!/usr/bin/env bash
# `fathom fs mount` by the addresses of a cluster's managers, in place of its directory.
. "$(dirname "$0")/prelude.sh"
services=
# shellcheck disable=SC2317 # the trap calls it
leave() {
    mountpoint -q "$scratch/m" 2>/dev/null && umount -l "$scratch/m" 2>/dev/null
    kill $services 2>/dev/null
    rm -rf "$scratch"
}
trap 'cd /; leave || true' EXIT
start() { # file of its messages, what it says when it is ready, command...
    local file=$1 text=$2
    shift 2
    : >"$file"
    "$@" 2>"$file" &
    services="$services $!"
    for ((i = 0; i < 600; i++)); do
        if grep -qF "$text" "$file"; then return; fi
        sleep 0.1
    done
    cat "$file" >&2
    exit 1
}
mkdir m temporary
if ! "$fathom" fs cluster init c --targets 2 --replicas 2 --target-bytes 1G 2>err.txt; then
    says err.txt 'not a store of this build'
    exit 77
fi
expect 1 "$fathom" fs mount c m --key c/key
says err.txt "is a cluster's directory"
expect 1 "$fathom" fs mount nowhere m
says err.txt "expected a cluster's directory, or its managers"
expect 1 "$fathom" fs mount "unix:$scratch/c/socket" m
says err.txt '--key'
expect 1 "$fathom" fs mount "0=unix:$scratch/c/socket" m
says err.txt 'NODE=HOST:PORT'

start up.txt 'is up' "$fathom" fs cluster up c
start names.txt 'names are served at' "$fathom" fs serve meta c --listen "unix:$scratch/names"
cp c/key key
export TMPDIR=$scratch/temporary
far=(--meta "unix:$scratch/names" --key key)
expect 1 "$fathom" fs mount "unix:$scratch/c/socket" m "${far[@]}" --up
says err.txt '--up runs a cluster in its directory'
expect 1 "$fathom" fs mount "unix:$scratch/c/socket" m --meta "unix:$scratch/names" --key none
says err.txt 'none'
[ -z "$(ls temporary)" ]

if ! "$fathom" fs mount --detach "1=unix:$scratch/c/socket" m "${far[@]}" 2>err.txt; then
    grep -qE 'built without libfuse3|cannot mount' err.txt || { cat err.txt >&2; exit 1; }
    echo "SKIP command.fs_mount_addresses: $(cat err.txt)"
    exit 77
fi
head -c 3000000 /dev/urandom >large
cp large m/large
expect 0 "$fathom" fs cp c:/large back
cmp large back
umount m
for ((i = 0; i < 600; i++)); do # the mount's process takes its directory with it when it ends
    if [ -z "$(ls temporary)" ]; then exit 0; fi
    sleep 0.1
done
ls temporary >&2
exit 1
