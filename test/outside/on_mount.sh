#!/usr/bin/env bash
# Runs a suite of others on a mount of a fresh cluster, as root:
#
#     test/outside/on_mount.sh FATHOM DIR COMMAND...
#
# makes a cluster of two chains in DIR (which must not exist), mounts it on DIR/m, runs COMMAND in a directory of the mount,
# checks the names, and takes all away again. The exit status is COMMAND's, or 1 when the names are not sound.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fathom=$(realpath "$1")
dir=$2
shift 2
mkdir "$dir"
dir=$(realpath "$dir")
# shellcheck disable=SC2317 # the trap calls it
leave() {
    cd /
    umount "$dir/m" 2>/dev/null || umount -l "$dir/m" 2>/dev/null || true
    "$fathom" fs cluster stop "$dir/c" >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap leave EXIT
mkdir "$dir/m"
"$fathom" fs cluster init --targets 2 --replicas 1 "$dir/c"
"$fathom" fs cluster up --detach "$dir/c"
"$fathom" fs mount --detach --allow-other "$dir/c" "$dir/m"
mkdir "$dir/m/suite"
cd "$dir/m/suite"
status=0
"$@" || status=$?
cd /
umount "$dir/m"
"$fathom" fs fsck "$dir/c" || exit 1
exit $status
