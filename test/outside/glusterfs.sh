#!/usr/bin/env bash
# A mounted cluster beside a mounted volume of GlusterFS, as root, on one machine and one disk, each with two replicas:
#
#     test/outside/glusterfs.sh FATHOM DIR [ROUNDS [CELLS]]
#
# DIR must not exist; it needs 8 GiB. CELLS is a pattern (grep -E) of those that run. Each cell is done on both, one after
# the other, ROUNDS times (3), by the same command; the table has the medians, and the median of the rounds' ratios. The exit
# status is 1 when that is below 0.95 in a cell: where the kernel answers alone for both, one is as often ahead as the other.
# Options are what each has without any: glusterd, two bricks, `mount -t glusterfs`; a manager, two storage nodes with a
# target each, `fathom fs mount`, which has the names. But for one: the kernel may answer for names for a second, as
# GlusterFS lets it.
#
# Cold: unmounted, everything flushed, the kernel's caches dropped, mounted. Warm: the same was read just before.
# Needs glusterfs-server, glusterfs-client, fio, a C compiler, iproute2. All runs in namespaces of its own (mounts, processes,
# network), so that nothing of it is seen outside, and all of it ends with this script.
set -euo pipefail
if [ "${1:-}" != --inside ]; then
    [ $# -ge 2 ] || { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
    mkdir "$2"
    dir=$(realpath "$2")
    trap 'rm -rf "$dir"' EXIT
    status=0
    unshare --mount --pid --net --fork --kill-child --mount-proc \
        "$0" --inside "$(realpath "$1")" "$dir" "${3:-3}" "${4:-.}" || status=$?
    exit $status
fi
fathom=$2
dir=$3
rounds=$4
wanted=$5
seconds=3 # at most, of a cell that fio does
declare -A table=()
fathom_m=$dir/f/m gluster_m=$dir/g/m
mkdir -p "$dir/f/m" "$dir/g/m" "$dir/g/state" "$dir/g/log" "$dir/g/1" "$dir/g/2"
cc -O2 -Wall -o "$dir/small_files" "$(dirname "$0")/small_files.c"

start_gluster() {
    ip link set lo up
    ip address add 192.0.2.1/32 dev lo # bricks may not be at localhost
    mkdir -p /var/lib/glusterd /var/log/glusterfs
    mount --bind "$dir/g/state" /var/lib/glusterd
    mount --bind "$dir/g/log" /var/log/glusterfs
    mount -t tmpfs none /run
    glusterd --no-daemon >"$dir/g/glusterd.txt" 2>&1 &
    for ((i = 0; i < 300; i++)); do
        gluster --mode=script volume list >/dev/null 2>&1 && break
        sleep 0.1
    done
    gluster --mode=script volume create v replica 2 "192.0.2.1:$dir/g/1" "192.0.2.1:$dir/g/2" force
    gluster --mode=script volume start v
} >"$dir/gluster.txt" 2>&1
start_fathom() {
    "$fathom" fs cluster init --targets 2 --replicas 2 "$dir/f/c"
    "$fathom" fs serve mgmtd "$dir/f/c" 2>"$dir/f/mgmtd.txt" &
    for node in 101 102; do "$fathom" fs serve storage "$dir/f/c" --node $node 2>"$dir/f/$node.txt" & done
    for ((i = 0; i < 300; i++)); do
        "$fathom" fs chain explain "$dir/f/c" 1 2>/dev/null | grep -q 'all 2 replicas serve' && break
        sleep 0.1
    done
} >"$dir/fathom.txt" 2>&1
# shellcheck disable=SC2317 # by name
mount_fathom() { "$fathom" fs mount --detach --names 1000 "$dir/f/c" "$fathom_m" 2>>"$dir/f/mount.txt"; }
# shellcheck disable=SC2317
mount_gluster() { mount -t glusterfs 192.0.2.1:/v "$gluster_m"; }
on() { [ "$1" = fathom ] && echo "$fathom_m" || echo "$gluster_m"; }
cold() { # side
    umount "$(on "$1")"
    sync
    echo 3 >/proc/sys/vm/drop_caches
    "mount_$1"
}
fio_rate() { # mountpoint, field of fio's terse output, options... : of `data`
    local at=$1 field=$2
    shift 2
    fio --minimal --name=cell --filename="$at/data" --size=512m --ioengine=psync --fallocate=none --group_reporting \
        --runtime=$seconds --randseed="$round" --eta=never --invalidate=0 "$@" | cut -d';' -f"$field"
}
rate() { # side, cell: units a second
    local side=$1 at jobs=1 kib=1024 way=''
    at=$(on "$side")
    local -a words
    read -ra words <<<"$2"
    case "$2" in *'4 KiB'*) kib=4 ;; esac
    case "$2" in *'8 jobs'*) jobs=8 ;; esac
    case "$2" in random*) way=rand ;; esac
    local job=("--bs=${kib}k" "--numjobs=$jobs" "--rw=$way${words[1]:-}")
    case "$2" in
        *' read '*cold) cold "$side" && fio_rate "$at" 8 "${job[@]}" ;;
        *' read '*warm) cat "$at/data" >/dev/null && fio_rate "$at" 8 "${job[@]}" ;;
        'seq write '*'new file') rm -f "$at/new" && fio_rate "$at" 49 "${job[@]}" --end_fsync=1 "--filename=$at/new" ;;
        *' write '*'fsync each') fio_rate "$at" 49 "${job[@]}" --fsync=1 ;;
        *' write '*'fsync at the end') fio_rate "$at" 49 "${job[@]}" --end_fsync=1 --io_size=128m ;;
        create*fsync*) small create sync ;;
        create*) small create ;;
        stat*cold | list*cold) cold "$side" && small "${words[0]%,}" ;;
        stat* | list*) small "${words[0]%,}" >/dev/null && small "${words[0]%,}" ;;
    esac
}
small() { # create [sync], stat, list: 500 files of 4 KiB for each process that creates; 2000 are looked at
    case $1 in
        create)
            rm -rf "$at/made"
            mkdir "$at/made"
            "$dir/small_files" create "$at/made" $jobs 500 4096 ${2:+"$2"}
            ;;
        *)  "$dir/small_files" "$1" "$at/kept$jobs" $jobs $((2000 / jobs)) ;;
    esac
}
cells=()
for way in seq random; do
    for kib in '1 MiB' '4 KiB'; do
        cells+=("$way read $kib, cold" "$way read $kib, warm")
        if [ $way = seq ]; then cells+=("$way write $kib, new file"); fi
        cells+=("$way write $kib, fsync at the end" "$way write $kib, fsync each")
    done
