#!/usr/bin/env bash
# What the house promises about its sources: file names are unique, functions fit 70 lines (kernels excepted), files have a
# test, and nothing unfinished or machine-bound is committed.
set -euo pipefail
cd "${FM_SOURCE_DIR:?}"
bad=0
fail() { echo "$*" >&2; bad=1; }

files=$(find lib app bench test examples -name '*.[ch]' | sort)

doubles=$(for file in $files; do basename "$file"; done | sort | uniq -d)
[ -z "$doubles" ] || fail "file names that occur twice:" $doubles

# With the house's format a function's body begins with "{" and ends with "}" in the first column. A 'kernel' is what its
# name says: *_ref.c, *_avx2.c, *_avx512.c, *_amx.c.
long=$(awk 'FNR == 1 { open = 0 } /^{/ { open = FNR } /^}/ && open { if (FNR - open - 1 > 70)
    print FILENAME ":" open ": " FNR - open - 1 " lines"; open = 0 }' $(grep -vE '_(ref|avx2|avx512|amx)\.c$' <<<"$files"))
[ -z "$long" ] || fail "functions over 70 lines:"$'\n'"$long"

big=$(for file in $files; do [ "$(wc -l <"$file")" -le 1000 ] || echo "$file"; done)
[ -z "$big" ] || fail "files over 1000 lines: $big"

unfinished=$(grep -nE '\b(TODO|FIXME|XXX|HACK)\b' $files || true)
[ -z "$unfinished" ] || fail "unfinished business:"$'\n'"$unfinished"

native=$(grep -rnE -e '-m(arch|tune)=native|-ffast-math' --include=CMakeLists.txt --include='*.cmake' . | grep -v '^./build' |
    grep -v '#.*never' || true)
[ -z "$native" ] || fail "flags that make results depend on the machine:"$'\n'"$native"
exit $bad
