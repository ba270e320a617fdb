#!/usr/bin/env bash
# `fathom clean` ends what a killed run left and leaves a living run alone.
set -euo pipefail
fathom=$1
scratch=$(mktemp -d)
export TMPDIR=$scratch
cd "$scratch"
living=() shm=()
cleanup() {
    [ ${#living[@]} -eq 0 ] || kill -9 "${living[@]}" 2>/dev/null || true
    rm -rf "$scratch" "${shm[@]}"
}
trap cleanup EXIT
start_time() { awk '{ sub(/.*\) /, ""); print $20 }' "/proc/$1/stat"; }

# A run whose first process is killed: its child, a shared-memory object and a folder stay.
sleep 1000 &
leader=$!
dead=$leader-$(start_time $leader)
FM_RUN_ID=$dead sleep 1000 &
orphan=$!
# A run that lives.
sleep 1000 &
alive_leader=$!
alive=$alive_leader-$(start_time $alive_leader)
FM_RUN_ID=$alive sleep 1000 &
alive_child=$!
# Whose run has no name that a run has: nobody knows whether it ended.
FM_RUN_ID=nightly sleep 1000 &
stranger=$!
for child in "$orphan" "$alive_child" "$stranger"; do # each has its environment once it is `sleep`
    until [ "$(cat "/proc/$child/comm")" = sleep ]; do sleep 0.01; done
done
living=("$alive_leader" "$alive_child" "$orphan" "$stranger")
shm=("/dev/shm/fathom.$dead.ring" "/dev/shm/fathom.$alive.ring" "/dev/shm/fathom.$dead."$'\e[31mred')
touch "${shm[@]}"
mkdir -p "$scratch/fathom.$dead.work/below" "$scratch/fathom.$alive.work" "$scratch/fathom.notarun"
kill -9 $leader
wait $leader 2>/dev/null || true

"$fathom" clean --dry-run >list.txt
grep -q "$orphan" list.txt
grep -qF "fathom.$dead. [31mred" list.txt # no escape sequence reaches the terminal
kill -0 $orphan # the dry run ended nothing
"$fathom" clean --json >"$scratch/report.json"
grep -q '"removed": true' "$scratch/report.json"
wait $orphan 2>/dev/null || true
! kill -0 $orphan 2>/dev/null || { echo "the orphan still runs" >&2; exit 1; }
[ ! -e "${shm[0]}" ] && [ ! -e "$scratch/fathom.$dead.work" ]
kill -0 $alive_child
kill -0 $stranger
[ -e "${shm[1]}" ] && [ -d "$scratch/fathom.$alive.work" ] && [ -d "$scratch/fathom.notarun" ]
"$fathom" clean | grep 'nothing left behind' >/dev/null
