#!/usr/bin/env bash
# `fathom fs cp|ls|stat|du|tree|mkdir|mv|rm|layout|quota|fsck`: files of a cluster without a mount.
. "$(dirname "$0")/prelude.sh"
trap '"$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null || true; rm -rf "$scratch"' EXIT

expect 1 "$fathom" fs ls c:/
says err.txt 'not a cluster'
expect 1 "$fathom" fs ls ''
says err.txt 'an empty path'
if ! "$fathom" fs cluster init c --targets 2 --replicas 1 2>err.txt; then # built without the embedded store
    says err.txt 'not a store of this build'
    exit 77
fi
expect 0 "$fathom" fs cluster up --detach c

# A tree goes in and comes back as it was.
mkdir -p in/a/b in/empty
printf small >in/a/small
head -c 3000000 /dev/urandom >in/a/b/large
: >in/nothing
ln -s a/small in/link
expect 0 "$fathom" fs cp -r in c:/
expect 0 "$fathom" fs cp -r c:/in back
cmp in/a/b/large back/a/b/large
cmp in/a/small back/link # links to files are copied as files
diff -r in/a back/a
[ -d back/empty ]
expect 1 "$fathom" fs cp in c:/x
says err.txt '-r copies directories'
expect 1 "$fathom" fs cp missing c:/x
expect 1 "$fathom" fs cp in/nothing in/link c:/x
says err.txt 'not a directory'
expect 0 "$fathom" fs cp in/nothing in/link c:/in/empty
expect 0 "$fathom" fs cp c:/in/a/small out
[ "$(cat out)" = small ]

expect 0 "$fathom" fs ls c:/in
[ "$(tr '\n' ' ' <out.txt)" = "a/ empty/ link nothing " ]
expect 0 "$fathom" fs ls -l c:/in/a/small
says out.txt 'rw-r--r--'
expect 0 "$fathom" fs ls c:/in/a --json
says out.txt '"name":"small"'
expect 1 "$fathom" fs ls c:/in/none
says err.txt 'does not exist'
expect 0 "$fathom" fs stat c:/in/a/b/large
says out.txt '3000000'
expect 0 "$fathom" fs stat c:/ --json
says out.txt '"inode":1'
expect 0 "$fathom" fs du c:/in --json
says out.txt '{"bytes":3000015,"files":6,"directories":3}'
expect 0 "$fathom" fs tree c:/in/a
[ "$(cat out.txt)" = "  b/
    large
  small
2 files, 1 directory" ]

expect 0 "$fathom" fs mkdir -p c:/d/e/f
expect 1 "$fathom" fs mkdir c:/d
says err.txt 'exists'
expect 0 "$fathom" fs mv c:/in/a/small c:/d/e
expect 0 "$fathom" fs mv c:/d/e c:/g
expect 0 "$fathom" fs ls c:/g
[ "$(tr '\n' ' ' <out.txt)" = "f/ small " ]
expect 1 "$fathom" fs mv c:/g c:/g/f/x
says err.txt 'into itself'
expect 1 "$fathom" fs mv c:/ c:/x

expect 0 "$fathom" fs layout c:/g --chunk-bytes 256K --stripe 2 --json
says out.txt '"chunk_bytes":262144,"stripe":2,"chains":2'
expect 0 "$fathom" fs cp in/a/b/large c:/g/striped
expect 0 "$fathom" fs layout c:/g/striped
says out.txt 'over 2 of 2 chains'
expect 0 "$fathom" fs cp c:/g/striped out
cmp out in/a/b/large
expect 1 "$fathom" fs layout c:/g --stripe 3
says err.txt '3 of 2 chains'

expect 1 "$fathom" fs quota c:/d
says err.txt 'no quota'
expect 0 "$fathom" fs quota c:/d --bytes 1M --inodes 3
expect 1 "$fathom" fs cp in/a/b/large c:/d/x
says err.txt 'quota'
expect 0 "$fathom" fs cp in/a/small c:/d/x
expect 0 "$fathom" fs quota c:/d --json
says out.txt '{"bytes":5,"bytes_max":1048576,"inodes":2,"inodes_max":3}'
expect 0 "$fathom" fs quota c:/d --lift --inodes 9
says out.txt 'no limit'

expect 1 "$fathom" fs rm c:/in
says err.txt '-r removes directories'
expect 0 "$fathom" fs rm -r c:/in c:/g
expect 1 "$fathom" fs rm c:/in
expect 0 "$fathom" fs fsck c
says out.txt 'sound'
expect 0 "$fathom" fs fsck c --json
says out.txt '"collectable":0'
expect 0 "$fathom" fs fsck c --chunks
says out.txt 'sound'
expect 0 "$fathom" fs ls c:/
[ "$(tr '\n' ' ' <out.txt)" = "d/ " ]

# Names can be looked at while the cluster is down.
expect 0 "$fathom" fs cluster stop c
expect 0 "$fathom" fs ls c:/d
expect 0 "$fathom" fs fsck c

# The names go into a file and come back, into the same cluster.
expect 0 "$fathom" fs backup c saved
says out.txt 'records'
expect 1 "$fathom" fs restore c saved
says err.txt 'has names'
mv c/names c/names-before
head -c 100 saved >"cut"
expect 1 "$fathom" fs restore c cut
says err.txt 'no backup'
expect 0 "$fathom" fs restore c saved
expect 0 "$fathom" fs fsck c
says out.txt sound
expect 0 "$fathom" fs cluster up --detach c
expect 0 "$fathom" fs cp c:/d/x out
[ "$(cat out)" = small ]

# Names of an earlier time know nothing of chunks that were made since.
expect 0 "$fathom" fs backup c earlier
head -c 300000 /dev/zero >many
expect 0 "$fathom" fs cp many c:/later
expect 0 "$fathom" fs cluster stop c
mv c/names c/names-later
expect 0 "$fathom" fs restore c earlier
expect 0 "$fathom" fs cluster up --detach c
expect 1 "$fathom" fs fsck c --chunks
says out.txt 'no file owns it'
says out.txt 'perhaps written after the backup'
expect 1 "$fathom" fs fsck c --remove-newer
says err.txt 'without --repair'
expect 1 "$fathom" fs fsck c --repair
if grep -q '; removed' out.txt; then echo 'what is newer than the backup was removed' >&2; exit 1; fi
mkdir found
expect 1 "$fathom" fs fsck c --recover found
cat found/*.* >again
cmp again many
expect 1 "$fathom" fs fsck c --repair --remove-newer
says out.txt '; removed'
expect 0 "$fathom" fs fsck c --chunks