done
cells+=('random read 4 KiB, 8 jobs, cold' 'random write 4 KiB, 8 jobs, fsync each'
    'create' 'create, 8 jobs' 'create, fsync' 'create, 8 jobs, fsync'
    'stat, cold' 'stat, warm' 'stat, 8 jobs, cold' 'stat, 8 jobs, warm'
    'list, cold' 'list, warm' 'list, 8 jobs, cold' 'list, 8 jobs, warm')

start_gluster || { cat "$dir/gluster.txt" >&2; exit 1; }
start_fathom || { cat "$dir/fathom.txt" >&2; exit 1; }
for side in fathom gluster; do
    "mount_$side"
    fio --minimal --name=prepare --filename="$(on $side)/data" --size=512m --rw=write --bs=1m --end_fsync=1 >/dev/null
    for jobs in 1 8; do
        mkdir "$(on $side)/kept$jobs"
        "$dir/small_files" create "$(on $side)/kept$jobs" $jobs $((2000 / jobs)) 4096 >/dev/null
    done
done
for ((round = 1; round <= rounds; round++)); do
    for cell in "${cells[@]}"; do
        grep -qE "$wanted" <<<"$cell" || continue
        for side in fathom gluster; do
            got=$(rate $side "$cell")
            table["$side $cell"]+="$got "
            echo "$round $side $cell: $got" >&2
        done
    done
done
median() { tr ' ' '\n' <<<"$1" | grep . | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
behind=0
echo '| cell | Fathom /s | GlusterFS /s | ratio |'
echo '|---|---|---|---|'
for cell in "${cells[@]}"; do
    [ -n "${table["fathom $cell"]:-}" ] || continue
    ours=$(median "${table["fathom $cell"]}")
    theirs=$(median "${table["gluster $cell"]}")
    # Of each round: what disturbs one side for a while disturbs the other, too.
    ratio=$(median "$(paste <(tr ' ' '\n' <<<"${table["fathom $cell"]}") <(tr ' ' '\n' <<<"${table["gluster $cell"]}") |
        awk 'NF == 2 { printf "%.2f ", $1 / ($2 ? $2 : 1) }')")
    echo "| $cell | $ours | $theirs | $ratio |"
    awk -v ratio="$ratio" 'BEGIN { exit ratio >= 0.95 }' && behind=1
done
umount "$fathom_m" "$gluster_m"
exit $behind
