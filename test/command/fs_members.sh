#!/usr/bin/env bash
# `fathom fs serve`, `chain`, `target` and `node`: a manager and storage nodes in processes of their own; why all stands as it does.
. "$(dirname "$0")/prelude.sh"
until_says() { # text, command...
    local text=$1 i
    shift
    for ((i = 0; i < 600; i++)); do
        "$@" --timeout 60 >out.txt 2>err.txt && grep -qF -e "$text" out.txt && return
        sleep 0.1
    done
    echo "$*: '$text' does not come: $(cat out.txt err.txt)" >&2
    exit 1
}
declare -A process
finish() {
    for name in "${!process[@]}"; do kill -KILL "${process[$name]}" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT
if ! "$fathom" fs cluster init c --targets 4 --replicas 2 --nodes 2 --target-bytes 1G 2>err.txt; then
    says err.txt 'not a store of this build'
    exit 77
fi
expect 1 "$fathom" fs serve mgmtd c --node 2
says err.txt '2 is no manager there'
expect 1 "$fathom" fs serve storage c --node 109
says err.txt 'no targets'
expect 1 "$fathom" fs serve storage c --node 103 --targets 5,x
says err.txt "5,x"
expect 1 "$fathom" fs serve storage c --node 103 --targets 5 --listen '*:0'
says err.txt "this machine's address"

"$fathom" fs serve mgmtd c 2>mgmtd.txt &
process[mgmtd]=$!
for node in 101 102; do
    "$fathom" fs serve storage c --node $node 2>$node.txt &
    process[$node]=$!
done
"$fathom" fs serve storage c --node 103 --targets 5,6 --listen 127.0.0.1:0 2>103.txt &
process[103]=$!
until_says '"health":"FM_OK","used_bytes":0,"capacity_bytes":1073741824' "$fathom" fs target list c --json
until_says '127.0.0.1:' "$fathom" fs node list c
until_says 'whole, all 2 replicas serve' "$fathom" fs chain explain c 1
says out.txt 'the head: takes changes'
expect 1 "$fathom" fs serve mgmtd c
says err.txt 'already'

# A node is emptied and comes back; a spare target joins and leaves.
expect 0 "$fathom" fs node drain c 102
until_says 'is offline: node 102 is drained' "$fathom" fs chain explain c 1
says out.txt '1 of 2 replicas'
says out.txt 'it alone takes changes'
until_says 'targets serve alone' "$fathom" fs node explain c 101
until_says 'offline' "$fathom" fs target explain c 3
expect 1 "$fathom" fs node remove c 102
says err.txt 'remove the target first'
expect 0 "$fathom" fs target add c 1 5@103
until_says 'target 5 on node 103 is serving' "$fathom" fs chain explain c 1
expect 0 "$fathom" fs node drain c 102 --undo
until_says 'whole, all 3 replicas' "$fathom" fs chain explain c 1
expect 0 "$fathom" fs node drain c 103
until_says 'is offline: node 103 is drained' "$fathom" fs chain explain c 1
expect 0 "$fathom" fs target remove c 1 5
until_says 'in no chain' "$fathom" fs target explain c 5

# A chain comes and goes.
expect 0 "$fathom" fs chain add c 7 6@103
until_says '"id":7' "$fathom" fs chain list c --json
expect 1 "$fathom" fs chain add c 8 6@103
says err.txt 'target 6 is in chain 7'
expect 1 "$fathom" fs chain add c 8 6
says err.txt 'TARGET@NODE'
expect 1 "$fathom" fs chain rotate c 7 1
expect 0 "$fathom" fs chain remove c 7
expect 1 "$fathom" fs chain explain c 7
says err.txt 'no chain 7'
expect 1 "$fathom" fs node explain c 77
expect 1 "$fathom" fs target explain c 77
expect 1 "$fathom" fs chain explain c one

# A killed node is missed, and can be forgotten when it has no target in a chain.
kill -KILL "${process[103]}"
wait "${process[103]}" || true
unset 'process[103]'
for ((i = 0; i < 600; i++)); do
    "$fathom" fs node remove c 103 2>err.txt && break
    says err.txt 'alive'
    sleep 0.1
done
"$fathom" fs node list c >out.txt
if grep -q 103 out.txt; then exit 1; fi
for name in "${!process[@]}"; do
    kill -TERM "${process[$name]}"
    wait "${process[$name]}"
    unset "process[$name]"
done
expect 1 "$fathom" fs cluster status c
expect 1 "$fathom" fs chain list c --timeout 0.3
says err.txt 'is the cluster up?'
