#!/usr/bin/env bash
# `fathom fs mount`: programs that know nothing of clusters work on one; two mounts see each other's files.
. "$(dirname "$0")/prelude.sh"
leave() {
    for dir in m n; do
        mountpoint -q "$scratch/$dir" 2>/dev/null && { umount "$scratch/$dir" || umount -l "$scratch/$dir"; } 2>/dev/null
    done
    "$fathom" fs cluster stop "$scratch/c" >/dev/null 2>/dev/null
    rm -rf "$scratch"
}
trap 'cd /; leave || true' EXIT

refused() {
    if "$@" >/dev/null 2>&1; then
        echo "$*: was not refused" >&2
        exit 1
    fi
}

mkdir m n
if ! "$fathom" fs cluster init c --targets 2 --replicas 1 2>err.txt; then # built without the embedded store
    says err.txt 'not a store of this build'
    exit 77
fi
expect 0 "$fathom" fs cluster up --detach c
if ! "$fathom" fs mount --detach c m 2>err.txt; then
    grep -qE 'built without libfuse3|cannot mount' err.txt || { cat err.txt >&2; exit 1; }
    echo "SKIP command.fs_mount: $(cat err.txt)"
    exit 77
fi
expect 1 "$fathom" fs mount c/none m
expect 1 "$fathom" fs mount --detach c none

# Names.
mkdir -p m/d/e
echo one >m/d/f
ln m/d/f m/d/g
ln -s d/f m/l
[ "$(cat m/l)" = one ]
[ "$(stat -c '%h %s %a' m/d/g)" = "2 4 644" ]
mv m/d/f m/d/e/h
[ "$(stat -c %h m/d)" = 3 ]
refused mkdir m/d
refused rmdir m/d
refused mv m/d m/d/e/x
chmod 2750 m/d
[ "$(stat -c %a m/d)" = 2750 ]
touch -d '1999-12-31 23:59:59.123456789 UTC' m/d/g
[ "$(TZ=UTC stat -c %y m/d/g)" = "1999-12-31 23:59:59.123456789 +0000" ]
refused touch "m/$(printf 'x%.0s' {1..256})"
: >"m/$(printf 'x%.0s' {1..255})"
for i in {1..200}; do : >m/d/e/many-$i; done
[ "$(find m/d/e -mindepth 1 | wc -l)" = 201 ]

# Bytes: whole, at places, holes, cut, appended.
head -c 5000000 /dev/urandom >big
cp big m/big
cmp big m/big
for at in 4095 1048570 3000000; do
    printf 0123456789 | dd of=big bs=1 seek=$at conv=notrunc 2>/dev/null
    printf 0123456789 | dd of=m/big bs=10 seek=$at oflag=seek_bytes conv=notrunc 2>/dev/null
done
cmp big m/big
truncate -s 2000001 big m/big
truncate -s 3000000 big m/big
cmp big m/big
echo more | tee -a big >>m/big
cmp big m/big
truncate -s 20M m/hole
[ "$(stat -c %s m/hole)" = 20971520 ]
cmp -n 20971520 m/hole /dev/zero
: >m/big
[ "$(stat -c %s m/big)" = 0 ]

# An open file outlives its name.
exec 5<>m/open
echo kept >&5
rm m/open
[ "$(cat /proc/$$/fd/5)" = kept ]
exec 5>&-

# Programs that are hard to please.
if command -v git >/dev/null; then
    git init -q m/repository
    (cd m/repository && echo a >a && git add a && git -c user.name=a -c user.email=a@b commit -qm a && git fsck --strict)
fi
if command -v sqlite3 >/dev/null; then
    [ "$(sqlite3 m/base.db 'pragma journal_mode=wal; create table t(a); insert into t values(1),(2); pragma integrity_check;' |
        tail -n 1)" = ok ]
fi

# Two mounts.
expect 0 "$fathom" fs mount --detach c n
echo first >m/shared
[ "$(cat n/shared)" = first ]
echo second and longer >n/shared
[ "$(cat m/shared)" = "second and longer" ]
rm n/shared
[ ! -e m/shared ]
refused cat m/shared
mkdir n/from-n
[ -d m/from-n ]

# Remounted, everything is there; and by commands.
umount m n
[ -z "$(ls m)" ]
expect 0 "$fathom" fs mount --detach --read-only c m
[ "$(cat m/d/e/h)" = one ]
refused cat m/l
refused touch m/new
expect 0 "$fathom" fs fsck c
says out.txt sound
expect 0 "$fathom" fs cp c:/d/e/h out
[ "$(cat out)" = one ]
umount m

# A daemon that is killed leaves a mount that says so; it is taken away and mounted again.
"$fathom" fs mount c m 2>up.txt &
daemon=$!
for ((i = 0; i < 600; i++)); do mountpoint -q m && break; sleep 0.1; done
echo before >m/before
kill -KILL $daemon
wait $daemon 2>/dev/null || true
refused cat m/before
umount -l m
expect 0 "$fathom" fs mount --detach c m
[ "$(cat m/before)" = before ]
umount m
expect 0 "$fathom" fs fsck c
