#!/usr/bin/env bash
# `fathom fs serve meta` and `fathom fs user`: names asked of services that are killed, and users who are who their tokens say.
. "$(dirname "$0")/prelude.sh"
declare -A process
finish() {
    for name in "${!process[@]}"; do kill -KILL "${process[$name]}" 2>/dev/null || true; done
    rm -rf "$scratch"
}
trap finish EXIT
serve() { # name: a service of the names at a socket of that name, ready when this returns
    : >"$1.txt"
    "$fathom" fs serve meta c --listen "unix:$scratch/$1" --metrics 127.0.0.1:0 2>"$1.txt" &
    process[$1]=$!
    for ((i = 0; i < 600; i++)); do
        if grep -qF 'names are served at' "$1.txt"; then return; fi
        sleep 0.1
    done
    echo "service $1 does not come: $(cat "$1.txt")" >&2
    exit 1
}
end() { # name, signal
    kill "-$2" "${process[$1]}"
    wait "${process[$1]}" 2>err.txt || true
    unset "process[$1]"
}
if ! "$fathom" fs cluster init c --targets 2 --replicas 1 --target-bytes 1G 2>err.txt; then
    says err.txt 'not a store of this build'
    exit 77
fi
prometheus() { # file: what was scraped is the text format, with a help and a type for all, each value once, and counters that say so
    sed '1,/^\r*$/d' "$1" | awk '
        /^# HELP [a-z_]+ ./ { help[$3] = 1; next }
        /^# TYPE [a-z_]+ (counter|gauge)$/ { type[$3] = $4; next }
        !/^[a-z_]+([{][a-z_]+="[^"\\]*"(,[a-z_]+="[^"\\]*")*[}])? [-+]?[0-9][0-9.e+-]*$/ { print "no sample: " $0; bad = 1; next }
        {
            name = sample = $0
            sub(/[{ ].*/, "", name)
            sub(/ [^ ]*$/, "", sample)
            if (!help[name] || !type[name]) { print "no help or type: " $0; bad = 1 }
            if ((type[name] == "counter") != (name ~ /_total$/)) { print type[name] ": " $0; bad = 1 }
            if (seen[sample]++) { print "twice: " $0; bad = 1 }
        }
        END { exit bad || length(seen) < 5 }' || { cat "$1" >&2; exit 1; }
}
expect 1 "$fathom" fs cluster up c --metrics nonsense
says err.txt 'nonsense'
"$fathom" fs cluster up c --metrics 127.0.0.1:0 --log json 2>up.txt &
process[up]=$!
serve a
serve b
expect 1 "$fathom" fs serve meta c --listen "unix:$scratch/a"
says err.txt 'somebody does'

# Another machine's directory: the key, where the managers are, and where the names are asked.
mkdir far
cp c/key far/key
echo "1 unix:$scratch/c/socket" >far/managers
echo "meta:unix:$scratch/a,unix:$scratch/b" >far/names.conf
head -c 3000000 /dev/urandom >large
expect 0 "$fathom" fs mkdir far:/d
expect 0 "$fathom" fs cp large far:/d/large
expect 0 "$fathom" fs cp far:/d/large back
cmp large back
expect 0 "$fathom" fs ls c:/d # the names are the same ones
says out.txt large
expect 1 "$fathom" fs backup far names.backup
says err.txt 'only where the store of the names is'
expect 1 "$fathom" fs user list far
says err.txt 'only where the store of the names is'

# Each is killed in turn while programs go on.
for i in 1 2 3 4; do
    for j in 1 2 3 4 5; do "$fathom" fs mkdir "far:/d/$i-$j" || touch failed; done &
    worker=$!
    if ((i % 2)); then name=a; else name=b; fi
    end $name KILL
    wait $worker
    serve $name
done
[ ! -e failed ]
expect 0 "$fathom" fs ls far:/d
[ "$(grep -c '^.*[1-4]-[1-5]' out.txt)" = 20 ]
expect 0 "$fathom" fs fsck far
says out.txt 'sound'

