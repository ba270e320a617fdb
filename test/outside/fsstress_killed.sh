#!/usr/bin/env bash
# The stress program of xfstests (ltp/fsstress.c) on a mount whose storage and services of names are killed again and again:
#
#     test/outside/fsstress_killed.sh FATHOM FSSTRESS DIR [OPERATIONS [SEED]]
#
# DIR must not exist. The names are asked of two services, of which one at a time is killed and started again; so is the
# process that has the chunks and the manager. The same operations are done on a directory beside it, the model: both trees
# must be equal then (names, kinds, sizes, links, bytes), also mounted anew, and the names sound.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fathom=$(realpath "$1")
fsstress=$(realpath "$2")
dir=$3
operations=${4:-3000}
seed=${5:-1}
mkdir "$dir"
dir=$(realpath "$dir")
declare -A process
# shellcheck disable=SC2317 # the trap calls it
leave() {
    cd /
    umount "$dir/m" 2>/dev/null || umount -l "$dir/m" 2>/dev/null || true
    for name in "${!process[@]}"; do kill -KILL "${process[$name]}" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap leave EXIT
start() { # chunks: the cluster; names-1, names-2: services of the names
    : >"$dir/$1.txt"
    if [ "$1" = chunks ]; then
        "$fathom" fs cluster up "$dir/cluster" 2>"$dir/$1.txt" &
    else
        "$fathom" fs serve meta "$dir/cluster" --listen "unix:$dir/$1" 2>"$dir/$1.txt" &
    fi
    process[$1]=$!
}
tree() { # of a directory, as text
    (
        cd "$1"
        find . -mindepth 1 \( -type d -printf '%P d\n' -o -type l -printf '%P l %l\n' -o -printf '%P %y %s %n\n' \) | sort
        find . -type f -exec cksum {} + | sort -k 3
    )
}
stress() { # directory: only what has the same outcome on any file system
    "$fsstress" -d "$1" -p 1 -n "$operations" -s "$seed" -z -f creat=8 -f mkdir=3 -f write=12 -f truncate=4 -f rename=4 -f link=3 \
        -f symlink=2 -f unlink=3 -f rmdir=1 -f read=4 -f fsync=2 -f punch=2 -f getdents=1 -f stat=2 >/dev/null
}
mkdir "$dir/m" "$dir/far" "$dir/model"
"$fathom" fs cluster init --targets 2 --replicas 2 "$dir/cluster"
for name in chunks names-1 names-2; do start $name; done
for name in names-1 names-2; do
    for ((i = 0; i < 600; i++)); do
        if grep -qF 'names are served at' "$dir/$name.txt"; then break; fi
        sleep 0.1
    done
done
cp "$dir/cluster/key" "$dir/far/key"
echo "1 unix:$dir/cluster/socket" >"$dir/far/managers"
echo "meta:unix:$dir/names-1,unix:$dir/names-2" >"$dir/far/names.conf"
"$fathom" fs mount --detach "$dir/far" "$dir/m"
stress "$dir/model"
mkdir "$dir/m/stress"
stress "$dir/m/stress" &
worker=$!
kills=0
while kill -0 $worker 2>/dev/null; do
    for name in names-1 chunks names-2; do
        sleep 1
        kill -0 $worker 2>/dev/null || break
        kill -KILL "${process[$name]}"
        wait "${process[$name]}" 2>/dev/null || true
        start $name
        kills=$((kills + 1))
    done
done
wait $worker
tree "$dir/model" >"$dir/model.tree"
tree "$dir/m/stress" >"$dir/mount.tree"
cmp "$dir/model.tree" "$dir/mount.tree"
umount "$dir/m"
"$fathom" fs mount --detach "$dir/far" "$dir/m"
tree "$dir/m/stress" >"$dir/mount.tree"
cmp "$dir/model.tree" "$dir/mount.tree"
umount "$dir/m"
"$fathom" fs fsck "$dir/cluster"
echo "$operations operations, seed $seed, $kills processes killed: trees are equal, names sound"
