#!/usr/bin/env bash
# What a mount tells about itself: figures for Prometheus, and lines of a log as JSON.
. "$(dirname "$0")/prelude.sh"
writer=
leave() {
    kill $writer 2>/dev/null
    exec 6<&-
    mountpoint -q "$scratch/m" 2>/dev/null && umount -l "$scratch/m" 2>/dev/null
    "$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null
    rm -rf "$scratch"
}
trap 'cd /; leave || true' EXIT
value() { # name with labels: its value in out.txt
    sed -n "s|^fathom_fs_mount_$1 ||p" out.txt
}
# A request is counted when it has been answered, and the kernel closes files when it likes: so figures are waited for.
until_is() { # name with labels, value
    for ((i = 0; i < 600; i++)); do
        scrape up.txt
        if [ "$(value "$1")" = "$2" ]; then return; fi
        sleep 0.1
    done
    echo "$1 is $(value "$1"), and not $2" >&2
    exit 1
}
start() { # options: the mount in front, ready when this returns; what it says goes to up.txt
    : >up.txt
    "$fathom" fs mount c m --metrics 127.0.0.1:0 --log json "$@" 2>up.txt &
    daemon=$!
    for ((i = 0; i < 600; i++)); do
        if grep -q 'metrics at' up.txt; then return; fi
        if ! kill -0 $daemon 2>/dev/null; then break; fi
        sleep 0.1
    done
    grep -qE 'built without libfuse3|cannot mount' up.txt || { cat up.txt >&2; exit 1; }
    echo "SKIP command.fs_mount_watched: $(cat up.txt)"
    exit 77
}

mkdir m
if ! "$fathom" fs cluster init c --targets 1 --replicas 1 2>err.txt; then # built without the embedded store
    says err.txt 'not a store of this build'
    exit 77
fi
expect 0 "$fathom" fs cluster up --detach c
expect 1 "$fathom" fs mount c m --metrics nonsense
grep -qE 'nonsense|built without libfuse3|cannot mount' err.txt
if mountpoint -q m; then exit 1; fi
start

# Requests, bytes, errors.
head -c 300000 /dev/urandom >bytes
cp bytes m/bytes
dd if=m/bytes iflag=nocache count=0 2>/dev/null # the kernel drops what it has of it
cmp bytes m/bytes
if cat m/none 2>err.txt; then exit 1; fi
until_is 'request_seconds_count{request="create"}' 1
until_is 'request_seconds_bucket{request="create",le="+Inf"}' 1
says out.txt '# TYPE fathom_fs_mount_request_seconds histogram'
[ "$(value 'request_seconds_count{request="write"}')" -ge 1 ]
[ "$(value 'errors_total{error="ENOENT"}')" -ge 1 ]
[ "$(value written_bytes_total)" = 300000 ]
[ "$(value read_bytes_total)" -ge 300000 ]
[ "$(value missed_bytes_total)" -ge 300000 ]
[ "$(value cache_bytes)" -ge 300000 ]

# Large pieces are asked for as such, and small ones read ahead of the program.
requests() { # kind, command...: how many of them the command costs
    local before kind=$1
    shift
    scrape up.txt
    before=$(value "request_seconds_count{request=\"$kind\"}")
    "$@" 2>err.txt
    scrape up.txt
    echo $(($(value "request_seconds_count{request=\"$kind\"}") - before))
}
[ "$(requests write dd if=/dev/zero of=m/large bs=1M count=8)" -le 16 ]
dd if=m/large iflag=nocache count=0 2>err.txt
[ "$(requests read dd if=m/large of=/dev/null bs=1M)" -le 128 ]
dd if=m/large iflag=nocache count=0 2>err.txt
[ "$(requests read dd if=m/large of=/dev/null bs=4k)" -le 128 ] # of 2048 reads

# What is open, locked, and waits.
until_is open_files 0
exec 6<m/bytes
flock 6
# A writer that starts no processes, whose ends would write what waits. It waits for 5 seconds at most.
mkfifo quiet
(
    exec 6<&- 9<>quiet
    while true; do
        echo text
        read -rt 0.5 -u 9 || true
    done
) >m/open &
writer=$!
for ((i = 0; i < 600; i++)); do
    scrape up.txt
    if [ "$(value dirty_bytes)" -ge 5 ]; then break; fi
    sleep 0.1
done
[ "$(value dirty_bytes)" -ge 5 ]
until_is open_files 2
[ "$(value locked_files)" = 1 ]
[ "$(value ring_clients)" = 0 ]
[ "$(value lock_waiters)" = 0 ]
kill $writer
wait $writer || true
exec 6<&-
until_is open_files 0
until_is dirty_bytes 0

# A listing with attributes brings them with the names. Nothing is remembered by default: each path is asked for.
mkdir m/many
for i in {1..300}; do : >m/many/$i; done
asked() { # how often the kernel asks for a name while a folder is listed with attributes
    local before
    scrape up.txt
    before=$(value 'request_seconds_count{request="lookup"}')
    ls -l m/many >listing.txt
    [ "$(wc -l <listing.txt)" = 301 ]
    scrape up.txt
    [ "$(value 'request_seconds_count{request="readdirplus"}')" -ge 1 ]
    echo $(($(value 'request_seconds_count{request="lookup"}') - before))
}
[ "$(asked)" -ge 300 ]
umount m
wait $daemon
if grep -qvE '^\{"time":"[0-9T:.Z-]+","level":"[a-z]+","library":"[a-z]+","process":[0-9]+,"text":".*"\}$' up.txt; then cat up.txt; exit 1; fi
says up.txt 'c is mounted on m'
expect 0 "$fathom" fs cluster stop c

# With the cluster in the same process: what that counts, too. And names that may be used for an hour.
start --up --names 3600000
cmp bytes m/bytes
until_is 'request_seconds_count{request="open"}' 1
says out.txt 'fathom_fs_chains{state="whole"} 1'
asked >asked.txt
[ "$(asked)" -le 50 ]
grep -qE '^fathom_fs_storage_reads_total\{node="[0-9]+"\} [1-9]' out.txt
umount m
wait $daemon
