#!/usr/bin/env bash
# Installs into a fresh prefix, moves it elsewhere, and builds and runs a program against what is there with pkg-config,
# shared and static.
set -euo pipefail
build=$1 cc=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
DESTDIR='' cmake --install "$build" --prefix "$scratch/first" >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
rm -f "$build/install_manifest.txt" # of this test, not of the user's `make install`
mv "$scratch/first" "$scratch/moved"
prefix=$scratch/moved
libdir=$(dirname "$(find "$prefix" -name fathom_base.pc)")/..

"$prefix/bin/fathom" --version
"$prefix/bin/fathom" info --json >"$scratch/info.json"
[ -s "$scratch/info.json" ]
[ -f "$prefix/share/man/man1/fathom.1" ]
[ -f "$prefix/share/bash-completion/completions/fathom" ]

cat >"$scratch/user.c" <<'C'
#include <fathom/status.h>
#include <stdio.h>
int main(void)
{
    fm_base_error_set(FM_ERR_ARG, "from %s", "outside");
    return puts(fm_error_message()) < 0;
}
C
export PKG_CONFIG_PATH=$libdir/pkgconfig
# shellcheck disable=SC2046 # flags are words
"$cc" "$scratch/user.c" -o "$scratch/user_shared" $(pkg-config --cflags --libs fathom_base)
[ "$(LD_LIBRARY_PATH=$libdir "$scratch/user_shared")" = "from outside" ]
# shellcheck disable=SC2046
"$cc" "$scratch/user.c" -o "$scratch/user_static" $(pkg-config --cflags fathom_base) "$libdir/libfathom_base.a" \
    $(pkg-config --static --libs-only-l fathom_base | sed 's/-lfathom_base//')
[ "$("$scratch/user_static")" = "from outside" ]
for pc in "$libdir"/pkgconfig/fathom_*.pc; do
    pkg-config --exists --print-errors "$(basename "$pc" .pc)"
done