# Names and paths that are too long, a quota that is used up, an offset that no file has.
long=$(printf 'n%.0s' {1..256})
expect 1 "$fathom" fs mkdir "far:/$long"
says err.txt 'nnn'
path=$(printf 'p%.0s/' {1..2500})
expect 1 "$fathom" fs mkdir "far:/$path"
expect 1 "$fathom" fs ls "far:/$path"
expect 0 "$fathom" fs mkdir far:/small
expect 0 "$fathom" fs quota --bytes 1M --inodes 3 far:/small
expect 1 "$fathom" fs cp large far:/small/large
says err.txt 'quota'
expect 0 "$fathom" fs mkdir far:/small/a
expect 0 "$fathom" fs mkdir far:/small/b
expect 1 "$fathom" fs mkdir far:/small/c
says err.txt 'quota'
expect 0 "$fathom" fs fsck far
says out.txt 'sound'

# What the services count, and say.
scrape a.txt
prometheus out.txt
says out.txt '# TYPE fathom_fs_meta_requests_total counter'
says out.txt 'fathom_fs_meta_connections '
scrape up.txt
prometheus out.txt
says out.txt 'fathom_fs_chains{state="whole"} 2'
says out.txt 'fathom_fs_manager_primary 1'
says out.txt 'fathom_fs_target_up{target="2"} 1'
grep -qE '^fathom_fs_storage_updates_total\{node="101"\} [1-9]' out.txt
if grep -qvE '^\{"time":"[0-9T:.Z-]+","level":"[a-z]+","library":"[a-z]+","process":[0-9]+,"text":".*"\}$' up.txt; then cat up.txt; exit 1; fi
says up.txt '"level":"info"'

# Users. Nobody but root and the administrator speaks for others.
expect 0 "$fathom" fs user add c ada --uid 1000 --groups 100,200
expect 0 "$fathom" fs user add c bob --uid 1001 --gid 100
expect 1 "$fathom" fs user add c ada --uid 1002
says err.txt 'ada is user 1000'
expect 2 "$fathom" fs user add c eve
expect 1 "$fathom" fs user add c eve --uid 5 --groups x
says err.txt "groups is 'x'"
expect 0 "$fathom" fs user list c --json
says out.txt '{"name":"ada","uid":1000,"gid":1000,"groups":[100,200]}'
expect 0 "$fathom" fs user token c bob
says out.txt 'fm1-1001-'
expect 1 "$fathom" fs user token c ada --out ada
says err.txt 'servers'
for user in ada bob; do
    expect 0 "$fathom" fs user token c $user --out $user --servers "unix:$scratch/a,unix:$scratch/b"
done
[ "$(stat -c %a ada/token)" = 600 ]
expect 1 "$fathom" fs mkdir ada:/mine # the root belongs to who made the cluster
says err.txt 'mine may not be made'
expect 0 "$fathom" fs mkdir far:/ada
expect 0 "$fathom" fs chown 1000:100 far:/ada
expect 0 "$fathom" fs chmod 0700 far:/ada
expect 1 "$fathom" fs chmod 8 far:/ada
expect 1 "$fathom" fs chown x far:/ada
expect 0 "$fathom" fs mkdir ada:/ada/notes
expect 0 "$fathom" fs stat ada:/ada/notes
says out.txt '1000'
echo kept >small
expect 0 "$fathom" fs cp small ada:/ada/small # lies with the names; larger files need the cluster's key
expect 0 "$fathom" fs cp ada:/ada/small back
cmp small back
expect 1 "$fathom" fs ls bob:/ada
says err.txt 'user 1001 wants access'
expect 1 "$fathom" fs chown 1001 bob:/ada
says err.txt 'may not give'
expect 1 "$fathom" fs fsck bob
says err.txt 'only the administrator'

# A token that is withdrawn, changed or used with another cluster opens nothing.
expect 0 "$fathom" fs user revoke c bob
expect 1 "$fathom" fs ls bob:/
says err.txt 'nobody has this token'
expect 0 "$fathom" fs user remove c ada
expect 1 "$fathom" fs ls ada:/
says err.txt 'nobody has this token'
expect 0 "$fathom" fs cluster init other --targets 2 --replicas 1
cp other/key bob/key
expect 1 "$fathom" fs ls bob:/
says err.txt 'another cluster'

# Ended in order, by a signal; nobody answers then, which is said.
end a TERM
end b TERM
expect 0 "$fathom" fs fsck c
says out.txt 'sound'
end up TERM
