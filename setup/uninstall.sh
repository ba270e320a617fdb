#!/usr/bin/env bash
# setup/uninstall.sh PREFIX: removes what `make install` put below PREFIX (and DESTDIR, when that is set), by the list that
# it left there, and the folders that this empties.
set -euo pipefail
prefix=$1
root=${DESTDIR:-}
list=$root$prefix/share/fathom/installed.txt
if [ ! -f "$list" ]; then
    echo "nothing is installed below $root$prefix ($list is not there)"
    exit 0
fi
count=0
while read -r file || [ -n "$file" ]; do
    rm -f "$root$file"
    count=$((count + 1))
done <"$list"
mapfile -t folders < <(sed 's#/[^/]*$##' "$list" | sort -ru)
rm -f "$list"
for folder in "$prefix/share/fathom" "${folders[@]}"; do
    # Upwards as long as they are empty, but not above the prefix.
    while [ "$folder" != "$prefix" ] && [[ $folder == "$prefix"/* ]] && rmdir "$root$folder" 2>/dev/null; do
        folder=${folder%/*}
    done
done
echo "removed $count files below $root$prefix"
