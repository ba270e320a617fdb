#!/usr/bin/env bash
# The exerciser of files of xfstests (ltp/fsx.c) on a mount of a fresh cluster, once for each seed and way:
#
#     test/outside/fsx.sh FATHOM FSX DIR [OPERATIONS [SEEDS]]
#
# DIR must not exist. Ways: all (mappings too), no mappings, O_DIRECT. Says one line for each run; stops at the first that fails.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fathom=$(realpath "$1")
fsx=$(realpath "$2")
dir=$3
operations=${4:-1000000}
seeds=${5:-5}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
here=$(realpath "$(dirname "$0")")
for ((seed = 1; seed <= seeds; seed++)); do
    for way in mapped unmapped direct; do
        case $way in
            mapped) options=() ;;
            unmapped) options=(-R -W) ;;
            direct) options=(-Z -R -W -r 4096 -w 4096 -t 4096) ;;
        esac
        begin=$SECONDS
        if "$here/on_mount.sh" "$fathom" "$dir" "$fsx" -q -N "$operations" -S "$seed" -P "$logs" "${options[@]}" file \
            >"$logs/log" 2>&1 && grep -q 'completed A-OK' "$logs/log"; then
            echo "$operations operations, seed $seed, $way: right, $((SECONDS - begin)) s"
        else
            echo "$operations operations, seed $seed, $way: WRONG"
            tail -50 "$logs/log"
            exit 1
        fi
    done
done
